//! `[network]`: what tenants there are, what addresses, what other machines. What is wrong with it is said with its
//! line; the machine then serves functions without a network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use mote_particle::dns;
use mote_particle::nft::Egress;
use mote_particle::plan::RESERVED;
use mote_particle::{Ebpf, Node, Plan, Shape, Tenant, overlay};
use mote_sched::TenantSpec;
use mote_sched::config::MIB;
use serde::Deserialize;

use super::lines::{At, line_of};
use crate::pool::TenantShape;

/// Most tenants of a machine: each has a namespace and as many descriptors as endpoints.
const MAX_TENANTS: usize = 256;

/// Most other machines: each is a route, a neighbour and a forwarding entry of every tenant.
const MAX_PEERS: usize = 1024;

/// Most networks made in advance.
const MAX_BLANKS: usize = 16;

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

/// `[network]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    v4: Ipv4Net,
    v6: Ipv6Net,
    node_prefix: u8,
    node: u16,
    endpoints: u16,
    quarantine_s: u64,
    blanks: usize,
    mtu: u16,
    packets_per_s: u32,
    bytes_per_s: u64,
    peers: Vec<Peer>,
    resolvers: Vec<IpAddr>,
    tenants: Vec<TenantConfig>,
}

/// One of `network.peers`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Peer {
    node: u16,
    address: IpAddr,
}

/// One of `network.tenants`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantConfig {
    /// Its name: a label of its sandboxes' names.
    pub name: String,
    /// Its number, the same on every machine.
    pub vni: u32,
    /// Where its sandboxes may go.
    #[serde(default)]
    pub egress: Egress,
    /// Sandboxes it may have at once on this machine; as many as there are endpoints if not given.
    pub max_sandboxes: Option<u16>,
    /// Its share of the memory when that is short, in relation to the others'; 1 if not given.
    weight: Option<u32>,
    /// Memory of its sandboxes that have a call, MiB; no limit if not given.
    max_memory_mb: Option<u64>,
    /// Its calls that wait at once; no limit of its own if not given.
    max_queue: Option<u32>,
}

/// Packets and bytes a second, each way, of one sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Packets; `None`: any number.
    pub packets: Option<u32>,
    /// Bytes.
    pub bytes: Option<u64>,
}

/// What the section means, once nothing is wrong with it.
#[derive(Debug, Clone)]
pub struct Layout {
    /// All addresses.
    pub plan: Plan,
    /// This machine.
    pub node: Node,
    /// Of every tenant's network.
    pub shape: Shape,
    /// Networks kept ready for tenants that come.
    pub blanks: usize,
    /// Other machines.
    pub peers: Vec<overlay::Peer>,
    /// Largest packet between machines, bytes.
    pub mtu: u16,
    /// Who is asked for names of other domains, for tenants that may go out.
    pub resolvers: Vec<SocketAddr>,
    /// Bound on every sandbox.
    pub rates: Rates,
    /// By name.
    pub tenants: BTreeMap<String, (Tenant, TenantConfig)>,
}

/// Something wrong: where, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mistake {
    at: Vec<At>,
    said: String,
}

impl Network {
    /// Tenants' shares and limits. Of a section that something is wrong with, what can be made of it.
    pub fn shares(&self) -> Vec<TenantShape> {
        let share = |tenant: &TenantConfig| {
            let quota = tenant.max_sandboxes.unwrap_or(u16::MAX);
            let any = TenantSpec::default();
            TenantShape {
                name: tenant.name.clone(),
                spec: TenantSpec {
                    weight: tenant.weight.unwrap_or(any.weight),
                    max_concurrency: quota.min(self.endpoints).into(),
                    max_memory: tenant.max_memory_mb.map_or(any.max_memory, |mib| mib.saturating_mul(MIB)),
                    max_queue: tenant.max_queue.unwrap_or(any.max_queue),
                },
                places: self.endpoints <= quota,
            }
        };
        self.tenants.iter().map(share).collect()
    }

    /// What the section means.
    ///
    /// # Errors
    /// All that is wrong with it, each with its key and, if `text` is the file it stands in, its line.
    pub fn layout(&self, origin: &str, text: &str) -> Result<Layout, Vec<String>> {
        let mut mistakes = Vec::new();
        let layout = self.checked(&mut mistakes);
        let told = |mistake: &Mistake| {
            let key = At::dotted(&mistake.at);
            match line_of(text, &mistake.at) {
                Some(line) => format!("{origin} line {line}: {key}: {}", mistake.said),
                None => format!("{origin}: {key}: {}", mistake.said),
            }
        };
        match layout {
            Some(layout) if mistakes.is_empty() => Ok(layout),
            _ => Err(mistakes.iter().map(told).collect()),
        }
    }

