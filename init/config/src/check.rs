//! What single values cannot tell: whether they make sense together. Each was checked by itself before.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::machine::Interface;
use crate::mistake::Fault;
use crate::place::At;
use crate::schema::Entries;

/// Endpoints of a subnet that no sandbox gets: its own address and the gateway.
pub const RESERVED: u32 = 2;

/// Prefix of the IPv6 network at its smallest.
pub const V6_SMALLEST: u8 = 48;

/// Bytes VXLAN puts around a packet, at most.
pub const OVERHEAD: u16 = 14 + 40 + 8 + 8;

/// Least packet that IPv6 goes with.
pub const LEAST_MTU: u16 = 1280;

/// Ranges that mean something else to every machine, or to the cloud it is in.
const TAKEN: &[(&str, &str)] = &[
    ("0.0.0.0/8", "this host"),
    ("127.0.0.0/8", "loopback addresses"),
    ("169.254.0.0/16", "link-local addresses, a cloud's metadata among them"),
    ("224.0.0.0/3", "multicast and reserved addresses"),
    ("::/96", "loopback and unspecified addresses"),
    ("::ffff:0:0/96", "IPv4 addresses"),
    ("fe80::/10", "link-local addresses"),
    ("fd00:ec2::/32", "a cloud's metadata"),
    ("ff00::/8", "multicast addresses"),
];

/// All checks.
pub fn all(entries: &Entries) -> Vec<Fault> {
    let mut faults = Vec::new();
    interfaces(entries, &mut faults);
    ranges(entries, &mut faults);
    peers(entries, &mut faults);
    tenants(entries, &mut faults);
    update_keys(entries, &mut faults);
    faults
}

/// A value in a form of one's own; none while a layer that would set it is missing.
fn get<T: DeserializeOwned>(entries: &Entries, path: &str) -> Option<T> {
    entries.get(path)?.clone().try_into().ok()
}

fn field(path: &str, index: usize, name: &str) -> Vec<At> {
    let mut at = At::path(path);
    at.extend([At::Index(index), At::Key(name.to_owned())]);
    at
}

fn interfaces(entries: &Entries, faults: &mut Vec<Fault>) {
    const PATH: &str = "machine.interfaces";
    let interfaces: Vec<Interface> = get(entries, PATH).unwrap_or_default();
    let (mut names, mut addresses, mut gateways) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (index, interface) in interfaces.iter().enumerate() {
        let name = interface.name.as_ref().map(|name| name.to_ascii_lowercase());
        if let Some(other) = names.insert(name, index) {
            let said = format!("{PATH}[{other}] is about the same interface");
            faults.push(
                Fault::at(&field(PATH, index, "name"), said).way_out("make one entry of them".to_owned()),
            );
        }
        let has_v4 = interface.addresses.iter().any(|net| net.addr().is_ipv4());
        let has_v6 = interface.addresses.iter().any(|net| net.addr().is_ipv6());
        if interface.addresses.is_empty() && !interface.dhcp && interface.dhcp6 != Some(true) {
            let fault =
                Fault::at(&[At::path(PATH), vec![At::Index(index)]].concat(), "has no address".to_owned());
            faults.push(fault.way_out("give addresses = [\"192.0.2.7/24\"], or dhcp = true".to_owned()));
        }
        if has_v4 && interface.dhcp {
            let fault =
                Fault::at(&field(PATH, index, "dhcp"), "is on, but there is an IPv4 address".to_owned());
            faults.push(fault.way_out("leave out one of them".to_owned()));
        }
        if has_v6 && interface.dhcp6 == Some(true) {
            let fault =
                Fault::at(&field(PATH, index, "dhcp6"), "is on, but there is an IPv6 address".to_owned());
            faults.push(fault.way_out("leave out one of them".to_owned()));
        }
        if has_v6 && interface.mtu.is_some_and(|mtu| mtu < LEAST_MTU) {
            let said = format!("is too small for IPv6, which needs {LEAST_MTU}");
            faults.push(Fault::at(&field(PATH, index, "mtu"), said));
        }
        for (place, net) in interface.addresses.iter().enumerate() {
            if let Some(other) = addresses.insert(net.addr(), index) {
                let at = At::join(&field(PATH, index, "addresses"), At::Index(place));
                faults.push(Fault::at(&at, format!("{} is in {PATH}[{other}] already", net.addr())));
            }
        }
        for (place, gateway) in interface.gateways.iter().enumerate() {
            let at = At::join(&field(PATH, index, "gateways"), At::Index(place));
            if !(if gateway.is_ipv4() { has_v4 } else { has_v6 }) {
                let said = format!("{gateway} is a way out for no address of this interface");
                faults.push(Fault::at(&at, said).way_out("give an address of the same protocol".to_owned()));
            }
            if interface.addresses.iter().any(|net| net.addr() == *gateway) {
                faults.push(Fault::at(&at, format!("{gateway} is the machine's own address")));
            }
            if let Some(other) = gateways.insert((index, gateway.is_ipv4()), gateway) {
                faults.push(Fault::at(&at, format!("{other} is a way out of the same protocol already")));
            }
        }
    }
}

/// The range of [`TAKEN`] that overlaps a network, and what it is for.
fn taken(network: IpNet) -> Option<(IpNet, &'static str)> {
    TAKEN.iter().find_map(|(range, what)| {
        let range: IpNet = range.parse().ok()?;
        (range.contains(&network.addr()) || network.contains(&range.addr())).then_some((range, *what))
    })
}

