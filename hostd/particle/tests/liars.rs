//! Machines that speak by the overlay for whom they should not. One test after the other: one counts the process'
//! descriptors.

#![cfg(test)]

mod support;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use mote_particle::netlink::{Netlink, index_of};
use mote_particle::netns::Netns;
use mote_particle::nft::{GuardError, OverlayDrops, OverlayGuard};
use mote_particle::overlay::{Overlay, PORT, Peer};
use mote_particle::{Addresses, Endpoint, Network, Node, Tenant};
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{LinkUnspec, LinkVeth};
use support::{NEVER, SHAPE, SOON, both, descriptors, plan, receive, root, subnet};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn turn() -> Option<MutexGuard<'static, ()>> {
    root().then(|| ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner))
}

const VNI: u32 = 7;

/// This machine, one of the cluster, and one that is not; all at one cable.
const HERE: u16 = 0;
const PEER: u16 = 1;
const STRANGER: u16 = 2;

fn underlay(v6: bool, node: u16) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, node + 1).into()
    } else {
        Ipv4Addr::new(192, 0, 2, u8::try_from(node + 1).unwrap()).into()
    }
}

struct Cluster {
    here: Netns,
    cable: Netns,
    network: Network,
    guard: OverlayGuard,
    v6: bool,
}

impl Cluster {
    fn new(v6: bool) -> Self {
        let [here, cable] = [(); 2].map(|()| Netns::create().unwrap());
        here.run(|| {
            let far = LinkUnspec::new_with_name("eth0").setns_by_fd(cable.as_fd().as_raw_fd()).build();
            let pair = LinkVeth::new("eth0", "eth0").set_info_data(InfoData::Veth(InfoVeth::Peer(far)));
            Netlink::open().unwrap().add_link("make a cable", pair.build()).unwrap();
        })
        .unwrap();
        here.run(|| plug_in(&[underlay(v6, HERE)])).unwrap();
        cable.run(|| plug_in(&[underlay(v6, PEER), underlay(v6, STRANGER)])).unwrap();
        here.run(|| Netlink::open().unwrap().settle_link(index_of("eth0").unwrap()).unwrap()).unwrap();
        let tenant = Tenant::new(VNI).unwrap();
        let network = Network::create(subnet(HERE, VNI), &SHAPE).unwrap();
        let overlay =
            Overlay { plan: plan(), tenant, node: Node(HERE), local: underlay(v6, HERE), mtu: 1430 };
        here.run(|| overlay.create(&Netlink::open().unwrap(), network.netns()).unwrap()).unwrap();
        // What an earlier process left.
        let guard = here
            .run(|| {
                OverlayGuard::place(plan(), &[]).unwrap();
                OverlayGuard::place(plan(), &[peer(v6)]).unwrap()
            })
            .unwrap();
        Self { here, cable, network, guard, v6 }
    }

    /// Sends an inner frame as a machine would.
    fn frame(&self, node: u16, frame: &[u8]) {
        let header = [&[8, 0, 0, 0][..], &(VNI << 8).to_be_bytes()].concat();
        let socket =
            self.cable.run(|| std::net::UdpSocket::bind((underlay(self.v6, node), 0)).unwrap()).unwrap();
        socket.send_to(&[&header, frame].concat(), (underlay(self.v6, HERE), PORT)).unwrap();
    }

    fn send(&self, node: u16, from: IpAddr, to: IpAddr, text: &str) {
        self.frame(node, &datagram(from, to, text));
    }

    fn drops(&mut self) -> (u64, u64) {
        let OverlayDrops { unknown_peer, lie } = self.guard.drops().unwrap();
        (unknown_peer, lie)
    }
}

fn peer(v6: bool) -> Peer {
    Peer { node: Node(PEER), address: underlay(v6, PEER) }
}

fn plug_in(addresses: &[IpAddr]) {
    let netlink = Netlink::open().unwrap();
    let index = index_of("eth0").unwrap();
    for address in addresses {
        netlink.add_address(index, *address, if address.is_ipv4() { 24 } else { 64 }).unwrap();
    }
    netlink.set_link("plug it in", LinkUnspec::new_with_index(index).up().build()).unwrap();
}

/// A frame as the other machine's VXLAN device sends it.
fn datagram(from: IpAddr, to: IpAddr, text: &str) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2, 0x6d, 0x6f, 0x76, 0, 1], [2, 0x6d, 0x6f, 0x76, 0, 0]);
    let builder = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), 64),
        _ => panic!("two families"),
    };
    let mut frame = Vec::new();
    builder.udp(9000, 9000).write(&mut frame, text.as_bytes()).unwrap();
    frame
}

fn sandbox(node: u16, vni: u32) -> Addresses {
    subnet(node, vni).endpoint(5).unwrap()
}

fn hears(endpoint: &Endpoint) -> Option<String> {
    receive(endpoint, SOON).map(|(_, _, text)| text)
}

