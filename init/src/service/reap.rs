//! Reaps every process that ends, ours or orphaned, and tells whoever waits for one.

use std::collections::HashMap;
use std::fmt;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{WaitOptions, WaitStatus, wait};
use tokio::signal::unix::Signal;
use tokio::sync::oneshot;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    fn from_status(status: WaitStatus) -> Option<Self> {
        status.exit_status().map(Self::Code).or_else(|| status.terminating_signal().map(Self::Signal))
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(number) => match nix::sys::signal::Signal::try_from(*number) {
                Ok(signal) => write!(f, "signal {number} ({signal})"),
                Err(_) => write!(f, "signal {number}"),
            },
        }
    }
}

/// The one place that waits for processes.
#[derive(Debug, Clone, Default)]
pub struct Reaper {
    waiting: Arc<Mutex<HashMap<u32, oneshot::Sender<Exit>>>>,
}

impl Reaper {
    /// Starts a process. Its end comes over the channel; `Child::wait` must never be called. Starting
    /// and reaping exclude each other, so a process that ends at once is not missed.
    pub fn spawn(&self, command: &mut Command) -> std::io::Result<(Child, oneshot::Receiver<Exit>)> {
        let mut waiting = self.lock();
        let child = command.spawn()?;
        let (tell, told) = oneshot::channel();
        waiting.insert(child.id(), tell);
        Ok((child, told))
    }

    /// Reaps whatever has ended; returns how many processes that were, and whether there are children
    /// left.
    pub fn reap(&self) -> (usize, bool) {
        let mut waiting = self.lock();
        let mut count = 0;
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let Some(exit) = Exit::from_status(status) else { continue };
                    count += 1;
                    let number = u32::try_from(pid.as_raw_nonzero().get()).unwrap_or(0);
                    if let Some(tell) = waiting.remove(&number) {
                        // Nobody listens any more: reaped all the same.
                        let _ = tell.send(exit);
                    }
                }
                Ok(None) => return (count, true),
                Err(rustix::io::Errno::INTR) => {}
                Err(_no_children) => return (count, false),
            }
        }
    }

    /// Reaps for ever. Signals merge, so each one means "some have ended".
    pub async fn run(self, mut child: Signal) {
        while child.recv().await.is_some() {
            self.reap();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, oneshot::Sender<Exit>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_named() {
        assert_eq!(Exit::Code(3).to_string(), "exit code 3");
        assert_eq!(Exit::Signal(11).to_string(), "signal 11 (SIGSEGV)");
        assert_eq!(Exit::Signal(60).to_string(), "signal 60");
    }
}
