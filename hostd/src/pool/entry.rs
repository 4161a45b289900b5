//! What is known of one function: its snapshot, the duties to make and to record one, and why it did not come up.
//! Pure.

use std::sync::Arc;
use std::time::Duration;

use mote_api::RestoreMode;

use super::{StartFailure, Want};

/// How often recording is tried with a snapshot.
const RECORDING_ATTEMPTS: u32 = 3;

/// How often a snapshot may fail to be restored in a row before it is given up: once may be by chance.
const LOSSES: u32 = 2;

#[derive(Debug)]
enum State<S> {
    None,
    Building,
    Ready(S, Recording),
}

/// Whether a call on a snapshot was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recording {
    /// It is to be, and failed so often.
    Due(u32),
    /// The same, by one certain call that is to come.
    Reserved(u32),
    /// It is now; it failed so often before.
    UnderWay(u32),
    /// It was, or never is to be.
    Over,
}

/// A function. `S` is a snapshot.
#[derive(Debug)]
pub struct Entry<S> {
    /// It starts without a base from now on.
    pub unlayered: bool,
    /// Whoever makes its snapshot has the next call on it recorded, whatever the configuration says.
    pub record_next: bool,
    /// How the next restored sandbox gets its memory, if somebody asked.
    pub mode: Option<RestoreMode>,
    /// Why it did not come up, when it was tried last.
    pub failure: Option<Arc<StartFailure>>,
    /// Starts in vain since it last came up, with what they took.
    pub vain: Vec<(&'static str, Duration)>,
    state: State<S>,
    losses: u32,
}

/// What a start is to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Claim<S> {
    /// Restore it, perhaps with the duty to record the first call.
    Restore(S, bool),
    /// Start without, perhaps with the duty to make it.
    Cold(bool),
}

impl<S: Clone> Entry<S> {
    /// A function, with its snapshot if it has one. `recording`: a call on that is still to be recorded.
    pub fn new(snapshot: Option<S>, recording: bool) -> Self {
        Self {
            unlayered: false,
            record_next: false,
            mode: None,
            failure: None,
            vain: Vec::new(),
            state: snapshot.map_or(State::None, |snapshot| State::Ready(snapshot, Recording::new(recording))),
            losses: 0,
        }
    }

    /// Decides what a start does. `reserved`: it is for the call that recording is reserved for.
    pub fn claim(&mut self, want: Want, reserved: bool) -> Claim<S> {
        match (&mut self.state, want) {
            (State::Ready(snapshot, recording), Want::Auto | Want::Restore) => {
                let snapshot = snapshot.clone();
                Claim::Restore(snapshot, recording.claim(reserved))
            }
            (State::None, _) => {
                self.state = State::Building;
                Claim::Cold(true)
            }
            _ => Claim::Cold(false),
        }
    }

    /// Whether its snapshot is being made.
    pub fn is_building(&self) -> bool {
        matches!(self.state, State::Building)
    }

    /// A snapshot can be restored from now on; `recording`, `reserved`: a call on it is to be recorded, a certain one.
    pub fn built(&mut self, snapshot: S, recording: bool, reserved: bool) {
        let recording = match (recording, reserved) {
            (_, true) => Recording::Reserved(0),
            (due, false) => Recording::new(due),
        };
        self.state = State::Ready(snapshot, recording);
        self.record_next = false;
        self.losses = 0;
    }

    /// It could not be made.
    pub fn not_built(&mut self) {
        if self.is_building() {
            self.state = State::None;
        }
    }

    /// A recording ended without a new snapshot: another call is tried, a few times.
    pub fn not_recorded(&mut self) {
        if let State::Ready(_, recording) = &mut self.state
            && let Recording::UnderWay(failed) = *recording
        {
            let failed = failed + 1;
            *recording = if failed < RECORDING_ATTEMPTS { Recording::Due(failed) } else { Recording::Over };
        }
    }

