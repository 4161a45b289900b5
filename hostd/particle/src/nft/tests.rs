//! Tables, asked about packets without a kernel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use proptest::prelude::*;

use super::host::{HostRules, host_table};
use super::networks::{Egress, NEVER, PRIVATE};
use super::overlay;
use super::table::{Chain, Key, Place, Rule, Table, Test, Then, protocol, state};
use super::tenant::{TenantRules, tenant_table};
use crate::overlay::Peer;
use crate::plan::{Node, Plan, Subnet, Tenant};
use crate::uplink::{GROUP_ALL, Links};

/// What a filter sees of a packet.
#[derive(Clone, Debug, Default)]
struct Packet {
    arriving: &'static str,
    leaving: &'static str,
    group: u32,
    protocol: u8,
    state: u32,
    flows: u32,
    addresses: Option<[IpAddr; 2]>,
    /// Behind the IP header.
    transport: Vec<u8>,
}

impl Packet {
    fn new(from: IpAddr, to: IpAddr) -> Self {
        let protocol = protocol::UDP;
        Self { addresses: Some([from, to]), protocol, state: state::NEW, ..Self::default() }.ports(9000, 9000)
    }

    fn by(self, arriving: &'static str, leaving: &'static str) -> Self {
        Self { arriving, leaving, ..self }
    }

    fn ports(self, from: u16, to: u16) -> Self {
        Self { transport: [from.to_be_bytes(), to.to_be_bytes()].concat(), ..self }
    }

    fn header(&self) -> Vec<u8> {
        match self.addresses.unwrap() {
            [IpAddr::V4(from), IpAddr::V4(to)] => [&[0; 12][..], &from.octets(), &to.octets()].concat(),
            [IpAddr::V6(from), IpAddr::V6(to)] => [&[0; 8][..], &from.octets(), &to.octets()].concat(),
            _ => panic!("two families"),
        }
    }

    fn load(&self, key: Key, mask: Option<&[u8]>) -> Option<Vec<u8>> {
        let name = |name: &str| {
            let mut bytes = name.as_bytes().to_vec();
            bytes.resize(16, 0);
            Some(bytes)
        };
        let part = |bytes: &[u8], at: u8, length: u8| {
            bytes.get(usize::from(at)..usize::from(at) + usize::from(length)).map(<[u8]>::to_vec)
        };
        let mut bytes = match key {
            Key::Arriving => name(self.arriving),
            Key::Leaving => name(self.leaving),
            Key::Group => Some(self.group.to_ne_bytes().to_vec()),
            Key::Family => Some(vec![if self.addresses?[0].is_ipv4() { 2 } else { 10 }]),
            Key::Protocol => Some(vec![self.protocol]),
            Key::State => Some(self.state.to_ne_bytes().to_vec()),
            Key::Destination => Some(2u32.to_ne_bytes().to_vec()),
            Key::Network { at, length } => part(&self.header(), at, length),
            Key::Transport { at, length } => part(&self.transport, at, length),
        }?;
        assert_eq!(bytes.len(), key.length());
        for (byte, mask) in bytes.iter_mut().zip(mask.unwrap_or_default()) {
            *byte &= mask;
        }
        Some(bytes)
    }

    fn passes(&self, table: &Table, test: &Test) -> bool {
        match test {
            Test::Is { key, mask, value, not } => {
                assert!(mask.as_ref().is_none_or(|mask| mask.len() == key.length()));
                self.load(*key, mask.as_deref()).is_some_and(|bytes| bytes.starts_with(value) != *not)
            }
            Test::Known { keys, set } => {
                let set = table.sets.iter().find(|known| known.name == *set).unwrap();
                let parts: Option<Vec<_>> =
                    keys.iter().map(|(key, mask)| self.load(*key, mask.as_deref())).collect();
                parts.is_some_and(|parts| {
                    let key = parts.concat();
                    assert_eq!(key.len(), usize::from(set.length));
                    set.keys.contains(&key)
                })
            }
            Test::MoreFlows(limit) => self.flows > *limit,
        }
    }

    /// What the last rule that matched does, in all chains of a place.
    fn at(&self, table: &Table, place: Place) -> Then {
        let mut chains: Vec<_> = table.chains.iter().filter_map(|chain| Some((chain.hook?, chain))).collect();
        chains.retain(|(hook, _)| hook.place == place);
        chains.sort_by_key(|(hook, _)| hook.priority);
        let mut last = Then::Accept;
        for (hook, chain) in chains {
            let otherwise = if hook.drops { Then::Drop } else { Then::Accept };
            match self.decide(table, chain).unwrap_or(otherwise) {
                Then::Accept => {}
                gone @ (Then::Drop | Then::Reject) => return gone,
                other => last = other,
            }
        }
        last
    }

