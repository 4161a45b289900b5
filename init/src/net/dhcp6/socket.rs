//! The socket of one interface.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use nix::sys::socket::{setsockopt, sockopt::BindToDevice};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt};
use tokio::net::UdpSocket;

use super::shape::MOST_BYTES;

/// Clients listen here.
const CLIENT: u16 = 546;

/// Servers listen here.
const SERVER: u16 = 547;

/// All servers and relays of the link.
const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// Sends to servers of one link, and hears from nowhere else.
#[derive(Debug)]
pub struct Socket {
    socket: UdpSocket,
    index: u32,
}

/// A message larger than what is read, by a byte.
pub type Buffer = [u8; MOST_BYTES + 1];

/// An empty one.
pub fn buffer() -> Buffer {
    [0; MOST_BYTES + 1]
}

impl Socket {
    /// Opens it on an interface.
    pub fn open(name: &str, index: u32) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::INET6, SocketType::DGRAM, flags, Some(ipproto::UDP))?;
        sockopt::set_ipv6_v6only(&socket, true)?;
        // Before it is bound: every interface has one of this port.
        setsockopt(&socket, BindToDevice, &name.into())?;
        bind(&socket, &SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, CLIENT, 0, 0))?;
        let socket = UdpSocket::from_std(std::net::UdpSocket::from(socket))?;
        Ok(Self { socket, index })
    }

    /// Sends to all servers. Fails while the interface has no address of its link.
    pub async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let to = SocketAddrV6::new(ALL_SERVERS, SERVER, 0, self.index);
        self.socket.send_to(bytes, to).await.map(drop)
    }

    /// The next message that comes from the link itself: routers do not pass on what is from such an address.
    pub async fn receive<'a>(&self, buffer: &'a mut Buffer) -> io::Result<&'a [u8]> {
        loop {
            let (length, from) = self.socket.recv_from(buffer).await?;
            if matches!(from, SocketAddr::V6(from) if from.ip().is_unicast_link_local()) {
                return Ok(buffer.get(..length).unwrap_or_default());
            }
        }
    }
}
