//! Signals as input of the event loop.

use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// What a signal means to the monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// End (SIGTERM, SIGINT).
    Terminate,
    /// The thread that started us ended (SIGHUP, see [`tell_when_parent_dies`]).
    Parent,
}

const TABLE: [(libc::c_int, Signal); 3] =
    [(libc::SIGTERM, Signal::Terminate), (libc::SIGINT, Signal::Terminate), (libc::SIGHUP, Signal::Parent)];

/// Size of `signalfd_siginfo`; the signal's number is its first field.
const RECORD: usize = 128;

/// A descriptor that is readable when a signal came.
#[derive(Debug)]
pub(crate) struct Signals {
    fd: OwnedFd,
    parent: libc::pid_t,
}

impl Signals {
    /// Blocks the signals for this thread and all it starts later, and collects them instead.
    pub(crate) fn collect() -> io::Result<Self> {
        // SAFETY: `sigset_t` is plain data for which all zeros is valid; the calls only write to it and read it.
        let fd = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for (number, _) in TABLE {
                libc::sigaddset(&raw mut set, number);
            }
            let failed = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            if failed != 0 {
                return Err(io::Error::from_raw_os_error(failed));
            }
            libc::signalfd(-1, &raw const set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, owned by nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, parent: parent() })
    }

    /// Asks for SIGHUP when the parent dies. Linux sends it already when the *thread* that started us ends, while its
    /// process lives on: [`parent_died`](Self::parent_died) tells the two apart.
    pub(crate) fn tell_when_parent_dies(&self) -> io::Result<()> {
        // SAFETY: takes a number, touches no memory.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGHUP) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Whether the process that started us is gone.
    pub(crate) fn parent_died(&self) -> bool {
        parent() != self.parent
    }

    /// The next signal that came.
    pub(crate) fn next(&self) -> Option<Signal> {
        let mut record = [0u8; RECORD];
        let read = rustix::io::read(self.fd.as_fd(), &mut record).ok()?;
        if read < RECORD {
            return None;
        }
        let (number, _) = record.split_first_chunk::<4>()?;
        let number = libc::c_int::from_le_bytes(*number);
        TABLE.iter().find(|(known, _)| *known == number).map(|(_, meaning)| *meaning)
    }

    /// To be watched.
    pub(crate) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn parent() -> libc::pid_t {
    // SAFETY: cannot fail, touches no memory.
    unsafe { libc::getppid() }
}
