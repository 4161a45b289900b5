//! The guest's side: sockets with credit, as in Linux, on top of raw packets.

use std::collections::{HashMap, VecDeque};

use super::*;
use crate::testing::{BUFFERS, MEMORY};
use crate::vsock::header::{SHUTDOWN_BOTH, SHUTDOWN_SEND, TYPE_STREAM};
use crate::vsock::queue::{EVENT, RX, TX};

const RX_AT: u64 = BUFFERS;
const TX_AT: u64 = 4 << 20;
const TX_STRIDE: u64 = 0x12000;
const TX_SLOTS: u64 = 32;
const EVENTS_AT: u64 = MEMORY - 0x1000;

/// A guest's socket.
#[derive(Debug, Clone)]
pub struct Sock {
    pub inbox: VecDeque<u8>,
    /// Room the guest offers.
    pub room: u32,
    got: u32,
    read: u32,
    told: u32,
    host_room: u32,
    host_read: u32,
    sent: u32,
    pub host_shut: u32,
    pub shut: u32,
    pub open: bool,
    pub reset: bool,
}

impl Sock {
    fn new(room: u32, open: bool) -> Self {
        Self {
            inbox: VecDeque::new(),
            room,
            got: 0,
            read: 0,
            told: 0,
            host_room: 0,
            host_read: 0,
            sent: 0,
            host_shut: 0,
            shut: 0,
            open,
            reset: false,
        }
    }

    pub fn credit(&self) -> u32 {
        self.host_room - self.sent.wrapping_sub(self.host_read)
    }

    /// The host will send no more.
    pub fn ended(&self) -> bool {
        self.reset || self.host_shut & SHUTDOWN_SEND != 0
    }
}

pub struct Guest {
    pub machine: Machine,
    pub socks: HashMap<Key, Sock>,
    pub listening: Vec<u32>,
    /// Room of new sockets.
    pub room: u32,
    /// Events taken; their buffers are given back only when asked to.
    pub events: Vec<u32>,
    pub packets_seen: usize,
    /// Buffers may come back with no packet in them.
    pub lenient: bool,
    /// Packets are not answered but kept.
    pub raw: Option<Vec<(Header, Vec<u8>)>>,
    rx: HashMap<u16, (u64, u32)>,
    tx: HashMap<u16, u64>,
    tx_free: Vec<u64>,
    out: VecDeque<(Header, Vec<u8>)>,
}

impl Guest {
    /// With Linux's receive buffers.
    pub fn new(machine: Machine) -> Self {
        Self::with_buffers(machine, 96, 3776)
    }

    pub fn with_buffers(machine: Machine, count: u64, len: u32) -> Self {
        let mut guest = Self::bare(machine);
        guest.add_buffers(count, len);
        guest.give_events(8);
        guest
    }

    pub fn without_events(machine: Machine) -> Self {
        let mut guest = Self::bare(machine);
        guest.add_buffers(96, 3776);
        guest
    }

    /// This guest's view of the world, in a machine restored from its snapshot.
    pub fn continued(&self, machine: Machine) -> Self {
        let mut guest = Self::bare(machine);
        guest.socks.clone_from(&self.socks);
        guest.rx.clone_from(&self.rx);
        guest.tx.clone_from(&self.tx);
        guest.tx_free.clone_from(&self.tx_free);
        guest
    }

    fn bare(machine: Machine) -> Self {
        Self {
            machine,
            socks: HashMap::new(),
            listening: Vec::new(),
            room: 256 * 1024,
            events: Vec::new(),
            packets_seen: 0,
            lenient: false,
            raw: None,
            rx: HashMap::new(),
            tx: HashMap::new(),
            tx_free: (0..TX_SLOTS).map(|i| TX_AT + i * TX_STRIDE).collect(),
            out: VecDeque::new(),
        }
    }

    /// More buffers for packets, each in a page of its own.
    pub fn add_buffers(&mut self, count: u64, len: u32) {
        let first = self.rx.len() as u64;
        for i in first..first + count {
            self.post(RX_AT + i * 0x1000, len);
        }
        self.machine.kick(RX);
    }

    /// Packets that were not taken by the device yet.
    pub fn unsent(&self) -> usize {
        self.out.len() + self.tx.len()
    }

