//! The Runtime API as a state machine: requests of the runtime and orders of the host in, actions out.
//! No I/O, no clock, no payloads.
//!
//! ```text
//!    ┌────────────────Start────────────────┐
//! Blank ─Prewarm→ Prewarming ─function→ AtFunction
//!    ↓Start            ↓Start              ↓Start
//! Starting ─restore/next→ AtSnapshot ─Resume→ Restoring ─next→ Waiting ⇄ Serving
//!     └───────────────────next──────────────────────────────────↑  ↑        │ answer
//!                                                                └─next─ Away ←┘
//! ```
//! `Failed` is reached from everywhere and left to nowhere. A held request whose connection goes away takes the
//! machine one step back, so that a runtime may ask again.

use mote_protocol::{FailureKind, ResultKind};

/// Where the runtime is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// No runtime runs and no function is known.
    Blank,
    /// Started without a function, has asked for nothing yet.
    Prewarming,
    /// `mote/function` is held: what every function needs is loaded.
    AtFunction,
    /// Started, has asked for nothing yet.
    Starting,
    /// `restore/next` is held: the snapshot point.
    AtSnapshot,
    /// `restore/next` was answered; its after-restore hooks run.
    Restoring,
    /// Between calls, has not asked for the next.
    Away,
    /// `next` is held.
    Waiting,
    /// Has an event, owes an answer.
    Serving,
    /// Of no further use.
    Failed,
}

impl Phase {
    /// Why a request that is refused now is refused.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Blank => "no function is known",
            Self::Prewarming => "the runtime loads what every function needs",
            Self::AtFunction => "the runtime waits for its function",
            Self::Starting => "the runtime is starting",
            Self::AtSnapshot => "the runtime waits at restore/next",
            Self::Restoring => "the runtime is being restored",
            Self::Away => "no call is under way",
            Self::Waiting => "the runtime waits for a call",
            Self::Serving => "a call is under way",
            Self::Failed => "the sandbox is ending",
        }
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// The host wants a runtime that waits for its function.
    Prewarm {
        /// There is a way to start it without one.
        able: bool,
    },
    /// `GET mote/function`.
    Function,
    /// The host has a function.
    Start,
    /// `GET restore/next`.
    RestoreNext,
    /// `GET invocation/next`.
    Next,
    /// `POST invocation/{id}/response` or `…/error`.
    Answer {
        /// The id in the path.
        request_id: &'a str,
        /// Which of the two.
        kind: ResultKind,
    },
    /// `POST init/error`.
    InitError,
    /// `POST restore/error`.
    RestoreError,
    /// The connection of the held request is gone.
    Left,
    /// The host is about to take a snapshot.
    Quiesce,
    /// The host released the sandbox; its new identity is applied already.
    Resume,
    /// The host has a call.
    Invoke {
        /// Its id.
        request_id: &'a str,
    },
    /// The session to the host ended.
    Unplugged,
    /// The runtime process ended.
    Exited,
}

/// Why a request of the runtime is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Not in this phase: 403.
    State(Phase),
    /// Not the id of the call under way: 400.
    RequestId,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start the runtime without a function.
    Prewarm,
    /// Take the function: tell it to the runtime that waits for it, or start one.
    Start,
    /// Keep this request waiting; if another is held, refuse that one.
    Hold,
    /// Answer this request 202.
    Accept,
    /// Answer this request with an error.
    Refuse(Refusal),
    /// Answer the held `restore/next`.
    Release,
    /// Answer the held `next` with the queued event.
    HandOver,
    /// Tell the host: at the snapshot point.
    Ready,
    /// Tell the host: released and asking for events.
    Resumed,
    /// Tell the host how the call ended.
    Result(ResultKind),
    /// Forget the queued event.
    Forget,
    /// Settle, then close the session.
    Settle,
    /// Tell the host why this sandbox is of no further use.
    Fail(FailureKind),
    /// As `Fail(Agent)`: the host did something it must not do.
    Violation(&'static str),
}

