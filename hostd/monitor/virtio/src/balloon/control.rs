//! What the host wants of a balloon, and what it knows of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The host's end of a balloon. What is wished for is passed on to the guest when queue [`WISHES`](super::WISHES) is
/// kicked.
#[derive(Clone, Debug, Default)]
pub struct BalloonControl(Arc<Mutex<Shared>>);

/// Known to both ends.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Pages the host wants.
    pub(super) target: u32,
    /// The guest has not been told of it.
    pub(super) untold: bool,
    /// Pages the guest has given.
    pub(super) held: u32,
    /// Where a question for statistics is.
    pub(super) question: Question,
}

/// Where a question for statistics is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Question {
    /// There is none.
    #[default]
    None,
    /// To be put as soon as the guest has a buffer for the answer.
    Wished,
    /// The guest has its buffer back.
    Put,
    /// Answered: bytes of free memory.
    Answered(u64),
}

impl BalloonControl {
    /// Asks the guest for its statistics; an answer to an earlier question is forgotten.
    pub fn ask(&self) {
        self.lock().question = Question::Wished;
    }

    /// Bytes of free memory the guest answered, once.
    pub fn answer(&self) -> Option<u64> {
        let mut shared = self.lock();
        match shared.question {
            Question::Answered(free) => {
                shared.question = Question::None;
                Some(free)
            }
            _ => None,
        }
    }

    /// Has the guest give as many pages as make up `pages`, or use some again.
    pub fn aim(&self, pages: u32) {
        let mut shared = self.lock();
        if shared.target != pages {
            shared.target = pages;
            shared.untold = true;
        }
    }

    /// Pages the guest has given, as it says.
    pub fn held(&self) -> u32 {
        self.lock().held
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Shared> {
        // Plain numbers, right at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
