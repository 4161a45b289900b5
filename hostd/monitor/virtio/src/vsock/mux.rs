//! Between many Unix sockets and one pair of queues: who is there, who is next, who is out.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;

use super::connection::{self, Connection, Next, Phase, Violation, Wish};
use super::handshake::{self, Progress};
use super::header::{HEADER, Header, Op, SHUTDOWN_BOTH, TYPE_STREAM};
use super::listener::Host;
use super::peers::{Key, Peer, Peers};
use super::poll::{LISTENER, Poll, TIMER, Token};
use super::sys::{self, Moved};
use super::{HOST_CID, VsockLimits};
use crate::Buffers;

/// Wait before clients are accepted again after the process ran out of descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The multiplexer.
#[derive(Debug)]
pub(super) struct Mux {
    pub(super) cid: u64,
    pub(super) peers: Peers,
    pub(super) poll: Poll,
    limits: VsockLimits,
    host: Host,
    /// Connections with something to tell the guest, each once.
    wishes: VecDeque<Token>,
    /// Resets for packets that belong to no connection (any more).
    replies: VecDeque<Header>,
    /// The listening socket may have a client waiting.
    client_waits: bool,
}

impl Mux {
    pub(super) fn new(cid: u64, host: Host, limits: VsockLimits) -> io::Result<Self> {
        Ok(Self {
            cid,
            peers: Peers::new(),
            poll: Poll::new()?,
            limits,
            host,
            wishes: VecDeque::new(),
            replies: VecDeque::new(),
            client_waits: false,
        })
    }

    /// Begins to accept clients.
    pub(super) fn start(&mut self) -> io::Result<()> {
        self.poll.add(self.host.as_fd(), LISTENER)
    }

    /// Hangs up on everybody and accepts no one.
    pub(super) fn stop(&mut self) {
        self.poll.remove(self.host.as_fd());
        // Nobody would take notice of it, again and again.
        self.poll.cancel();
        self.peers.clear();
        self.wishes.clear();
        self.replies.clear();
        self.client_waits = false;
    }

    /// There is something to tell the guest.
    pub(super) fn has_packets(&self) -> bool {
        !self.replies.is_empty() || !self.wishes.is_empty()
    }

    /// There is room for the answer to one more packet of the guest.
    pub(super) fn has_room(&self) -> bool {
        self.replies.len() < self.limits.replies
    }

    /// The guest may believe in a connection.
    pub(super) fn is_known_to_guest(&self) -> bool {
        self.peers.any_connection() || !self.replies.is_empty()
    }

    /// Serves whatever is ready on the host's side. Returns true if the timer went off.
    pub(super) fn host_events(&mut self) -> bool {
        let mut timer = false;
        for (token, flags) in self.poll.ready() {
            match token {
                LISTENER => self.client_waits = true,
                TIMER => timer = true,
                token => self.peer_event(token, flags),
            }
        }
        if timer {
            self.poll.disarm();
            self.expire(Instant::now());
        }
        self.accept();
        timer
    }

    /// A packet from the guest.
    pub(super) fn packet(&mut self, packet: &Buffers<'_>) {
        let mut bytes = [0u8; HEADER];
        if packet.read_at(0, &mut bytes) != HEADER {
            return;
        }
        let header = Header::decode(&bytes);
        if header.src_cid != self.cid {
            // Not from whom it says it is: there is nobody to answer.
            return;
        }
        let key = Key { host: header.dst_port, guest: header.src_port };
        let known = header.dst_cid == HOST_CID && header.kind == TYPE_STREAM;
        let token = if known { self.peers.find(key) } else { None };
        match (Op::from_wire(header.op), token) {
            (Some(Op::Request), None) if known => self.guest_connects(key, &header),
            (Some(Op::Reset), Some(token)) => self.finish(token),
            (Some(op), Some(token)) => self.connection_packet(token, op, &header, packet),
            (None, Some(token)) => self.break_off(token),
            (_, None) => self.replies.extend(header.reset()),
        }
    }

