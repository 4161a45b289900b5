//! A guest with the two queues of its device, and the other end of its cable.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::frames::{MAC, ME};
use crate::net::header::{HEADER, Header};
use crate::net::{Limit, Net, NetConfig, NetCounters, NetCounts, NetLink, RX, SIZE, TX};
use crate::testing::{BUFFERS, Image, Machine};

/// Bytes of a buffer for frames, as Linux makes them.
pub const BUFFER: u32 = 1536;

/// Where frames for the device lie.
pub const TX_AT: u64 = 4 << 20;

/// What the network sees.
pub struct Outside(OwnedFd);

impl Outside {
    pub fn pair() -> (OwnedFd, Self) {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (inner, outer) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        (inner, Self(outer))
    }

    /// The next frame from the guest with its header.
    pub fn next(&self) -> Option<(Header, Vec<u8>)> {
        let mut bytes = vec![0; 70_000];
        let length = rustix::io::read(&self.0, &mut bytes).ok().filter(|length| *length > 0)?;
        let header = Header::decode(*bytes.first_chunk::<HEADER>().unwrap());
        Some((header, bytes[HEADER..length].to_vec()))
    }

    pub fn all(&self) -> Vec<(Header, Vec<u8>)> {
        std::iter::from_fn(|| self.next()).collect()
    }

    /// A frame for the guest, if there is room.
    pub fn send(&self, header: Header, frame: &[u8]) -> bool {
        let bytes = [header.encode().as_slice(), frame].concat();
        rustix::io::write(&self.0, &bytes).is_ok_and(|written| written == bytes.len())
    }
}

impl AsFd for Outside {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

pub fn device(queue: Option<OwnedFd>, tx: Limit, rx: Limit) -> Net {
    let link = queue.map(|queue| NetLink { queue, v4: ME.v4, v6: ME.v6, tx, rx });
    Net::new(NetConfig { mac: MAC, mtu: 1450, link }).unwrap()
}

pub struct Guest {
    pub machine: Machine,
    pub counters: NetCounters,
    /// Where the buffers of the chains are that wait for frames.
    pub buffers: HashMap<u16, Vec<(u64, u32)>>,
    next: u64,
}

impl Guest {
    pub fn new(net: Net) -> Self {
        Self::with(net, u64::MAX)
    }

    /// With a driver that takes the features in `mask`.
    pub fn with(net: Net, mask: u64) -> Self {
        let counters = net.counters();
        let mut machine = Machine::unprobed(Box::new(net));
        machine.probe(mask);
        Self { machine, counters, buffers: HashMap::new(), next: 0 }
    }

    /// Attached, without limits.
    pub fn attached() -> (Self, Outside) {
        let (inner, outside) = Outside::pair();
        (Self::new(device(Some(inner), Limit::default(), Limit::default())), outside)
    }

    /// Goes on from a snapshot, knowing what it knew.
    pub fn restored(&self, image: &Image, net: Net) -> Self {
        let counters = net.counters();
        let machine = Machine::restore(image, Box::new(net));
        Self { machine, counters, buffers: self.buffers.clone(), next: self.next }
    }

    pub fn counts(&self) -> NetCounts {
        self.counters.read()
    }

    pub fn status(&self) -> u16 {
        let mut status = [0; 2];
        self.machine.transport.read(0x106, &mut status);
        u16::from_le_bytes(status)
    }

    /// Makes a chain of buffers available for frames; false if the queue is full.
    pub fn give(&mut self, lengths: &[u32]) -> bool {
        let mut pieces = Vec::new();
        for length in lengths {
            // In a ring of 2 MiB from 1 MiB on.
            let at = BUFFERS + self.next;
            self.next = (self.next + u64::from(*length).next_multiple_of(8)) % (2 << 20);
            pieces.push((at, *length, true));
        }
        let Some(head) = self.machine.add(RX, &pieces) else { return false };
        self.buffers.insert(head, pieces.iter().map(|(at, length, _)| (*at, *length)).collect());
        true
    }

    /// Fills the queue as Linux does, and kicks.
    pub fn fill(&mut self) {
        while self.give(&[BUFFER]) {}
        self.machine.kick(RX);
    }

    pub fn kick_rx(&mut self) {
        self.machine.kick(RX);
    }

    /// The next frame the device gave, with its header. All its buffers must be there.
    pub fn next(&mut self) -> Option<(Header, Vec<u8>)> {
        let mut bytes = self.chain()?;
        if bytes.is_empty() {
            return Some((Header::default(), bytes));
        }
        let header = Header::decode(*bytes.first_chunk::<HEADER>().unwrap());
        for _ in 1..header.buffers {
            bytes.extend(self.chain().expect("a buffer of the frame is missing"));
        }
        Some((header, bytes.split_off(HEADER)))
    }

    fn chain(&mut self) -> Option<Vec<u8>> {
        let (head, written) = self.machine.take(RX)?;
        let mut left = written as usize;
        let mut bytes = Vec::new();
        for (at, length) in self.buffers.remove(&head).unwrap() {
            let part = left.min(length as usize);
            bytes.extend(self.machine.get(at, part));
            left -= part;
        }
        assert_eq!(left, 0, "more written than there is room");
        Some(bytes)
    }

    /// Sends a frame in one buffer, and waits until the device is at rest; false if its queue is full.
    pub fn send(&mut self, header: Header, frame: &[u8]) -> bool {
        self.queue(header, frame) && {
            self.machine.kick(TX);
            self.machine.pump(0);
            true
        }
    }

    /// Puts a frame into the queue.
    pub fn queue(&mut self, header: Header, frame: &[u8]) -> bool {
        let bytes = [header.encode().as_slice(), frame].concat();
        self.queue_bytes(&bytes)
    }

    pub fn queue_bytes(&mut self, bytes: &[u8]) -> bool {
        // Each its own place, for they may wait.
        let slot = u64::from(self.machine.rings[TX].available() % SIZE);
        let at = TX_AT + slot * 2048 * if bytes.len() > 2048 { 0 } else { 1 };
        self.machine.put(at, bytes);
        self.machine.add(TX, &[(at, bytes.len() as u32, false)]).is_some()
    }

    /// Chains of the sending queue the device gave back; nothing was written to them.
    pub fn sent(&mut self) -> usize {
        let mut count = 0;
        while let Some((_, written)) = self.machine.take(TX) {
            assert_eq!(written, 0);
            count += 1;
        }
        count
    }
}
