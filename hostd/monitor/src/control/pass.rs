//! Bytes that come with a descriptor (`SCM_RIGHTS`).

use std::io;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Most descriptors taken in at once: one more than there is a use for, so that too many are noticed. The kernel closes
/// what is above that.
const ROOM: usize = 2;

/// Sends `bytes`, or the first part of them, with `descriptor` passed along; how many were sent. Unless that is an
/// error, the descriptor went with them: the rest is sent without.
///
/// # Errors
/// As `sendmsg`.
pub fn send_with(socket: impl AsFd, bytes: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let passed: &[BorrowedFd<'_>] = descriptor.as_slice();
    if !passed.is_empty() {
        // There is room for one.
        control.push(SendAncillaryMessage::ScmRights(passed));
    }
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// What was read at once.
pub(super) struct Read {
    pub(super) bytes: usize,
    pub(super) descriptors: Vec<OwnedFd>,
    /// There were more descriptors than are taken.
    pub(super) excess: bool,
}

/// Reads what is there, without waiting.
pub(super) fn receive_with(socket: impl AsFd, bytes: &mut [u8]) -> io::Result<Read> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(ROOM))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut [IoSliceMut::new(bytes)], &mut control, flags)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            descriptors.extend(passed);
        }
    }
    let excess = received.flags.contains(ReturnFlags::CTRUNC);
    Ok(Read { bytes: received.bytes, descriptors, excess })
}