    pub fn give_events(&mut self, count: u64) {
        for i in 0..count {
            self.machine.add(EVENT, &[(EVENTS_AT + 8 * i, 4, true)]).unwrap();
        }
        self.machine.kick(EVENT);
    }

    fn post(&mut self, at: u64, len: u32) {
        let head = self.machine.add(RX, &[(at, len, true)]).unwrap();
        self.rx.insert(head, (at, len));
    }

    /// Puts a packet in line to be sent.
    pub fn send(&mut self, header: Header, data: &[u8]) {
        self.out.push_back((header, data.to_vec()));
    }

    /// Moves packets both ways once; waits up to `wait` ms when there is nothing to do.
    pub fn step(&mut self, wait: i32) {
        let mut sent = false;
        while let Some(at) = self.tx_free.last().copied() {
            let Some((header, data)) = self.out.pop_front() else { break };
            self.machine.put(at, &header.encode());
            self.machine.put(at + HEADER as u64, &data);
            let len = u32::try_from(HEADER + data.len()).unwrap();
            // Half the packets in one piece, half in two.
            let head = if header.src_port.wrapping_add(header.len) % 2 == 0 || data.is_empty() {
                self.machine.add(TX, &[(at, len, false)])
            } else {
                self.machine.add(TX, &[(at, 44, false), (at + 44, len - 44, false)])
            };
            let Some(head) = head else {
                self.out.push_front((header, data));
                break;
            };
            self.tx_free.pop();
            self.tx.insert(head, at);
            sent = true;
        }
        if sent {
            self.machine.kick(TX);
        }
        self.machine.step(if sent { 0 } else { wait });
        while let Some((head, len)) = self.machine.take(TX) {
            assert_eq!(len, 0);
            self.tx_free.push(self.tx.remove(&head).unwrap());
        }
        let mut refilled = false;
        while let Some((head, len)) = self.machine.take(RX) {
            let (at, size) = self.rx.remove(&head).unwrap();
            if len == 0 && self.lenient {
                continue;
            }
            assert!(len >= 44 && len <= size, "{len} bytes of {size} used");
            let header = Header::decode(self.machine.get(at, HEADER).as_slice().try_into().unwrap());
            let data = self.machine.get(at + HEADER as u64, usize::try_from(len).unwrap() - HEADER);
            assert_eq!(header.len, len - 44);
            self.post(at, size);
            refilled = true;
            self.packets_seen += 1;
            match &mut self.raw {
                Some(raw) => raw.push((header, data)),
                None => self.packet(header, &data),
            }
        }
        if refilled {
            self.machine.kick(RX);
        }
        while let Some((_, len)) = self.machine.take(EVENT) {
            assert_eq!(len, 4);
            self.events.push(u32::from_le_bytes(self.machine.get(EVENTS_AT, 4).try_into().unwrap()));
        }
        while self.machine.interrupt().is_some() {}
    }