fn ranges(entries: &Entries, faults: &mut Vec<Fault>) {
    let mut wrong = |path: &str, said: String, way_out: &str| {
        faults.push(Fault::at(&At::path(path), said).way_out(way_out.to_owned()));
    };
    let v4: Option<Ipv4Net> = get(entries, "network.v4");
    let v6: Option<Ipv6Net> = get(entries, "network.v6");
    for (path, network) in [("network.v4", v4.map(IpNet::V4)), ("network.v6", v6.map(IpNet::V6))] {
        if let Some((network, (range, what))) = network.and_then(|network| Some((network, taken(network)?))) {
            let said = format!("{network} overlaps {range}, which are {what}");
            wrong(path, said, "choose a private range that is used nowhere else");
        }
    }
    if let Some(v6) = v6.filter(|v6| v6.prefix_len() > V6_SMALLEST) {
        let said = format!("{v6} is too small: a prefix of {V6_SMALLEST} bits or less is needed");
        wrong("network.v6", said, "");
    }
    let (Some(v4), Some(prefix)) = (v4, get::<u8>(entries, "network.node_prefix")) else { return };
    let Some(bits) = prefix.checked_sub(v4.prefix_len()) else {
        let said = format!("{v4} has no room for subnets of {prefix} bits (network.node_prefix)");
        wrong("network.v4", said, "choose a larger one");
        return;
    };
    let machines = 1_u64 << bits.min(32);
    let room = |node: u16| u64::from(node) < machines;
    let told = |node| format!("Machine {node} has no subnet: {v4} has room for {machines} of {prefix} bits");
    if let Some(node) = get::<u16>(entries, "network.node").filter(|node| !room(*node)) {
        wrong("network.node", told(node), "number machines from 0, or choose a larger network.v4");
    }
    let peers: Vec<Peer> = get(entries, "network.peers").unwrap_or_default();
    for (index, peer) in peers.iter().enumerate().filter(|(_, peer)| !room(peer.node)) {
        faults.push(Fault::at(&field("network.peers", index, "node"), told(peer.node)));
    }
    let subnet = 1_u32.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(u32::MAX);
    let places = subnet.saturating_sub(RESERVED);
    if let Some(endpoints) = get::<u32>(entries, "network.endpoints").filter(|endpoints| *endpoints > places)
    {
        let said = format!("{endpoints} is not within 1 and {places}, the addresses of a machine");
        faults.push(Fault::at(&At::path("network.endpoints"), said));
    }
}

/// One of `network.peers`.
#[derive(Debug, Deserialize)]
struct Peer {
    node: u16,
    address: IpAddr,
}

fn peers(entries: &Entries, faults: &mut Vec<Fault>) {
    const PATH: &str = "network.peers";
    let peers: Vec<Peer> = get(entries, PATH).unwrap_or_default();
    let own: Vec<IpNet> =
        ["network.v4", "network.v6"].into_iter().filter_map(|path| get(entries, path)).collect();
    let here = get::<u16>(entries, "network.node");
    let (mut nodes, mut addresses) = (BTreeMap::new(), BTreeSet::new());
    for (index, peer) in peers.iter().enumerate() {
        let mut wrong = |name, said: String| faults.push(Fault::at(&field(PATH, index, name), said));
        if Some(peer.node) == here {
            wrong("node", format!("{} is this machine's own number: their ranges overlap", peer.node));
        }
        if let Some(other) = nodes.insert(peer.node, index) {
            wrong("node", format!("{} is peers[{other}] already: their ranges overlap", peer.node));
        }
        if peers.first().is_some_and(|first| first.address.is_ipv4() != peer.address.is_ipv4()) {
            wrong("address", format!("{} is not of the same protocol as peers[0]", peer.address));
        }
        if !addresses.insert(peer.address) {
            wrong("address", format!("{} is another peer's already", peer.address));
        }
        if let Some(network) = own.iter().find(|network| network.contains(&peer.address)) {
            wrong("address", format!("{} is in the sandboxes' range {network}", peer.address));
        }
    }
    let least = LEAST_MTU + OVERHEAD;
    if let Some(mtu) = get::<u16>(entries, "network.mtu").filter(|mtu| !peers.is_empty() && *mtu < least) {
        let said = format!("{mtu} is too small for VXLAN: with peers, {least} bytes are needed");
        faults.push(Fault::at(&At::path("network.mtu"), said));
    }
}

/// One of `network.tenants`.
#[derive(Debug, Deserialize)]
struct Tenant {
    name: String,
    vni: u32,
}

fn tenants(entries: &Entries, faults: &mut Vec<Fault>) {
    const PATH: &str = "network.tenants";
    let tenants: Vec<Tenant> = get(entries, PATH).unwrap_or_default();
    let (mut names, mut numbers) = (BTreeMap::new(), BTreeMap::new());
    for (index, tenant) in tenants.iter().enumerate() {
        if let Some(other) = numbers.insert(tenant.vni, index) {
            let said = format!("{} is tenants[{other}] already: their networks overlap", tenant.vni);
            faults.push(
                Fault::at(&field(PATH, index, "vni"), said).way_out("give it a number of its own".to_owned()),
            );
        }
        if let Some(other) = names.insert(tenant.name.clone(), index) {
            let said = format!("'{}' is there twice: tenants[{other}] has that name", tenant.name);
            faults.push(
                Fault::at(&field(PATH, index, "name"), said).way_out("make one entry of them".to_owned()),
            );
        }
    }
}

fn update_keys(entries: &Entries, faults: &mut Vec<Fault>) {
    let keys: Vec<String> = get(entries, "update.keys").unwrap_or_default();
    let mut known = BTreeSet::new();
    for (index, key) in keys.iter().enumerate().filter(|(_, key)| !known.insert(key.to_ascii_lowercase())) {
        let at = At::join(&At::path("update.keys"), At::Index(index));
        faults.push(Fault::at(&at, format!("{key} is there twice")));
    }
}
