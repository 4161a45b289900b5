//! The other end of the cable: a queue of a TAP device. One system call is one frame behind its header.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Most buffers the kernel takes in one call (IOV_MAX).
pub(super) const BUFFERS_LIMIT: usize = 1024;

/// A queue. It never blocks.
#[derive(Debug)]
pub(super) struct Wire(OwnedFd);

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// So many bytes of it passed.
    Bytes(usize),
    /// None is there, or there is no room.
    Blocked,
    /// This one cannot pass.
    Refused,
    /// None will ever pass again: the device was taken away.
    Gone,
}

impl Wire {
    pub(super) fn new(queue: OwnedFd) -> io::Result<Self> {
        // It is made so; a wire that blocks would stop all devices.
        rustix::io::ioctl_fionbio(&queue, true)?;
        Ok(Self(queue))
    }

    /// Reads one frame into `buffers`. What does not fit is lost.
    ///
    /// # Safety
    /// The buffers must be valid for writing, and nobody may hold a reference into them.
    pub(super) unsafe fn receive(&self, buffers: &[libc::iovec]) -> Moved {
        // SAFETY: the count is that of the array, the descriptor is open, and the caller vouches for the buffers.
        retry(
            || unsafe { libc::readv(self.0.as_raw_fd(), buffers.as_ptr(), count(buffers)) },
            |error| {
                match error {
                    libc::EAGAIN => Moved::Blocked,
                    // A queue has nothing else to say but that it is no longer one.
                    _ => Moved::Gone,
                }
            },
        )
    }

    /// Sends `buffers` as one frame.
    ///
    /// # Safety
    /// The buffers must be valid for reading; they may change meanwhile.
    pub(super) unsafe fn send(&self, buffers: &[libc::iovec]) -> Moved {
        // SAFETY: as above.
        retry(
            || unsafe { libc::writev(self.0.as_raw_fd(), buffers.as_ptr(), count(buffers)) },
            |error| {
                match error {
                    libc::EAGAIN => Moved::Blocked,
                    libc::EBADFD | libc::EBADF | libc::EPIPE | libc::ENOTCONN | libc::ECONNREFUSED => {
                        Moved::Gone
                    }
                    // Among them: the device is down (EIO), which may end; no memory; a header it does not like.
                    _ => Moved::Refused,
                }
            },
        )
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn count(buffers: &[libc::iovec]) -> i32 {
    // The kernel refuses more than it takes.
    i32::try_from(buffers.len()).unwrap_or(i32::MAX)
}

/// Repeats an interrupted system call.
fn retry(mut call: impl FnMut() -> isize, failed: impl Fn(i32) -> Moved) -> Moved {
    loop {
        match usize::try_from(call()) {
            // No frame is empty: the other end of a socket was closed.
            Ok(0) => return Moved::Gone,
            Ok(n) => return Moved::Bytes(n),
            Err(_) => match io::Error::last_os_error().raw_os_error() {
                Some(libc::EINTR) => {}
                error => return failed(error.unwrap_or_default()),
            },
        }
    }
}
