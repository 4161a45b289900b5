//! The way out of a tenant's namespace: a veth device to the machine's, made only for tenants who may use it.
//!
//! Packets of sandboxes take the address of the link when they leave the namespace, as tenants have the same addresses,
//! and one of the machine's when they leave that. What may pass is decided by the [filters](crate::nft) at both places.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::netlink::{Netlink, NetlinkError, index_of};
use crate::netns::{Netns, NetnsError};
use crate::network::Network;
use crate::nft::{Egress, HostRules, Nft, NftError, TenantRules, host_table, tenant_table};
use crate::plan::{Addresses, Plan, Tenant};
use crate::sysctl::{self, SysctlError};

mod range;

pub use range::{Links, LinksError};

/// With this begin the names of devices in the machine's namespace.
pub const PREFIX: &str = "mt-";

/// Name of the device in a tenant's namespace.
pub const INNER: &str = "up0";

/// Group of devices whose tenants may connect to the site's private networks, too.
pub const GROUP_ALL: u32 = 0x6d6f_0001;

/// Hardware address of both ends: as for TAP devices, nobody asks for it.
const MAC: [u8; 6] = [0x02, 0x6d, 0x6f, 0x75, 0x70, 0x00];

/// Settings of the machine's end, under `/proc/sys/net`.
const OUTER_END: &[(&str, &str, &str)] = &[
    ("ipv4/conf", "forwarding", "1"),
    ("ipv4/conf", "rp_filter", "1"),
    ("ipv4/conf", "accept_redirects", "0"),
    ("ipv4/conf", "send_redirects", "0"),
    ("ipv6/conf", "accept_ra", "0"),
    ("ipv6/conf", "accept_redirects", "0"),
    ("ipv6/conf", "addr_gen_mode", "1"),
];

