//! Names of others, asked of servers upstream.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use domain::base::Header;
use domain::base::iana::Rcode;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::answer::{Outside, Transport};
use super::frame;

/// Servers asked one after the other, at most.
const SERVERS: usize = 3;

/// Bytes read of a datagram: more than any answer to what is asked has.
const DATAGRAM: usize = 4096;

/// Opens sockets where the servers upstream are reached: in the host's namespace, or one that leads out of it.
pub trait Open: Send + Sync + 'static {
    /// A datagram socket, bound to a port nobody can guess, not connected.
    ///
    /// # Errors
    /// When there is none.
    fn udp(&self, server: SocketAddr) -> io::Result<UdpSocket>;

    /// A stream socket of the server's family, not connected.
    ///
    /// # Errors
    /// When there is none.
    fn tcp(&self, server: SocketAddr) -> io::Result<OwnedFd>;
}

/// In the namespace of the thread that serves: for an async runtime, the one the process was started in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Here;

impl Open for Here {
    fn udp(&self, server: SocketAddr) -> io::Result<UdpSocket> {
        let any: IpAddr = match server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        UdpSocket::bind((any, 0))
    }

    fn tcp(&self, server: SocketAddr) -> io::Result<OwnedFd> {
        let family = match server {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        Ok(socket_with(family, SocketType::STREAM, flags, None)?)
    }
}

/// Servers a tenant's other names are asked of. A handle: clones are the same. Without servers, which is how it begins,
/// nobody is asked.
#[derive(Clone)]
pub struct Upstream {
    shared: Arc<Shared>,
}

struct Shared {
    open: Box<dyn Open>,
    servers: RwLock<Vec<SocketAddr>>,
    places: Arc<Semaphore>,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("servers", &self.servers()).finish_non_exhaustive()
    }
}

/// Leave to ask.
pub(super) type Place = OwnedSemaphorePermit;

impl Upstream {
    /// No servers yet; at most `most` queries at once, when there are. Every one takes a descriptor.
    pub fn new(open: impl Open, most: usize) -> Self {
        let places = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        Self { shared: Arc::new(Shared { open: Box::new(open), servers: RwLock::default(), places }) }
    }

    /// From now on these servers are asked, in this order; at most three. None: the tenant may not go out.
    pub fn set(&self, servers: &[SocketAddr]) {
        *self.shared.servers.write().unwrap_or_else(PoisonError::into_inner) =
            servers.iter().copied().take(SERVERS).collect();
    }

    /// The servers now.
    pub fn servers(&self) -> Vec<SocketAddr> {
        self.shared.servers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether there is one.
    pub fn is_set(&self) -> bool {
        !self.shared.servers.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Leave to ask, if not too many do.
    pub(super) fn place(&self) -> Option<Place> {
        Arc::clone(&self.shared.places).try_acquire_owned().ok()
    }

    /// Asks one server after the other, each for so long. The first useful answer counts, else the last.
    pub(super) async fn ask(
        &self,
        outside: &Outside,
        over: Transport,
        each: Duration,
        _place: Place,
    ) -> Vec<u8> {
        let servers = self.servers();
        if servers.is_empty() {
            return outside.refused();
        }
        let mut last = None;
        for server in servers {
            let asked = async {
                match over {
                    Transport::Udp => self.datagram(outside, server).await,
                    Transport::Tcp => self.stream(outside, server).await,
                }
            };
            let Ok(Ok(answer)) = timeout(each, asked).await else { continue };
            match Header::for_message_slice(&answer).rcode() {
                Rcode::SERVFAIL | Rcode::REFUSED | Rcode::NOTIMP => last = Some(answer),
                _ => return answer,
            }
        }
        last.unwrap_or_else(|| outside.failed())
    }

    async fn datagram(&self, outside: &Outside, server: SocketAddr) -> io::Result<Vec<u8>> {
        let socket = self.shared.open.udp(server)?;
        socket.set_nonblocking(true)?;
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        // Whatever comes from elsewhere is dropped by the kernel; a server that is not there is an error at once.
        socket.connect(server).await?;
        let query = outside.query(rand::random());
        socket.send(&query).await?;
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await?;
            // It may have come before the socket was connected.
            if (from.ip(), from.port()) != (server.ip(), server.port()) {
                continue;
            }
            let response = buffer.get(..length).unwrap_or_default().to_vec();
            if let Some(answer) = outside.accept(&query, response) {
                return Ok(answer);
            }
        }
    }

    async fn stream(&self, outside: &Outside, server: SocketAddr) -> io::Result<Vec<u8>> {
        let socket = TcpStream::from(self.shared.open.tcp(server)?);
        socket.set_nonblocking(true)?;
        let mut stream = tokio::net::TcpSocket::from_std_stream(socket).connect(server).await?;
        let query = outside.query(rand::random());
        frame::write(&mut stream, &query).await?;
        let response = frame::read(&mut stream, u16::MAX).await?;
        outside.accept(&query, response).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}
