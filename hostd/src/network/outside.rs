//! What tenants' networks share of the machine: the way out, and the overlay to other machines.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use mote_particle::netlink::{Netlink, NetlinkError};
use mote_particle::netns::{Netns, NetnsError};
use mote_particle::nft::{Egress, GuardError, OverlayGuard};
use mote_particle::overlay::{Overlay, OverlayError};
use mote_particle::pool::Pool;
use mote_particle::uplink::{self, Links, Policy, Uplink, UplinkError, Uplinks};
use mote_particle::{Network, NetworkError, Subnet, Tenant};
use rustix::net::sockopt;
use serde_json::{Value, json};

use crate::config::Layout;

/// Flows to the world at a time, of one tenant: Linux tracks some ten thousand on a small machine.
const FLOWS: u32 = 4096;

/// Where the kernel lists network devices; those with a `device` are no inventions of software.
const DEVICES: &str = "/sys/class/net";

/// Devices of this thread's namespace, each before a colon.
const OWN_DEVICES: &str = "/proc/thread-self/net/dev";

/// Whether this machine passes on packets for others.
const FORWARDING: &str = "/proc/sys/net/ipv4/conf/all/forwarding";

/// A machine that cannot be made ready for tenants' networks, or a tenant's that cannot be joined to it.
#[derive(Debug, thiserror::Error)]
pub enum OutsideError {
    /// The tenant's devices and addresses.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Its own namespace.
    #[error("Cannot get the machine ready for tenants' networks")]
    Namespace(#[from] NetnsError),
    /// No thread for networks made in advance.
    #[error("Cannot get the machine ready for tenants' networks")]
    Pool(#[source] std::io::Error),
    /// Filters and the way out.
    #[error("Cannot get the machine ready for tenants' networks")]
    Uplink(#[from] UplinkError),
    /// The filter of the overlay.
    #[error("Cannot get the machine ready for tenants' networks")]
    Guard(#[from] GuardError),
    /// The overlay.
    #[error("Cannot join a tenant's network to other machines")]
    Overlay(#[from] OverlayError),
    /// A netlink socket.
    #[error("Cannot join a tenant's network to other machines")]
    Netlink(#[from] NetlinkError),
}

/// The machine's side, and networks ready for tenants that come.
#[derive(Debug)]
pub struct Outside {
    pool: Pool,
    uplinks: Uplinks,
    guard: Option<Mutex<OverlayGuard>>,
}

impl Outside {
    /// Gets the machine ready: sets filters in place of those an earlier process left. Blocks.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn open(layout: &Layout) -> Result<Self, OutsideError> {
        // Nobody goes out: then nothing is passed on.
        let out = layout.tenants.values().any(|(_, config)| config.egress != Egress::None);
        let outside = uplink::Outside {
            plan: layout.plan,
            links: Links::default(),
            devices: if out { devices() } else { Vec::new() },
            router: std::fs::read_to_string(FORWARDING).is_ok_and(|text| text.trim() == "1"),
        };
        let uplinks = Uplinks::start(Netns::current()?, &outside)?;
        let guard = match layout.peers.as_slice() {
            [] => None,
            peers => Some(Mutex::new(OverlayGuard::place(layout.plan, peers)?)),
        };
        for warning in narrow(layout) {
            tracing::warn!("{warning}");
        }
        let any = layout.plan.subnet(layout.node, Tenant::FIRST).map_err(OverlayError::Plan)?;
        let pool = Pool::start(any, layout.shape, layout.blanks).map_err(OutsideError::Pool)?;
        Ok(Self { pool, uplinks, guard })
    }

    /// A tenant's network, joined to the machine's: with its filter, its way out if it has one, the overlay. Blocks.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn network(
        &self,
        layout: &Layout,
        subnet: Subnet,
        tenant: Tenant,
        egress: Egress,
    ) -> Result<(Network, Option<Uplink>), OutsideError> {
        let network = self.pool.take(subnet)?;
        let uplink = self.join(layout, &network, tenant, egress)?;
        Ok((network, uplink))
    }

    fn join(
        &self,
        layout: &Layout,
        network: &Network,
        tenant: Tenant,
        egress: Egress,
    ) -> Result<Option<Uplink>, OutsideError> {
        let policy = Policy { egress, flows: FLOWS, mtu: layout.shape.mtu };
        let uplink = self.uplinks.connect(network, tenant, &policy)?;
        let Some(first) = layout.peers.first() else { return Ok(uplink) };
        // Linux chooses the address by the route: it may not have one yet.
        let local = match first.address {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let overlay = Overlay { plan: layout.plan, tenant, node: layout.node, local, mtu: layout.shape.mtu };
        overlay.create(&Netlink::open()?, network.netns())?;
        network.netns().run(|| {
            let netlink = Netlink::open()?;
            layout.peers.iter().try_for_each(|peer| overlay.add_peer(&netlink, peer))
        })??;
        Ok(uplink)
    }

    /// For operators: what was dropped of the overlay's packets.
    pub fn describe(&self) -> Value {
        let drops = self.guard.as_ref().map(|guard| {
            let drops = guard.lock().unwrap_or_else(PoisonError::into_inner).drops();
            drops.map_or_else(
                |error| json!({ "error": error.to_string() }),
                |drops| json!({ "unknown_peer": drops.unknown_peer, "lie": drops.lie }),
            )
        });
        json!({ "blanks": self.pool.ready(), "uplinks": self.uplinks.used(), "overlay_drops": drops })
    }
}

/// Devices that lead to the world. The list of `/sys` is that of the namespace it was mounted in, which need not be ours.
fn devices() -> Vec<String> {
    let own = std::fs::read_to_string(OWN_DEVICES).unwrap_or_default();
    let names = own.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned()));
    names.filter(|name| Path::new(DEVICES).join(name).join("device").exists()).collect()
}

/// What is wrong with the ways to peers that take smaller packets than was said. One without a way yet is not.
fn narrow(layout: &Layout) -> Vec<String> {
    let needed = layout.mtu;
    let narrow = |peer: &mote_particle::overlay::Peer| {
        let mtu = path_mtu(peer.address).ok().filter(|mtu| *mtu < u32::from(needed))?;
        let address = peer.address;
        Some(format!(
            "Packets to peer {address} have {mtu} bytes at most, not network.mtu = {needed}: larger ones get lost"
        ))
    };
    layout.peers.iter().filter_map(narrow).collect()
}

/// Largest packet the route to an address takes, as far as is known.
fn path_mtu(address: IpAddr) -> std::io::Result<u32> {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    // Sends nothing.
    socket.connect(SocketAddr::new(address, mote_particle::overlay::PORT))?;
    Ok(match address {
        IpAddr::V4(_) => sockopt::ip_mtu(&socket)?,
        IpAddr::V6(_) => sockopt::ipv6_mtu(&socket)?,
    })
}
