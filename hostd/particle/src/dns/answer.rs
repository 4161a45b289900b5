//! What is said to a query: pure.

use std::net::IpAddr;
use std::sync::Arc;

use domain::base::iana::{OptRcode, Rcode, Rtype};
use domain::base::message_builder::PushError;
use domain::base::name::{Name, NameBuilder};
use domain::base::{Header, Message, MessageBuilder, Question};

use super::compose::{Data, Said, Style, compose};
use super::limits::Limits;
use super::query::{Query, QueryName};
use super::zone::{DOMAIN, Meaning, Zone};

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram: the answer has to fit into one.
    Udp,
    /// By a connection.
    Tcp,
}

/// A query, and what is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The message.
    pub query: &'a [u8],
    /// Where it came from.
    pub from: IpAddr,
    /// How.
    pub over: Transport,
    /// Of this come the choice and the order of addresses.
    pub seed: u64,
    /// Whether there are servers to ask for other names.
    pub recursion: bool,
}

/// What becomes of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is said: it is no query.
    Silence,
    /// This is said.
    Answer(Vec<u8>),
    /// Others are to be asked.
    Outside(Outside),
}

/// A query that is not ours to answer, and what it takes to bring back somebody else's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside {
    /// What is asked, with an identifier of 0.
    query: Vec<u8>,
    /// A refusal, for the asker.
    refusal: Vec<u8>,
    limit: u16,
}

/// Labels of a zone's name, by whether it is one of reverse names, and of which.
const ZONE: usize = 1;
const ZONE_V4: usize = 3;
const ZONE_V6: usize = 4;

/// Answers a query. Never panics, whatever the bytes are, and never says much more than it was told.
pub fn answer(asked: &Asked<'_>, zone: &Zone, limits: &Limits) -> Verdict {
    let Some((query, problem)) = Query::read(asked.query, limits.query) else { return Verdict::Silence };
    let limit = match asked.over {
        Transport::Udp => query.datagram(limits.datagram),
        Transport::Tcp => u16::MAX,
    };
    let style = Style { limit, ttl: limits.ttl, recursion: asked.recursion };
    let say = |said: &Said| compose(&query, said, style);
    let answered = match (&problem, &query.question) {
        (Some(rcode), _) => say(&Said::error(*rcode)),
        (None, None) => say(&Said::error(OptRcode::FORMERR)),
        (None, Some(question)) => match said(question, asked, zone, limits) {
            Some(said) => say(&said),
            None => {
                let refusal = say(&Said::error(OptRcode::REFUSED));
                if asked.recursion
                    && query.header.rd()
                    && let (Ok(query), Some(refusal)) = (upstream(&query, question, limit), refusal.clone())
                {
                    return Verdict::Outside(Outside { query, refusal, limit });
                }
                refusal
            }
        },
    };
    answered.map_or(Verdict::Silence, Verdict::Answer)
}

/// What a question is answered with; none for names of others.
fn said(question: &Question<QueryName<'_>>, asked: &Asked<'_>, zone: &Zone, limits: &Limits) -> Option<Said> {
    let labels: Vec<&[u8]> =
        question.qname().iter().filter(|label| !label.is_root()).map(|label| label.as_slice()).collect();
    let kind = question.qtype();
    let (at, data) = match zone.meaning(&labels) {
        Meaning::Outside => return None,
        Meaning::Nothing => (ZONE, None),
        Meaning::Parent => (ZONE, Some(Data::None)),
        Meaning::Domain => (ZONE, Some(if kind == Rtype::SOA { Data::Start } else { Data::None })),
        Meaning::Asker => {
            let (v4, v6) = zone.own(asked.from);
            (ZONE, Some(addresses(kind, v4.into_iter().collect(), v6.into_iter().collect())))
        }
        Meaning::Function(function) => {
            let all = zone.directory().instances(function, limits.addresses, asked.seed);
            let data = || {
                addresses(
                    kind,
                    all.iter().map(|one| one.v4).collect(),
                    all.iter().map(|one| one.v6).collect(),
                )
            };
            (ZONE, (!all.is_empty()).then(data))
        }
        Meaning::Address(address) => {
            let name = zone.directory().owner(address).and_then(|(function, _)| name_of(&function, zone));
            let labels = if address.is_ipv4() { ZONE_V4 } else { ZONE_V6 };
            (labels, name.map(|name| if kind == Rtype::PTR { Data::Name(name) } else { Data::None }))
        }
    };
    Some(match data {
        None => Said { rcode: OptRcode::NXDOMAIN, zone: Some(at), data: Data::None },
        Some(_) if kind == Rtype::ANY => {
            Said { rcode: OptRcode::NOERROR, zone: Some(at), data: Data::Minimal }
        }
        Some(data) => Said { rcode: OptRcode::NOERROR, zone: Some(at), data },
    })
}

