//! What a sandbox can be, and what can become of it.

use serde::{Deserialize, Serialize};

use crate::ids::SandboxId;

/// What a sandbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// A monitor with everything but a function.
    Blank,
    /// On its way up: its monitor is made, a snapshot restored or a guest booted.
    Restoring,
    /// Up, and no call has seen it.
    Ready,
    /// Serves a call.
    Busy,
    /// Served, and waits for another call.
    Idle,
    /// Told to end; its memory is not back yet.
    Draining,
    /// Gone.
    Dead,
}

/// From where to where a sandbox may go. Whatever is not here is an error.
pub const TRANSITIONS: &[(State, State)] = &[
    (State::Restoring, State::Blank),
    (State::Restoring, State::Ready),
    (State::Restoring, State::Draining),
    (State::Restoring, State::Dead),
    (State::Blank, State::Restoring),
    (State::Blank, State::Draining),
    (State::Blank, State::Dead),
    (State::Ready, State::Busy),
    (State::Ready, State::Draining),
    (State::Ready, State::Dead),
    (State::Busy, State::Idle),
    (State::Busy, State::Draining),
    (State::Busy, State::Dead),
    (State::Idle, State::Busy),
    (State::Idle, State::Draining),
    (State::Idle, State::Dead),
    (State::Draining, State::Dead),
];

/// A way that is not in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Sandbox {sandbox:?} is {from:?} and cannot become {to:?}")]
pub struct TransitionError {
    /// Whose.
    pub sandbox: SandboxId,
    /// What it is.
    pub from: State,
    /// What it was to become.
    pub to: State,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 7] =
        [Self::Blank, Self::Restoring, Self::Ready, Self::Busy, Self::Idle, Self::Draining, Self::Dead];

    /// Whether the table has a way from here to there.
    pub const fn may_become(self, to: Self) -> bool {
        // One bit per target, made from the table at compile time: calls pass here.
        const MASKS: [u8; 7] = masks();
        MASKS[self as usize] & (1 << to as u8) != 0
    }

    /// Whether a call can be handed to it at once.
    pub const fn is_warm(self) -> bool {
        matches!(self, Self::Ready | Self::Idle)
    }
}

const fn masks() -> [u8; 7] {
    let mut masks = [0; 7];
    let mut at = 0;
    while at < TRANSITIONS.len() {
        let (from, to) = TRANSITIONS[at];
        masks[from as usize] |= 1 << to as u8;
        at += 1;
    }
    masks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_masks_say_what_the_table_says() {
        for from in State::ALL {
            for to in State::ALL {
                assert_eq!(from.may_become(to), TRANSITIONS.contains(&(from, to)), "{from:?} {to:?}");
            }
        }
    }

    #[test]
    fn death_is_the_end_and_reachable_from_everywhere() {
        for state in State::ALL {
            assert!(!State::Dead.may_become(state));
            assert!(state == State::Dead || state.may_become(State::Dead));
            assert!(!state.may_become(state));
        }
        assert!(!State::Draining.may_become(State::Busy), "what is told to end serves no more");
    }
}