#[test]
fn a_machine_speaks_for_its_own_sandboxes_alone() {
    let Some(_turn) = turn() else { return };
    for v6 in [false, true] {
        let mut cluster = Cluster::new(v6);
        let endpoint = cluster.network.attach().unwrap();
        let own = both(endpoint.addresses());
        for (from, to) in both(sandbox(PEER, VNI)).into_iter().zip(own) {
            cluster.send(PEER, from, to, "honest");
            assert_eq!(hears(&endpoint), Some("honest".to_owned()), "{from}");
        }
        assert_eq!(cluster.drops(), (0, 0));
        let mut lies = 0;
        let lie = |text: &str| -> IpAddr { text.parse().unwrap() };
        for (from, to) in [
            // Of this machine, of a third, its gateway, of nobody, of a network beside it.
            (both(sandbox(HERE, VNI))[0], own[0]),
            (both(sandbox(STRANGER, VNI))[0], own[0]),
            (both(cluster.network.subnet().gateway())[0], own[0]),
            (lie("192.0.2.2"), own[0]),
            (lie("10.64.8.0"), own[0]),
            (lie("10.64.3.255"), own[0]),
            (both(sandbox(HERE, VNI))[1], own[1]),
            (both(sandbox(STRANGER, VNI))[1], own[1]),
            (lie("fe80::6d6f:1"), own[1]),
            (lie("fd6d:6f74:6501:1:0:7:0:5"), own[1]),
        ] {
            cluster.send(PEER, from, to, "lie");
            lies += 1;
            assert_eq!(receive(&endpoint, NEVER), None, "{from}");
            assert_eq!(cluster.drops(), (0, lies), "{from}");
        }
        // No IP, with a tag before it, and cut off.
        let honest = datagram(both(sandbox(PEER, VNI))[0], own[0], "tagged");
        let tagged = [&honest[..12], &[0x81, 0, 0, 1], &honest[12..]].concat();
        let arp = [&honest[..12], &[8, 6][..], &[0; 40]].concat();
        for frame in [&tagged[..], &arp, &honest[..20], &[]] {
            cluster.frame(PEER, frame);
            lies += 1;
        }
        assert_eq!(receive(&endpoint, NEVER), None);
        assert_eq!(cluster.drops(), (0, lies));
        // A stranger, whatever it says.
        for (from, to) in both(sandbox(PEER, VNI)).into_iter().zip(own) {
            cluster.send(STRANGER, from, to, "stranger");
            assert_eq!(receive(&endpoint, NEVER), None);
        }
        assert_eq!(cluster.drops(), (2, lies));
    }
}

#[test]
fn machines_come_and_go() {
    let Some(_turn) = turn() else { return };
    let mut cluster = Cluster::new(false);
    let endpoint = cluster.network.attach().unwrap();
    let to = both(endpoint.addresses())[0];
    let [old, new] = [PEER, STRANGER].map(|node| both(sandbox(node, VNI))[0]);
    cluster.send(STRANGER, new, to, "too early");
    assert_eq!(receive(&endpoint, NEVER), None);
    let both_peers = [peer(false), Peer { node: Node(STRANGER), address: underlay(false, STRANGER) }];
    cluster.guard.set_peers(&both_peers).unwrap();
    for (node, from) in [(PEER, old), (STRANGER, new)] {
        cluster.send(node, from, to, "now");
        assert_eq!(hears(&endpoint), Some("now".to_owned()));
    }
    // Neither speaks for the other.
    cluster.send(PEER, new, to, "lie");
    cluster.guard.set_peers(&both_peers[1..]).unwrap();
    cluster.send(PEER, old, to, "too late");
    assert_eq!(receive(&endpoint, NEVER), None);
    // Counters went on.
    assert_eq!(cluster.drops(), (2, 1));
    cluster.guard.set_peers(&[]).unwrap();
    cluster.send(STRANGER, new, to, "too late");
    assert_eq!(receive(&endpoint, NEVER), None);
    assert_eq!(cluster.drops(), (3, 1));
    // What cannot be changes nothing.
    let beyond = Peer { node: Node(5000), address: underlay(false, PEER) };
    assert!(matches!(cluster.guard.set_peers(&[beyond]), Err(GuardError::Plan(_))));
    assert!(matches!(cluster.guard.set_peers(&[peer(false); 4097]), Err(GuardError::Peers { peers: 4097 })));
}

#[test]
fn as_many_machines_as_the_plan_has() {
    let Some(_turn) = turn() else { return };
    let machine = Netns::create().unwrap();
    let before = descriptors();
    let peers: Vec<_> = (0..4096)
        .map(|node| Peer {
            node: Node(node),
            address: (u128::from(node) + (0x2001_0db8 << 96)).to_be_bytes().into(),
        })
        .collect();
    let begin = Instant::now();
    let mut guard = machine.run(|| OverlayGuard::place(plan(), &peers).unwrap()).unwrap();
    guard.set_peers(&peers[1..]).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(guard.drops().unwrap(), OverlayDrops::default());
    drop(guard);
    assert_eq!(descriptors(), before);
}

#[test]
fn what_is_not_the_overlays_is_let_alone() {
    let Some(_turn) = turn() else { return };
    let cluster = Cluster::new(false);
    let server =
        cluster.here.run(|| std::net::UdpSocket::bind((underlay(false, HERE), PORT + 1)).unwrap()).unwrap();
    server.set_read_timeout(Some(SOON)).unwrap();
    let client =
        cluster.cable.run(|| std::net::UdpSocket::bind((underlay(false, STRANGER), 0)).unwrap()).unwrap();
    client.send_to(b"hello", server.local_addr().unwrap()).unwrap();
    assert_eq!(server.recv(&mut [0; 10]).unwrap(), 5);
}
