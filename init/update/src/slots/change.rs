//! The changes of a state, one function each. All take the slot that runs; none changes what it was given.
//!
//! A change counts once it is on the disk. What is done to a slot is between two of them: nothing is written to
//! the other slot before the state of [`begin`] is there, and [`finish`] comes after all of it is.

use super::{Change, Content, Phase, Slot, State, TRIES};
use crate::version::Version;

/// Whether an operator insists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// No.
    No,
    /// A version that failed may be tried again, and one that is installed may be installed once more.
    Yes,
}

/// An update that began: the slot that may be written to. Gone with it is the update; the slot stays empty.
#[derive(Debug, PartialEq, Eq)]
pub struct Install {
    slot: Slot,
    version: Version,
}

impl Install {
    /// The slot to write to.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// The version that comes there.
    pub fn version(&self) -> Version {
        self.version
    }
}

/// Why a state was not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Not now.
    #[error("{change} is not possible: {phase}")]
    NotAllowed {
        /// What was to be done.
        change: Change,
        /// What is the case.
        phase: Phase,
    },
    /// Older than what may be installed.
    #[error("Version {version} is older than {oldest}, the oldest that is allowed")]
    TooOld {
        /// The version.
        version: Version,
        /// The oldest.
        oldest: Version,
    },
    /// It was tried and failed.
    #[error("Version {0} failed before")]
    FailedBefore(Version),
    /// It runs already.
    #[error("Version {0} is installed already")]
    Installed(Version),
    /// The state is not the one the update began with.
    #[error("Slot {0} is not the empty one the update began with")]
    Stale(Slot),
    /// What the slot has never passed a health check, or failed one since.
    #[error("Slot {0} is not good")]
    NotGood(Slot),
}

/// The other slot is to be written to: it counts as empty from now on, and a trial that was to come is off.
pub fn begin(
    state: &State,
    running: Slot,
    version: Version,
    force: Force,
) -> Result<(State, Install), ChangeError> {
    check(Change::Begin, state, running)?;
    not_too_old(state, version)?;
    if force == Force::No {
        if state.failed.contains(version) {
            return Err(ChangeError::FailedBefore(version));
        }
        if state.content(state.slot).version() == Some(version) {
            return Err(ChangeError::Installed(version));
        }
    }
    let slot = state.slot.other();
    let next = State { trial: None, ..state.clone() }.with(slot, Content::Empty);
    Ok((next, Install { slot, version }))
}

/// The other slot was written whole, and is durable: it goes on trial.
pub fn finish(state: &State, running: Slot, install: Install) -> Result<State, ChangeError> {
    check(Change::Finish, state, running)?;
    if install.slot == state.slot || state.content(install.slot) != Content::Empty {
        return Err(ChangeError::Stale(install.slot));
    }
    Ok(State { trial: Some(TRIES), ..state.clone() }.with(install.slot, Content::New(install.version)))
}

/// The trial that is to come is off. The slot keeps what it has.
pub fn call_off(state: &State, running: Slot) -> Result<State, ChangeError> {
    check(Change::CallOff, state, running)?;
    Ok(State { trial: None, ..state.clone() })
}

/// For every boot, before anything else: a trial that did not make it is written down as failed.
pub fn settle(state: &State, running: Slot) -> Result<State, ChangeError> {
    check(Change::Settle, state, running)?;
    Ok(match state.phase(running) {
        Phase::FellBack => end_trial(state),
        Phase::Settled | Phase::Pending | Phase::Trying | Phase::Stray => state.clone(),
    })
}

