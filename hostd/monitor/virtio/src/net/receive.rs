//! Frames for the guest.
//!
//! How long a frame is shows only when it is read, and what does not fit into the buffers given is lost. So buffers of
//! the guest are given for as much as the last frames had, and behind them a buffer of our own; what lands there is
//! copied into further buffers of the guest. If it has none, the frame waits here until it brings some.

use std::time::Instant;

use virtio_queue::{Queue, QueueT};
use vm_memory::GuestMemoryMmap;

use super::counters::{Count, NetCounters};
use super::header::{HEADER, Header};
use super::identity::ETHERNET;
use super::link::{Link, Turn};
use super::wire::{BUFFERS_LIMIT, Moved};
use super::{FRAME_LIMIT, MAX_SEGMENTS, MERGE, RX, SIZE, TURN_BYTES, TURN_FRAMES};
use crate::{Buffers, DeviceIo, ring};

/// What is known between two frames.
#[derive(Debug)]
pub(super) struct Receiver {
    /// Where a whole frame has room, and one byte more tells that it is too long. Frame and buffer begin together:
    /// what the guest's buffers took is left out.
    own: Vec<u8>,
    /// Bytes to have buffers for.
    expected: usize,
    /// A frame that waits in `own` for buffers, and whether the driver brought some since.
    waiting: Option<(usize, bool)>,
}

/// Chains taken for one frame.
struct Target<'m> {
    chains: Vec<(u16, Buffers<'m>)>,
    room: usize,
    /// The next is none.
    broken: bool,
}

impl<'m> Target<'m> {
    /// Takes chains until there is room for `wanted` bytes, no more are there, or another would be too many. Chains
    /// that are none go back at once, at the cost of the budget.
    fn fill(
        &mut self,
        queue: &mut Queue,
        mem: &'m GuestMemoryMmap,
        wanted: usize,
        merge: bool,
        budget: &mut u16,
    ) {
        let most = if merge { usize::from(SIZE) } else { 1 };
        while self.room < wanted && self.chains.len() < most {
            let Some(chain) = ring::take(queue, mem) else { return };
            let head = chain.head_index();
            match Buffers::split(mem, chain, MAX_SEGMENTS) {
                Ok((_, buffers)) if buffers.len() > HEADER => {
                    self.room = self.room.saturating_add(buffers.len());
                    self.chains.push((head, buffers));
                }
                // Between others it has to wait until it is the first: the driver's order is kept.
                _ if !self.chains.is_empty() || *budget == 0 => {
                    ring::put_back(queue, 1);
                    self.broken = true;
                    return;
                }
                _ => {
                    ring::publish(queue, mem, &[(head, 0)]);
                    *budget -= 1;
                }
            }
        }
    }

    /// Gives all chains back as they were.
    fn put_back(self, queue: &mut Queue) {
        ring::put_back(queue, self.chains.len());
    }

    /// The room as an array for `readv`, without the header's.
    fn iovecs(&self) -> Vec<libc::iovec> {
        let mut skip = HEADER;
        let mut all = Vec::new();
        for (_, buffers) in &self.chains {
            all.extend(buffers.iovecs(skip, buffers.len()));
            skip = 0;
        }
        all
    }

    /// Writes a piece of the frame.
    fn write_at(&self, offset: usize, mut bytes: &[u8]) {
        let mut skip = offset;
        for (_, buffers) in &self.chains {
            if skip >= buffers.len() {
                skip -= buffers.len();
                continue;
            }
            let written = buffers.write_at(skip, bytes);
            bytes = bytes.get(written..).unwrap_or_default();
            skip = 0;
            if bytes.is_empty() {
                break;
            }
        }
    }

    /// Copies out what was read into the guest's buffers, which it may have changed.
    fn read_at(&self, offset: usize, mut bytes: &mut [u8]) {
        let mut skip = offset;
        for (_, buffers) in &self.chains {
            if skip >= buffers.len() {
                skip -= buffers.len();
                continue;
            }
            let read = buffers.read_at(skip, bytes);
            bytes = bytes.get_mut(read..).unwrap_or_default();
            skip = 0;
            if bytes.is_empty() {
                break;
            }
        }
    }