    fn checked(&self, mistakes: &mut Vec<Mistake>) -> Option<Layout> {
        let mut wrong = |at: &[At], said: String| {
            let at = std::iter::once(At::Key("network")).chain(at.iter().copied()).collect();
            mistakes.push(Mistake { at, said });
        };
        let own = [("v4", IpNet::V4(self.v4)), ("v6", IpNet::V6(self.v6))];
        for (key, network) in own {
            if let Some((range, what)) = taken(network) {
                wrong(&[At::Key(key)], format!("{network} overlaps {range}, which are {what}"));
            }
        }
        self.check_peers(own.map(|(_, network)| network), &mut wrong);
        let tenants = self.check_tenants(&mut wrong);
        let mtu = match self.peers.is_empty() {
            true => Some(self.mtu),
            false => {
                overlay::inner_mtu(self.mtu).map_err(|error| wrong(&[At::Key("mtu")], error.to_string())).ok()
            }
        };
        let plan = Plan::new(self.v4, self.v6, self.node_prefix)
            .map_err(|error| wrong(&[At::Key("v4")], error.to_string()))
            .ok()?;
        let any = Tenant::new(1)?;
        let subnet = plan.subnet(Node(self.node), any);
        let subnet = subnet.map_err(|error| wrong(&[At::Key("node")], error.to_string())).ok()?;
        for (index, peer) in self.peers.iter().enumerate() {
            if let Err(error) = plan.subnet(Node(peer.node), any) {
                wrong(&[At::Key("peers"), At::Index(index), At::Key("node")], error.to_string());
            }
        }
        let room = subnet.endpoints() - RESERVED;
        if self.endpoints == 0 || self.endpoints > room {
            let said = format!("{} is not within 1 and {room}, the addresses of a machine", self.endpoints);
            wrong(&[At::Key("endpoints")], said);
        }
        if self.blanks > MAX_BLANKS {
            wrong(&[At::Key("blanks")], format!("{} networks in advance, at most {MAX_BLANKS}", self.blanks));
        }
        let quarantine = Duration::from_secs(self.quarantine_s);
        let shape = Shape { endpoints: self.endpoints, mtu: mtu?, quarantine, ebpf: Ebpf::All };
        let rates = Rates {
            packets: Some(self.packets_per_s).filter(|packets| *packets > 0),
            bytes: Some(self.bytes_per_s).filter(|bytes| *bytes > 0),
        };
        let peer = |peer: &Peer| overlay::Peer { node: Node(peer.node), address: peer.address };
        let peers = self.peers.iter().map(peer).collect();
        let resolvers = self.resolvers.iter().map(|address| SocketAddr::new(*address, dns::PORT)).collect();
        let (node, mtu, blanks) = (Node(self.node), self.mtu, self.blanks);
        Some(Layout { plan, node, shape, blanks, peers, mtu, resolvers, rates, tenants })
    }

    fn check_peers(&self, own: [IpNet; 2], wrong: &mut impl FnMut(&[At], String)) {
        if self.peers.len() > MAX_PEERS {
            wrong(&[At::Key("peers")], format!("{} machines, at most {MAX_PEERS}", self.peers.len()));
        }
        let (mut nodes, mut addresses) = (BTreeMap::from([(self.node, None)]), BTreeSet::new());
        for (index, peer) in self.peers.iter().enumerate() {
            let at = |key| [At::Key("peers"), At::Index(index), At::Key(key)];
            match nodes.insert(peer.node, Some(index)) {
                None => {}
                Some(None) => {
                    let said = format!("{} is this machine's own number: their ranges overlap", peer.node);
                    wrong(&at("node"), said);
                }
                Some(Some(other)) => {
                    let said = format!("{} is peers[{other}] already: their ranges overlap", peer.node);
                    wrong(&at("node"), said);
                }
            }
            if self.peers.first().is_some_and(|first| first.address.is_ipv4() != peer.address.is_ipv4()) {
                wrong(&at("address"), format!("{} is not of the same protocol as peers[0]", peer.address));
            }
            if !addresses.insert(peer.address) {
                wrong(&at("address"), format!("{} is another peer's already", peer.address));
            }
            if let Some(network) = own.iter().find(|network| network.contains(&peer.address)) {
                wrong(&at("address"), format!("{} is in the sandboxes' range {network}", peer.address));
            }
        }
    }

