//! One question to one server. The packet is parsed and checked by the library: length, version, mode, the origin
//! timestamp we sent, leap indicator, stratum, root distance.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use sntpc::{KissOfDeathCode, NtpContext, NtpResult, NtpTimestampGenerator, NtpUdpSocket};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout, timeout_at};

use super::select::Sample;
use super::steer;
use crate::clock;
use crate::sys::adjust::Clock;

/// Time an answer may take.
const ANSWER: Duration = Duration::from_secs(2);

/// Time a name may take to become addresses.
const RESOLVE: Duration = Duration::from_secs(8);

/// Addresses of one name that are tried.
const ADDRESSES: usize = 2;

/// Packets that are no answer to our question and are passed over before a server is given up: anyone can send them.
const STRAYS: usize = 16;

/// Root distance a server's time is worth nothing with; the library's own bound is sixteen seconds.
const MOST_DISTANCE_US: u64 = 3_000_000;

/// What a server says instead of the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kiss {
    /// It does not serve us.
    Refused,
    /// It is asked too often.
    Slower,
    /// Something that asks nothing of us.
    Other,
}

/// Why a server gave no time.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// Its name has no address.
    #[error("No address")]
    Resolve(#[source] std::io::Error),
    /// Its name did not become an address in time.
    #[error("No address within {} s", RESOLVE.as_secs())]
    SlowName,
    /// The socket failed; nobody listens there, for example.
    #[error("Cannot be reached")]
    Socket(#[source] std::io::Error),
    /// Nothing came back.
    #[error("No answer within {} s", ANSWER.as_secs())]
    Late,
    /// It said something else.
    #[error("It says {code}")]
    Kiss {
        /// What that asks of us.
        kiss: Kiss,
        /// In its own four letters.
        code: String,
    },
    /// The answer is none.
    #[error("Bad answer: {0:?}")]
    Answer(sntpc::Error),
    /// It is right, and worth nothing.
    #[error("Its time may be wrong by {} s", .0 / 1_000_000)]
    Vague(u64),
    /// Before this program was built, or long after.
    #[error("Its time cannot be true")]
    Impossible,
}

/// Asks a server (`name`, `address`, either with a port) for the time; at most [`RESOLVE`] and [`ANSWER`] for each of
/// its addresses.
pub async fn ask(server: &str, clock: &impl Clock) -> Result<Sample, QueryError> {
    let mut last = QueryError::Resolve(std::io::ErrorKind::NotFound.into());
    for address in resolve(server).await?.into_iter().take(ADDRESSES) {
        match ask_address(address, clock).await {
            Ok(result) => return sample(server, &result, clock),
            Err(error @ QueryError::Kiss { .. }) => return Err(error),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn resolve(server: &str) -> Result<Vec<SocketAddr>, QueryError> {
    if let Ok(address) = server.parse::<SocketAddr>() {
        return Ok(vec![address]);
    }
    if let Ok(address) = server.parse::<std::net::IpAddr>() {
        return Ok(vec![SocketAddr::new(address, 123)]);
    }
    let (name, port) = match server.rsplit_once(':') {
        Some((name, port)) => (name, port.parse().unwrap_or(123)),
        None => (server, 123),
    };
    match timeout(RESOLVE, tokio::net::lookup_host((name, port))).await {
        Ok(Ok(addresses)) => Ok(addresses.collect()),
        Ok(Err(error)) => Err(QueryError::Resolve(error)),
        Err(_) => Err(QueryError::SlowName),
    }
}

async fn ask_address(address: SocketAddr, clock: &impl Clock) -> Result<NtpResult, QueryError> {
    let local = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    // A socket for each question: whoever wants to answer in the server's place has to guess the port as well.
    let socket = UdpSocket::bind(local).await.map_err(QueryError::Socket)?;
    socket.connect(address).await.map_err(QueryError::Socket)?;
    question(address, &Connected(&socket), clock).await
}

async fn question(
    address: SocketAddr,
    socket: &impl NtpUdpSocket,
    clock: &impl Clock,
) -> Result<NtpResult, QueryError> {
    let end = Instant::now() + ANSWER;
    let context = NtpContext::new(Stamp { clock, now: Duration::ZERO });
    let sent = sntpc::sntp_send_request(address, socket, context).await.map_err(refusal)?;
    let mut strays = 0;
    loop {
        let answer = sntpc::sntp_process_response(address, socket, context, sent);
        match timeout_at(end, answer).await {
            Err(_) => return Err(QueryError::Late),
            Ok(Ok(result)) => return Ok(result),
            // Not for this question, so not from the server, or late.
            Ok(Err(
                sntpc::Error::IncorrectOriginTimestamp
                | sntpc::Error::IncorrectPayload
                | sntpc::Error::ResponseAddressMismatch,
            )) if strays < STRAYS => strays += 1,
            Ok(Err(error)) => return Err(refusal(error)),
        }
    }
}

fn refusal(error: sntpc::Error) -> QueryError {
    match error {
        sntpc::Error::KissOfDeath(code) => {
            let kiss = match code {
                KissOfDeathCode::Deny | KissOfDeathCode::Rstr => Kiss::Refused,
                KissOfDeathCode::Rate => Kiss::Slower,
                _ => Kiss::Other,
            };
            QueryError::Kiss { kiss, code: crate::text::printable(code.as_str()) }
        }
        sntpc::Error::Network => QueryError::Socket(std::io::ErrorKind::ConnectionRefused.into()),
        error => QueryError::Answer(error),
    }
}

fn sample(server: &str, result: &NtpResult, clock: &impl Clock) -> Result<Sample, QueryError> {
    // Seconds in 16.16 to microseconds.
    let micros = |short: u32| u64::from(short) * 1_000_000 / 65_536;
    let distance_us = micros(result.root_delay) / 2 + micros(result.root_dispersion) + result.roundtrip / 2;
    if distance_us > MOST_DISTANCE_US {
        return Err(QueryError::Vague(distance_us));
    }
    let offset_us =
        steer::unwrap(result.offset, clock.now(), clock::floor()).ok_or(QueryError::Impossible)?;
    Ok(Sample { server: server.to_owned(), offset_us, distance_us, stratum: result.stratum })
}

/// Our clock as the library reads it.
struct Stamp<'a, C> {
    clock: &'a C,
    now: Duration,
}

impl<C> Clone for Stamp<'_, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for Stamp<'_, C> {}

impl<C: Clock> NtpTimestampGenerator for Stamp<'_, C> {
    fn init(&mut self) {
        self.now = self.clock.now();
    }

    fn timestamp_sec(&self) -> u64 {
        self.now.as_secs()
    }

    fn timestamp_subsec_micros(&self) -> u32 {
        self.now.subsec_micros()
    }
}

/// A socket the kernel passes nothing to but what comes from the address it is connected to.
struct Connected<'a>(&'a UdpSocket);

impl NtpUdpSocket for Connected<'_> {
    async fn send_to(&self, bytes: &[u8], _: SocketAddr) -> sntpc::Result<usize> {
        self.0.send(bytes).await.map_err(|_| sntpc::Error::Network)
    }

    async fn recv_from(&self, bytes: &mut [u8]) -> sntpc::Result<(usize, SocketAddr)> {
        let from = self.0.peer_addr().map_err(|_| sntpc::Error::Network)?;
        let length = self.0.recv(bytes).await.map_err(|_| sntpc::Error::Network)?;
        Ok((length, from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::adjust::Kernel;
    use proptest::prelude::*;
    use std::cell::RefCell;

    /// Answers with given bytes, into which our own timestamp is put where `echo` says so.
    struct Canned {
        answer: Vec<u8>,
        echo: bool,
        asked: RefCell<Vec<u8>>,
    }

    impl NtpUdpSocket for Canned {
        async fn send_to(&self, bytes: &[u8], _: SocketAddr) -> sntpc::Result<usize> {
            *self.asked.borrow_mut() = bytes.to_vec();
            Ok(bytes.len())
        }

        async fn recv_from(&self, bytes: &mut [u8]) -> sntpc::Result<(usize, SocketAddr)> {
            let mut answer = self.answer.clone();
            if self.echo && answer.len() >= 32 {
                answer[24..32].copy_from_slice(&self.asked.borrow()[40..48]);
            }
            let length = answer.len().min(bytes.len());
            bytes[..length].copy_from_slice(&answer[..length]);
            Ok((length, SocketAddr::from(([127, 0, 0, 1], 123))))
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_safe(answer in prop::collection::vec(any::<u8>(), 0..64), echo: bool, usual: bool) {
            let mut answer = answer;
            if usual && answer.len() >= 2 {
                answer[0] = 0x24;
                answer[1] = 2;
            }
            let socket = Canned { answer, echo, asked: RefCell::default() };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let address = SocketAddr::from(([127, 0, 0, 1], 123));
            let result = runtime.block_on(question(address, &socket, &Kernel));
            if let Ok(result) = result {
                prop_assert!(echo, "an answer to another question was taken");
                if let Ok(sample) = sample("a", &result, &Kernel) {
                    prop_assert!(sample.distance_us <= MOST_DISTANCE_US);
                    prop_assert!((1..16).contains(&sample.stratum));
                }
            }
        }
    }
}
