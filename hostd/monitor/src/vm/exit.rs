//! Why a microVM ended, and the one place where that is said first.

use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Why a microVM ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ExitReason {
    /// The guest asked for a reset: it was shut down, or panicked.
    Reset,
    /// A client asked.
    Quit,
    /// SIGTERM or SIGINT.
    Terminated,
    /// Whoever started the monitor is gone.
    OwnerGone,
    /// The guest crashed the processor or the monitor cannot go on.
    Failed(String),
}

impl ExitReason {
    /// Whether this is an orderly end.
    pub(crate) fn is_orderly(&self) -> bool {
        !matches!(self, Self::Failed(_))
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Reset => "reset",
            Self::Quit => "quit",
            Self::Terminated => "terminated",
            Self::OwnerGone => "owner gone",
            Self::Failed(reason) => reason,
        })
    }
}

/// Set by whoever notices the end; watched by the event loop.
#[derive(Debug)]
pub(crate) struct ExitSignal {
    reason: Mutex<Option<ExitReason>>,
    event: EventFd,
}

impl ExitSignal {
    /// Nothing has happened yet.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { reason: Mutex::new(None), event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)? })
    }

    /// The end has come; the first reason counts.
    pub(crate) fn raise(&self, reason: ExitReason) {
        let mut slot = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        slot.get_or_insert(reason);
        // Fails only when the counter is full, and then it is readable anyway.
        let _ = self.event.write(1);
    }

    /// The reason, once there is one.
    pub(crate) fn reason(&self) -> Option<ExitReason> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Readable once there is a reason.
    pub(crate) fn event(&self) -> &EventFd {
        &self.event
    }
}