fn addresses(kind: Rtype, v4: Vec<std::net::Ipv4Addr>, v6: Vec<std::net::Ipv6Addr>) -> Data {
    match kind {
        Rtype::A if !v4.is_empty() => Data::V4(v4),
        Rtype::AAAA if !v6.is_empty() => Data::V6(v6),
        _ => Data::None,
    }
}

/// `{function}.{tenant}.mote.`
fn name_of(function: &Arc<str>, zone: &Zone) -> Option<Name<Vec<u8>>> {
    let mut name = NameBuilder::new_vec();
    for label in [function, zone.tenant(), DOMAIN] {
        name.append_label(label.as_bytes()).ok()?;
    }
    name.into_name().ok()
}

/// The query as it is passed on: with what it asks for, and nothing else the asker put into it.
fn upstream(query: &Query<'_>, question: &Question<QueryName<'_>>, limit: u16) -> Result<Vec<u8>, PushError> {
    let mut builder = MessageBuilder::new_vec();
    let header = builder.header_mut();
    header.set_rd(true);
    header.set_ad(query.header.ad());
    header.set_cd(query.header.cd());
    let mut builder = builder.question();
    builder.push(question)?;
    let mut builder = builder.additional();
    if let Some(edns) = query.edns {
        builder.opt(|opt| {
            opt.set_udp_payload_size(limit.min(super::limits::LARGEST_DATAGRAM));
            opt.set_dnssec_ok(edns.dnssec);
            Ok(())
        })?;
    }
    Ok(builder.finish())
}

impl Outside {
    /// What to ask an upstream server, with an identifier.
    pub fn query(&self, id: u16) -> Vec<u8> {
        let mut query = self.query.clone();
        Header::for_message_slice_mut(&mut query).set_id(id);
        query
    }

    /// What to tell the asker, of what an upstream server said to a query of [`query`](Self::query); none if it is not
    /// the answer to that.
    pub fn accept(&self, query: &[u8], mut response: Vec<u8>) -> Option<Vec<u8>> {
        let fits = {
            let (query, response) = (Message::from_slice(query).ok()?, Message::from_slice(&response).ok()?);
            if !response.is_answer(query) || response.header().opcode() != query.header().opcode() {
                return None;
            }
            response.as_slice().len() <= usize::from(self.limit)
        };
        if !fits {
            let mut short = self.with(Rcode::NOERROR);
            Header::for_message_slice_mut(&mut short).set_tc(true);
            return Some(short);
        }
        let id = Header::for_message_slice(&self.refusal).id();
        Header::for_message_slice_mut(&mut response).set_id(id);
        Some(response)
    }

    /// What to tell the asker where nobody may be asked.
    pub fn refused(&self) -> Vec<u8> {
        self.refusal.clone()
    }

    /// What to tell the asker when nobody answered.
    pub fn failed(&self) -> Vec<u8> {
        self.with(Rcode::SERVFAIL)
    }

    fn with(&self, rcode: Rcode) -> Vec<u8> {
        let mut message = self.refusal.clone();
        Header::for_message_slice_mut(&mut message).set_rcode(rcode);
        message
    }
}
