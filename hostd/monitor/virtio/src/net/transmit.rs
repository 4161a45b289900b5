//! Frames from the guest.

use std::time::{Duration, Instant};

use virtio_queue::DescriptorChain;
use vm_memory::GuestMemoryMmap;

use super::counters::{Count, NetCounters};
use super::header::{HEADER, Header};
use super::identity::{LOOKED_AT, Refusal};
use super::link::{Link, Turn};
use super::wire::{BUFFERS_LIMIT, Moved};
use super::{FRAME_LIMIT, MAX_SEGMENTS, TURN_BYTES, TURN_FRAMES, TX};
use crate::{Buffers, DeviceIo, Served};

/// Until a wire without room is tried again; a TAP device says so only sometimes.
const BLOCKED: Duration = Duration::from_millis(1);

/// Sends what waits in the queue; without a link it is dropped.
pub(super) fn serve(
    io: &mut DeviceIo,
    link: Option<&mut Link>,
    counters: &NetCounters,
    now: Instant,
) -> Turn {
    let features = io.features;
    let mut turn = Turn::Idle;
    let mut link = link;
    let mut bytes = 0;
    let served = io.serve(TX, TURN_FRAMES, |mem, chain| {
        let Some(link) = link.as_deref_mut().filter(|_| turn != Turn::Gone) else {
            counters.add(Count::TxDetached, 1);
            return Some(0);
        };
        if bytes > TURN_BYTES {
            turn = Turn::More;
            return None;
        }
        if let Some(wait) = link.sending.wait(now) {
            turn = Turn::Wait(wait);
            return None;
        }
        let count = match send(mem, chain, link, features) {
            Ok(Sent { packets, length }) => {
                bytes += length;
                let length = u64::try_from(length).unwrap_or_default();
                link.sending.take(packets, length);
                counters.add(Count::TxBytes, length);
                Count::TxFrames
            }
            Err(Dropped::Because(count)) => count,
            Err(Dropped::Blocked) => {
                turn = Turn::Wait(BLOCKED);
                return None;
            }
            Err(Dropped::Gone) => {
                turn = Turn::Gone;
                Count::TxDetached
            }
        };
        counters.add(count, 1);
        Some(0)
    });
    // Of a budget that ran out the queue knows already.
    debug_assert!(served == Served::Stopped || !matches!(turn, Turn::More | Turn::Wait(_)));
    turn
}

/// A frame that was sent.
struct Sent {
    packets: u64,
    length: usize,
}

/// One that was not.
enum Dropped {
    Because(Count),
    /// Not yet.
    Blocked,
    Gone,
}

fn send(
    mem: &GuestMemoryMmap,
    chain: DescriptorChain<&GuestMemoryMmap>,
    link: &Link,
    features: u64,
) -> Result<Sent, Dropped> {
    let malformed = Dropped::Because(Count::TxMalformed);
    let Ok((source, _)) = Buffers::split(mem, chain, MAX_SEGMENTS) else { return Err(malformed) };
    let total = source.len();
    // What is checked is read once and sent from here: the guest may write to its memory at any time.
    let mut start = [0; HEADER + LOOKED_AT];
    let copied = source.read_at(0, &mut start);
    let Some((header, _)) = start.split_first_chunk::<HEADER>() else { return Err(malformed) };
    let header = Header::decode(*header);
    let (Some(frame), Some(length)) = (start.get(HEADER..copied), total.checked_sub(HEADER)) else {
        return Err(malformed);
    };
    if total > FRAME_LIMIT {
        return Err(malformed);
    }
    let packet = link.identity.check(frame, length).map_err(|refusal| {
        Dropped::Because(match refusal {
            Refusal::Malformed => Count::TxMalformed,
            Refusal::Protocol => Count::TxProtocol,
            Refusal::Source => Count::TxSource,
        })
    })?;
    let Some(header) = header.outgoing(packet, length, features) else { return Err(malformed) };
    if let Some(to) = start.first_chunk_mut::<HEADER>() {
        *to = header.encode();
    }
    let Some(own) = start.get_mut(..copied) else { return Err(malformed) };
    let mut buffers = vec![libc::iovec { iov_base: own.as_mut_ptr().cast(), iov_len: own.len() }];
    buffers.extend(source.iovecs(copied, total.saturating_sub(copied)));
    if buffers.len() > BUFFERS_LIMIT {
        return Err(malformed);
    }
    // SAFETY: the first buffer is on the stack, the others lie in guest memory, which `source` borrows.
    match unsafe { link.wire.send(&buffers) } {
        Moved::Bytes(_) => Ok(Sent { packets: header.packets(length), length }),
        Moved::Blocked => Err(Dropped::Blocked),
        Moved::Refused => Err(Dropped::Because(Count::TxRefused)),
        Moved::Gone => Err(Dropped::Gone),
    }
}