    fn check_tenants(
        &self,
        wrong: &mut impl FnMut(&[At], String),
    ) -> BTreeMap<String, (Tenant, TenantConfig)> {
        if self.tenants.len() > MAX_TENANTS {
            wrong(&[At::Key("tenants")], format!("{} tenants, at most {MAX_TENANTS}", self.tenants.len()));
        }
        let (mut tenants, mut numbers) = (BTreeMap::new(), BTreeMap::new());
        for (index, tenant) in self.tenants.iter().enumerate() {
            let at = |key| [At::Key("tenants"), At::Index(index), At::Key(key)];
            if !is_label(&tenant.name) {
                let said = format!(
                    "'{}' is no name for a tenant: give 1 to {} small letters, digits and hyphens",
                    tenant.name.escape_debug(),
                    dns::LABEL_LIMIT
                );
                wrong(&at("name"), said);
            }
            if let Some(other) = numbers.insert(tenant.vni, index) {
                let said = format!("{} is tenants[{other}] already: their networks overlap", tenant.vni);
                wrong(&at("vni"), said);
            }
            let Some(number) = Tenant::new(tenant.vni) else {
                wrong(&at("vni"), format!("{} is not within 1 and {}", tenant.vni, (1 << 24) - 1));
                continue;
            };
            if tenants.insert(tenant.name.clone(), (number, tenant.clone())).is_some() {
                wrong(&at("name"), format!("'{}' is there twice", tenant.name));
            }
        }
        tenants
    }
}

/// The range of [`TAKEN`] that overlaps a network, and what it is for.
fn taken(network: IpNet) -> Option<(IpNet, &'static str)> {
    TAKEN.iter().find_map(|(range, what)| {
        let range: IpNet = range.parse().ok()?;
        (range.contains(&network.addr()) || network.contains(&range.addr())).then_some((range, *what))
    })
}

/// Whether a text can be part of a name as it is.
fn is_label(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=dns::LABEL_LIMIT).contains(&text.len())
        && text.bytes().all(plain)
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text != dns::SELF
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = r#"[network]
v4 = "10.64.0.0/10"
v6 = "fd6d:6f74:6500::/48"
node_prefix = 22
node = 0
endpoints = 512
quarantine_s = 5
blanks = 1
mtu = 1500
packets_per_s = 0
bytes_per_s = 0
resolvers = []
peers = [
  { node = 1, address = "192.0.2.1" },
  { node = 2, address = "192.0.2.2" },
]
tenants = [
  { name = "default", vni = 1 },
  { name = "blue", vni = 2, egress = "internet", max_sandboxes = 3 },
]
"#;

    #[derive(Deserialize)]
    struct File {
        network: Network,
    }

    fn layout(text: &str) -> Result<Layout, Vec<String>> {
        toml::from_str::<File>(text).unwrap().network.layout("mote.toml", text)
    }

    #[test]
    fn a_sound_section_has_a_meaning() {
        let layout = layout(SOUND).unwrap();
        assert_eq!(layout.shape.mtu, 1430);
        assert_eq!(layout.peers.len(), 2);
        assert_eq!(layout.tenants["blue"].1.egress, Egress::Internet);
        assert_eq!(layout.tenants["default"].1.egress, Egress::None);
        assert_eq!(layout.rates, Rates { packets: None, bytes: None });
    }

    #[test]
    fn mistakes_have_their_lines() {
        for (from, to, line, said) in [
            ("10.64.0.0/10", "0.0.0.0/0", 2, "this host"),
            ("10.64.0.0/10", "169.254.0.0/18", 2, "metadata"),
            ("10.64.0.0/10", "10.0.0.0/23", 2, "no room"),
            ("fd6d:6f74:6500::/48", "fe80::/16", 3, "link-local"),
            ("node = 0", "node = 5000", 5, "Machine 5000 has no subnet"),
            ("endpoints = 512", "endpoints = 1023", 6, "within 1 and 1022"),
            ("blanks = 1", "blanks = 17", 8, "at most 16"),
            ("mtu = 1500", "mtu = 1349", 9, "too small for VXLAN"),
            ("node = 1,", "node = 0,", 14, "this machine's own number: their ranges overlap"),
            ("node = 2,", "node = 1,", 15, "peers[0] already: their ranges overlap"),
            ("node = 2,", "node = 4096,", 15, "Machine 4096 has no subnet"),
            ("192.0.2.2", "192.0.2.1", 15, "another peer's"),
            ("192.0.2.2", "10.100.0.1", 15, "in the sandboxes' range"),
            ("192.0.2.2", "2001:db8::2", 15, "not of the same protocol"),
            ("vni = 2", "vni = 1", 19, "tenants[0] already: their networks overlap"),
            ("vni = 2", "vni = 16777216", 19, "not within 1 and 16777215"),
            ("\"blue\"", "\"default\"", 19, "there twice"),
            ("\"blue\"", "\"Blue sky\"", 19, "no name for a tenant"),
            ("\"blue\"", "\"self\"", 19, "no name for a tenant"),
        ] {
            let text = SOUND.replacen(from, to, 1);
            let mistakes = layout(&text).unwrap_err();
            let expected = format!("mote.toml line {line}: network.");
            assert!(
                mistakes.iter().any(|text| text.starts_with(&expected) && text.contains(said)),
                "{said}: {mistakes:?}"
            );
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let text = SOUND.replace("vni = 2", "vni = 1").replace("mtu = 1500", "mtu = 100");
        assert_eq!(layout(&text).unwrap_err().len(), 2);
    }
}
