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
    fn bytes(self) -> Vec<u8> {
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

// Where the headers have their addresses.
const V4_SOURCE: Key = Key::Network { at: 12, length: 4 };
const V4_DESTINATION: Key = Key::Network { at: 16, length: 4 };
const V6_SOURCE: Key = Key::Network { at: 8, length: 16 };
const V6_DESTINATION: Key = Key::Network { at: 24, length: 16 };

// `NFPROTO_IPV4`, `NFPROTO_IPV6`.
const V4: u8 = 2;
const V6: u8 = 10;

/// A rule in the making.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct When {
    tests: Vec<Test>,
    count: Option<&'static str>,
}

/// A rule for every packet, unless something is added.
pub fn when() -> When {
    When::default()
}

impl When {
    fn is(self, key: Key, value: impl Into<Vec<u8>>) -> Self {
        self.test(Test::Is { key, mask: None, value: value.into(), not: false })
    }

    /// And passes this test.
    #[must_use]
    pub fn test(mut self, test: Test) -> Self {
        if !self.tests.contains(&test) {
            self.tests.push(test);
        }
        self
    }

    /// And came by this device.
    #[must_use]
    pub fn arriving(self, device: Device) -> Self {
        self.is(Key::Arriving, device.bytes())
    }

    /// And leaves by this device.
    #[must_use]
    pub fn leaving(self, device: Device) -> Self {
        self.is(Key::Leaving, device.bytes())
    }

    /// And leaves by another device.
    #[must_use]
    pub fn not_leaving(self, device: Device) -> Self {
        self.test(Test::Is { key: Key::Leaving, mask: None, value: device.bytes(), not: true })
    }

    /// And came by a device of this group.
    #[must_use]
    pub fn group(self, group: u32) -> Self {
        self.is(Key::Group, group.to_ne_bytes())
    }

    /// And is IPv4.
    #[must_use]
    pub fn v4(self) -> Self {
        self.is(Key::Family, [V4])
    }

    /// And is IPv6.
    #[must_use]
    pub fn v6(self) -> Self {
        self.is(Key::Family, [V6])
    }

    fn net(self, net: Net, [v4, v6]: [Key; 2], not: bool) -> Self {
        match net {
            Net::V4 { value, mask } => self.v4().masked(v4, &mask.octets(), &value.octets(), not),
            Net::V6 { value, mask } => self.v6().masked(v6, &mask.octets(), &value.octets(), not),
        }
    }

    fn masked(self, key: Key, mask: &[u8], value: &[u8], not: bool) -> Self {
        let whole = mask.iter().all(|byte| *byte == 0xff);
        let mask = (!whole).then(|| mask.to_vec());
        self.test(Test::Is { key, mask, value: value.to_vec(), not })
    }

    /// And comes from there.
    #[must_use]
    pub fn from(self, net: impl Into<Net>) -> Self {
        self.net(net.into(), [V4_SOURCE, V6_SOURCE], false)
    }

    /// And is of that Internet protocol, but comes from elsewhere.
    #[must_use]
    pub fn not_from(self, net: impl Into<Net>) -> Self {
        self.net(net.into(), [V4_SOURCE, V6_SOURCE], true)
    }

    /// And goes there.
    #[must_use]
    pub fn to(self, net: impl Into<Net>) -> Self {
        self.net(net.into(), [V4_DESTINATION, V6_DESTINATION], false)
    }

    /// And is of that Internet protocol, but goes elsewhere.
    #[must_use]
    pub fn not_to(self, net: impl Into<Net>) -> Self {
        self.net(net.into(), [V4_DESTINATION, V6_DESTINATION], true)
    }

    /// And holds this protocol.
    #[must_use]
    pub fn protocol(self, protocol: u8) -> Self {
        self.is(Key::Protocol, [protocol])
    }

    /// And comes from this port.
    #[must_use]
    pub fn port_from(self, port: u16) -> Self {
        self.is(Key::Transport { at: 0, length: 2 }, port.to_be_bytes())
    }

    /// And goes to this port.
    #[must_use]
    pub fn port_to(self, port: u16) -> Self {
        self.is(Key::Transport { at: 2, length: 2 }, port.to_be_bytes())
    }

    /// And is an ICMP message of this kind.
    #[must_use]
    pub fn icmp(self, protocol: u8, kind: u8) -> Self {
        self.protocol(protocol).is(Key::Transport { at: 0, length: 1 }, [kind])
    }

    /// And is in one of these states.
    #[must_use]
    pub fn state(self, states: u32) -> Self {
        let mask = Some(states.to_ne_bytes().to_vec());
        self.test(Test::Is { key: Key::State, mask, value: vec![0; 4], not: true })
    }

    /// And goes to an address of this namespace.
    #[must_use]
    pub fn for_this_machine(self) -> Self {
        self.is(Key::Destination, u32::from(libc::RTN_LOCAL).to_ne_bytes())
    }

    /// And its source is in a set of addresses.
    #[must_use]
    pub fn known_source(self, family: Family, set: &'static str) -> Self {
        let keys = vec![(family.source(), None)];
        self.test(Test::Known { keys, set })
    }

    /// And is one flow too many.
    #[must_use]
    pub fn more_flows(self, than: u32) -> Self {
        self.test(Test::MoreFlows(than))
    }

    /// Then it is counted.
    #[must_use]
    pub fn count(mut self, counter: &'static str) -> Self {
        self.count = Some(counter);
        self
    }

    /// The rule.
    pub fn then(self, then: Then) -> Rule {
        Rule { tests: self.tests, count: self.count, then }
    }
}

/// An Internet protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Where its header has the source.
    pub fn source(self) -> Key {
        match self {
            Self::V4 => V4_SOURCE,
            Self::V6 => V6_SOURCE,
        }
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
