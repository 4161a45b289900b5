//! What `virtio-queue` leaves out: several chains returned as one, and a kick asked for while chains still wait.

use std::sync::atomic::{Ordering, fence};

use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap};

/// Bytes of flags and index before the entries of either ring.
const RING_HEADER: u64 = 4;
/// Bytes of an entry of the used ring.
const USED_ENTRY: u64 = 8;
/// Bytes of an entry of the available ring.
const AVAIL_ENTRY: u64 = 2;

/// Takes the next chain; none if there is none, or if the driver broke the queue.
pub(crate) fn take<'m>(
    queue: &mut Queue,
    mem: &'m GuestMemoryMmap,
) -> Option<DescriptorChain<&'m GuestMemoryMmap>> {
    queue.iter(mem).ok()?.next()
}

/// Puts back the last `count` chains taken.
pub(crate) fn put_back(queue: &mut Queue, count: usize) {
    // Both count modulo 2^16.
    let [low, high, ..] = count.to_le_bytes();
    queue.set_next_avail(queue.next_avail().wrapping_sub(u16::from_le_bytes([low, high])));
}

/// Returns chains to the driver, each with the bytes written to it, so that it sees all of them at once or none.
pub(crate) fn publish(queue: &mut Queue, mem: &GuestMemoryMmap, used: &[(u16, u32)]) {
    let Some(((last, written), others)) = used.split_last() else { return };
    let mut next = queue.next_used();
    for (head, written) in others {
        let entry = next.checked_rem(queue.size()).map(|slot| RING_HEADER + USED_ENTRY * u64::from(slot));
        if let Some(at) = entry.and_then(|offset| GuestAddress(queue.used_ring()).checked_add(offset)) {
            let [a, b, c, d] = u32::from(*head).to_le_bytes();
            let [e, f, g, h] = written.to_le_bytes();
            // That the ring lies in memory was checked when it was set up.
            let _ = mem.write_slice(&[a, b, c, d, e, f, g, h], at);
        }
        next = next.wrapping_add(1);
    }
    // The index is stored with the last of them.
    queue.set_next_used(next);
    let _ = queue.add_used(mem, *last, *written);
}

/// Whether the driver wants to be told of the chains returned since the used index was `before`.
pub(crate) fn wants_interrupt(queue: &Queue, mem: &GuestMemoryMmap, before: u16) -> bool {
    let now = queue.next_used();
    if !queue.event_idx_enabled() {
        return now != before;
    }
    // What was stored into the ring before what the driver asks for is read.
    fence(Ordering::SeqCst);
    let offset = RING_HEADER + AVAIL_ENTRY * u64::from(queue.size());
    let event: Option<u16> = GuestAddress(queue.avail_ring())
        .checked_add(offset)
        .and_then(|at| mem.load(at, Ordering::Relaxed).ok())
        .map(u16::from_le);
    // When the ring cannot be read any more, one interrupt too many does no harm.
    event.is_none_or(|event| now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before))
}

/// Chains the driver has made available so far, modulo 2^16.
pub(crate) fn given(queue: &Queue, mem: &GuestMemoryMmap) -> Option<u16> {
    queue.avail_idx(mem, Ordering::Acquire).ok().map(|index| index.0)
}

/// Makes the driver kick when it gives another chain than the `given` so far. `virtio-queue` can only ask for a kick
/// after all chains that are there were taken. The caller looks once more whether one was given in between.
pub(crate) fn ask_for_kick(queue: &mut Queue, mem: &GuestMemoryMmap, given: u16) {
    if queue.event_idx_enabled() {
        // avail_event follows the used ring's entries; that it lies in memory was checked with the ring.
        let offset = RING_HEADER + USED_ENTRY * u64::from(queue.size());
        if let Some(at) = GuestAddress(queue.used_ring()).checked_add(offset) {
            let _ = mem.store(given.to_le(), at, Ordering::Relaxed);
        }
    } else {
        let _ = queue.enable_notification(mem);
    }
    fence(Ordering::SeqCst);
}
