//! What the scheduler is told, and what it answers.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::{FunctionSpec, Limits};
use crate::ids::{CallId, FunctionId, NodeId, SandboxId, TenantId, Time};
use crate::states::{State, TransitionError};

/// Something happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A call came. It is answered exactly once, now or later, by [`Decision::Hand`] or [`Decision::Refuse`].
    Arrived {
        /// The caller's name for it.
        call: CallId,
        /// What is called.
        function: FunctionId,
        /// When waiting is of no use any more.
        deadline: Time,
        /// It is to be the first call of a sandbox started for it, and is refused ([`Refusal::NoRoom`]) if none can
        /// be started now: for those who measure.
        fresh: bool,
    },
    /// Whoever made the call does not wait any more. If it was not answered yet, it is not any more.
    Cancelled {
        /// The call.
        call: CallId,
        /// What was called.
        function: FunctionId,
    },
    /// A sandbox is up, or a blank is made.
    Ready {
        /// Which.
        sandbox: SandboxId,
    },
    /// A sandbox did not come up; nothing is left of it.
    Failed {
        /// Which.
        sandbox: SandboxId,
        /// The function is to blame (its initialisation failed): another attempt is no use to those who wait.
        fatal: bool,
    },
    /// The call a sandbox was handed is over.
    Ended {
        /// Which sandbox.
        sandbox: SandboxId,
        /// Whether it may serve another: false after a crash or a time-out.
        healthy: bool,
    },
    /// A sandbox ended, as it was told to or by itself, in whatever state; its memory is back.
    Gone {
        /// Which.
        sandbox: SandboxId,
    },
    /// Memory of its own that a sandbox was measured to hold. Counts while it is idle and cannot grow; a running
    /// one is booked with what it may grow to.
    Measured {
        /// Which.
        sandbox: SandboxId,
        /// Bytes, shared ones not counted.
        private: u64,
    },
    /// So much of a node's memory is not to be had until this is told again: the machine is short of it. Idle sandboxes end
    /// until no more is in use, as far as there are any.
    Withheld {
        /// Of which node.
        node: NodeId,
        /// Bytes; more than the node has is all of it.
        bytes: u64,
    },
    /// Time went by: due at [`crate::Scheduler::next_timer`]. Any other event does this work too.
    Timer,
    /// A snapshot of the function is being made, which the calls that come meanwhile had better wait for: until
    /// [`Event::Snapshot`] says how that went, sandboxes that are there serve, and none is started but for fresh
    /// calls.
    Building {
        /// Which function.
        function: FunctionId,
    },
    /// A function has a snapshot from now on (`Some` bytes of it in the page cache while sandboxes of it are
    /// alive), or none any more.
    Snapshot {
        /// Which function.
        function: FunctionId,
        /// Bytes that all sandboxes of it on a node share.
        shared: Option<u64>,
    },
    /// A function's limits are others from now on. Its sandboxes stay.
    Limited {
        /// Which.
        function: FunctionId,
        /// What they are.
        limits: Limits,
    },
    /// A function is another from now on: its sandboxes end, its waiting calls get new ones.
    Changed {
        /// Which.
        function: FunctionId,
        /// What it is now. The tenant stays what it was.
        spec: Box<FunctionSpec>,
    },
    /// A function is gone: its sandboxes end, its waiting calls are refused.
    Removed {
        /// Which.
        function: FunctionId,
    },
}

/// How a sandbox comes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// From the function's snapshot.
    Restore,
    /// By starting the function anew.
    Cold,
    /// Without a function: a monitor to be there when one is needed.
    Blank,
}

/// What a sandbox is started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// A call waits.
    Call,
    /// A call is foreseen.
    Prewarm,
    /// The function is to have that many always.
    Provisioned,
    /// A blank was used.
    Refill,
}

/// Why a sandbox is put away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Retirement {
    /// Nobody called for as long as it was kept alive.
    Expired,
    /// It crashed or a call in it ran out of time.
    Unhealthy,
    /// The function is another or gone.
    Outdated,
    /// It came up and is of no use: nobody waits any more.
    Surplus,
}

/// Why a call is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// As many wait for this function as may.
    FunctionQueueFull,
    /// As many of the tenant's calls wait as may.
    TenantQueueFull,
    /// As many calls wait as may.
    QueueFull,
    /// Its turn would come after its deadline, by what the function's calls take of late: better told at once.
    Hopeless,
    /// Its deadline passed while it waited.
    Expired,
    /// The function needs more than any node, or its tenant, can ever have.
    TooBig,
    /// The function may not run at all: a limit of zero.
    Forbidden,
    /// The function does not come up.
    StartFailed,
    /// A fresh call, and no sandbox can be started now.
    NoRoom,
    /// There is no such function (any more).
    Gone,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Bring a sandbox up and report [`Event::Ready`] or [`Event::Failed`]. Its memory is booked.
    Start {
        /// Its name from now on. That of the blank, if one is used.
        sandbox: SandboxId,
        /// Where.
        node: NodeId,
        /// For which function; none for a blank.
        function: Option<FunctionId>,
        /// In which way.
        how: How,
        /// For what.
        why: Why,
        /// The call it is bound to: a fresh one, or any if calls are bound early.
        call: Option<CallId>,
        /// Whether `sandbox` is a blank that is there already.
        in_blank: bool,
    },
    /// Give the call to the sandbox, which is up; report [`Event::Ended`] (or [`Event::Gone`]).
    Hand {
        /// Which call.
        call: CallId,
        /// To whom.
        sandbox: SandboxId,
        /// Where that is.
        node: NodeId,
        /// Its function.
        function: FunctionId,
        /// Whether no other call was in this sandbox before: the call waited for its start, or it was prewarmed.
        first: bool,
        /// Whether the call was answered as it came, without a wait.
        at_once: bool,
    },
    /// The call waits.
    Queue {
        /// Which.
        call: CallId,
    },
    /// Tell the caller no.
    Refuse {
        /// Which call.
        call: CallId,
        /// Why.
        reason: Refusal,
        /// When another attempt may be worth it.
        retry_after: Duration,
    },
    /// End an idle sandbox, to make room, and report [`Event::Gone`] when its memory is back.
    Evict {
        /// Which.
        sandbox: SandboxId,
        /// Where.
        node: NodeId,
    },
    /// End a sandbox that is of no use any more and report [`Event::Gone`].
    Retire {
        /// Which.
        sandbox: SandboxId,
        /// Where.
        node: NodeId,
        /// Why.
        why: Retirement,
    },
}

/// An event that cannot be: nothing was changed by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// There is no such sandbox, or not any more.
    #[error("There is no sandbox {0:?}")]
    UnknownSandbox(SandboxId),
    /// There never was such a function.
    #[error("There is no function {0:?}")]
    UnknownFunction(FunctionId),
    /// There never was such a node.
    #[error("There is no node {0:?}")]
    UnknownNode(NodeId),
    /// There never was such a tenant.
    #[error("There is no tenant {0:?}")]
    UnknownTenant(TenantId),
    /// Nothing of the kind can happen to a sandbox like this.
    #[error("Sandbox {sandbox:?} is {state:?}: it cannot be {event}")]
    Untimely {
        /// Whose.
        sandbox: SandboxId,
        /// What it is.
        state: State,
        /// What was told of it.
        event: &'static str,
    },
    /// The table of states has no such way.
    #[error(transparent)]
    Transition(#[from] TransitionError),
}
