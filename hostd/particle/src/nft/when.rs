//! Rules, said in words.

use super::table::{Device, Key, Net, Rule, Test, Then};

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
