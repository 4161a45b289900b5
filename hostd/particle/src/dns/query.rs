//! A query as it came: what can be read of it, and what is wrong with it.

use domain::base::iana::{Class, Opcode, OptRcode, Rtype};
use domain::base::name::ToLabelIter;
use domain::base::opt::Opt;
use domain::base::{Header, Message, ParsedName, Question};

use super::limits::{LARGEST_DATAGRAM, SMALLEST_DATAGRAM};

/// Bytes of a header.
const HEADER: usize = 12;

/// The only version of EDNS there is.
const EDNS_VERSION: u8 = 0;

/// A name in a query.
pub(super) type QueryName<'a> = ParsedName<&'a [u8]>;

/// What the asker said about itself (RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edns {
    /// Bytes of a datagram it takes.
    pub size: u16,
    /// Whether it wants signatures.
    pub dnssec: bool,
}

/// A query that is to be answered in some way.
#[derive(Debug)]
pub(super) struct Query<'a> {
    pub header: Header,
    /// The one question, if it can be read.
    pub question: Option<Question<QueryName<'a>>>,
    pub edns: Option<Edns>,
}

impl<'a> Query<'a> {
    /// Reads a query; with what is to be said if it cannot be answered. None where nothing may be said: for a
    /// fragment, and for an answer.
    pub fn read(bytes: &'a [u8], limit: u16) -> Option<(Self, Option<OptRcode>)> {
        let message = Message::from_octets(bytes).ok()?;
        let header = message.header();
        if header.qr() {
            return None;
        }
        let mut query = Self { header, question: None, edns: None };
        let problem = if bytes.len() > usize::from(limit) {
            Some(OptRcode::FORMERR)
        } else if header.opcode() != Opcode::QUERY {
            Some(OptRcode::NOTIMP)
        } else {
            query.sections(&message).err()
        };
        Some((query, problem))
    }

    fn sections(&mut self, message: &Message<&'a [u8]>) -> Result<(), OptRcode> {
        let malformed = |_| OptRcode::FORMERR;
        let counts = message.header_counts();
        if counts.qdcount() != 1 || counts.ancount() != 0 || counts.nscount() != 0 {
            return Err(OptRcode::FORMERR);
        }
        let mut questions = message.question();
        let question = questions.next().ok_or(OptRcode::FORMERR)?.map_err(malformed)?;
        // A name that refers to other bytes of the message could only refer to its header.
        let length = usize::from(question.qname().compose_len()) + 4;
        if questions.pos() != HEADER + length {
            return Err(OptRcode::FORMERR);
        }
        self.question = Some(question);
        let mut version = None;
        for record in message.additional().map_err(malformed)? {
            let record = record.map_err(malformed)?;
            if record.rtype() != Rtype::OPT {
                continue;
            }
            let root = record.owner().is_root();
            let record = record.into_record::<Opt<_>>().map_err(malformed)?.ok_or(OptRcode::FORMERR)?;
            let record = domain::base::opt::OptRecord::from(record);
            if !root || version.replace(record.version()).is_some() {
                self.edns = None;
                return Err(OptRcode::FORMERR);
            }
            self.edns = Some(Edns { size: record.udp_payload_size(), dnssec: record.dnssec_ok() });
        }
        match version {
            None | Some(EDNS_VERSION) => Ok(()),
            Some(_) => Err(OptRcode::BADVERS),
        }?;
        let question = self.question.as_ref().ok_or(OptRcode::FORMERR)?;
        match (question.qclass(), question.qtype()) {
            (_, Rtype::OPT) => Err(OptRcode::FORMERR),
            (_, Rtype::AXFR | Rtype::IXFR | Rtype::MAILA | Rtype::MAILB) => Err(OptRcode::REFUSED),
            (Class::IN, _) => Ok(()),
            _ => Err(OptRcode::REFUSED),
        }
    }

    /// Bytes of a datagram the asker takes, between what everybody takes and `most`.
    pub fn datagram(&self, most: u16) -> u16 {
        let most = most.clamp(SMALLEST_DATAGRAM, LARGEST_DATAGRAM);
        self.edns.map_or(SMALLEST_DATAGRAM, |edns| edns.size.clamp(SMALLEST_DATAGRAM, most))
    }
}
