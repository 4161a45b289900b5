//! The three queues: packets to the guest, packets from it, and events.

use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress};

use super::mux::Mux;
use crate::{Buffers, DeviceIo, Served};

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
    io.queues.get(EVENT)?.avail_idx(&io.mem, Ordering::Acquire).ok().map(|index| index.0)
}

/// Makes the driver kick when it gives the next event buffer. virtio-queue can only ask for a kick after all buffers
/// that are there have been taken, and most of them stay.
fn ask_for_kick(io: &mut DeviceIo, given: u16) {
    let Some(queue) = io.queues.get_mut(EVENT) else { return };
    if queue.event_idx_enabled() {
        // avail_event follows the used ring's header and entries; that it lies in memory was checked with the ring.
        let at = 4 + 8 * u64::from(queue.size());
        if let Some(at) = queue.used_ring().checked_add(at) {
            let _ = io.mem.store(given.to_le(), GuestAddress(at), Ordering::Relaxed);
        }
    } else {
        let _ = queue.enable_notification(&io.mem);
    }
    fence(Ordering::SeqCst);
    // If it gave one in between, it did not kick.
    io.kick(EVENT);
}