    fn decide(&self, table: &Table, chain: &Chain) -> Option<Then> {
        let matches = |rule: &&Rule| rule.tests.iter().all(|test| self.passes(table, test));
        match chain.rules.iter().find(matches)?.then {
            Then::Goto(name) => {
                self.decide(table, table.chains.iter().find(|chain| chain.name == name).unwrap())
            }
            then => Some(then),
        }
    }
}

fn plan() -> Plan {
    Plan::new("10.64.0.0/10".parse().unwrap(), "fd6d:6f74:6500::/48".parse().unwrap(), 22).unwrap()
}

fn subnet(node: u16, vni: u32) -> Subnet {
    plan().subnet(Node(node), Tenant::new(vni).unwrap()).unwrap()
}

fn tenant(egress: Egress) -> Table {
    let gateway = subnet(3, 7).gateway();
    tenant_table(&TenantRules { plan: plan(), tenant: Tenant::new(7).unwrap(), gateway, egress, flows: 10 })
}

fn host(router: bool) -> Table {
    host_table(&HostRules { plan: plan(), links: Links::default(), router })
}

/// A sandbox of the tenant, of the family of another address.
fn sandbox(node: u16, vni: u32, like: IpAddr) -> IpAddr {
    let addresses = subnet(node, vni).endpoint(9).unwrap();
    if like.is_ipv4() { addresses.v4.into() } else { addresses.v6.into() }
}

