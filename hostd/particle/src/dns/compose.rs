//! Messages as they are sent.

use std::net::{Ipv4Addr, Ipv6Addr};

use domain::base::iana::OptRcode;
use domain::base::message_builder::{AdditionalBuilder, PushError};
use domain::base::name::Name;
use domain::base::record::Ttl;
use domain::base::{CharStr, Header, MessageBuilder, Serial, StaticCompressor};
use domain::rdata::{A, Aaaa, Hinfo, Ptr, Soa};

use super::limits::LARGEST_DATAGRAM;
use super::query::Query;

/// Bytes of an OPT record without options.
const OPT: usize = 11;

/// `mote.`: who answers.
const SERVER: &[u8] = b"\x04mote\0";

/// `nobody.mote.`: whom to write to about it.
const MAILBOX: &[u8] = b"\x06nobody\x04mote\0";

/// What a question for everything is answered with.
const MINIMAL: &[u8] = b"RFC8482";

/// Data of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Data {
    /// None.
    None,
    V4(Vec<Ipv4Addr>),
    V6(Vec<Ipv6Addr>),
    Name(Name<Vec<u8>>),
    /// The start of the zone.
    Start,
    /// What there is to say to a question for everything (RFC 8482).
    Minimal,
}

/// What is said to a question.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub rcode: OptRcode,
    /// Labels of the zone's name, the root's left out, if the answer is ours to give: as many from the end of the name
    /// that was asked for.
    pub zone: Option<usize>,
    pub data: Data,
}

impl Said {
    /// No answer.
    pub fn error(rcode: OptRcode) -> Self {
        Self { rcode, zone: None, data: Data::None }
    }
}

/// How it is said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    /// Most bytes.
    pub limit: u16,
    pub ttl: u32,
    /// Whether other names may be asked for here.
    pub recursion: bool,
}

type Target = StaticCompressor<Vec<u8>>;

/// An answer within the limit; truncated, if it has to be. `None` cannot be, with a limit all askers have.
pub(super) fn compose(query: &Query<'_>, said: &Said, style: Style) -> Option<Vec<u8>> {
    try_compose(query, said, style).ok()
}

fn try_compose(query: &Query<'_>, said: &Said, style: Style) -> Result<Vec<u8>, PushError> {
    let Ok(mut builder) =
        MessageBuilder::from_target(Target::new(Vec::with_capacity(LARGEST_DATAGRAM.into())));
    // The builder's limit is the first length that is too long.
    let limit = usize::from(style.limit) + 1;
    builder.set_push_limit(if query.edns.is_some() { limit.saturating_sub(OPT) } else { limit });
    answered(builder.header_mut(), &query.header, said, style);
    let mut builder = builder.question();
    if let Some(question) = &query.question {
        builder.push(question)?;
    }
    let mut builder = builder.answer();
    let mut all = Ok(());
    if let Some(question) = &query.question {
        let (owner, ttl) = (question.qname(), Ttl::from_secs(style.ttl));
        all = match &said.data {
            Data::None => Ok(()),
            Data::V4(all) => all.iter().try_for_each(|v4| builder.push((owner, ttl, A::new(*v4)))),
            Data::V6(all) => all.iter().try_for_each(|v6| builder.push((owner, ttl, Aaaa::new(*v6)))),
            Data::Name(name) => builder.push((owner, ttl, Ptr::new(name))),
            Data::Start => builder.push((owner, ttl, start(ttl)?)),
            Data::Minimal => builder.push((owner, ttl, minimal()?)),
        };
    }
    let mut builder = builder.authority();
    if let (Data::None, Some(labels), Some(question)) = (&said.data, said.zone, &query.question) {
        let ttl = Ttl::from_secs(style.ttl);
        let above = question.qname().label_count().saturating_sub(labels + 1);
        if let Some(zone) = question.qname().iter_suffixes().nth(above) {
            all = builder.push((zone, ttl, start(ttl)?));
        }
    }
    let mut builder = builder.additional();
    builder.header_mut().set_tc(all.is_err());
    builder.set_push_limit(limit);
    opt(query, said.rcode, &mut builder)?;
    Ok(builder.finish().into_target())
}

fn answered(header: &mut Header, query: &Header, said: &Said, style: Style) {
    header.set_id(query.id());
    header.set_qr(true);
    header.set_opcode(query.opcode());
    header.set_rd(query.rd());
    header.set_cd(query.cd());
    header.set_ra(style.recursion);
    header.set_aa(said.zone.is_some());
    header.set_rcode(said.rcode.rcode());
}

fn opt(query: &Query<'_>, rcode: OptRcode, builder: &mut AdditionalBuilder<Target>) -> Result<(), PushError> {
    let Some(edns) = query.edns else { return Ok(()) };
    builder.opt(|opt| {
        opt.set_udp_payload_size(LARGEST_DATAGRAM);
        opt.set_dnssec_ok(edns.dnssec);
        opt.set_rcode(rcode);
        Ok(())
    })
}

/// Start of authority. Nothing is transferred, so only the last number says something: how long to believe that a name
/// is not there.
fn start(ttl: Ttl) -> Result<Soa<Name<&'static [u8]>>, PushError> {
    let name = |octets| Name::from_octets(octets).map_err(|_| PushError::ShortBuf);
    Ok(Soa::new(name(SERVER)?, name(MAILBOX)?, Serial(1), ttl, ttl, ttl, ttl))
}

fn minimal() -> Result<Hinfo<&'static [u8]>, PushError> {
    let text = |octets| CharStr::from_octets(octets).map_err(|_| PushError::ShortBuf);
    Ok(Hinfo::new(text(MINIMAL)?, text(b"")?))
}
