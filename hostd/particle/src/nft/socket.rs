//! The kernel's packet filter, spoken to by netlink: a batch of messages takes effect as a whole, or not at all.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use netlink_packet_netfilter::nftables::NfTablesMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily, none::ControlMessage,
};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use rtnetlink::packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload, Nla, NlasIterator,
};
use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{Socket, SocketAddr};

use super::encode::{self, Step};
use super::table::{Set, Table};

/// Bound on one call. The kernel answers at once, but waits for others who change a filter.
const LIMIT: Duration = Duration::from_secs(30);

/// Bytes of a batch, at most.
const BATCH: usize = 4 << 20;

/// Its port.
const KERNEL: u32 = 0;

/// The subsystem a batch is for (`NFNL_SUBSYS_NFTABLES`).
const NF_TABLES: u16 = 10;

/// A packet filter that cannot be set or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NftError {
    /// There is no socket.
    #[error("Cannot open a socket to the packet filter")]
    Open(#[source] io::Error),
    /// The batch is too large, above all.
    #[error("Cannot send packet filter {table} to the kernel")]
    Send {
        /// Its name.
        table: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused; nothing has changed.
    #[error("Cannot set packet filter {table}: {what}")]
    Refused {
        /// Its name.
        table: String,
        /// The first step it did not take.
        what: String,
        /// Its answer.
        #[source]
        source: io::Error,
    },
    /// The kernel does not answer.
    #[error("No answer about packet filter {table} within {} s", LIMIT.as_secs())]
    Silent {
        /// Its name.
        table: String,
    },
    /// The answer makes no sense.
    #[error("Cannot read an answer about packet filter {table}")]
    Answer {
        /// Its name.
        table: String,
        /// Why not.
        #[source]
        source: DecodeError,
    },
    /// No such counter.
    #[error("Cannot read counter {counter} of packet filter {table}")]
    Counter {
        /// The packet filter.
        table: String,
        /// Name of the counter.
        counter: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// What a counter has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes of their IP packets.
    pub bytes: u64,
}

/// A socket to the packet filter of the namespace it was opened in.
pub struct Nft {
    socket: Socket,
    sequence: u32,
}

impl Nft {
    /// A socket in the calling thread's namespace.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn open() -> Result<Self, NftError> {
        let socket = Socket::new(NETLINK_NETFILTER).map_err(NftError::Open)?;
        let limit = TimeVal::new(i64::try_from(LIMIT.as_secs()).unwrap_or(i64::MAX), 0);
        setsockopt(&socket.as_fd(), sockopt::ReceiveTimeout, &limit)
            .and_then(|()| setsockopt(&socket.as_fd(), sockopt::SndBufForce, &BATCH))
            .map_err(|errno| NftError::Open(errno.into()))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Puts a table in the place of that with its name, if there is one. There is no moment between them.
    ///
    /// # Errors
    /// When the kernel refuses; then all is as before.
    pub fn replace(&mut self, table: &Table) -> Result<(), NftError> {
        // Where there was one, closing the socket waits until the kernel has taken it apart: some milliseconds, which a
        // new namespace need not take.
        match self.apply(table.name, &encode::create(table), NLM_F_EXCL) {
            Err(NftError::Refused { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
                self.apply(table.name, &encode::replace(table), 0)
            }
            done => done,
        }
    }

    /// Puts other keys into sets of a table that is there. Its counters go on.
    ///
    /// # Errors
    /// When the kernel refuses; then all is as before.
    pub fn refill(&mut self, table: &str, sets: &[Set]) -> Result<(), NftError> {
        self.apply(table, &encode::refill(table, sets), 0)
    }

    /// Takes a table away, if there is one.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove(&mut self, table: &str) -> Result<(), NftError> {
        self.apply(table, &encode::remove(table), 0)
    }

    /// What a counter has seen.
    ///
    /// # Errors
    /// When there is none.
    pub fn count(&mut self, table: &str, counter: &str) -> Result<Count, NftError> {
        let ask = NfTablesMessage::GetObject(encode::object(table, counter));
        let sequence = self.next();
        self.send(table, &message(NetfilterProtoFamily::Inet, 0, ask.into(), NLM_F_REQUEST, sequence))?;
        loop {
            for answer in self.receive(table)? {
                match answer.payload {
                    _ if answer.header.sequence_number != sequence => {}
                    NetlinkPayload::Error(error) => {
                        let (table, counter) = (table.to_owned(), counter.to_owned());
                        return Err(NftError::Counter { table, counter, source: error.to_io() });
                    }
                    NetlinkPayload::InnerMessage(NetfilterMessage {
                        inner: NetfilterMessageInner::NfTables(NfTablesMessage::NewObject(attributes)),
                        ..
                    }) => return Ok(read_count(&attributes)),
                    _ => {}
                }
            }
        }
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Has the kernel take all steps or none, the first one with further flags.
    fn apply(&mut self, table: &str, steps: &[Step], first_flags: u16) -> Result<(), NftError> {
        if steps.is_empty() {
            return Ok(());
        }
        let control = |control: ControlMessage, sequence| {
            message(NetfilterProtoFamily::Unspec, NF_TABLES, control.into(), NLM_F_REQUEST, sequence)
        };
        let mut batch = control(ControlMessage::BatchBegin, self.next());
        let first = self.sequence.wrapping_add(1);
        for (number, step) in (1..).zip(steps) {
            let created = if step.creates { NLM_F_CREATE | NLM_F_APPEND } else { 0 };
            // Errors are told of every step; success of the last one only.
            let told = if number == steps.len() { NLM_F_ACK } else { 0 };
            let more = if number == 1 { first_flags } else { 0 };
            let flags = NLM_F_REQUEST | created | told | more;
            let step = step.message.clone().into();
            batch.extend(message(NetfilterProtoFamily::Inet, 0, step, flags, self.next()));
        }
        let last = self.sequence;
        batch.extend(control(ControlMessage::BatchEnd, self.next()));
        self.send(table, &batch)?;
        loop {
            for answer in self.receive(table)? {
                let NetlinkPayload::Error(error) = answer.payload else { continue };
                let sequence = answer.header.sequence_number;
                // The batch is numbered from its beginning to its end. What is said of an earlier one was not waited for.
                let place =
                    usize::try_from(sequence.wrapping_sub(first).wrapping_add(1)).unwrap_or(usize::MAX);
                if place > steps.len() + 1 {
                    continue;
                }
                if error.code.is_some() {
                    let step = place.checked_sub(1).and_then(|step| steps.get(step));
                    let what = step.map_or("begin", |step| &step.what).to_owned();
                    let table = table.to_owned();
                    return Err(NftError::Refused { table, what, source: error.to_io() });
                }
                if sequence == last {
                    return Ok(());
                }
            }
        }
    }

    fn send(&self, table: &str, bytes: &[u8]) -> Result<(), NftError> {
        match self.socket.send_to(bytes, &SocketAddr::new(KERNEL, 0), 0) {
            Ok(_) => Ok(()),
            Err(source) => Err(NftError::Send { table: table.to_owned(), source }),
        }
    }

    fn receive(&self, table: &str) -> Result<Vec<NetlinkMessage<NetfilterMessage>>, NftError> {
        let table = || table.to_owned();
        let bytes = loop {
            match self.socket.recv_from_full() {
                Ok((bytes, sender)) if sender.port_number() == KERNEL => break bytes,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(NftError::Silent { table: table() });
                }
                Err(source) => return Err(NftError::Send { table: table(), source }),
            }
        };
        parse(&bytes).map_err(|source| NftError::Answer { table: table(), source })
    }
}

impl std::fmt::Debug for Nft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nft").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

fn message(
    family: NetfilterProtoFamily,
    resource: u16,
    inner: NetfilterMessageInner,
    flags: u16,
    sequence: u32,
) -> Vec<u8> {
    let mut message =
        NetlinkMessage::from(NetfilterMessage::new(NetfilterHeader::new(family, 0, resource), inner));
    message.header.flags = flags;
    message.header.sequence_number = sequence;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Messages of one datagram.
fn parse(mut bytes: &[u8]) -> Result<Vec<NetlinkMessage<NetfilterMessage>>, DecodeError> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let message = NetlinkMessage::<NetfilterMessage>::deserialize(bytes)?;
        let length = usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
        all.push(message);
        bytes = bytes.get(length..).unwrap_or_default();
    }
    Ok(all)
}

/// `NFTA_OBJ_DATA`, and in it `NFTA_COUNTER_BYTES` and `NFTA_COUNTER_PACKETS`.
fn read_count(attributes: &[impl Nla]) -> Count {
    const DATA: u16 = 4;
    const BYTES: u16 = 1;
    const PACKETS: u16 = 2;
    const TYPE: u16 = 0x3fff;
    let mut count = Count::default();
    for attribute in attributes.iter().filter(|attribute| attribute.kind() & TYPE == DATA) {
        let mut data = vec![0; attribute.value_len()];
        attribute.emit_value(&mut data);
        for inner in NlasIterator::new(&data).flatten() {
            let value = inner.value().try_into().map(u64::from_be_bytes).unwrap_or_default();
            match inner.kind() {
                BYTES => count.bytes = value,
                PACKETS => count.packets = value,
                _ => {}
            }
        }
    }
    count
}
