//! Messages to and from servers, in a form without the library's types. Pure.

use std::net::Ipv6Addr;
use std::time::Duration;

pub use dhcproto::v6::Status;
use dhcproto::v6::{DhcpOption, IAAddr, IANA, Message, MessageType, ORO, OptionCode, UnknownOption};
use dhcproto::{Decodable, Encodable};

use super::retry::MOST;
use super::shape::{self, ShapeError};

/// Options that are read, besides those within an association; the library sees no others.
const READ: &[OptionCode] = &[
    OptionCode::ClientId,
    OptionCode::ServerId,
    OptionCode::IANA,
    OptionCode::Preference,
    OptionCode::StatusCode,
    OptionCode::RapidCommit,
    OptionCode::DomainNameServers,
    OptionCode::DomainSearchList,
    OptionCode::InformationRefreshTime,
    OptionCode::SolMaxRt,
    OptionCode::InfMaxRt,
];

/// The server is to enter the name into the DNS (RFC 4704).
const FQDN_S: u8 = 1;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The machine.
    pub duid: Vec<u8>,
    /// Its interface.
    pub interface: u32,
    /// Name of the machine.
    pub hostname: String,
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Who grants an address?
    Solicit,
    /// One server: the address it has offered.
    Request,
    /// The server that has granted it: more time.
    Renew,
    /// Any server: more time.
    Rebind,
    /// The server that has granted it: another machine has it.
    Decline,
    /// Name servers only.
    Inform,
}

/// A message as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question<'a> {
    /// What is asked.
    pub kind: Kind,
    /// Which answers belong to it.
    pub transaction: [u8; 3],
    /// How long it has been asked.
    pub elapsed: Duration,
    /// Who is to answer.
    pub server: Option<&'a [u8]>,
    /// Address that was offered or granted.
    pub address: Option<Ipv6Addr>,
}

/// What kind of answer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// An offer.
    Advertise,
    /// A grant, or what else was asked for.
    Reply,
}

/// An answer; every field is untrusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// What kind.
    pub answer: Answer,
    /// Which question it belongs to.
    pub transaction: [u8; 3],
    /// For whom it is.
    pub client: Vec<u8>,
    /// Whose it is.
    pub server: Vec<u8>,
    /// Whether the server did what was asked.
    pub status: Status,
    /// The address is granted without a request.
    pub rapid: bool,
    /// Which of several servers is to be taken: the one with the largest.
    pub preference: u8,
    /// What it says of this interface's address.
    pub association: Option<Association>,
    /// Name servers.
    pub dns: Vec<Ipv6Addr>,
    /// Domain to search.
    pub domain: Option<String>,
    /// When name servers are to be asked for again, seconds.
    pub refresh_s: Option<u32>,
    /// Largest pause between solicitations.
    pub solicit_most: Option<Duration>,
    /// Largest pause between questions for name servers.
    pub inform_most: Option<Duration>,
}

/// What a server says of the addresses of an interface; times in seconds, `u32::MAX` for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Association {
    /// When its server is to be asked for more time; 0: whenever we like.
    pub renew_s: u32,
    /// When all servers are.
    pub rebind_s: u32,
    /// Whether there is an address.
    pub status: Status,
    /// Addresses.
    pub addresses: Vec<Grant>,
}

/// An address, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// The address.
    pub address: Ipv6Addr,
    /// So long it may be used for what is new, seconds.
    pub preferred_s: u32,
    /// So long it is ours, seconds.
    pub valid_s: u32,
}

