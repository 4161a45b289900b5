//! `[network]`: what tenants there are, what addresses, what other machines.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::{Ipv4Net, Ipv6Net};
use mote_particle::dns;
use mote_particle::nft::Egress;
use mote_particle::overlay::OverlayError;
use mote_particle::{Ebpf, Node, Plan, PlanError, Shape, Tenant, overlay};
use mote_sched::TenantSpec;
use mote_sched::config::MIB;
use serde::Deserialize;

use crate::pool::TenantShape;

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

/// A network that cannot be, although nothing is wrong with the keys by themselves.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// Addresses.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Packets between machines.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// A tenant's number is none.
    #[error("Tenant '{name}' cannot have the number {vni}")]
    Tenant {
        /// Its name.
        name: String,
        /// The number.
        vni: u32,
    },
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
    /// When it means nothing; `mote-config` lets no such section through.
    pub fn layout(&self) -> Result<Layout, LayoutError> {
        let plan = Plan::new(self.v4, self.v6, self.node_prefix)?;
        for node in self.peers.iter().map(|peer| peer.node).chain([self.node]) {
            plan.subnet(Node(node), Tenant::FIRST)?;
        }
        let mtu = if self.peers.is_empty() { self.mtu } else { overlay::inner_mtu(self.mtu)? };
        let quarantine = Duration::from_secs(self.quarantine_s);
        let tenants = self.tenants.iter().map(|tenant| {
            let none = || LayoutError::Tenant { name: tenant.name.clone(), vni: tenant.vni };
            let number = Tenant::new(tenant.vni).ok_or_else(none)?;
            Ok((tenant.name.clone(), (number, tenant.clone())))
        });
        Ok(Layout {
            plan,
            node: Node(self.node),
            shape: Shape { endpoints: self.endpoints, mtu, quarantine, ebpf: Ebpf::All },
            blanks: self.blanks,
            peers: self
                .peers
                .iter()
                .map(|peer| overlay::Peer { node: Node(peer.node), address: peer.address })
                .collect(),
            mtu: self.mtu,
            resolvers: self.resolvers.iter().map(|address| SocketAddr::new(*address, dns::PORT)).collect(),
            rates: Rates {
                packets: Some(self.packets_per_s).filter(|packets| *packets > 0),
                bytes: Some(self.bytes_per_s).filter(|bytes| *bytes > 0),
            },
            tenants: tenants.collect::<Result<_, LayoutError>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use mote_config::{Layer, Source, check, resolve};
    use mote_particle::plan::RESERVED;

    use super::*;
    use crate::config::Config;

    #[test]
    fn a_sound_section_has_a_meaning() {
        let text = b"[network]
peers = [{ node = 1, address = '192.0.2.1' }, { node = 2, address = '192.0.2.2' }]
tenants = [{ name = 'default', vni = 1 }, { name = 'blue', vni = 2, egress = 'internet', max_sandboxes = 3 }]
";
        let resolved = resolve(&[Source::text(Layer::Partition, "mote.toml", text)]);
        assert_eq!(resolved.problems(), Vec::<String>::new());
        let layout = Config::of(&resolved).unwrap().network.layout().unwrap();
        assert_eq!(layout.shape.mtu, 1430);
        assert_eq!(layout.peers.len(), 2);
        assert_eq!(layout.tenants["blue"].1.egress, Egress::Internet);
        assert_eq!(layout.tenants["default"].1.egress, Egress::None);
        assert_eq!(layout.rates, Rates { packets: None, bytes: None });
    }

    /// The crate that checks does not know the one that makes networks.
    #[test]
    fn what_is_checked_is_what_is_made() {
        assert_eq!(check::RESERVED, u32::from(RESERVED));
        assert_eq!(check::OVERHEAD, overlay::OVERHEAD);
        assert!(overlay::inner_mtu(check::LEAST_MTU + check::OVERHEAD).is_ok());
        assert!(overlay::inner_mtu(check::LEAST_MTU + check::OVERHEAD - 1).is_err());
        let plan =
            |bits| Plan::new("10.0.0.0/8".parse().unwrap(), format!("fd00::/{bits}").parse().unwrap(), 22);
        assert!(plan(check::V6_SMALLEST).is_ok() && plan(check::V6_SMALLEST + 1).is_err());
        assert_eq!((dns::LABEL_LIMIT, dns::SELF), (63, "self"), "what is a tenant's name in mote-config");
    }
}
