//! Where an update stands, and what may be done then.

use std::fmt;

use super::{Slot, State, TRIES};

/// Where an update stands: of the state, and of the slot that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The good slot runs, nothing is on trial.
    Settled,
    /// The good slot runs, the other is to be tried at the next boot.
    Pending,
    /// The slot on trial runs.
    Trying,
    /// The good slot runs, the other was tried and did not make it.
    FellBack,
    /// Not the good slot runs, and not on trial: it was given up and is to reboot, somebody chose it in the
    /// menu, or the good one could not be loaded.
    Stray,
}

/// What can be done to a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// The other slot is to be written to.
    Begin,
    /// The other slot was written, and goes on trial.
    Finish,
    /// A trial that has not begun is not to be.
    CallOff,
    /// What GRUB found out is written down.
    Settle,
    /// The running slot passed its health check.
    MarkGood,
    /// The running slot did not pass its health check.
    GiveUp,
    /// The other slot, which was good, goes on trial.
    RollBack,
    /// The slot that runs instead of the good one becomes the good one.
    Adopt,
    /// The running slot, which was good, is damaged: the other one takes its place.
    Abandon,
}

/// All phases.
pub(super) const PHASES: &[Phase] =
    &[Phase::Settled, Phase::Pending, Phase::Trying, Phase::FellBack, Phase::Stray];

/// What is allowed when. All else is refused.
pub const ALLOWED: &[(Change, &[Phase])] = &[
    (Change::Begin, &[Phase::Settled, Phase::Pending]),
    (Change::Finish, &[Phase::Settled]),
    (Change::CallOff, &[Phase::Pending]),
    (Change::Settle, PHASES),
    (Change::MarkGood, &[Phase::Settled, Phase::Pending, Phase::Trying]),
    (Change::GiveUp, &[Phase::Trying]),
    (Change::RollBack, &[Phase::Settled]),
    (Change::Adopt, &[Phase::Stray]),
    (Change::Abandon, &[Phase::Settled]),
];

impl Change {
    /// Whether it is allowed in this phase.
    pub fn allowed(self, phase: Phase) -> bool {
        ALLOWED.iter().any(|(change, phases)| *change == self && phases.contains(&phase))
    }
}

impl State {
    /// Where an update stands, if this slot runs.
    pub fn phase(&self, running: Slot) -> Phase {
        match (self.trial, running == self.slot) {
            (None, true) => Phase::Settled,
            (None, false) => Phase::Stray,
            (Some(TRIES), true) => Phase::Pending,
            (Some(_), true) => Phase::FellBack,
            (Some(_), false) => Phase::Trying,
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Settled => "the good slot runs",
            Self::Pending => "a trial is to come",
            Self::Trying => "a slot is on trial",
            Self::FellBack => "a trial failed and is not settled",
            Self::Stray => "another slot than the good one runs",
        })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Begin => "Beginning an update",
            Self::Finish => "Finishing an update",
            Self::CallOff => "Calling off an update",
            Self::Settle => "Settling",
            Self::MarkGood => "Marking a slot good",
            Self::GiveUp => "Giving up a slot",
            Self::RollBack => "Rolling back",
            Self::Adopt => "Adopting a slot",
            Self::Abandon => "Abandoning a slot",
        })
    }
}
