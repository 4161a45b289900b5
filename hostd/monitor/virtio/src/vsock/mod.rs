//! The socket device (virtio 1.2, section 5.10), bridged to Unix sockets on the host.
//!
//! Host to guest: a client connects to the device's Unix socket and sends `CONNECT <port>\n`; when the guest accepts
//! it is answered `OK <host port>\n`, and from there on the socket is the guest's stream. Guest to host: a connection
//! to host port P becomes one to the Unix socket `<path>_<P>`.
//!
//! Bytes for the guest are never held here: they are read from the Unix socket straight into the guest's buffers, so
//! backpressure is the socket's own. Bytes from the guest go straight to the socket too, and only what it does not
//! take at once is kept, up to the credit the guest was given. Everything the guest says is checked; what breaks the
//! protocol ends that connection and no other.

mod connection;
mod device;
mod handshake;
mod header;
mod listener;
mod mux;
mod peers;
mod persist;
pub(crate) mod poll;
mod queue;
mod sys;
#[cfg(test)]
mod tests;

pub use device::{Vsock, VsockConfig};
pub use listener::{VsockError, VsockListener};
pub use persist::VsockState;

use std::time::Duration;

/// Context id of the host.
const HOST_CID: u64 = 2;

/// Bounds on what clients and guest can make the device hold, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VsockLimits {
    /// Connections at a time, counting those whose last bytes are still being written out.
    pub connections: usize,
    /// Host clients that have not yet said where they want to go.
    pub handshakes: usize,
    /// Bytes from the guest kept per connection while the host side does not read; the credit given to the guest.
    pub buffer: u32,
    /// Resets owed to the guest before its packets are left in the queue.
    pub replies: usize,
    /// For a host client to send its CONNECT line.
    pub handshake_timeout: Duration,
    /// For the guest to answer a connection request.
    pub connect_timeout: Duration,
    /// For the guest to confirm that a connection closed by the host is over.
    pub close_timeout: Duration,
    /// For the host to read what a guest wrote before it closed.
    pub drain_timeout: Duration,
    /// For the guest to take notice of a transport reset.
    pub reset_timeout: Duration,
}

impl Default for VsockLimits {
    fn default() -> Self {
        Self {
            connections: 128,
            handshakes: 32,
            buffer: 128 * 1024,
            replies: 128,
            handshake_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(8),
            drain_timeout: Duration::from_secs(30),
            reset_timeout: Duration::from_secs(2),
        }
    }
}
