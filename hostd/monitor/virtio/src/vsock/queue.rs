//! The three queues: packets to the guest, packets from it, and events.

use std::time::{Duration, Instant};

use virtio_queue::QueueT;

use super::mux::Mux;
use crate::{Buffers, DeviceIo, Served, ring};

/// Packets to the guest.
pub(super) const RX: usize = 0;
/// Packets from the guest.
pub(super) const TX: usize = 1;
/// Events.
pub(super) const EVENT: usize = 2;

/// Entries of each. Drivers fill the first with buffers at once, and every one of them is a page that a snapshot has
/// to bring back: few.
pub(super) const SIZES: [u16; 3] = [128, 128, 8];

/// Packets moved each way before the other devices have their turn.
const BUDGET: u16 = 128;

/// Segments of one packet: a header, 64 KiB of pages, and some.
const MAX_SEGMENTS: usize = 64;

/// VIRTIO_VSOCK_EVENT_TRANSPORT_RESET.
const TRANSPORT_RESET: [u8; 4] = 0u32.to_le_bytes();

/// Telling the guest that its connections are gone.
///
/// A Linux guest takes events and packets from different work items: a connection made right after the event could be
/// among those the event ends. So nothing is put into the guest's queue until it gave the event's buffer back, which
/// it does when it has dealt with the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reset {
    /// Nothing to tell, or told and heard.
    Done,
    /// To be told.
    Owed { deadline: Instant },
    /// Told; the guest had made `given` event buffers available until then.
    Told { given: u16, deadline: Instant },
}

impl Reset {
    pub(super) fn owed(timeout: Duration) -> Self {
        Self::Owed { deadline: Instant::now() + timeout }
    }

    /// Packets to the guest have to wait.
    pub(super) fn holds(self) -> bool {
        self != Self::Done
    }

    pub(super) fn deadline(self) -> Option<Instant> {
        match self {
            Self::Done => None,
            Self::Owed { deadline } | Self::Told { deadline, .. } => Some(deadline),
        }
    }
}

/// Takes packets from the guest. Returns false if some were left because there is no room for answers.
pub(super) fn transmit(io: &mut DeviceIo, mux: &mut Mux) -> bool {
    let served = io.serve(TX, BUDGET, |mem, chain| {
        if !mux.has_room() {
            return None;
        }
        if let Ok((packet, _)) = Buffers::split(mem, chain, MAX_SEGMENTS) {
            mux.packet(&packet);
        }
        Some(0)
    });
    served != Served::Stopped
}

/// Gives packets to the guest, as long as there are packets and buffers.
pub(super) fn deliver(io: &mut DeviceIo, mux: &mut Mux) {
    if mux.has_packets() {
        io.serve(RX, BUDGET, |mem, chain| match Buffers::split(mem, chain, MAX_SEGMENTS) {
            Ok((_, target)) => mux.next(&target),
            Err(_) => Some(0),
        });
    }
}

/// Moves a reset on: tells the guest, or sees whether it heard.
pub(super) fn reset(io: &mut DeviceIo, state: Reset, now: Instant) -> Reset {
    let usable = io.queues.get(EVENT).is_some_and(QueueT::ready);
    match state {
        Reset::Done => Reset::Done,
        _ if !usable || state.deadline().is_some_and(|deadline| deadline <= now) => Reset::Done,
        Reset::Owed { deadline } => {
            let mut told = false;
            io.serve(EVENT, 1, |mem, chain| {
                let Ok((_, target)) = Buffers::split(mem, chain, MAX_SEGMENTS) else { return Some(0) };
                told = target.write_at(0, &TRANSPORT_RESET) == TRANSPORT_RESET.len();
                Some(if told { 4 } else { 0 })
            });
            match given(io) {
                Some(given) if told => {
                    ask_for_kick(io, given);
                    Reset::Told { given, deadline }
                }
                _ => state,
            }
        }
        Reset::Told { given: before, .. } if given(io).is_none_or(|now| now != before) => Reset::Done,
        Reset::Told { .. } => state,
    }
}

/// Event buffers the guest made available so far, modulo 2^16.
fn given(io: &DeviceIo) -> Option<u16> {
    ring::given(io.queues.get(EVENT)?, &io.mem)
}

/// Makes the driver kick when it gives the next event buffer; most of those that are there stay.
fn ask_for_kick(io: &mut DeviceIo, given: u16) {
    let Some(queue) = io.queues.get_mut(EVENT) else { return };
    ring::ask_for_kick(queue, &io.mem, given);
    // If it gave one in between, it did not kick.
    io.kick(EVENT);
}