    /// The call that recording was reserved for does not come: any may be recorded.
    pub fn unreserve(&mut self) {
        if let State::Ready(_, recording) = &mut self.state
            && let Recording::Reserved(failed) = *recording
        {
            *recording = Recording::Due(failed);
        }
    }

    /// The snapshot is of no use any more, if `is_it` says it is that one: another may have taken its place.
    pub fn forget_snapshot(&mut self, is_it: impl FnOnce(&S) -> bool) -> bool {
        let forgotten = matches!(&self.state, State::Ready(snapshot, _) if is_it(snapshot));
        if forgotten {
            self.state = State::None;
            self.losses = 0;
        }
        forgotten
    }

    /// A sandbox was lost on its way back from the snapshot. True if that is not by chance.
    pub fn lost(&mut self) -> bool {
        self.losses += 1;
        self.losses >= LOSSES
    }

    /// A sandbox came up; what was tried in vain before.
    pub fn up(&mut self) -> Vec<(&'static str, Duration)> {
        self.losses = 0;
        self.failure = None;
        std::mem::take(&mut self.vain)
    }

    /// The snapshot, if there is one.
    pub fn snapshot(&self) -> Option<&S> {
        match &self.state {
            State::Ready(snapshot, _) => Some(snapshot),
            State::None | State::Building => None,
        }
    }
}

impl Recording {
    fn new(due: bool) -> Self {
        if due { Self::Due(0) } else { Self::Over }
    }

    /// Takes the duty, if there is one to be had.
    fn claim(&mut self, reserved: bool) -> bool {
        match *self {
            Self::Due(failed) => *self = Self::UnderWay(failed),
            Self::Reserved(failed) if reserved => *self = Self::UnderWay(failed),
            _ => return false,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Claim::{Cold, Restore};

    fn entry() -> Entry<&'static str> {
        Entry::new(None, false)
    }

    #[test]
    fn one_makes_the_snapshot_and_one_call_at_a_time_is_recorded_and_not_for_ever() {
        let mut entry = entry();
        assert_eq!(entry.claim(Want::Restore, false), Cold(true));
        assert_eq!(entry.claim(Want::Auto, false), Cold(false));
        assert!(entry.is_building());
        entry.not_built();
        assert_eq!(entry.claim(Want::Cold, false), Cold(true));
        entry.built("clean", true, false);
        assert_eq!(entry.claim(Want::Cold, false), Cold(false));
        for _ in 0..RECORDING_ATTEMPTS {
            assert_eq!(entry.claim(Want::Auto, false), Restore("clean", true));
            assert_eq!(entry.claim(Want::Auto, true), Restore("clean", false), "two at once");
            entry.not_recorded();
        }
        assert_eq!(entry.claim(Want::Auto, false), Restore("clean", false), "more than there are attempts");
    }

    #[test]
    fn what_is_reserved_is_for_one_call() {
        let mut entry = entry();
        entry.built("clean", false, true);
        assert_eq!(entry.claim(Want::Auto, false), Restore("clean", false));
        assert_eq!(entry.claim(Want::Restore, true), Restore("clean", true));
        entry.built("clean", false, true);
        entry.unreserve();
        assert_eq!(entry.claim(Want::Auto, false), Restore("clean", true));
        entry.unreserve();
        entry.built("warm", false, false);
        entry.not_recorded();
        assert_eq!(entry.claim(Want::Auto, false), Restore("warm", false));
    }

    #[test]
    fn a_snapshot_that_loses_its_sandboxes_is_known_by_the_second() {
        let mut entry = entry();
        entry.built("bad", false, false);
        assert!(!entry.lost());
        entry.up();
        assert!(!entry.lost());
        assert!(entry.lost());
        assert!(!entry.forget_snapshot(|snapshot| *snapshot == "other"));
        assert!(entry.forget_snapshot(|snapshot| *snapshot == "bad"));
        assert_eq!((entry.snapshot(), entry.is_building()), (None, false));
    }
}
