//! Why an update is not taken, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use mote_api::ApiError;
use mote_environment::EnvironmentError;
use mote_update::manifest::{HeaderError, PolicyError};
use mote_update::slots::{Change, ChangeError, Phase};
use mote_update::stream::StreamError;

use crate::text::chain;

/// When to come again for what settles by itself soon.
const SOON: Duration = Duration::from_secs(10);

/// Why an update is not taken.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// This machine has no slots.
    #[error("This machine cannot be updated: {0}")]
    NoSlots(String),
    /// It does not know whom to trust.
    #[error("No key for updates can be used: {0}")]
    Keys(String),
    /// One at a time.
    #[error("Another update is being written")]
    Busy,
    /// Somebody did not want it any more.
    #[error("The update was called off")]
    CalledOff,
    /// The file did not come.
    #[error(transparent)]
    Body(ApiError),
    /// The file is wrong, or not for this machine.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// Not now, or not this version.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The state cannot be read or written.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// More than there is room for.
    #[error("The update takes {needed} bytes of a slot that has {room}")]
    TooLarge {
        /// What it takes.
        needed: u64,
        /// What there is.
        room: u64,
    },
    /// The boot loader would not find it.
    #[error("The update has its kernel elsewhere than this machine's boot loader looks for it, at byte {0}")]
    Elsewhere(u64),
    /// The slot cannot be written to.
    #[error("Cannot {action} {}", path.display())]
    Slot {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// The kinds of answers.
enum Kind {
    Malformed,
    Forbidden,
    Conflict,
    TooLarge,
    Later,
    Fault,
}

impl UpdateError {
    /// As it is answered: with the way out.
    pub fn answer(self) -> ApiError {
        let (kind, way_out) = self.shape();
        let message = match way_out {
            "" => chain(&self),
            way_out => format!("{}; {way_out}", chain(&self)),
        };
        match (kind, self) {
            (_, Self::Body(error)) => error,
            (Kind::Malformed, _) => ApiError::InvalidParameterValue(message),
            (Kind::Forbidden, _) => ApiError::AccessDenied(message),
            (Kind::Conflict, _) => ApiError::ResourceConflict(message),
            (Kind::TooLarge, _) => ApiError::RequestTooLarge(message),
            (Kind::Later, _) => ApiError::Unavailable { message, retry_after: SOON },
            (Kind::Fault, _) => ApiError::Service(message),
        }
    }

    fn shape(&self) -> (Kind, &'static str) {
        match self {
            Self::NoSlots(_) => (
                Kind::Conflict,
                "machines that are given kernel and system from outside are updated there; docs/UPDATES.md",
            ),
            Self::Keys(_) => {
                (Kind::Forbidden, "add the public key of who signs to update.keys of the configuration")
            }
            Self::Busy => {
                (Kind::Conflict, "wait for it (GET /system/update), or call it off (DELETE /system/update)")
            }
            Self::CalledOff => (Kind::Conflict, ""),
            Self::Body(_) => (Kind::Malformed, ""),
            Self::Stream(error) => stream(error),
            Self::Change(error) => change(*error),
            Self::TooLarge { .. } => (Kind::TooLarge, "it was made for a machine with larger slots"),
            Self::Elsewhere(_) => (Kind::Malformed, "it was made for another layout of the disk"),
            Self::Environment(_) => (Kind::Fault, ""),
            Self::Slot { .. } => (Kind::Fault, "what runs is not touched; the slot is empty"),
        }
    }
}

fn stream(error: &StreamError) -> (Kind, &'static str) {
    match error {
        StreamError::Header(HeaderError::Unsigned) => {
            (Kind::Forbidden, "sign it with a key whose public half is in update.keys")
        }
        StreamError::UnknownKey(_) => (
            Kind::Forbidden,
            "add the key's public half to update.keys of the configuration, or sign it anew",
        ),
        StreamError::Signature(_) => (Kind::Forbidden, "fetch the file again: it was changed on its way"),
        StreamError::Refused(PolicyError::TooOld { .. }) => (Kind::Conflict, "take a newer one"),
        StreamError::Refused(PolicyError::CannotReplace { .. }) => {
            (Kind::Conflict, "install one that lies between first")
        }
        StreamError::Header(_) | StreamError::Manifest(_) => {
            (Kind::Malformed, "give a file as `image update` makes it")
        }
        StreamError::Table
        | StreamError::Chunk { .. }
        | StreamError::TooLong
        | StreamError::Truncated(_)
        | StreamError::Broken => (Kind::Malformed, "send the whole file again"),
    }
}

fn change(error: ChangeError) -> (Kind, &'static str) {
    match error {
        ChangeError::NotAllowed { phase: Phase::Trying, .. } => {
            (Kind::Later, "wait until the system that runs has shown that it is healthy")
        }
        ChangeError::NotAllowed { phase: Phase::FellBack, .. } => (Kind::Later, "it is being written down"),
        ChangeError::NotAllowed { phase: Phase::Pending, .. } => {
            (Kind::Conflict, "call it off first (DELETE /system/update), or start the machine again")
        }
        ChangeError::NotAllowed { change: Change::CallOff, .. } => {
            (Kind::Conflict, "there is nothing to call off")
        }
        ChangeError::NotAllowed { phase: Phase::Stray, .. } => (
            Kind::Later,
            "the slot that runs is to take the good one's place first, or start the machine again",
        ),
        ChangeError::NotAllowed { phase: Phase::Settled, .. } => (Kind::Conflict, ""),
        ChangeError::TooOld { .. } => (Kind::Conflict, "take a newer one"),
        ChangeError::FailedBefore(_) => {
            (Kind::Conflict, "take a newer one, or insist on this one with ?force=true")
        }
        ChangeError::Installed(_) => (Kind::Conflict, "write it once more with ?force=true"),
        ChangeError::Stale(_) => (Kind::Conflict, "send it again"),
        ChangeError::NotGood(_) => {
            (Kind::Conflict, "there is nothing to go back to: install the version that is wanted")
        }
    }
}
