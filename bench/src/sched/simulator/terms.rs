//! What a scheduler and the cluster say to one another.

/// Microseconds since the start.
pub type Time = u64;

/// A sandbox, named by the scheduler; never twice.
pub type SandboxId = u64;

/// What a scheduler is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// A call came.
    Call { call: u32, function: u32 },
    /// A sandbox is made.
    Ready { sandbox: SandboxId },
    /// A sandbox answered its call.
    Done { sandbox: SandboxId },
    /// A sandbox without a call gave back memory it does not use, and holds so much, MB.
    Rested { sandbox: SandboxId, memory_mb: u32 },
    /// The time asked for with [`Scheduler::wake`] is there.
    Wake,
}

/// What a scheduler wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Give a call to a sandbox that does nothing else.
    Run { call: u32, sandbox: SandboxId },
    /// Make a sandbox; its memory is taken from now on.
    Create { sandbox: SandboxId, function: u32, node: u32 },
    /// End a sandbox that does nothing; its memory is free from now on.
    Stop { sandbox: SandboxId },
    /// Answer a call with "too many".
    Refuse { call: u32 },
}

/// What is tested: inputs and time in, decisions out, no clock of its own.
pub trait Scheduler {
    /// Takes one input and appends what is to be done, in order.
    fn step(&mut self, now: Time, input: Input, actions: &mut Vec<Action>);

    /// When it wants to be woken next, if at all.
    fn wake(&mut self) -> Option<Time> {
        None
    }

    /// What it was told and could not be: a fault of one of both sides.
    fn complaint(&self) -> Option<String> {
        None
    }
}

/// What a function needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Memory of a sandbox, MB.
    pub memory_mb: u32,
    /// How long it takes to make one when nothing else is made.
    pub create: Time,
}

/// What becomes of a sandbox that is not called for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rest {
    /// After so long without a call.
    pub after: Time,
    /// It holds so much until the next, MB.
    pub memory_mb: u32,
}

/// The machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cluster {
    pub nodes: u32,
    pub node_mb: u32,
    /// Sandboxes of one node made at the same time.
    pub creators: u32,
    /// What a call costs before it runs in a sandbox that is ready.
    pub dispatch: Time,
    /// Sandboxes give back what they do not use, or do not.
    pub rest: Option<Rest>,
    /// Figures are of this time from the start; what is running then still ends.
    pub horizon: Time,
}

/// A decision that is impossible: an error of the scheduler.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("Call {0} was answered twice, or never came")]
    Call(u32),
    #[error("Sandbox {0} cannot do this now")]
    Sandbox(SandboxId),
    #[error("Call {0} was given to a sandbox of another function")]
    Function(u32),
    #[error("Node {0} has no room")]
    Memory(u32),
    #[error("The scheduler does not believe what it was told: {0}")]
    Unbelievable(String),
    #[error("Calls were left without an answer: {0}")]
    Unanswered(u32),
}