    /// Writes the next packet for the guest into `target`: its length, or `None` if there is none after all.
    pub(super) fn next(&mut self, target: &Buffers<'_>) -> Option<u32> {
        if target.len() < HEADER {
            // Of no use for any packet: the driver gets it back empty.
            return Some(0);
        }
        if let Some(reply) = self.replies.pop_front() {
            return Some(put(target, &reply));
        }
        while let Some(token) = self.wishes.pop_front() {
            let Some((key, connection)) = self.peers.connection(token) else { continue };
            connection.queued = false;
            let Some(wish) = connection.wish() else { continue };
            let mut header = Header::default();
            let op = match wish {
                Wish::Request => Op::Request,
                Wish::Response => Op::Response,
                Wish::CreditRequest => Op::CreditRequest,
                Wish::CreditUpdate => Op::CreditUpdate,
                Wish::Shutdown(flags) => {
                    header.flags = flags;
                    Op::Shutdown
                }
                Wish::Data if target.len() == HEADER => {
                    self.queue_front(token);
                    return Some(0);
                }
                Wish::Data => match connection.fill(target) {
                    Some(len) => {
                        header.len = len;
                        Op::Data
                    }
                    None => {
                        // It may want to say something else now, and first.
                        self.queue_front(token);
                        continue;
                    }
                },
            };
            connection.granted(wish);
            if connection.awaits_reset() && connection.deadline.is_none() {
                let deadline = Instant::now() + self.limits.close_timeout;
                connection.deadline = Some(deadline);
                self.poll.arm(deadline);
            }
            (header.buf_alloc, header.fwd_cnt) = connection.credit_given();
            self.queue(token);
            return Some(put(target, &self.address(header, key, op)));
        }
        None
    }

    fn peer_event(&mut self, token: Token, flags: EventFlags) {
        match self.peers.get_mut(token) {
            // Left while an earlier event of the same batch was served.
            None => {}
            Some(Peer::Client { socket, .. }) => {
                let progress = handshake::advance(socket.as_fd());
                self.client_said(token, progress);
            }
            Some(Peer::Connection(_, connection)) => {
                connection.ready(flags);
                let opening = connection.phase != Phase::Open;
                if opening && flags.intersects(EventFlags::HUP | EventFlags::ERR) {
                    self.break_off(token);
                } else {
                    self.queue(token);
                }
            }
            Some(Peer::Drain { stream, backlog, .. }) => {
                let gone = flags.intersects(EventFlags::HUP | EventFlags::ERR);
                if gone || drain(stream, backlog) {
                    self.peers.remove(token);
                }
            }
        }
    }

    /// Takes in clients as long as there are any and there is room for their handshakes.
    fn accept(&mut self) {
        while self.client_waits && self.peers.clients() < self.limits.handshakes {
            match self.host.accept() {
                Ok(socket) => {
                    let token = self.peers.token();
                    if self.poll.add(&socket, token).is_ok() {
                        let deadline = Instant::now() + self.limits.handshake_timeout;
                        self.poll.arm(deadline);
                        self.peers.insert(token, Peer::Client { socket, deadline });
                    }
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => self.client_waits = false,
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted => {}
                    _ => {
                        self.poll.arm(Instant::now() + ACCEPT_AGAIN);
                        break;
                    }
                },
            }
        }
    }

    fn client_said(&mut self, token: Token, progress: Progress) {
        let guest = match progress {
            Progress::Waiting => return,
            Progress::Port(port) => Some(port),
            Progress::Refused => None,
        };
        let Some(Peer::Client { socket, .. }) = self.peers.remove(token) else { return };
        if self.peers.streams() >= self.limits.connections {
            return;
        }
        let Some((guest, host)) = guest.and_then(|guest| Some((guest, self.peers.host_port(guest)?))) else {
            return;
        };
        let mut connection = Connection::new(socket, Phase::Requesting, self.limits.buffer);
        let deadline = Instant::now() + self.limits.connect_timeout;
        connection.deadline = Some(deadline);
        self.poll.arm(deadline);
        self.peers.insert(token, Peer::Connection(Key { host, guest }, connection));
        self.queue(token);
    }

    fn guest_connects(&mut self, key: Key, header: &Header) {
        let room = self.peers.streams() < self.limits.connections;
        let stream = if room { self.host.connect(key.host).ok() } else { None };
        let token = self.peers.token();
        match stream {
            Some(stream) if self.poll.add(&stream, token).is_ok() => {
                let mut connection = Connection::new(stream, Phase::Accepting, self.limits.buffer);
                connection.update_credit(header);
                self.peers.insert(token, Peer::Connection(key, connection));
                self.queue(token);
            }
            _ => self.replies.extend(header.reset()),
        }
    }

