//! Everybody the device has a socket with, by token and by port pair.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::time::Instant;

use super::connection::Connection;
use super::poll::{FIRST_PEER, Token};

/// Host ports given to connections that come from the host: out of the way of services, which use small numbers.
pub(super) const HOST_PORTS: Range<u32> = 1 << 30..1 << 31;

/// The two ports that name a connection; context ids are fixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) host: u32,
    pub(super) guest: u32,
}

/// Someone with a socket.
#[derive(Debug)]
pub(super) enum Peer {
    /// A host client that has not yet said where it wants to go.
    Client { socket: OwnedFd, deadline: Instant },
    /// A stream to the guest.
    Connection(Key, Connection),
    /// The rest of a stream the guest is done with.
    Drain { stream: OwnedFd, backlog: VecDeque<u8>, deadline: Instant },
}

impl Peer {
    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Client { deadline, .. } | Self::Drain { deadline, .. } => Some(*deadline),
            Self::Connection(_, connection) => connection.deadline,
        }
    }
}

/// All peers. A connection's key is known exactly as long as the connection.
#[derive(Debug)]
pub(super) struct Peers {
    all: HashMap<Token, Peer>,
    keys: HashMap<Key, Token>,
    next_token: Token,
    pub(super) next_port: u32,
}

impl Peers {
    pub(super) fn new() -> Self {
        Self {
            all: HashMap::new(),
            keys: HashMap::new(),
            next_token: FIRST_PEER,
            next_port: HOST_PORTS.start,
        }
    }

    /// A token nobody had before.
    pub(super) fn token(&mut self) -> Token {
        let token = self.next_token;
        // 2^64 tokens last longer than any machine.
        self.next_token = self.next_token.wrapping_add(1);
        token
    }

    pub(super) fn insert(&mut self, token: Token, peer: Peer) {
        if let Peer::Connection(key, _) = &peer {
            self.keys.insert(*key, token);
        }
        self.all.insert(token, peer);
    }

    pub(super) fn remove(&mut self, token: Token) -> Option<Peer> {
        let peer = self.all.remove(&token)?;
        if let Peer::Connection(key, _) = &peer {
            self.keys.remove(key);
        }
        Some(peer)
    }

    pub(super) fn get_mut(&mut self, token: Token) -> Option<&mut Peer> {
        self.all.get_mut(&token)
    }

    /// The connection of `token`, if it is one.
    pub(super) fn connection(&mut self, token: Token) -> Option<(Key, &mut Connection)> {
        match self.all.get_mut(&token)? {
            Peer::Connection(key, connection) => Some((*key, connection)),
            _ => None,
        }
    }

    pub(super) fn find(&self, key: Key) -> Option<Token> {
        self.keys.get(&key).copied()
    }

    /// Clients in handshake.
    pub(super) fn clients(&self) -> usize {
        self.all.values().filter(|peer| matches!(peer, Peer::Client { .. })).count()
    }

    /// Connections, and remains of connections.
    pub(super) fn streams(&self) -> usize {
        self.all.len() - self.clients()
    }

    /// The guest knows (or may know) of a connection.
    pub(super) fn any_connection(&self) -> bool {
        !self.keys.is_empty()
    }

    /// A host port that makes a new pair with this guest port.
    pub(super) fn host_port(&mut self, guest: u32) -> Option<u32> {
        // One more try than there are pairs to run into.
        for _ in 0..=self.keys.len() {
            let host = self.next_port;
            let next = host.wrapping_add(1);
            self.next_port = if HOST_PORTS.contains(&next) { next } else { HOST_PORTS.start };
            if self.find(Key { host, guest }).is_none() {
                return Some(host);
            }
        }
        None
    }

    /// Those whose time is up at `now`.
    pub(super) fn expired(&self, now: Instant) -> Vec<Token> {
        let due = |peer: &Peer| peer.deadline().is_some_and(|deadline| deadline <= now);
        self.all.iter().filter(|(_, peer)| due(peer)).map(|(token, _)| *token).collect()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.all.values().filter_map(Peer::deadline).min()
    }

    /// Hangs up on everybody.
    pub(super) fn clear(&mut self) {
        self.all.clear();
        self.keys.clear();
    }
}