/// For every boot, once the health check passed: a slot on trial becomes the good one. `oldest` is what the
/// running system says of itself: after it, nothing older than that is installed. It may name no version newer
/// than itself.
///
/// What an operator went back from failed by this.
pub fn mark_good(state: &State, running: Slot, oldest: Version) -> Result<State, ChangeError> {
    check(Change::MarkGood, state, running)?;
    if state.phase(running) != Phase::Trying {
        return Ok(state.clone());
    }
    let was = state.content(running);
    let version = was.version().ok_or(ChangeError::NotGood(running))?;
    let mut next =
        State { slot: running, trial: None, ..state.clone() }.with(running, Content::Good(version));
    next.oldest = next.oldest.max(oldest.min(version));
    next.failed.remove(version);
    Ok(match was {
        Content::Good(_) => fail(next, running.other()),
        Content::Empty | Content::New(_) | Content::Failed(_) => next,
    })
}

/// The running slot is on trial and did not pass its health check. It is to reboot, into the good slot.
pub fn give_up(state: &State, running: Slot) -> Result<State, ChangeError> {
    check(Change::GiveUp, state, running)?;
    Ok(end_trial(state))
}

/// The other slot, if it was good, goes on trial: on the word of an operator.
pub fn roll_back(state: &State, running: Slot) -> Result<State, ChangeError> {
    check(Change::RollBack, state, running)?;
    let slot = state.slot.other();
    let Content::Good(version) = state.content(slot) else {
        return Err(ChangeError::NotGood(slot));
    };
    not_too_old(state, version)?;
    Ok(State { trial: Some(TRIES), ..state.clone() })
}

/// The slot that runs, and was good, takes the place of the good one, of which nothing is known any more: it
/// could not even be loaded. Without this a machine with a damaged slot could not be updated.
pub fn adopt(state: &State, running: Slot) -> Result<State, ChangeError> {
    check(Change::Adopt, state, running)?;
    match state.content(running) {
        Content::Good(_) => Ok(State { slot: running, ..state.clone() }.with(state.slot, Content::Empty)),
        Content::Empty | Content::New(_) | Content::Failed(_) => Err(ChangeError::NotGood(running)),
    }
}

/// The slot that runs was good and is damaged now: the other one, if it is good, takes its place. What was in the
/// damaged one may be installed again.
pub fn abandon(state: &State, running: Slot) -> Result<State, ChangeError> {
    check(Change::Abandon, state, running)?;
    let slot = running.other();
    match state.content(slot) {
        Content::Good(_) => Ok(State { slot, ..state.clone() }.with(running, Content::Empty)),
        Content::Empty | Content::New(_) | Content::Failed(_) => Err(ChangeError::NotGood(slot)),
    }
}

fn check(change: Change, state: &State, running: Slot) -> Result<(), ChangeError> {
    let phase = state.phase(running);
    if change.allowed(phase) { Ok(()) } else { Err(ChangeError::NotAllowed { change, phase }) }
}

fn not_too_old(state: &State, version: Version) -> Result<(), ChangeError> {
    if version < state.oldest {
        return Err(ChangeError::TooOld { version, oldest: state.oldest });
    }
    Ok(())
}

fn end_trial(state: &State) -> State {
    fail(State { trial: None, ..state.clone() }, state.slot.other())
}

