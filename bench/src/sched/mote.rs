//! The scheduler under test, `mote-sched`, in the simulated cluster.

use mote_sched::{
    CallId, Config, Decision, Event, EventError, FunctionId, FunctionSpec, NodeSpec, SandboxId as Id,
    TenantSpec, Time as Moment,
};

use super::simulator::{Action, Cluster, Input, SandboxId, Scheduler, Shape, Time};

/// `mote-sched` behind the simulator's trait.
#[derive(Debug)]
pub struct Mote {
    scheduler: mote_sched::Scheduler,
    decisions: Vec<Decision>,
    functions: u32,
    /// What it would not believe first.
    error: Option<EventError>,
    /// How long calls wait for their turn; for ever, if nothing.
    patience: Option<Time>,
}

impl Mote {
    /// With these nodes, which start so many sandboxes at once, and functions, all of one tenant and without limits.
    pub fn new(config: Config, cluster: &Cluster, shapes: &[Shape], starts: u32) -> Result<Self, EventError> {
        let mut scheduler = mote_sched::Scheduler::new(config);
        let mut decisions = Vec::new();
        for _ in 0..cluster.nodes {
            scheduler.add_node(NodeSpec {
                memory: bytes(cluster.node_mb),
                max_sandboxes: u32::MAX,
                blanks: 0,
                starts,
            });
        }
        let tenant = scheduler.add_tenant(TenantSpec::default());
        for shape in shapes {
            let mut spec = FunctionSpec::new(tenant, bytes(shape.memory_mb));
            spec.start_ms = u32::try_from(shape.create / 1000).unwrap_or(u32::MAX);
            scheduler.register(Moment(0), spec, &mut decisions)?;
        }
        let functions = u32::try_from(shapes.len()).unwrap_or(u32::MAX);
        Ok(Self { scheduler, decisions, functions, error: None, patience: None })
    }

    /// The same, with calls that wait for so long only, and functions with snapshots, of which all sandboxes on a node
    /// share so much page cache.
    pub fn restoring(mut self, patience: Time, shared_mb: u32) -> Result<Self, EventError> {
        self.patience = Some(patience);
        for function in (0..self.functions).map(FunctionId) {
            let event = Event::Snapshot { function, shared: Some(bytes(shared_mb)) };
            self.scheduler.handle(Moment(0), event, &mut self.decisions)?;
        }
        Ok(self)
    }

    /// What was decided.
    pub fn stats(&self) -> mote_sched::Stats {
        self.scheduler.stats()
    }

    /// A sandbox that is put away is gone at once here.
    fn tell(&mut self, now: Time, event: Event, actions: &mut Vec<Action>) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let handled = self.scheduler.handle(Moment(now), event, &mut self.decisions);
            self.error = self.error.or(handled.err());
            for decision in self.decisions.drain(..) {
                match decision {
                    Decision::Queue { .. } => (),
                    Decision::Hand { call, sandbox, .. } => {
                        let call = narrow(call.0);
                        actions.push(Action::Run { call, sandbox: number(sandbox) });
                    }
                    Decision::Refuse { call, .. } => actions.push(Action::Refuse { call: narrow(call.0) }),
                    Decision::Start { sandbox, node, function, .. } => {
                        // There are no blanks here.
                        let function = function.map_or(u32::MAX, |function| function.0);
                        actions.push(Action::Create { sandbox: number(sandbox), function, node: node.0 });
                    }
                    Decision::Evict { sandbox, .. } | Decision::Retire { sandbox, .. } => {
                        actions.push(Action::Stop { sandbox: number(sandbox) });
                        events.push(Event::Gone { sandbox });
                    }
                }
            }
        }
    }
}

impl Scheduler for Mote {
    fn step(&mut self, now: Time, input: Input, actions: &mut Vec<Action>) {
        let event = match input {
            Input::Call { call, function } => Event::Arrived {
                call: CallId(u64::from(call)),
                function: FunctionId(function),
                deadline: self
                    .patience
                    .map_or(Moment::NEVER, |patience| Moment(now.saturating_add(patience))),
                fresh: false,
            },
            Input::Ready { sandbox } => Event::Ready { sandbox: named(sandbox) },
            Input::Done { sandbox } => Event::Ended { sandbox: named(sandbox), healthy: true },
            Input::Rested { sandbox, memory_mb } => {
                Event::Measured { sandbox: named(sandbox), private: bytes(memory_mb) }
            }
            Input::Wake => Event::Timer,
        };
        self.tell(now, event, actions);
    }

    fn wake(&mut self) -> Option<Time> {
        self.scheduler.next_timer().filter(|at| *at < Moment::NEVER).map(|at| at.0)
    }

    fn complaint(&self) -> Option<String> {
        self.error.map(|error| error.to_string())
    }
}

fn bytes(mb: u32) -> u64 {
    u64::from(mb) << 20
}

fn number(id: Id) -> SandboxId {
    u64::from(id.generation) << 32 | u64::from(id.slot)
}

fn named(id: SandboxId) -> Id {
    Id { slot: narrow(id & u64::from(u32::MAX)), generation: narrow(id >> 32) }
}

fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
