//! One stream: credit, flow and closing in both directions.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::event::epoll::EventFlags;
use rustix::net::{Shutdown, shutdown};

use super::header::{HEADER, Header, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::sys::{self, Moved};
use crate::Buffers;

/// How far the opening got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The guest is to be asked.
    Requesting,
    /// The guest was asked.
    Requested,
    /// The guest asked, and is to be told yes.
    Accepting,
    /// Bytes flow.
    Open,
}

/// What a connection has to tell the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// Ask for the connection.
    Request,
    /// Accept it.
    Response,
    /// Bytes, if the socket still has some.
    Data,
    /// These directions are closed.
    Shutdown(u32),
    /// How much room is there?
    CreditRequest,
    /// So much room is here.
    CreditUpdate,
}

/// The guest broke the protocol: the connection is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Violation;

/// What follows for the connection from a packet of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// It goes on.
    Continue,
    /// The guest closed both directions: to be confirmed with a reset.
    Closed,
}

/// A stream between a Unix socket and the guest.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: OwnedFd,
    pub(super) phase: Phase,
    /// In the queue of those with a wish.
    pub(super) queued: bool,
    pub(super) deadline: Option<Instant>,

    // Host to guest.
    readable: bool,
    /// The host sent its last byte and we read it.
    ended: bool,
    /// Bytes sent to the guest, modulo 2^32, and what it said about its room.
    sent: u32,
    guest_room: u32,
    guest_taken: u32,
    credit_asked: bool,
    /// The guest reads no more.
    guest_deaf: bool,

    // Guest to host.
    writable: bool,
    /// Nobody on the host reads any more.
    host_deaf: bool,
    /// The guest sent its last byte.
    guest_ended: bool,
    /// Bytes the socket did not take yet; at most `room`.
    backlog: VecDeque<u8>,
    room: u32,
    received: u32,
    taken: u32,
    /// `taken` as the guest knows it.
    told: u32,
    credit_wanted: bool,

    /// Directions the guest was told are closed.
    shutdown_told: u32,
}

impl Connection {
    /// A connection with `room` bytes of buffer for what the guest sends.
    pub(super) fn new(stream: OwnedFd, phase: Phase, room: u32) -> Self {
        Self {
            stream,
            phase,
            queued: false,
            deadline: None,
            readable: false,
            ended: false,
            sent: 0,
            guest_room: 0,
            guest_taken: 0,
            credit_asked: false,
            guest_deaf: false,
            writable: true,
            host_deaf: false,
            guest_ended: false,
            backlog: VecDeque::new(),
            room,
            received: 0,
            taken: 0,
            told: 0,
            credit_wanted: false,
            shutdown_told: 0,
        }
    }