/// No way out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UplinkError {
    /// A namespace.
    #[error("Cannot make a tenant's uplink")]
    Namespace(#[from] NetnsError),
    /// Settings.
    #[error("Cannot make a tenant's uplink")]
    Sysctl(#[from] SysctlError),
    /// Devices, addresses, routes.
    #[error("Cannot make a tenant's uplink")]
    Netlink(#[from] NetlinkError),
    /// Filters.
    #[error("Cannot make a tenant's uplink")]
    Filter(#[from] NftError),
    /// The addresses of links.
    #[error("Cannot make a tenant's uplink")]
    Links(#[from] LinksError),
    /// No address is left.
    #[error("All {room} uplinks are in use")]
    Full {
        /// How many there are.
        room: u32,
    },
}

/// What the machine is to the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside {
    /// The cluster's addresses.
    pub plan: Plan,
    /// Addresses of links.
    pub links: Links,
    /// Devices that lead to the world.
    pub devices: Vec<String>,
    /// Whether the machine passes packets on for others than tenants. If not, it is kept from it.
    pub router: bool,
}

/// What a tenant may do outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Where its sandboxes may connect to.
    pub egress: Egress,
    /// Flows to the world at a time, of all its sandboxes on this machine.
    pub flows: u32,
    /// Largest packet on the link: that of the tenant's network.
    pub mtu: u16,
}

/// The machine's side of all uplinks.
#[derive(Debug)]
pub struct Uplinks {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    machine: Netns,
    plan: Plan,
    links: Links,
    used: Mutex<BTreeSet<u32>>,
}

impl Uplinks {
    /// Gets a machine's namespace ready: takes away what an earlier process left, sets the filter, and lets packets
    /// through between tenants' devices and the world's. For IPv6 Linux has one switch for all devices
    /// (`net.ipv6.conf.all.forwarding`), for IPv4 one for each (`net.ipv4.conf.*.forwarding`).
    ///
    /// # Errors
    /// When the links' addresses are sandboxes' too, a device is not there, or the kernel refuses.
    pub fn start(machine: Netns, outside: &Outside) -> Result<Self, UplinkError> {
        let links = outside.links.beside(outside.plan)?;
        let rules = HostRules { plan: outside.plan, links, router: outside.router };
        machine.run(|| {
            sweep()?;
            Nft::open()?.replace(&host_table(&rules))?;
            outside.devices.iter().try_for_each(|device| pass_on(device))?;
            if !outside.devices.is_empty() {
                sysctl::set("ipv6/conf/all/forwarding", "1")?;
            }
            Ok::<_, UplinkError>(())
        })??;
        let used = Mutex::default();
        Ok(Self { shared: Arc::new(Shared { machine, plan: outside.plan, links, used }) })
    }

    /// Applies a policy to a tenant's network: sets its filter, and makes the uplink if the policy knows one. An uplink
    /// the tenant had is replaced. Endpoints notice nothing. Blocks for some milliseconds.
    ///
    /// # Errors
    /// When no link is free, or the kernel refuses.
    pub fn connect(
        &self,
        network: &Network,
        tenant: Tenant,
        policy: &Policy,
    ) -> Result<Option<Uplink>, UplinkError> {
        let rules = TenantRules {
            plan: self.shared.plan,
            tenant,
            gateway: network.subnet().gateway(),
            egress: policy.egress,
            flows: policy.flows,
        };
        network.netns().run(|| Nft::open()?.replace(&tenant_table(&rules)))??;
        let name = format!("{PREFIX}{:06x}", tenant.vni());
        if policy.egress == Egress::None {
            self.shared.machine.run(|| take_away(&name))??;
            return Ok(None);
        }
        let number = self.shared.take()?;
        // From here on given back, and taken away, by its drop.
        let mut uplink = Uplink { name, index: None, number, shared: Arc::clone(&self.shared) };
        let [machine, inside] =
            self.shared.links.link(number).ok_or(UplinkError::Full { room: self.shared.links.room() })?;
        let index =
            self.shared.machine.run(|| outer_end(&uplink.name, network.netns(), policy, machine))??;
        uplink.index = Some(index);
        network.netns().run(|| inner_end(inside, machine))??;
        self.shared.machine.run(|| Netlink::open()?.settle_link(index))??;
        Ok(Some(uplink))
    }

    /// Uplinks there are.
    pub fn used(&self) -> usize {
        self.shared.used().len()
    }
}

impl Shared {
    fn used(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Result<u32, UplinkError> {
        let room = self.links.room();
        let mut used = self.used();
        let free = (0..room).find(|number| !used.contains(number)).ok_or(UplinkError::Full { room })?;
        used.insert(free);
        Ok(free)
    }
}

/// A tenant's way out. Dropping it closes it, which blocks for some milliseconds; endpoints stay.
#[derive(Debug)]
pub struct Uplink {
    name: String,
    index: Option<u32>,
    number: u32,
    shared: Arc<Shared>,
}

impl Uplink {
    /// Name of its device in the machine's namespace.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Uplink {
    fn drop(&mut self) {
        // The device may be gone with the tenant's namespace, or be that of a later uplink. What cannot be taken away
        // now goes with the namespace.
        let _ = self.shared.machine.run(|| {
            let own = self.index.is_some() && index_of(&self.name).ok() == self.index;
            if own { take_away(&self.name) } else { Ok(()) }
        });
        self.shared.used().remove(&self.number);
    }
}

/// Takes away devices of uplinks nobody knows any more.
fn sweep() -> Result<(), NetlinkError> {
    let devices = nix::net::if_::if_nameindex()
        .map_err(|errno| NetlinkError::NoDevice { name: PREFIX.to_owned(), source: errno.into() })?;
    let names = devices.iter().filter_map(|device| device.name().to_str().ok());
    names.filter(|name| name.starts_with(PREFIX)).try_for_each(take_away)
}

/// Takes a device away, if it is there.
fn take_away(name: &str) -> Result<(), NetlinkError> {
    if index_of(name).is_err() {
        return Ok(());
    }
    match Netlink::open()?.delete_link(name) {
        // It went by itself.
        Err(_) if index_of(name).is_err() => Ok(()),
        done => done,
    }
}

/// Lets packets from a device be passed on, without it losing what it learns from routers.
fn pass_on(device: &str) -> Result<(), UplinkError> {
    const LEARNS: &str = "1";
    const LEARNS_AS_ROUTER: &str = "2";
    index_of(device)?;
    sysctl::set(&format!("ipv4/conf/{device}/forwarding"), "1")?;
    let learns = format!("ipv6/conf/{device}/accept_ra");
    if sysctl::get(&learns).as_deref() == Some(LEARNS) {
        sysctl::set(&learns, LEARNS_AS_ROUTER)?;
    }
    Ok(())
}

/// Makes both ends, each where it stays, and the machine's ready. Tells its number.
fn outer_end(name: &str, inner: &Netns, policy: &Policy, own: Addresses) -> Result<u32, UplinkError> {
    take_away(name)?;
    let netlink = Netlink::open()?;
    let mtu = u32::from(policy.mtu);
    let far = LinkUnspec::new_with_name(INNER)
        .setns_by_fd(inner.as_fd().as_raw_fd())
        .address(MAC.to_vec())
        .mtu(mtu)
        .arp(false)
        .build();
    let group = if policy.egress == Egress::All { GROUP_ALL } else { 0 };
    let pair = LinkVeth::new(name, INNER)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
        .address(MAC.to_vec())
        .mtu(mtu)
        .link_group(group)
        .arp(false)
        .build();
    netlink.add_link(&format!("make device {name}"), pair)?;
    let index = index_of(name)?;
    for (family, setting, value) in OUTER_END {
        sysctl::set(&format!("{family}/{name}/{setting}"), value)?;
    }
    furnish(&netlink, index, own)?;
    Ok(index)
}

fn inner_end(own: Addresses, machine: Addresses) -> Result<(), UplinkError> {
    let netlink = Netlink::open()?;
    let index = index_of(INNER)?;
    furnish(&netlink, index, own)?;
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new().output_interface(index).gateway(machine.v4).build();
    netlink.add_route("add the default route", v4)?;
    let v6 = RouteMessageBuilder::<Ipv6Addr>::new().output_interface(index).gateway(machine.v6).build();
    netlink.add_route("add the default route of IPv6", v6)?;
    Ok(())
}

/// Gives an end its addresses and brings it up.
fn furnish(netlink: &Netlink, index: u32, own: Addresses) -> Result<(), NetlinkError> {
    let addresses: [(IpAddr, u8); 2] = [(own.v4.into(), 31), (own.v6.into(), 127)];
    for (address, prefix) in addresses {
        netlink.add_address(index, address, prefix)?;
    }
    netlink.set_link("bring up an uplink", LinkUnspec::new_with_index(index).arp(false).up().build())
}
