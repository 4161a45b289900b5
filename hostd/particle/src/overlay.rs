//! What joins a tenant's networks on several machines: one VXLAN device, and per machine one route and one forwarding
//! entry, however many sandboxes there are.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::Ipv6Net;
use rtnetlink::packet_route::route::RouteProtocol;
use rtnetlink::{LinkUnspec, LinkVxlan, RouteMessageBuilder};

use crate::netlink::{Netlink, NetlinkError, index_of};
use crate::netns::{Netns, NetnsError};
use crate::plan::{Node, Plan, PlanError, Tenant};

/// Name of the device in its namespace.
pub const DEVICE: &str = "vxlan0";

/// Assigned UDP port (RFC 7348).
pub const PORT: u16 = 4789;

/// Bytes an outer Ethernet, IPv6, UDP and VXLAN header take of a packet.
pub const OVERHEAD: u16 = 14 + 40 + 8 + 8;

/// What IPv6 needs at least (RFC 8200, section 5).
const LEAST_MTU: u16 = 1280;

/// How long a namespace whose process was killed may take to go, and its device with it.
const LEFTOVER: Duration = Duration::from_secs(5);

/// How often it is looked for.
const AGAIN: Duration = Duration::from_millis(10);

/// Another machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its number.
    pub node: Node,
    /// Where it is reached.
    pub address: IpAddr,
}

/// An overlay that cannot be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OverlayError {
    /// Packets between machines would be too small.
    #[error("An MTU of {mtu} is too small for VXLAN: packets of {LEAST_MTU} bytes and {OVERHEAD} bytes around them need {}", LEAST_MTU + OVERHEAD)]
    Mtu {
        /// Of the network between the machines.
        mtu: u16,
    },
    /// A namespace.
    #[error("Cannot join the tenant's networks")]
    Namespace(#[from] NetnsError),
    /// The kernel refused.
    #[error("Cannot join the tenant's networks")]
    Netlink(#[from] NetlinkError),
    /// A peer has no subnet.
    #[error("Cannot join the tenant's networks")]
    Plan(#[from] PlanError),
}

/// Largest packet of tenants' networks where machines exchange packets of `mtu` bytes.
///
/// # Errors
/// When nothing useful is left of it.
pub fn inner_mtu(mtu: u16) -> Result<u16, OverlayError> {
    mtu.checked_sub(OVERHEAD).filter(|inner| *inner >= LEAST_MTU).ok_or(OverlayError::Mtu { mtu })
}

/// Hardware address of a machine's end of the overlay.
fn mac(node: Node) -> [u8; 6] {
    let [high, low] = node.0.to_be_bytes();
    [0x02, 0x6d, 0x6f, 0x76, high, low]
}

/// Address a machine's end of the overlay has as a router: one for IPv4 and IPv6 alike.
fn router(node: Node) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x6d6f, node.0)
}

/// This machine's end of a tenant's overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// The cluster's addresses.
    pub plan: Plan,
    /// Whose.
    pub tenant: Tenant,
    /// This machine.
    pub node: Node,
    /// Where other machines reach it.
    pub local: IpAddr,
    /// Largest packet inside, see [`inner_mtu`].
    pub mtu: u16,
}

impl Overlay {
    /// Makes the device. It is born in the tenant's namespace, while its outer packets go by the calling thread's.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn create(&self, outer: &Netlink, inner: &Netns) -> Result<(), OverlayError> {
        let link = LinkVxlan::new(DEVICE, self.tenant.vni())
            .port(PORT)
            .learning(false)
            .address(mac(self.node).to_vec())
            .mtu(self.mtu.into())
            .setns_by_fd(inner.as_fd().as_raw_fd());
        let link = match self.local {
            IpAddr::V4(local) => link.local(local),
            IpAddr::V6(local) => link.local6(local).udp_zero_csum6_tx(true).udp_zero_csum6_rx(true),
        };
        let (link, end) = (link.build(), Instant::now() + LEFTOVER);
        loop {
            match outer.add_link("make the VXLAN device", link.clone()) {
                Err(error) if error.exists() && Instant::now() < end => thread::sleep(AGAIN),
                made => break made?,
            }
        }
        inner.run(|| {
            let netlink = Netlink::open()?;
            let index = index_of(DEVICE)?;
            netlink.set_link("bring up the VXLAN device", LinkUnspec::new_with_index(index).up().build())?;
            netlink.add_address(index, router(self.node).into(), 64)
        })??;
        Ok(())
    }

    /// Routes to the tenant's subnet on another machine; adding it again changes where that is. `netlink` is of the
    /// tenant's namespace.
    ///
    /// # Errors
    /// When the plan has no such machine, or the kernel refuses.
    pub fn add_peer(&self, netlink: &Netlink, peer: &Peer) -> Result<(), OverlayError> {
        let subnet = self.plan.subnet(peer.node, self.tenant)?;
        let index = index_of(DEVICE)?;
        let router = router(peer.node);
        netlink.add_forwarding(index, mac(peer.node), peer.address)?;
        netlink.add_neighbour(index, router.into(), mac(peer.node))?;
        let (v4, v6) = (subnet.v4(), subnet.v6());
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(v4.addr(), v4.prefix_len())
            .via(router)
            .output_interface(index)
            .protocol(RouteProtocol::Static)
            .onlink();
        netlink.add_route(&format!("add route {v4}"), route.build())?;
        netlink.add_route(&format!("add route {v6}"), v6_route(v6, router, index))?;
        Ok(())
    }
}

fn v6_route(to: Ipv6Net, router: Ipv6Addr, index: u32) -> rtnetlink::packet_route::route::RouteMessage {
    RouteMessageBuilder::<Ipv6Addr>::new()
        .destination_prefix(to.addr(), to.prefix_len())
        .gateway(router)
        .output_interface(index)
        .onlink()
        .build()
}