    /// Chains a frame of `length` bytes takes, with the bytes in each.
    fn used(&self, length: usize) -> Vec<(u16, u32)> {
        let mut left = length;
        let mut used = Vec::new();
        for (head, buffers) in &self.chains {
            if left == 0 {
                break;
            }
            let part = left.min(buffers.len());
            left -= part;
            used.push((*head, u32::try_from(part).unwrap_or_default()));
        }
        used
    }
}

/// What came of one frame.
enum Step {
    /// It was given to the guest: packets and bytes.
    Given(u64, usize),
    /// It was dropped.
    Dropped(Count),
    /// It, or the next one, needs buffers of the guest's.
    Starved,
    /// The budget went into chains that are none.
    Later,
    /// There is none.
    Empty,
    Gone,
}

impl Receiver {
    pub(super) fn new() -> Self {
        Self { own: vec![0; FRAME_LIMIT + 1], expected: 0, waiting: None }
    }

    /// Forgets what was under way.
    pub(super) fn reset(&mut self) {
        (self.expected, self.waiting) = (0, None);
    }

    /// The driver says that there are buffers.
    pub(super) fn kicked(&mut self) {
        if let Some((_, brought)) = &mut self.waiting {
            *brought = true;
        }
    }

    /// Gives the guest frames as long as there are frames, buffers and tokens. `readable` is cleared when no frame is
    /// left.
    pub(super) fn serve(
        &mut self,
        io: &mut DeviceIo,
        link: &mut Link,
        readable: &mut bool,
        counters: &NetCounters,
        now: Instant,
    ) -> Turn {
        let DeviceIo { mem, queues, features, interrupt, .. } = io;
        let Some(queue) = queues.get_mut(RX).filter(|queue| queue.ready()) else { return Turn::Idle };
        let before = queue.next_used();
        let turn = self.turn(queue, mem, *features, link, readable, counters, now);
        if ring::wants_interrupt(queue, mem, before) {
            // Fails only when the counter is full, and then the line is raised anyway.
            let _ = interrupt.signal_used();
        }
        turn
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of what `serve` was given, borrowed one by one")]
    fn turn(
        &mut self,
        queue: &mut Queue,
        mem: &GuestMemoryMmap,
        features: u64,
        link: &mut Link,
        readable: &mut bool,
        counters: &NetCounters,
        now: Instant,
    ) -> Turn {
        let (mut budget, mut bytes) = (TURN_FRAMES, 0);
        while budget > 0 && bytes <= TURN_BYTES {
            budget -= 1;
            if self.waiting.is_none() && !*readable {
                return Turn::Idle;
            }
            if let Some(wait) = link.receiving.wait(now) {
                return Turn::Wait(wait);
            }
            match self.step(queue, mem, features, link, &mut budget) {
                Step::Given(packets, length) => {
                    bytes += length;
                    let length = u64::try_from(length).unwrap_or_default();
                    link.receiving.take(packets, length);
                    counters.add(Count::RxFrames, 1);
                    counters.add(Count::RxBytes, length);
                }
                Step::Dropped(count) => counters.add(count, 1),
                Step::Empty => *readable = false,
                Step::Later => budget = 0,
                Step::Gone => return Turn::Gone,
                Step::Starved => {
                    let Some(given) = ring::given(queue, mem) else { return Turn::Idle };
                    ring::ask_for_kick(queue, mem, given);
                    if ring::given(queue, mem) == Some(given) {
                        return Turn::Idle;
                    }
                    // Brought in between, without a kick.
                    self.kicked();
                }
            }
        }
        Turn::More
    }

    fn step(
        &mut self,
        queue: &mut Queue,
        mem: &GuestMemoryMmap,
        features: u64,
        link: &Link,
        budget: &mut u16,
    ) -> Step {
        let merge = features & MERGE != 0;
        let mut target = Target { chains: Vec::new(), room: 0, broken: false };
        let (length, in_place) = match self.waiting {
            Some((length, _)) => (length, 0),
            None => {
                target.fill(queue, mem, self.expected.max(1), merge, budget);
                if target.chains.is_empty() {
                    return if target.broken { Step::Later } else { Step::Starved };
                }
                match self.read(&target, link) {
                    (Moved::Bytes(length), in_place) => (length, in_place),
                    (moved, _) => {
                        target.put_back(queue);
                        return if moved == Moved::Blocked { Step::Empty } else { Step::Gone };
                    }
                }
            }
        };
        // Few frames of a stream are small, and none of a lull are large.
        self.expected = length.max(self.expected / 2);
        let known = self.header().incoming(features, 0);
        let dropped = match known {
            _ if !(HEADER + ETHERNET..=FRAME_LIMIT).contains(&length) => Some(Count::RxOversized),
            None => Some(Count::RxUnsupported),
            Some(_) => None,
        };
        if let Some(count) = dropped {
            target.put_back(queue);
            self.waiting = None;
            return Step::Dropped(count);
        }
        target.fill(queue, mem, length, merge, budget);
        if target.room < length {
            return self.keep(target, queue, length, in_place, merge);
        }
        self.give(target, queue, mem, length, in_place, features)
    }

    /// Reads a frame: its header to `own`, then into the guest's buffers, and what they do not take to `own` again.
    /// Says too how many bytes of a long one are in the guest's buffers.
    fn read(&mut self, target: &Target<'_>, link: &Link) -> (Moved, usize) {
        let (header, rest) = self.own.split_at_mut(HEADER);
        let mut buffers = vec![libc::iovec { iov_base: header.as_mut_ptr().cast(), iov_len: HEADER }];
        // Guest memory in very many pieces goes by way of `own`.
        buffers.extend(target.iovecs().into_iter().take(BUFFERS_LIMIT - 2));
        let in_place = buffers.iter().map(|buffer| buffer.iov_len).sum::<usize>();
        if let Some(rest) = rest.get_mut(in_place - HEADER..) {
            buffers.push(libc::iovec { iov_base: rest.as_mut_ptr().cast(), iov_len: rest.len() });
        }
        // SAFETY: the first and the last buffer are disjoint parts of `own`, borrowed for writing; the others lie in
        // guest memory, which `target` borrows and which only the kernel writes to here.
        (unsafe { link.wire.receive(&buffers) }, in_place)
    }

    /// The header of the frame last read.
    fn header(&self) -> Header {
        Header::decode(self.own.first_chunk::<HEADER>().copied().unwrap_or_default())
    }

    /// There is no room for a frame of which the first `in_place` bytes are in the guest's buffers.
    fn keep(
        &mut self,
        target: Target<'_>,
        queue: &mut Queue,
        length: usize,
        in_place: usize,
        merge: bool,
    ) -> Step {
        if let Some(bytes) = self.own.get_mut(HEADER..in_place.min(length)) {
            target.read_at(HEADER, bytes);
        }
        let broken = target.broken;
        target.put_back(queue);
        // Drivers bring all they have before they kick: if that was not enough, nothing will be.
        let hopeless = !merge || broken || self.waiting.is_some_and(|(_, brought)| brought);
        if hopeless {
            self.waiting = None;
            return Step::Dropped(Count::RxOversized);
        }
        self.waiting = Some((length, false));
        Step::Starved
    }

    /// Gives the guest a frame of which the first `in_place` bytes are in its buffers.
    fn give(
        &mut self,
        target: Target<'_>,
        queue: &mut Queue,
        mem: &GuestMemoryMmap,
        length: usize,
        in_place: usize,
        features: u64,
    ) -> Step {
        self.waiting = None;
        let used = target.used(length);
        let buffers = u16::try_from(used.len()).unwrap_or(u16::MAX);
        let header = self.header().incoming(features, buffers).unwrap_or_default();
        target.write_at(0, &header.encode());
        let from = in_place.max(HEADER);
        if let Some(rest) = self.own.get(from..length) {
            target.write_at(from, rest);
        }
        ring::put_back(queue, target.chains.len() - used.len());
        ring::publish(queue, mem, &used);
        let length = length - HEADER;
        Step::Given(header.packets(length), length)
    }
}
