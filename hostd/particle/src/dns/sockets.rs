//! A responder's sockets, in the namespace of its tenant.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use crate::plan::Addresses;

/// Where names are asked for.
pub const PORT: u16 = 53;

/// A responder that cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("Cannot listen for queries on {protocol} {address}")]
pub struct SocketError {
    /// `UDP` or `TCP`.
    pub protocol: &'static str,
    /// Where.
    pub address: SocketAddr,
    /// Why not.
    #[source]
    pub source: io::Error,
}

/// Sockets of a responder. Each is bound to one address, so that what it sends comes from where it was asked.
#[derive(Debug)]
pub struct Sockets {
    pub(super) udp: [UdpSocket; 2],
    pub(super) tcp: [TcpListener; 2],
}

impl Sockets {
    /// Opens them in the calling thread's namespace: to be called by [`Netns::run`](crate::netns::Netns::run), with the
    /// [gateway](crate::Subnet::gateway) of the tenant's subnet.
    ///
    /// # Errors
    /// Where the addresses are not, or somebody listens.
    pub fn open(gateway: Addresses) -> Result<Self, SocketError> {
        let (v4, v6) = (IpAddr::from(gateway.v4), IpAddr::from(gateway.v6));
        Ok(Self { udp: [udp(v4)?, udp(v6)?], tcp: [tcp(v4)?, tcp(v6)?] })
    }
}

fn udp(address: IpAddr) -> Result<UdpSocket, SocketError> {
    let address = SocketAddr::new(address, PORT);
    UdpSocket::bind(address)
        .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
        .map_err(|source| SocketError { protocol: "UDP", address, source })
}

fn tcp(address: IpAddr) -> Result<TcpListener, SocketError> {
    let address = SocketAddr::new(address, PORT);
    TcpListener::bind(address)
        .and_then(|socket| socket.set_nonblocking(true).map(|()| socket))
        .map_err(|source| SocketError { protocol: "TCP", address, source })
}