/// Why a message is not read.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// It is not made of options.
    #[error("Malformed message")]
    Shape(#[from] ShapeError),
    /// An option in it makes no sense.
    #[error("Unreadable option")]
    Option(#[from] dhcproto::error::DecodeError),
    /// The library did not read all of it.
    #[error("{read} of {all} options are readable")]
    Unread {
        /// How many it has read.
        read: usize,
        /// How many there are.
        all: usize,
    },
    /// It is no answer.
    #[error("Message type {0:?} is no answer")]
    Type(MessageType),
    /// It must say for whom it is and whose it is, once each.
    #[error("Message names {clients} clients and {servers} servers")]
    Names {
        /// How often it names a client.
        clients: usize,
        /// How often a server.
        servers: usize,
    },
}

/// A message could not be written.
#[derive(Debug, thiserror::Error)]
#[error("Cannot write a DHCPv6 message")]
pub struct WriteError(#[from] dhcproto::error::EncodeError);

/// The bytes of a question.
pub fn write(who: &Identity, question: &Question<'_>) -> Result<Vec<u8>, WriteError> {
    let (kind, wanted) = match question.kind {
        Kind::Solicit => (MessageType::Solicit, OptionCode::SolMaxRt),
        Kind::Request => (MessageType::Request, OptionCode::SolMaxRt),
        Kind::Renew => (MessageType::Renew, OptionCode::SolMaxRt),
        Kind::Rebind => (MessageType::Rebind, OptionCode::SolMaxRt),
        Kind::Decline => (MessageType::Decline, OptionCode::SolMaxRt),
        Kind::Inform => (MessageType::InformationRequest, OptionCode::InfMaxRt),
    };
    let mut message = Message::new_with_id(kind, question.transaction);
    let options = message.opts_mut();
    options.insert(DhcpOption::ClientId(who.duid.clone()));
    if let Some(server) = question.server {
        options.insert(DhcpOption::ServerId(server.to_vec()));
    }
    let hundredths = question.elapsed.as_millis() / 10;
    options.insert(DhcpOption::ElapsedTime(u16::try_from(hundredths).unwrap_or(u16::MAX)));
    let mut wishes = vec![OptionCode::DomainNameServers, OptionCode::DomainSearchList, wanted];
    if question.kind == Kind::Inform {
        wishes.push(OptionCode::InformationRefreshTime);
    } else {
        let hint = question.address.map(|addr| {
            // Times are the server's matter.
            DhcpOption::IAAddr(IAAddr { addr, preferred_life: 0, valid_life: 0, opts: Default::default() })
        });
        let opts = hint.into_iter().collect();
        options.insert(DhcpOption::IANA(IANA { id: who.interface, t1: 0, t2: 0, opts }));
        if let Some(name) = named(&who.hostname) {
            options.insert(name);
        }
    }
    options.insert(DhcpOption::ORO(ORO { opts: wishes }));
    if question.kind == Kind::Solicit {
        options.insert(DhcpOption::RapidCommit);
    }
    Ok(message.to_vec()?)
}

/// The machine's name: one label without an end, so that the server adds the domain.
fn named(hostname: &str) -> Option<DhcpOption> {
    let length = u8::try_from(hostname.len()).ok().filter(|length| (1..=63).contains(length))?;
    let name = [&[FQDN_S, length], hostname.as_bytes()].concat();
    Some(DhcpOption::Unknown(UnknownOption::new(OptionCode::ClientFqdn, name)))
}

/// Reads an answer to whoever asks for the addresses of `interface`.
pub fn read(bytes: &[u8], interface: u32) -> Result<Heard, PacketError> {
    let options = shape::check(bytes)?;
    let mut kept = bytes.get(..shape::HEAD).unwrap_or_default().to_vec();
    let mut all = 0;
    for (_, option) in options.iter().filter(|(code, _)| READ.contains(&OptionCode::from(*code))) {
        kept.extend_from_slice(option);
        all += 1;
    }
    let message = Message::from_bytes(&kept)?;
    let answer = match message.msg_type() {
        MessageType::Advertise => Answer::Advertise,
        MessageType::Reply => Answer::Reply,
        other => return Err(PacketError::Type(other)),
    };
    let read = message.opts().iter().count();
    if read != all {
        return Err(PacketError::Unread { read, all });
    }
    let mut heard = Heard {
        answer,
        transaction: message.xid(),
        client: Vec::new(),
        server: Vec::new(),
        status: Status::Success,
        rapid: false,
        preference: 0,
        association: None,
        dns: Vec::new(),
        domain: None,
        refresh_s: None,
        solicit_most: None,
        inform_most: None,
    };
    let (mut clients, mut servers) = (0, 0);
    for option in message.opts().iter() {
        match option {
            DhcpOption::ClientId(duid) => {
                heard.client.clone_from(duid);
                clients += 1;
            }
            DhcpOption::ServerId(duid) => {
                heard.server.clone_from(duid);
                servers += 1;
            }
            DhcpOption::IANA(found) if found.id == interface && heard.association.is_none() => {
                heard.association = Some(association(found));
            }
            DhcpOption::Preference(preference) => heard.preference = *preference,
            DhcpOption::StatusCode(code) => heard.status = code.status,
            DhcpOption::RapidCommit => heard.rapid = true,
            DhcpOption::DomainNameServers(servers) => heard.dns.extend(servers),
            DhcpOption::DomainSearchList(names) => {
                let name = names.first().map(|name| name.to_ascii());
                heard.domain = name.map(|name| name.trim_end_matches('.').to_owned());
            }
            DhcpOption::Unknown(other) => times(&mut heard, other),
            _ => {}
        }
    }
    if (clients, servers) != (1, 1) {
        return Err(PacketError::Names { clients, servers });
    }
    Ok(heard)
}

/// Options that the library leaves as bytes.
fn times(heard: &mut Heard, option: &UnknownOption) {
    let Ok(bytes) = <[u8; 4]>::try_from(option.data()) else { return };
    let seconds = u32::from_be_bytes(bytes);
    let most = MOST.contains(&seconds).then(|| Duration::from_secs(seconds.into()));
    match option.code() {
        OptionCode::InformationRefreshTime => heard.refresh_s = Some(seconds),
        OptionCode::SolMaxRt => heard.solicit_most = most,
        OptionCode::InfMaxRt => heard.inform_most = most,
        _ => {}
    }
}

fn association(found: &IANA) -> Association {
    let mut association =
        Association { renew_s: found.t1, rebind_s: found.t2, status: Status::Success, addresses: Vec::new() };
    for option in found.opts.iter() {
        match option {
            DhcpOption::StatusCode(code) => association.status = code.status,
            DhcpOption::IAAddr(found) => {
                let refused = found.opts.iter().any(
                    |option| matches!(option, DhcpOption::StatusCode(code) if code.status != Status::Success),
                );
                // Times that contradict each other are none.
                if !refused && found.preferred_life <= found.valid_life {
                    association.addresses.push(Grant {
                        address: found.addr,
                        preferred_s: found.preferred_life,
                        valid_s: found.valid_life,
                    });
                }
            }
            _ => {}
        }
    }
    association
}