/// What is in a slot failed. If the good slot has the same version, that one is not to blame.
fn fail(mut state: State, slot: Slot) -> State {
    let Some(version) = state.content(slot).version() else {
        return state;
    };
    if state.content(state.slot) != Content::Good(version) {
        state.failed.insert(version);
    }
    state.with(slot, Content::Failed(version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::phase::PHASES;

    const OLD: Version = Version::new(1, 0, 0);
    const NEW: Version = Version::new(1, 1, 0);

    fn machine() -> State {
        State::new(Slot::A, OLD, Version::ZERO)
    }

    fn updated(state: &State, version: Version) -> State {
        let running = state.slot;
        let (state, install) = begin(state, running, version, Force::No).unwrap();
        finish(&state, running, install).unwrap()
    }

    fn after(state: &State, version: Version) -> State {
        mark_good(&updated(state, version), state.slot.other(), Version::ZERO).unwrap()
    }

    /// A state in which `B` runs or is tried, per phase.
    fn of(phase: Phase) -> (State, Slot) {
        let state = after(&machine(), NEW);
        let trial = |tries| State { trial: Some(tries), ..state.clone() };
        match phase {
            Phase::Settled => (state, Slot::B),
            Phase::Pending => (trial(TRIES), Slot::B),
            Phase::Trying => (trial(1), Slot::A),
            Phase::FellBack => (trial(0), Slot::B),
            Phase::Stray => (state, Slot::A),
        }
    }

    #[test]
    fn the_table_is_what_the_functions_do() {
        let version = Version::new(2, 0, 0);
        for phase in PHASES {
            let (state, running) = of(*phase);
            assert_eq!(state.phase(running), *phase);
            let install = Install { slot: state.slot.other(), version };
            let emptied = state.clone().with(state.slot.other(), Content::Empty);
            for (change, result) in [
                (Change::Begin, begin(&state, running, version, Force::No).map(|_| ())),
                (Change::Finish, finish(&emptied, running, install).map(|_| ())),
                (Change::CallOff, call_off(&state, running).map(|_| ())),
                (Change::Settle, settle(&state, running).map(|_| ())),
                (Change::MarkGood, mark_good(&state, running, OLD).map(|_| ())),
                (Change::GiveUp, give_up(&state, running).map(|_| ())),
                (Change::RollBack, roll_back(&state, running).map(|_| ())),
                (Change::Adopt, adopt(&state, running).map(|_| ())),
                (Change::Abandon, abandon(&state, running).map(|_| ())),
            ] {
                let refused = Err(ChangeError::NotAllowed { change, phase: *phase });
                assert_eq!(
                    result,
                    if change.allowed(*phase) { Ok(()) } else { refused },
                    "{change} when {phase}"
                );
            }
        }
    }

    #[test]
    fn an_update_that_works() {
        let (begun, install) = begin(&machine(), Slot::A, NEW, Force::No).unwrap();
        assert_eq!((begun.trial(), begun.content(Slot::B)), (None, Content::Empty));
        let pending = finish(&begun, Slot::A, install).unwrap();
        assert_eq!((pending.slot(), pending.trial()), (Slot::A, Some((Slot::B, TRIES))));
        let good = mark_good(&pending, Slot::B, OLD).unwrap();
        assert_eq!((good.slot(), good.trial(), good.oldest()), (Slot::B, None, OLD));
        assert_eq!(
            [Slot::A, Slot::B].map(|slot| good.content(slot)),
            [Content::Good(OLD), Content::Good(NEW)]
        );
        assert_eq!(mark_good(&good, Slot::B, OLD), Ok(good.clone()));
    }

    #[test]
    fn a_version_that_failed_is_not_tried_again_unless_forced() {
        let pending = updated(&machine(), NEW);
        let fell_back = State { trial: Some(0), ..pending.clone() };
        for failed in [give_up(&pending, Slot::B).unwrap(), settle(&fell_back, Slot::A).unwrap()] {
            assert_eq!((failed.slot(), failed.trial()), (Slot::A, None));
            assert_eq!(failed.content(Slot::B), Content::Failed(NEW));
            let refused = ChangeError::FailedBefore(NEW);
            assert_eq!(begin(&failed, Slot::A, NEW, Force::No), Err(refused));
            assert_eq!(roll_back(&failed, Slot::A), Err(ChangeError::NotGood(Slot::B)));

            let (begun, install) = begin(&failed, Slot::A, NEW, Force::Yes).unwrap();
            assert!(begun.failed().contains(NEW));
            let forced = finish(&begun, Slot::A, install).unwrap();
            assert!(!mark_good(&forced, Slot::B, OLD).unwrap().failed().contains(NEW));
        }
    }

    #[test]
    fn what_was_gone_back_from_failed_once_the_other_works() {
        let asked = roll_back(&after(&machine(), NEW), Slot::B).unwrap();
        assert_eq!(asked.trial(), Some((Slot::A, TRIES)));
        let back = mark_good(&asked, Slot::A, Version::ZERO).unwrap();
        assert_eq!((back.slot(), back.content(Slot::B)), (Slot::A, Content::Failed(NEW)));
        assert!(back.failed().contains(NEW) && !back.failed().contains(OLD));

        let stayed = give_up(&asked, Slot::A).unwrap();
        assert_eq!((stayed.slot(), stayed.content(Slot::A)), (Slot::B, Content::Failed(OLD)));
        assert!(!stayed.failed().contains(NEW) && stayed.failed().contains(OLD));
    }

    #[test]
    fn older_than_allowed_is_refused_even_by_force() {
        let strict = mark_good(&updated(&machine(), NEW), Slot::B, NEW).unwrap();
        let too_old = ChangeError::TooOld { version: OLD, oldest: NEW };
        assert_eq!(begin(&strict, Slot::B, OLD, Force::Yes), Err(too_old));
        assert_eq!(roll_back(&strict, Slot::B), Err(too_old));
        // A system that asks for more than it is itself could never be updated to the next one.
        let greedy = mark_good(&updated(&machine(), NEW), Slot::B, Version::new(9, 0, 0)).unwrap();
        assert_eq!(greedy.oldest(), NEW);
    }

    #[test]
    fn what_runs_is_not_installed_again_unless_forced() {
        assert_eq!(begin(&machine(), Slot::A, OLD, Force::No), Err(ChangeError::Installed(OLD)));
        let (begun, install) = begin(&machine(), Slot::A, OLD, Force::Yes).unwrap();
        let failed = give_up(&finish(&begun, Slot::A, install).unwrap(), Slot::B).unwrap();
        // The good slot shows that the version is not at fault.
        assert!(!failed.failed().contains(OLD));
        assert_eq!(failed.content(Slot::B), Content::Failed(OLD));
    }

    #[test]
    fn an_update_is_finished_once_and_where_it_began() {
        let (begun, install) = begin(&machine(), Slot::A, NEW, Force::No).unwrap();
        let second = Install { slot: install.slot, version: install.version };
        let here = Install { slot: Slot::A, version: NEW };
        let pending = finish(&begun, Slot::A, install).unwrap();
        let called_off = call_off(&pending, Slot::A).unwrap();
        assert_eq!(finish(&called_off, Slot::A, second), Err(ChangeError::Stale(Slot::B)));
        assert_eq!(finish(&called_off, Slot::A, here), Err(ChangeError::Stale(Slot::A)));
    }

    #[test]
    fn a_slot_that_cannot_be_loaded_is_replaced() {
        let state = after(&machine(), NEW);
        let adopted = adopt(&state, Slot::A).unwrap();
        assert_eq!((adopted.slot(), adopted.content(Slot::B)), (Slot::A, Content::Empty));
        assert!(begin(&adopted, Slot::A, NEW, Force::No).is_ok());
        let given_up = give_up(&updated(&machine(), NEW), Slot::B).unwrap();
        assert_eq!(adopt(&given_up, Slot::B), Err(ChangeError::NotGood(Slot::B)));
    }

    #[test]
    fn a_damaged_slot_gives_way_to_a_good_one_only() {
        let state = after(&machine(), NEW);
        let abandoned = abandon(&state, Slot::B).unwrap();
        assert_eq!((abandoned.slot(), abandoned.content(Slot::B)), (Slot::A, Content::Empty));
        assert!(begin(&abandoned, Slot::A, NEW, Force::No).is_ok());
        assert_eq!(abandon(&machine(), Slot::A), Err(ChangeError::NotGood(Slot::B)));
        assert_eq!(abandon(&abandoned, Slot::A), Err(ChangeError::NotGood(Slot::B)));
    }
}