    fn connection_packet(&mut self, token: Token, op: Op, header: &Header, packet: &Buffers<'_>) {
        let Some((key, connection)) = self.peers.connection(token) else { return };
        connection.update_credit(header);
        let next = match op {
            Op::Response if connection.phase == Phase::Requested => {
                connection.phase = Phase::Open;
                connection.deadline = None;
                greet(&connection.stream, key.host)
            }
            Op::Data => connection.data(packet, header.len).map(|()| Next::Continue),
            Op::Shutdown => connection.shut(header.flags & SHUTDOWN_BOTH),
            Op::CreditUpdate => Ok(Next::Continue),
            Op::CreditRequest => {
                connection.request_credit();
                Ok(Next::Continue)
            }
            Op::Request | Op::Response | Op::Reset => Err(Violation),
        };
        match next {
            Ok(Next::Continue) => self.queue(token),
            Ok(Next::Closed) => {
                self.replies.extend(header.reset());
                self.finish(token);
            }
            Err(Violation) => self.break_off(token),
        }
    }

    /// The guest is done with the connection: what it wrote before still goes to the host.
    fn finish(&mut self, token: Token) {
        let Some(Peer::Connection(_, connection)) = self.peers.remove(token) else { return };
        if let Some((stream, mut backlog)) = connection.into_remains() {
            if drain(&stream, &mut backlog) {
                return;
            }
            let deadline = Instant::now() + self.limits.drain_timeout;
            self.poll.arm(deadline);
            self.peers.insert(token, Peer::Drain { stream, backlog, deadline });
        }
    }

    /// Ends the connection at once, and tells the guest if it knows of it.
    fn break_off(&mut self, token: Token) {
        let Some(Peer::Connection(key, connection)) = self.peers.remove(token) else { return };
        if connection.phase != Phase::Requesting {
            let reset = self.address(Header::default(), key, Op::Reset);
            self.replies.push_back(reset);
        }
    }

    fn expire(&mut self, now: Instant) {
        for token in self.peers.expired(now) {
            if self.peers.connection(token).is_some() {
                self.break_off(token);
            } else {
                self.peers.remove(token);
            }
        }
        if let Some(deadline) = self.peers.next_deadline() {
            self.poll.arm(deadline);
        }
    }

    /// Puts a connection in line if it has a wish and is not in line yet.
    fn queue(&mut self, token: Token) {
        if let Some((_, connection)) = self.peers.connection(token)
            && !connection.queued
            && connection.wish().is_some()
        {
            connection.queued = true;
            self.wishes.push_back(token);
        }
    }

    fn queue_front(&mut self, token: Token) {
        if let Some((_, connection)) = self.peers.connection(token) {
            connection.queued = true;
            self.wishes.push_front(token);
        }
    }

    /// Completes a header of a packet from the host.
    fn address(&self, header: Header, key: Key, op: Op) -> Header {
        Header {
            src_cid: HOST_CID,
            dst_cid: self.cid,
            src_port: key.host,
            dst_port: key.guest,
            kind: TYPE_STREAM,
            op: op.to_wire(),
            ..header
        }
    }
}

/// Writes a header; returns the length of the packet.
fn put(target: &Buffers<'_>, header: &Header) -> u32 {
    target.write_at(0, &header.encode());
    u32::try_from(HEADER).unwrap_or(0).saturating_add(header.len)
}

/// Tells a client that it is connected. A fresh socket has room for the line; a client that filled it is no client.
fn greet(stream: &OwnedFd, port: u32) -> Result<Next, Violation> {
    let line = format!("OK {port}\n");
    match sys::send_bytes(stream.as_fd(), line.as_bytes()) {
        Moved::Bytes(n) if n == line.len() => Ok(Next::Continue),
        _ => Err(Violation),
    }
}

/// Writes out remains; true when there is nothing more to do.
fn drain(stream: &OwnedFd, backlog: &mut VecDeque<u8>) -> bool {
    while !backlog.is_empty() {
        match connection::flush(stream, backlog) {
            Moved::Bytes(_) => {}
            Moved::Blocked => return false,
            Moved::Over => return true,
        }
    }
    true
}