fn parse(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Addresses with their network's first bits, and others.
fn address() -> impl Strategy<Value = IpAddr> {
    let nets = [NEVER, PRIVATE].concat();
    let within = (proptest::sample::select(nets), any::<u128>()).prop_map(|(net, bits)| match net {
        IpNet::V4(net) => {
            let host = u32::try_from(bits & u128::from(u32::MAX)).unwrap() & u32::from(net.hostmask());
            Ipv4Addr::from(u32::from(net.network()) | host).into()
        }
        IpNet::V6(net) => {
            Ipv6Addr::from(u128::from(net.network()) | bits & u128::from(net.hostmask())).into()
        }
    });
    prop_oneof![within, any::<Ipv4Addr>().prop_map(IpAddr::from), any::<Ipv6Addr>().prop_map(IpAddr::from)]
}

fn listed(nets: &[IpNet], address: IpAddr) -> bool {
    nets.iter().any(|net| net.contains(&address))
}

fn planned(address: IpAddr) -> bool {
    listed(&[plan().v4().into(), plan().v6().into()], address)
}

fn global(address: IpAddr) -> bool {
    let v6 = address.is_ipv4() || listed(&["2000::/3".parse().unwrap()], address);
    v6 && !listed(NEVER, address) && !listed(PRIVATE, address) && !planned(address)
}

#[test]
fn well_known_addresses_are_where_they_belong() {
    for text in ["1.1.1.1", "8.8.8.8", "52.94.236.248", "2606:4700:4700::1111", "2a00:1450::1"] {
        assert!(global(parse(text)), "{text}");
    }
    for text in [
        "169.254.169.254",
        "fd00:ec2::254",
        "fd20:ce::254",
        "100.100.100.200",
        "168.63.129.16",
        "127.0.0.1",
        "::1",
        "::ffff:169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "fe80::1",
        "255.255.255.255",
        "224.0.0.1",
        "ff02::1",
    ] {
        assert!(listed(NEVER, parse(text)), "{text}");
    }
}

#[test]
fn a_tenant_that_may_not_leave_has_no_rules_for_it() {
    let table = tenant(Egress::None);
    assert!(table.chains.iter().all(|chain| chain.hook.is_none_or(|hook| !hook.nat)));
    let packet = Packet::new(sandbox(3, 7, parse("1.1.1.1")), parse("1.1.1.1")).by("tap0", "up0");
    assert_eq!(packet.at(&table, Place::Forward), Then::Drop);
    // The chains and sets that rules name exist.
    for table in [table, tenant(Egress::All), host(true), host(false)] {
        for rule in table.chains.iter().flat_map(|chain| &chain.rules) {
            if let Then::Goto(name) = rule.then {
                assert!(table.chains.iter().any(|chain| chain.name == name && chain.hook.is_none()));
            }
            assert!(rule.count.is_none_or(|counter| table.counters.contains(&counter)));
        }
    }
}

#[test]
fn what_endpoints_say_to_each_other_and_ask_is_not_tracked() {
    let table = tenant(Egress::All);
    for gateway in [IpAddr::from(subnet(3, 7).gateway().v4), subnet(3, 7).gateway().v6.into()] {
        let [here, there] = [3, 4].map(|node| sandbox(node, 7, gateway));
        let to = |to| Packet::new(here, to).by("tap0", "");
        assert_eq!(to(there).at(&table, Place::Prerouting), Then::Untracked);
        assert_eq!(to(gateway).ports(9000, 53).at(&table, Place::Prerouting), Then::Untracked);
        // An answer to what the gateway asked has to be known as one.
        assert_eq!(to(gateway).ports(53, 9000).at(&table, Place::Prerouting), Then::Accept);
        let answer = Packet::new(gateway, here).ports(53, 9000).by("", "tap0");
        assert_eq!(answer.at(&table, Place::Output), Then::Untracked);
        let world = if gateway.is_ipv4() { parse("1.1.1.1") } else { parse("2606::1") };
        assert_eq!(to(world).at(&table, Place::Prerouting), Then::Accept);
        assert_eq!(to(world).by("tap0", "up0").at(&table, Place::Postrouting), Then::Masquerade);
        assert_eq!(to(there).by("tap0", "tap1").at(&table, Place::Postrouting), Then::Accept);
    }
}

#[test]
fn devices_talk_to_those_they_should() {
    let table = tenant(Egress::All);
    let [here, there] = [3, 4].map(|node| sandbox(node, 7, parse("1.1.1.1")));
    for (arriving, leaving, passes) in [
        ("tap0", "tap3", true),
        ("tap0", "vxlan0", true),
        ("vxlan0", "tap1", true),
        ("vxlan0", "vxlan0", false),
        ("vxlan0", "up0", false),
        ("up0", "tap0", false),
        ("up0", "vxlan0", false),
        ("up0", "up0", false),
        ("tap0", "eth0", false),
        ("eth0", "tap0", false),
        ("tap0", "up0", false),
    ] {
        let packet = Packet::new(here, there).by(arriving, leaving);
        let passed = packet.at(&table, Place::Forward) == Then::Accept;
        assert_eq!(passed, passes, "{arriving} to {leaving}");
    }
    let answer = Packet { state: state::ESTABLISHED, ..Packet::new(parse("1.1.1.1"), here) };
    assert_eq!(answer.by("up0", "tap0").at(&table, Place::Forward), Then::Accept);
    let many = Packet { flows: 11, ..Packet::new(here, parse("1.1.1.1")).by("tap0", "up0") };
    assert_eq!(many.at(&table, Place::Forward), Then::Drop);
}

proptest! {
    #[test]
    fn sandboxes_reach_what_their_policy_says(to in address(), established in any::<bool>()) {
        let state = if established { state::ESTABLISHED } else { state::NEW };
        let packet = Packet { state, ..Packet::new(sandbox(3, 7, to), to).by("tap0", "up0") };
        let passes = |egress| packet.at(&tenant(egress), Place::Forward) == Then::Accept;
        prop_assert_eq!(passes(Egress::Internet), global(to));
        prop_assert_eq!(passes(Egress::All), !listed(NEVER, to) && !planned(to));
        prop_assert!(!passes(Egress::None));
        if let IpAddr::V4(v4) = to {
            let other = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast()
                || v4.is_broadcast() || v4.is_documentation() || v4.is_unspecified();
            prop_assert!(!(other && passes(Egress::Internet)));
        }
    }

    #[test]
    fn the_machine_lets_no_more_through(to in address(), all in any::<bool>(), link in 0u32..32768, router in any::<bool>()) {
        let [_, own] = Links::default().link(link).unwrap();
        let from = if to.is_ipv4() { own.v4.into() } else { own.v6.into() };
        let group = if all { GROUP_ALL } else { 0 };
        let packet = Packet { group, ..Packet::new(from, to).by("mt-000007", "eth0") };
        let table = host(router);
        let expected = if all { !listed(NEVER, to) && !planned(to) } else { global(to) };
        prop_assert_eq!(packet.at(&table, Place::Forward) == Then::Accept, expected);
        prop_assert_eq!(packet.at(&table, Place::Input), Then::Drop);
        prop_assert_eq!(packet.at(&table, Place::Postrouting), Then::Masquerade);
        let sideways = packet.clone().by("mt-000007", "mt-000008");
        prop_assert_eq!(sideways.at(&table, Place::Forward), Then::Drop);
        let forged = Packet { addresses: Some([sandbox(3, 7, to), to]), ..packet.clone() };
        prop_assert_eq!(forged.at(&table, Place::Forward), Then::Drop);
        let others = packet.clone().by("eth0", "eth1");
        prop_assert_eq!(others.at(&table, Place::Forward) == Then::Accept, router);
        prop_assert_eq!(others.at(&table, Place::Input), Then::Accept);
        let inwards = packet.by("eth0", "mt-000007");
        prop_assert_eq!(inwards.at(&table, Place::Forward), Then::Drop);
        let answer = Packet { state: state::ESTABLISHED, ..inwards };
        prop_assert_eq!(answer.at(&table, Place::Forward), Then::Accept);
    }

    #[test]
    fn nothing_but_names_is_open(
        protocol in any::<u8>(), from in any::<u16>(), to in any::<u16>(), v4 in any::<bool>(),
        device in proptest::sample::select(vec!["tap0", "tap3", "vxlan0", "up0", "eth0"]),
    ) {
        let table = tenant(Egress::All);
        let gateway = subnet(3, 7).gateway();
        let gateway: IpAddr = if v4 { gateway.v4.into() } else { gateway.v6.into() };
        let packet = Packet { protocol, ..Packet::new(sandbox(4, 7, gateway), gateway) };
        let packet = packet.ports(from, to).by(device, "");
        let inside = device.starts_with("tap") || device == "vxlan0";
        let kind = from >> 8;
        let icmp = v4 && protocol == protocol::ICMP && [3, 8].contains(&kind)
            || !v4 && protocol == protocol::ICMP6 && [1, 2, 128].contains(&kind);
        let names = [protocol::TCP, protocol::UDP].contains(&protocol) && to == 53;
        prop_assert_eq!(packet.at(&table, Place::Input) == Then::Accept, inside && (icmp || names));
        // Of somebody else, or to another address of the namespace, not even that.
        let stranger = Packet { addresses: Some([parse("1.1.1.1"), parse("10.64.12.1")]), ..packet.clone() };
        prop_assert_eq!(stranger.at(&table, Place::Input), Then::Drop);
        let link = Packet { addresses: Some([sandbox(4, 7, parse("1.1.1.1")), parse("100.126.0.1")]), ..packet };
        prop_assert_eq!(link.at(&table, Place::Input), Then::Drop);
    }

    #[test]
    fn tenants_addresses_of_ipv6_are_told_apart(vni in 1u32..1 << 24, node in 0u16..4096) {
        let like = parse("::1");
        let from = sandbox(node, vni, like);
        let packet = Packet::new(from, sandbox(3, 7, like)).by("vxlan0", "tap0");
        prop_assert_eq!(packet.at(&tenant(Egress::None), Place::Forward) == Then::Accept, vni == 7);
        let packet = Packet::new(sandbox(node, 7, like), sandbox(3, 7, like)).by("vxlan0", "tap0");
        prop_assert_eq!(packet.at(&tenant(Egress::None), Place::Forward), Then::Accept);
    }

    #[test]
    fn machines_speak_for_their_own_sandboxes(
        nodes in proptest::collection::vec(0u16..4, 1..4), outer_v6 in any::<bool>(), sender in 0u16..6,
        node in 0u16..5, vni in 1u32..1 << 24, inner_v4 in any::<bool>(), cut in 0usize..80,
    ) {
        let at = |node: u16| -> IpAddr {
            if outer_v6 { Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 1, node).into() }
            else { Ipv4Addr::new(192, 0, 2, u8::try_from(node).unwrap()).into() }
        };
        let peers: Vec<_> = nodes.iter().map(|node| Peer { node: Node(*node), address: at(*node) }).collect();
        let table = overlay::table(&plan(), &peers).unwrap();
        let inner = sandbox(node, vni, if inner_v4 { parse("1.1.1.1") } else { parse("::1") });
        let (ethertype, header) = match inner {
            IpAddr::V4(inner) => ([8, 0], [&[0; 12][..], &inner.octets(), &[0; 4]].concat()),
            IpAddr::V6(inner) => ([0x86, 0xdd], [&[0; 8][..], &inner.octets(), &[0; 16]].concat()),
        };
        let ports = [9000u16.to_be_bytes(), 4789u16.to_be_bytes()].concat();
        let mut transport = [&ports[..], &[0; 12 + 12], &ethertype, &header].concat();
        let packet = Packet { transport: transport.clone(), ..Packet::new(at(sender), at(100)) };
        let honest = nodes.contains(&sender) && sender == node;
        prop_assert_eq!(packet.at(&table, Place::Input) == Then::Accept, honest);
        prop_assert_eq!(packet.at(&table, Place::Prerouting), Then::Untracked);
        // What is missing cannot be honest.
        transport.truncate(cut.max(4));
        let whole = 46;
        let cut = Packet { transport, ..packet };
        prop_assert!(cut.at(&table, Place::Input) != Then::Accept || honest && cut.transport.len() >= whole);
    }
}
