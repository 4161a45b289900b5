//! Stream I/O between Unix sockets and guest memory. Nothing here blocks.

use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::net::{SendFlags, send};

use crate::Buffers;

/// What became of an attempt to move bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moved {
    /// So many; never none.
    Bytes(usize),
    /// None now; the socket will become ready.
    Blocked,
    /// None ever again: end of stream, or a broken socket.
    Over,
}

/// Reads from `socket` into guest buffers at `offset`, at most `len` bytes.
pub(super) fn receive(socket: BorrowedFd<'_>, target: &Buffers<'_>, offset: usize, len: usize) -> Moved {
    let mut buffers = target.iovecs(offset, len);
    let mut message = message(&mut buffers);
    outcome(|| {
        // SAFETY: the header points to `buffers`, alive until the end of this function, whose entries lie in guest
        // memory borrowed by `target`; only the kernel accesses them.
        checked(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) })
    })
}

/// Writes `len` bytes of guest buffers at `offset` to `socket`.
pub(super) fn send_buffers(socket: BorrowedFd<'_>, source: &Buffers<'_>, offset: usize, len: usize) -> Moved {
    let mut buffers = source.iovecs(offset, len);
    let message = message(&mut buffers);
    outcome(|| {
        // SAFETY: as in `receive`; the kernel only reads the buffers.
        checked(unsafe {
            libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
        })
    })
}

/// Writes `bytes`, or the first of them, to `socket`.
pub(super) fn send_bytes(socket: BorrowedFd<'_>, bytes: &[u8]) -> Moved {
    outcome(|| send(socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).map_err(io::Error::from))
}

fn message(buffers: &mut [libc::iovec]) -> libc::msghdr {
    // SAFETY: all-zero is a message without address, buffers and control data. (It has private padding on some
    // targets, so it cannot be written as a literal.)
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = buffers.as_mut_ptr();
    message.msg_iovlen = buffers.len();
    message
}

fn outcome(mut call: impl FnMut() -> io::Result<usize>) -> Moved {
    loop {
        return match call() {
            Ok(0) => Moved::Over,
            Ok(n) => Moved::Bytes(n),
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => continue,
                ErrorKind::WouldBlock => Moved::Blocked,
                _ => Moved::Over,
            },
        };
    }
}

/// The result of a system call of libc.
fn checked(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
