//! A small server, for tests: it answers whatever it is asked, as it is told to.

use std::net::Ipv6Addr;

use dhcproto::v6::{
    DhcpOption, DhcpOptions, IAAddr, IANA, Message, MessageType, OptionCode, Status, StatusCode,
};
use dhcproto::{Decodable, Encodable};

/// What it grants and how it says so.
#[derive(Debug, Clone)]
pub struct Server {
    pub duid: Vec<u8>,
    pub addresses: Vec<(Ipv6Addr, u32, u32)>,
    pub t1: u32,
    pub t2: u32,
    pub rapid: bool,
    pub preference: u8,
    pub dns: Vec<Ipv6Addr>,
    /// Of the message, of the association.
    pub status: (Status, Status),
    /// In place of what was asked.
    pub client: Option<Vec<u8>>,
    pub transaction: Option<[u8; 3]>,
    /// Code and bytes of options besides.
    pub more: Vec<(u16, Vec<u8>)>,
}

impl Server {
    /// One that grants an address for an hour.
    pub fn new(last: u16) -> Self {
        let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last);
        Self {
            duid: vec![0, 3, 0, 1, 2, 0, 0, 0, 0, 1],
            addresses: vec![(address, 1800, 3600)],
            t1: 900,
            t2: 1440,
            rapid: false,
            preference: 0,
            dns: vec![Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x53)],
            status: (Status::Success, Status::Success),
            client: None,
            transaction: None,
            more: Vec::new(),
        }
    }

    /// The answer; none for a message to another server.
    pub fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        let question = Message::from_bytes(question).unwrap();
        let asked = |code| question.opts().iter().find(|option| OptionCode::from(*option) == code);
        if let Some(DhcpOption::ServerId(duid)) = asked(OptionCode::ServerId)
            && *duid != self.duid
        {
            return None;
        }
        let kind = question.msg_type();
        let rapid = self.rapid && asked(OptionCode::RapidCommit).is_some();
        let answer = match kind {
            MessageType::Solicit if !rapid => MessageType::Advertise,
            _ => MessageType::Reply,
        };
        let mut message = Message::new_with_id(answer, self.transaction.unwrap_or(question.xid()));
        let options = message.opts_mut();
        let client = match asked(OptionCode::ClientId)? {
            DhcpOption::ClientId(duid) => duid.clone(),
            _ => return None,
        };
        options.insert(DhcpOption::ClientId(self.client.clone().unwrap_or(client)));
        options.insert(DhcpOption::ServerId(self.duid.clone()));
        if let Some(DhcpOption::IANA(wanted)) = asked(OptionCode::IANA) {
            let status = self.status.1;
            let mut inner: DhcpOptions = self
                .addresses
                .iter()
                .map(|(addr, preferred_life, valid_life)| {
                    let (addr, preferred_life, valid_life) = (*addr, *preferred_life, *valid_life);
                    DhcpOption::IAAddr(IAAddr { addr, preferred_life, valid_life, opts: DhcpOptions::new() })
                })
                .collect();
            inner.insert(DhcpOption::StatusCode(StatusCode { status, msg: "said".to_owned() }));
            options.insert(DhcpOption::IANA(IANA { id: wanted.id, t1: self.t1, t2: self.t2, opts: inner }));
        }
        if self.preference > 0 {
            options.insert(DhcpOption::Preference(self.preference));
        }
        if self.status.0 != Status::Success {
            options.insert(DhcpOption::StatusCode(StatusCode { status: self.status.0, msg: String::new() }));
        }
        if rapid {
            options.insert(DhcpOption::RapidCommit);
        }
        if !self.dns.is_empty() {
            options.insert(DhcpOption::DomainNameServers(self.dns.clone()));
        }
        let mut bytes = message.to_vec().unwrap();
        for (code, value) in &self.more {
            bytes.extend(code.to_be_bytes());
            bytes.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
            bytes.extend(value);
        }
        Some(bytes)
    }
}

/// What kind of message was sent.
pub fn kind(message: &[u8]) -> MessageType {
    Message::from_bytes(message).unwrap().msg_type()
}