/// The machine.
#[derive(Debug)]
pub struct State {
    phase: Phase,
    /// The point where a snapshot can be taken was reached (and the host told, or it was past caring).
    announced: bool,
    /// A `Resume` whose `Resumed` is due.
    resuming: bool,
    /// A `Quiesce` that waits for the runtime to come to rest.
    quiescing: bool,
    queued: Option<String>,
    serving: Option<String>,
    /// The host that made the call under way is still there for its result.
    wanted: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            phase: Phase::Blank,
            announced: false,
            resuming: false,
            quiescing: false,
            queued: None,
            serving: None,
            wanted: false,
        }
    }
}

impl State {
    /// Where the runtime is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Id of the call under way.
    #[must_use]
    pub fn serving(&self) -> Option<&str> {
        self.serving.as_deref()
    }

    /// Takes one event. A request of the runtime gets exactly one of `Hold`, `Accept` and `Refuse`.
    pub fn step(&mut self, event: Event<'_>) -> Vec<Action> {
        match event {
            Event::Function => self.function(),
            Event::RestoreNext => self.restore_next(),
            Event::Next => self.next(),
            Event::Answer { request_id, kind } => self.answer(request_id, kind),
            Event::InitError => self.reported(&[Phase::Starting]),
            // Of a snapshot taken while the runtime waited for a call, the hooks run when the next one arrives.
            Event::RestoreError => self.reported(&[Phase::Restoring, Phase::Serving]),
            Event::Left => self.left(),
            Event::Exited if self.phase == Phase::Failed => Vec::new(),
            Event::Exited => self.fail(Action::Fail(FailureKind::Exit)),
            _ if self.phase == Phase::Failed => Vec::new(),
            Event::Prewarm { able } => self.prewarm(able),
            Event::Start => self.start(),
            Event::Quiesce => self.quiesce(),
            Event::Resume => self.resume(),
            Event::Invoke { request_id } => self.invoke(request_id),
            Event::Unplugged => self.unplugged(),
        }
    }

    fn prewarm(&mut self, able: bool) -> Vec<Action> {
        if self.phase != Phase::Blank {
            return self.fail(Action::Violation("A runtime runs already"));
        }
        if !able {
            return vec![Action::Ready];
        }
        self.phase = Phase::Prewarming;
        vec![Action::Prewarm]
    }

    fn function(&mut self) -> Vec<Action> {
        if !matches!(self.phase, Phase::Prewarming | Phase::AtFunction) {
            return self.refuse();
        }
        self.phase = Phase::AtFunction;
        let mut actions = vec![Action::Hold];
        self.announce(&mut actions);
        self.settle(&mut actions);
        actions
    }

    fn start(&mut self) -> Vec<Action> {
        if !self.blank() {
            return self.fail(Action::Violation("A sandbox starts once"));
        }
        self.phase = Phase::Starting;
        // A runtime that waited for its function was ready too, but for that only.
        self.announced = false;
        vec![Action::Start]
    }

    /// No function is known yet.
    fn blank(&self) -> bool {
        matches!(self.phase, Phase::Blank | Phase::Prewarming | Phase::AtFunction)
    }

    fn restore_next(&mut self) -> Vec<Action> {
        if !matches!(self.phase, Phase::Starting | Phase::AtSnapshot) {
            return self.refuse();
        }
        let mut actions = vec![Action::Hold];
        if self.resuming {
            self.announced = true;
            self.phase = Phase::Restoring;
            actions.push(Action::Release);
            return actions;
        }
        self.phase = Phase::AtSnapshot;
        self.announce(&mut actions);
        self.settle(&mut actions);
        actions
    }

