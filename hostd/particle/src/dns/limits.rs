//! What the responder does at most.

use std::time::Duration;

/// Smallest datagram every asker takes (RFC 1035).
pub(super) const SMALLEST_DATAGRAM: u16 = 512;

/// Largest datagram sent, whatever the asker says it takes: never fragmented on any path.
pub(super) const LARGEST_DATAGRAM: u16 = 1232;

/// Bounds of a responder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Addresses in one answer.
    pub addresses: usize,
    /// Bytes of an answer by UDP: 512 to 1232, less if the asker takes less.
    pub datagram: u16,
    /// Bytes of a query; longer ones are not read.
    pub query: u16,
    /// Seconds an answer may be kept by whoever asked.
    pub ttl: u32,
    /// TCP connections at once.
    pub connections: usize,
    /// TCP connections at once from one address.
    pub connections_each: usize,
    /// How long a TCP connection may take for its next query, and for taking the answer.
    pub idle: Duration,
    /// How long one upstream server may take.
    pub upstream: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            addresses: 64,
            datagram: LARGEST_DATAGRAM,
            query: 4096,
            ttl: 1,
            connections: 64,
            connections_each: 8,
            idle: Duration::from_secs(5),
            upstream: Duration::from_secs(2),
        }
    }
}
