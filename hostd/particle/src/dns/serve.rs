//! A responder at work: one future, which holds everything that belongs to it.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

use super::answer::{Asked, Outside, Transport, Verdict, answer};
use super::connections::{Connections, Place};
use super::forward::{self, Upstream};
use super::frame;
use super::limits::Limits;
use super::sockets::Sockets;
use super::zone::Zone;

/// After an error the next one is waited for: what is wrong with a socket, or with the process, seldom passes at once.
const AFTER_ERROR: Duration = Duration::from_millis(20);

/// How long a datagram may wait for room; then it is lost, as datagrams are.
const SEND: Duration = Duration::from_millis(100);

/// A responder that cannot begin.
#[derive(Debug, thiserror::Error)]
#[error("Cannot serve names by these sockets")]
pub struct ServeError(#[source] io::Error);

/// Answers queries until `shutdown` is over, or this future is dropped: with it go sockets, connections and queries
/// under way. It is one task's work, however much is asked, so a tenant never has more than one processor by it.
///
/// # Errors
/// When the runtime does not take the sockets. Later errors end a connection at most.
pub async fn serve(
    sockets: Sockets,
    zone: Zone,
    upstream: Upstream,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let [udp_v4, udp_v6] = sockets.udp.map(UdpSocket::from_std);
    let [tcp_v4, tcp_v6] = sockets.tcp.map(TcpListener::from_std);
    let [udp_v4, udp_v6] = [udp_v4.map_err(ServeError)?, udp_v6.map_err(ServeError)?];
    let [tcp_v4, tcp_v6] = [tcp_v4.map_err(ServeError)?, tcp_v6.map_err(ServeError)?];
    let connections = Connections::new(limits.connections, limits.connections_each);
    let responder = Responder { zone, upstream, limits, connections };
    let work = async {
        // In no fixed order: a task has so much to do before it makes way for others, and one of these could use it up.
        tokio::select! {
            never = responder.datagrams(&udp_v4) => never,
            never = responder.datagrams(&udp_v6) => never,
            never = responder.streams(&tcp_v4) => never,
            never = responder.streams(&tcp_v6) => never,
        }
    };
    tokio::select! {
        biased;
        () = shutdown => Ok(()),
        never = work => match never {},
    }
}

struct Responder {
    zone: Zone,
    upstream: Upstream,
    limits: Limits,
    connections: Connections,
}

impl Responder {
    fn answer(&self, query: &[u8], from: IpAddr, over: Transport) -> Verdict {
        let recursion = self.upstream.is_set();
        answer(&Asked { query, from, over, seed: rand::random(), recursion }, &self.zone, &self.limits)
    }

    async fn datagrams(&self, socket: &UdpSocket) -> Infallible {
        // One more than is taken: longer ones are known by it.
        let mut buffer = vec![0; usize::from(self.limits.query) + 1];
        let mut under_way = FuturesUnordered::new();
        loop {
            tokio::select! {
                received = socket.recv_from(&mut buffer) => match received {
                    Ok((length, from)) => {
                        let query = buffer.get(..length).unwrap_or_default();
                        match self.answer(query, from.ip(), Transport::Udp) {
                            Verdict::Silence => {}
                            Verdict::Answer(answer) => send(socket, &answer, from).await,
                            Verdict::Outside(outside) => match self.upstream.place() {
                                Some(place) => under_way.push(self.forward(socket, outside, from, place)),
                                None => send(socket, &outside.failed(), from).await,
                            },
                        }
                    }
                    Err(_) => sleep(AFTER_ERROR).await,
                },
                Some(()) = under_way.next() => {}
            }
        }
    }

    async fn forward(&self, socket: &UdpSocket, outside: Outside, from: SocketAddr, place: forward::Place) {
        let answer = self.upstream.ask(&outside, Transport::Udp, self.limits.upstream, place).await;
        send(socket, &answer, from).await;
    }

    async fn streams(&self, listener: &TcpListener) -> Infallible {
        let mut open = FuturesUnordered::new();
        loop {
            tokio::select! {
                (stream, from) = accept(listener) => {
                    // One too many is closed, not left waiting: it would wait in front of others.
                    if let Some(place) = self.connections.take(from) {
                        open.push(self.connection(stream, from, place));
                    }
                }
                Some(()) = open.next() => {}
            }
        }
    }

    /// Answers what comes by one connection, one query after the other.
    async fn connection(&self, mut stream: TcpStream, from: IpAddr, _place: Place<'_>) {
        let Limits { idle, query, upstream, .. } = self.limits;
        while let Ok(Ok(query)) = timeout(idle, frame::read(&mut stream, query)).await {
            let answer = match self.answer(&query, from, Transport::Tcp) {
                Verdict::Silence => return,
                Verdict::Answer(answer) => answer,
                Verdict::Outside(outside) => match self.upstream.place() {
                    Some(place) => self.upstream.ask(&outside, Transport::Tcp, upstream, place).await,
                    None => outside.failed(),
                },
            };
            if !matches!(timeout(idle, frame::write(&mut stream, &answer)).await, Ok(Ok(()))) {
                return;
            }
        }
    }
}

async fn accept(listener: &TcpListener) -> (TcpStream, IpAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => return (stream, from.ip()),
            Err(_) => sleep(AFTER_ERROR).await,
        }
    }
}

async fn send(socket: &UdpSocket, message: &[u8], to: SocketAddr) {
    // Whoever does not take its answer asks again.
    let _ = timeout(SEND, socket.send_to(message, to)).await;
}