    /// Steps until `done` says something, at most ten seconds.
    pub fn wait<T>(&mut self, mut done: impl FnMut(&mut Self) -> Option<T>, what: &str) -> T {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(result) = done(self) {
                return result;
            }
            assert!(Instant::now() < end, "{what}");
            self.step(1);
        }
    }

    /// Steps until nothing happens any more.
    pub fn settle(&mut self) {
        for _ in 0..20 {
            self.step(1);
        }
    }

    /// Packets seen during `settle`, unanswered.
    pub fn sniff(&mut self) -> Vec<(Header, Vec<u8>)> {
        self.raw = Some(Vec::new());
        self.settle();
        self.raw.take().unwrap()
    }

    pub fn header(&self, key: Key, op: Op) -> Header {
        let sock = self.socks.get(&key);
        Header {
            src_cid: CID,
            dst_cid: HOST_CID,
            src_port: key.guest,
            dst_port: key.host,
            kind: TYPE_STREAM,
            op: op.to_wire(),
            buf_alloc: sock.map_or(0, |sock| sock.room),
            fwd_cnt: sock.map_or(0, |sock| sock.read),
            ..Header::default()
        }
    }

    pub fn say(&mut self, key: Key, op: Op) {
        let header = self.header(key, op);
        self.send(header, &[]);
    }

    /// Opens a connection to the host.
    pub fn connect(&mut self, host: u32, guest: u32) -> Key {
        let key = Key { host, guest };
        self.socks.insert(key, Sock::new(self.room, false));
        self.say(key, Op::Request);
        key
    }

    /// Sends as much as credit allows; returns how much that was.
    pub fn write(&mut self, key: Key, data: &[u8]) -> usize {
        let sock = &self.socks[&key];
        if sock.reset || self.out.len() > 64 {
            return 0;
        }
        let len = data.len().min(usize::try_from(sock.credit()).unwrap()).min(65536);
        if len > 0 {
            let mut header = self.header(key, Op::Data);
            header.len = u32::try_from(len).unwrap();
            self.send(header, &data[..len]);
            let sock = self.socks.get_mut(&key).unwrap();
            sock.sent = sock.sent.wrapping_add(header.len);
            sock.told = sock.read;
        }
        len
    }

    /// Takes up to `max` bytes from the socket, and tells the host as Linux does.
    pub fn read(&mut self, key: Key, max: usize) -> Vec<u8> {
        let sock = self.socks.get_mut(&key).unwrap();
        let len = max.min(sock.inbox.len());
        let data: Vec<u8> = sock.inbox.drain(..len).collect();
        sock.read = sock.read.wrapping_add(u32::try_from(len).unwrap());
        let free = sock.room - sock.got.wrapping_sub(sock.told);
        if len > 0 && !sock.reset && free < sock.room.min(65536) {
            sock.told = sock.read;
            self.say(key, Op::CreditUpdate);
        }
        data
    }

    pub fn shutdown(&mut self, key: Key, flags: u32) {
        self.socks.get_mut(&key).unwrap().shut |= flags;
        let header = Header { flags, ..self.header(key, Op::Shutdown) };
        self.send(header, &[]);
    }

    pub fn close(&mut self, key: Key) {
        if !self.socks[&key].reset {
            self.shutdown(key, SHUTDOWN_BOTH);
        }
    }

    fn packet(&mut self, header: Header, data: &[u8]) {
        assert_eq!((header.src_cid, header.dst_cid, header.kind), (HOST_CID, CID, TYPE_STREAM));
        let key = Key { host: header.src_port, guest: header.dst_port };
        let op = Op::from_wire(header.op).expect("unknown operation");
        if op == Op::Request {
            assert!(!self.socks.contains_key(&key), "{key:?} used twice");
            if self.listening.contains(&key.guest) {
                let mut sock = Sock::new(self.room, true);
                (sock.host_room, sock.host_read) = (header.buf_alloc, header.fwd_cnt);
                self.socks.insert(key, sock);
                self.say(key, Op::Response);
            } else {
                self.say(key, Op::Reset);
            }
            return;
        }
        let Some(sock) = self.socks.get_mut(&key) else {
            if op != Op::Reset {
                self.say(key, Op::Reset);
            }
            return;
        };
        if op != Op::Reset {
            (sock.host_room, sock.host_read) = (header.buf_alloc, header.fwd_cnt);
        }
        match op {
            Op::Response => sock.open = true,
            Op::Data => {
                assert!(sock.open && !sock.reset && sock.host_shut & SHUTDOWN_SEND == 0);
                assert!(!data.is_empty());
                sock.got = sock.got.wrapping_add(header.len);
                assert!(
                    sock.got.wrapping_sub(sock.read) <= sock.room,
                    "the device overran the guest's buffer"
                );
                sock.inbox.extend(data);
            }
            Op::Shutdown => sock.host_shut |= header.flags,
            Op::Reset => sock.reset = true,
            Op::CreditRequest => self.say(key, Op::CreditUpdate),
            Op::CreditUpdate | Op::Request => {}
        }
        self.confirm(key);
    }

    /// Linux answers a complete shutdown with a reset once the application has read everything.
    pub fn confirm(&mut self, key: Key) {
        let sock = self.socks.get_mut(&key).unwrap();
        if sock.host_shut == SHUTDOWN_BOTH && sock.inbox.is_empty() && !sock.reset {
            sock.reset = true;
            self.say(key, Op::Reset);
        }
    }
}
