//! Tables as data: what a packet filter consists of, before anybody tells the kernel.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Protocols by their assigned numbers.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMPv6.
    pub const ICMP6: u8 = 58;
}

/// What connection tracking says of a packet, to be combined.
pub mod state {
    /// It belongs to nothing that is known, and cannot begin anything.
    pub const INVALID: u32 = 1;
    /// Both sides have spoken.
    pub const ESTABLISHED: u32 = 1 << 1;
    /// It tells of something that is known: an ICMP error.
    pub const RELATED: u32 = 1 << 2;
    /// It begins something.
    pub const NEW: u32 = 1 << 3;
}

/// A table of the family `inet`: IPv4 and IPv6 alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name in its namespace.
    pub name: &'static str,
    /// Names of its counters.
    pub counters: Vec<&'static str>,
    /// Sets its rules look into.
    pub sets: Vec<Set>,
    /// Chains, in any order.
    pub chains: Vec<Chain>,
}

/// A set of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name in the table.
    pub name: &'static str,
    /// Bytes of a key.
    pub length: u8,
    /// The keys.
    pub keys: Vec<Vec<u8>>,
}

/// Rules, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name in the table.
    pub name: &'static str,
    /// Where packets come in; none where other chains send them.
    pub hook: Option<Hook>,
    /// Rules, first match first.
    pub rules: Vec<Rule>,
}

/// Where a chain meets packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Place on a packet's way.
    pub place: Place,
    /// Order among the chains of one place.
    pub priority: i32,
    /// Whether it may rewrite addresses.
    pub nat: bool,
    /// Whether a packet no rule decides on is dropped.
    pub drops: bool,
}

/// A place on a packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It came in.
    Prerouting,
    /// It is for this namespace.
    Input,
    /// It is passed on.
    Forward,
    /// It was made in this namespace.
    Output,
    /// It goes out.
    Postrouting,
}

/// Before connection tracking.
pub const RAW: i32 = -300;

/// Where filters are.
pub const FILTER: i32 = 0;

/// Where sources are rewritten.
pub const SOURCE_NAT: i32 = 100;

/// What to do with packets that pass all tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Tests.
    pub tests: Vec<Test>,
    /// Counter of those that pass.
    pub count: Option<&'static str>,
    /// What is done with them.
    pub then: Then,
}

/// What is done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It goes on.
    Accept,
    /// It is gone.
    Drop,
    /// It is gone, and its sender is told.
    Reject,
    /// Another chain decides.
    Goto(&'static str),
    /// It goes on, unseen by connection tracking.
    Untracked,
    /// It goes on with an address of the device it leaves by.
    Masquerade,
}

/// Something of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// Name of the device it came by.
    Arriving,
    /// Name of the device it leaves by.
    Leaving,
    /// Group of the device it came by.
    Group,
    /// Internet protocol.
    Family,
    /// Protocol inside it.
    Protocol,
    /// What connection tracking says.
    State,
    /// What kind of address it goes to, by the routes.
    Destination,
    /// Bytes from the start of its IP header.
    Network {
        /// The first one.
        at: u8,
        /// How many.
        length: u8,
    },
    /// Bytes from the start of what is behind its IP header.
    Transport {
        /// The first one.
        at: u8,
        /// How many.
        length: u8,
    },
}

/// A test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// The key, masked, begins with the value.
    Is {
        /// What is looked at.
        key: Key,
        /// Which bits of it; none for all.
        mask: Option<Vec<u8>>,
        /// What they have to be.
        value: Vec<u8>,
        /// Whether the test passes where they are not.
        not: bool,
    },
    /// The keys, one after the other, are in a set.
    Known {
        /// What is looked at, with masks.
        keys: Vec<(Key, Option<Vec<u8>>)>,
        /// Name of the set.
        set: &'static str,
    },
    /// With this one more flows are tracked than that.
    MoreFlows(u32),
}

/// A device, or several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// Of this name.
    Named(&'static str),
    /// Of a name that begins so.
    Like(&'static str),
}

impl Device {
    /// As it is compared: with the byte that ends it, or without.
    pub(super) fn bytes(self) -> Vec<u8> {
        match self {
            Self::Like(name) => name.as_bytes().to_vec(),
            Self::Named(name) => {
                let mut bytes = name.as_bytes().to_vec();
                bytes.resize(libc::IFNAMSIZ, 0);
                bytes
            }
        }
    }
}

/// Addresses: those whose bits under the mask are the value's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Net {
    /// IPv4.
    V4 {
        /// The value.
        value: Ipv4Addr,
        /// The mask.
        mask: Ipv4Addr,
    },
    /// IPv6.
    V6 {
        /// The value.
        value: Ipv6Addr,
        /// The mask.
        mask: Ipv6Addr,
    },
}

impl From<Ipv4Net> for Net {
    fn from(net: Ipv4Net) -> Self {
        Self::V4 { value: net.network(), mask: net.netmask() }
    }
}

impl From<Ipv6Net> for Net {
    fn from(net: Ipv6Net) -> Self {
        Self::V6 { value: net.network(), mask: net.netmask() }
    }
}

impl From<IpNet> for Net {
    fn from(net: IpNet) -> Self {
        match net {
            IpNet::V4(net) => net.into(),
            IpNet::V6(net) => net.into(),
        }
    }
}

impl From<Ipv4Addr> for Net {
    fn from(address: Ipv4Addr) -> Self {
        Ipv4Net::from(address).into()
    }
}

impl From<Ipv6Addr> for Net {
    fn from(address: Ipv6Addr) -> Self {
        Ipv6Net::from(address).into()
    }
}

impl Chain {
    /// A chain other chains send packets to.
    pub fn plain(name: &'static str, rules: Vec<Rule>) -> Self {
        Self { name, hook: None, rules }
    }

    /// A chain packets come to, which lets through what no rule decides on.
    pub fn at(name: &'static str, place: Place, priority: i32, rules: Vec<Rule>) -> Self {
        Self { name, hook: Some(Hook { place, priority, nat: false, drops: false }), rules }
    }

    /// A filter that lets nothing through but what a rule accepts.
    pub fn closed(name: &'static str, place: Place, rules: Vec<Rule>) -> Self {
        Self { name, hook: Some(Hook { place, priority: FILTER, nat: false, drops: true }), rules }
    }

    /// A chain that rewrites sources.
    pub fn source_nat(name: &'static str, rules: Vec<Rule>) -> Self {
        let hook = Hook { place: Place::Postrouting, priority: SOURCE_NAT, nat: true, drops: false };
        Self { name, hook: Some(hook), rules }
    }
}
