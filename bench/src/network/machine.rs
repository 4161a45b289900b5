//! A machine made of namespaces: its own, and one with bridge and VXLAN device, the end of a classic overlay.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use mote_particle::netlink::{Netlink, NetlinkError, index_of};
use mote_particle::netns::Netns;
use mote_particle::overlay::PORT;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkMessage};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan};

use crate::Outcome;

/// Largest packet inside the overlay, of both kinds.
pub const MTU: u16 = 1430;

/// Network identifier of the classic overlay.
const VNI: u32 = 42;

/// Bound on the kernel's taking down of namespaces.
const SETTLED: Duration = Duration::from_secs(120);

/// A machine.
pub struct Machine {
    /// What stands for the machine's own namespace.
    pub host: Netns,
    /// Where the overlay ends.
    pub vtep: Netns,
    /// Its bridge.
    pub bridge: u32,
}

/// Address of machine `number` among machines.
pub fn underlay(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, number + 1)
}

/// Half of a pair of virtual Ethernet devices that is born elsewhere.
pub fn peer(link: LinkMessage) -> InfoData {
    InfoData::Veth(InfoVeth::Peer(link))
}

/// A device by its name.
pub fn named(name: &str) -> LinkMessageBuilder<LinkUnspec> {
    LinkUnspec::new_with_name(name)
}

impl Machine {
    /// A machine with an overlay that has nobody in it.
    pub fn new() -> Outcome<Self> {
        Self::with_remote(None)
    }

    /// The same; frames for nobody known go to another machine.
    fn with_remote(remote: Option<u8>) -> Outcome<Self> {
        let [host, vtep] = [Netns::create()?, Netns::create()?];
        let outer = host.run(Netlink::open)??;
        let mut link =
            LinkVxlan::new("vxlan0", VNI).port(PORT).mtu(MTU.into()).setns_by_fd(vtep.as_fd().as_raw_fd());
        if let Some(remote) = remote {
            link = link.remote(underlay(remote));
        }
        outer.add_link("make a VXLAN device", link.build())?;
        let bridge = vtep.run(|| {
            let netlink = Netlink::open()?;
            netlink.add_link("make a bridge", LinkBridge::new("br0").up().build())?;
            let bridge = index_of("br0")?;
            let vxlan = named("vxlan0").controller(bridge).up().build();
            netlink.set_link("join the VXLAN device", vxlan)?;
            Ok::<_, NetlinkError>(bridge)
        })??;
        Ok(Self { host, vtep, bridge })
    }

    /// Two machines joined by a cable, their overlays too.
    pub fn pair() -> Outcome<[Self; 2]> {
        let pair = [Self::with_remote(Some(1))?, Self::with_remote(Some(0))?];
        let [one, other] = &pair;
        let far = named("eth0").setns_by_fd(other.host.as_fd().as_raw_fd()).build();
        let cable = LinkVeth::new("eth0", "eth0").set_info_data(peer(far)).build();
        one.host.run(|| Netlink::open()?.add_link("make a cable", cable))??;
        for (number, machine) in (0..).zip(&pair) {
            machine.host.run(|| {
                let netlink = Netlink::open()?;
                netlink.set_link("plug a cable in", named("eth0").up().build())?;
                netlink.add_address(index_of("eth0")?, underlay(number).into(), 24)
            })??;
        }
        Ok(pair)
    }
}

/// Waits until the kernel has taken down all namespaces that were given up, which it does behind everyone's back, one
/// batch after the other: until one that is given up now is gone.
pub fn settle() -> Outcome<()> {
    let [witness, last] = [Netns::create()?, Netns::create()?];
    last.run(|| {
        let far = named("far").setns_by_fd(witness.as_fd().as_raw_fd()).build();
        Netlink::open()?
            .add_link("make a pair of devices", LinkVeth::new("near", "far").set_info_data(peer(far)).build())
    })??;
    drop(last);
    let end = Instant::now() + SETTLED;
    while witness.run(|| index_of("far"))?.is_ok() {
        if Instant::now() > end {
            return Err(format!("Namespaces are not gone after {} s", SETTLED.as_secs()).into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