    /// The socket became ready.
    pub(super) fn ready(&mut self, flags: EventFlags) {
        if flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            self.readable = true;
        }
        if flags.intersects(EventFlags::HUP | EventFlags::ERR) {
            self.stop_writing();
        } else if flags.contains(EventFlags::OUT) {
            self.writable = true;
            self.flush();
        }
    }

    /// The most urgent thing to tell the guest.
    pub(super) fn wish(&self) -> Option<Wish> {
        match self.phase {
            Phase::Requesting => return Some(Wish::Request),
            Phase::Requested => return None,
            Phase::Accepting => return Some(Wish::Response),
            Phase::Open => {}
        }
        let wants_to_read = self.readable && !self.ended && !self.guest_deaf;
        if wants_to_read && self.credit() > 0 {
            return Some(Wish::Data);
        }
        let closed = self.closed();
        if closed & !self.shutdown_told != 0 {
            return Some(Wish::Shutdown(closed));
        }
        if wants_to_read && !self.credit_asked {
            return Some(Wish::CreditRequest);
        }
        // At half: a guest that used up its credit hears of room long before the buffer is empty, and one that sends
        // little is not told after every packet.
        let stale = self.taken.wrapping_sub(self.told);
        (self.credit_wanted || (stale >= self.room / 2 && stale > 0)).then_some(Wish::CreditUpdate)
    }

    /// The wish was told to the guest, or will be before anything else.
    pub(super) fn granted(&mut self, wish: Wish) {
        match wish {
            Wish::Request => self.phase = Phase::Requested,
            Wish::Response => self.phase = Phase::Open,
            Wish::Shutdown(flags) => self.shutdown_told |= flags,
            Wish::CreditRequest => self.credit_asked = true,
            Wish::Data | Wish::CreditUpdate => {}
        }
        // Every packet carries the credit.
        self.told = self.taken;
        self.credit_wanted = false;
    }

    /// Both directions were closed by the host, and the guest knows: it has to confirm.
    pub(super) fn awaits_reset(&self) -> bool {
        self.shutdown_told == SHUTDOWN_BOTH
    }

    /// Moves bytes from the socket into guest buffers behind the header; `None` when it has none (any more).
    pub(super) fn fill(&mut self, target: &Buffers<'_>) -> Option<u32> {
        let credit = usize::try_from(self.credit()).unwrap_or(usize::MAX);
        let room = target.len().saturating_sub(HEADER).min(credit);
        match sys::receive(self.stream.as_fd(), target, HEADER, room) {
            Moved::Bytes(n) => {
                let n = u32::try_from(n).unwrap_or(0);
                self.sent = self.sent.wrapping_add(n);
                return Some(n);
            }
            Moved::Blocked => self.readable = false,
            Moved::Over => self.ended = true,
        }
        None
    }

    /// Room and progress for a header to the guest: `(buf_alloc, fwd_cnt)`.
    pub(super) fn credit_given(&self) -> (u32, u32) {
        (self.room, self.taken)
    }

    /// Takes over what any packet says about the guest's room.
    pub(super) fn update_credit(&mut self, header: &Header) {
        self.guest_room = header.buf_alloc;
        self.guest_taken = header.fwd_cnt;
        if self.credit() > 0 {
            self.credit_asked = false;
        }
    }

    pub(super) fn request_credit(&mut self) {
        self.credit_wanted = true;
    }

    /// Bytes from the guest: `len` of them, behind the header in `packet`.
    pub(super) fn data(&mut self, packet: &Buffers<'_>, len: u32) -> Result<(), Violation> {
        let held = self.received.wrapping_sub(self.taken);
        let fits = len <= self.room.saturating_sub(held);
        let size = usize::try_from(len).map_err(|_| Violation)?;
        let present = packet.len().saturating_sub(HEADER) >= size;
        if self.phase != Phase::Open || self.guest_ended || !fits || !present {
            return Err(Violation);
        }
        self.received = self.received.wrapping_add(len);
        if self.host_deaf {
            self.taken = self.received;
            return Ok(());
        }
        let mut done = 0;
        if self.backlog.is_empty() && self.writable && size > 0 {
            match sys::send_buffers(self.stream.as_fd(), packet, HEADER, size) {
                Moved::Bytes(n) => {
                    done = n;
                    self.taken = self.taken.wrapping_add(u32::try_from(n).unwrap_or(0));
                }
                Moved::Blocked => self.writable = false,
                Moved::Over => {
                    self.stop_writing();
                    return Ok(());
                }
            }
        }
        if done < size {
            self.keep(packet, done, size);
            self.flush();
        }
        Ok(())
    }

    /// The guest closes directions.
    pub(super) fn shut(&mut self, flags: u32) -> Result<Next, Violation> {
        if self.phase != Phase::Open {
            return Err(Violation);
        }
        if flags & SHUTDOWN_RECEIVE != 0 && !self.guest_deaf {
            self.guest_deaf = true;
            // The host's next write fails instead of piling up. Fails itself if the host is gone already.
            let _ = shutdown(&self.stream, Shutdown::Read);
        }
        if flags & SHUTDOWN_SEND != 0 {
            self.guest_ended = true;
            self.flush();
        }
        Ok(if self.guest_deaf && self.guest_ended { Next::Closed } else { Next::Continue })
    }

    /// The socket and what is still to be written to it, when there is something.
    pub(super) fn into_remains(self) -> Option<(OwnedFd, VecDeque<u8>)> {
        (!self.backlog.is_empty() && !self.host_deaf).then_some((self.stream, self.backlog))
    }

    /// Bytes the guest can take now. A guest that claims to have taken what it was never sent has none.
    fn credit(&self) -> u32 {
        self.guest_room.saturating_sub(self.sent.wrapping_sub(self.guest_taken))
    }

    fn closed(&self) -> u32 {
        let send = if self.ended { SHUTDOWN_SEND } else { 0 };
        let receive = if self.host_deaf { SHUTDOWN_RECEIVE } else { 0 };
        send | receive
    }

    /// Copies bytes `from..to` of the packet's data to the backlog.
    fn keep(&mut self, packet: &Buffers<'_>, from: usize, to: usize) {
        for part in packet.parts(HEADER.saturating_add(from), to - from) {
            let mut bytes = vec![0u8; part.len()];
            part.copy_to(&mut bytes);
            self.backlog.extend(bytes);
        }
    }

    fn flush(&mut self) {
        while self.writable && !self.backlog.is_empty() {
            match flush(&self.stream, &mut self.backlog) {
                Moved::Bytes(n) => self.taken = self.taken.wrapping_add(u32::try_from(n).unwrap_or(0)),
                Moved::Blocked => self.writable = false,
                Moved::Over => self.stop_writing(),
            }
        }
        if self.backlog.is_empty() {
            // A full buffer of an idle connection would stay allocated for ever.
            self.backlog = VecDeque::new();
            if self.guest_ended && !self.host_deaf {
                // Fails if the host is gone, which is noticed otherwise.
                let _ = shutdown(&self.stream, Shutdown::Write);
            }
        }
    }

    fn stop_writing(&mut self) {
        self.host_deaf = true;
        self.writable = false;
        self.backlog = VecDeque::new();
        // What was thrown away is no longer in the guest's way.
        self.taken = self.received;
    }
}

/// Writes the front of `backlog` to `stream` and drops what was taken.
pub(super) fn flush(stream: &OwnedFd, backlog: &mut VecDeque<u8>) -> Moved {
    let (front, back) = backlog.as_slices();
    let moved = sys::send_bytes(stream.as_fd(), if front.is_empty() { back } else { front });
    if let Moved::Bytes(n) = moved {
        backlog.drain(..n.min(backlog.len()));
    }
    moved
}