    fn next(&mut self) -> Vec<Action> {
        if !matches!(self.phase, Phase::Starting | Phase::Restoring | Phase::Away | Phase::Waiting) {
            return self.refuse();
        }
        self.phase = Phase::Waiting;
        let mut actions = vec![Action::Hold];
        if std::mem::take(&mut self.resuming) {
            self.announced = true;
            actions.push(Action::Resumed);
        }
        self.announce(&mut actions);
        self.settle(&mut actions);
        self.hand_over(&mut actions);
        actions
    }

    fn answer(&mut self, request_id: &str, kind: ResultKind) -> Vec<Action> {
        if self.phase != Phase::Serving {
            return self.refuse();
        }
        if self.serving.as_deref() != Some(request_id) {
            return vec![Action::Refuse(Refusal::RequestId)];
        }
        self.serving = None;
        self.phase = Phase::Away;
        if self.wanted { vec![Action::Result(kind), Action::Accept] } else { vec![Action::Accept] }
    }

    fn reported(&mut self, allowed: &[Phase]) -> Vec<Action> {
        if !allowed.contains(&self.phase) {
            return self.refuse();
        }
        let mut actions = self.fail(Action::Fail(FailureKind::Init));
        actions.push(Action::Accept);
        actions
    }

    fn left(&mut self) -> Vec<Action> {
        match self.phase {
            Phase::AtFunction => self.phase = Phase::Prewarming,
            Phase::AtSnapshot => self.phase = Phase::Starting,
            Phase::Waiting => self.phase = Phase::Away,
            _ => {}
        }
        Vec::new()
    }

    fn quiesce(&mut self) -> Vec<Action> {
        self.quiescing = true;
        let mut actions = Vec::new();
        if matches!(self.phase, Phase::Blank | Phase::AtFunction | Phase::AtSnapshot | Phase::Waiting) {
            self.settle(&mut actions);
        }
        actions
    }

    fn resume(&mut self) -> Vec<Action> {
        match self.phase {
            Phase::AtSnapshot => {
                self.resuming = true;
                self.phase = Phase::Restoring;
                vec![Action::Release]
            }
            // Who waits for a call or a function finds out by itself that it is somebody else.
            Phase::Waiting | Phase::Blank | Phase::Prewarming | Phase::AtFunction => vec![Action::Resumed],
            _ => {
                self.resuming = true;
                Vec::new()
            }
        }
    }

    fn invoke(&mut self, request_id: &str) -> Vec<Action> {
        if self.blank() {
            return self.fail(Action::Violation("A call arrived before the function"));
        }
        if self.queued.is_some() || (self.serving.is_some() && self.wanted) {
            return self.fail(Action::Violation("A call arrived while another was under way"));
        }
        if self.quiescing {
            return self.fail(Action::Violation("A call arrived after the order to settle"));
        }
        self.queued = Some(request_id.to_owned());
        let mut actions = Vec::new();
        if self.phase == Phase::Waiting {
            self.hand_over(&mut actions);
        }
        actions
    }

    fn unplugged(&mut self) -> Vec<Action> {
        self.quiescing = false;
        self.resuming = false;
        self.wanted = false;
        if self.queued.take().is_some() { vec![Action::Forget] } else { Vec::new() }
    }

    fn announce(&mut self, actions: &mut Vec<Action>) {
        if !std::mem::replace(&mut self.announced, true) {
            actions.push(Action::Ready);
        }
    }

    fn settle(&mut self, actions: &mut Vec<Action>) {
        if self.queued.is_none() && std::mem::take(&mut self.quiescing) {
            actions.push(Action::Settle);
        }
    }

    fn hand_over(&mut self, actions: &mut Vec<Action>) {
        if let Some(request_id) = self.queued.take() {
            self.serving = Some(request_id);
            self.wanted = true;
            self.phase = Phase::Serving;
            actions.push(Action::HandOver);
        }
    }

    fn refuse(&self) -> Vec<Action> {
        vec![Action::Refuse(Refusal::State(self.phase))]
    }

    fn fail(&mut self, how: Action) -> Vec<Action> {
        self.phase = Phase::Failed;
        self.queued = None;
        vec![how]
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
