//! Two guests behind queues of a real TAP device, in a namespace of their own.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use etherparse::{PacketBuilder, PacketHeaders};
use mote_particle::netlink::Netlink;
use mote_particle::{Addresses, Ebpf, Endpoint, Network, Node, Plan, Shape, Tenant};

use super::frames::MAC;
use super::guest::Guest;
use crate::net::header::Header;
use crate::net::{Limit, Net, NetConfig, NetLink};

const MTU: u16 = 1400;
const SOON: Duration = Duration::from_secs(5);

/// A network for two; says so where none can be made.
fn network() -> Option<Network> {
    let missing = if !rustix::process::geteuid().is_root() {
        "root, for network namespaces"
    } else if !std::path::Path::new("/dev/net/tun").exists() {
        "/dev/net/tun"
    } else {
        let plan = Plan::new("10.64.0.0/10".parse().unwrap(), "fd6d:6f74:6500::/48".parse().unwrap(), 22);
        let subnet = plan.unwrap().subnet(Node(0), Tenant::new(7).unwrap()).unwrap();
        let shape = Shape { endpoints: 10, mtu: MTU, quarantine: Duration::ZERO, ebpf: Ebpf::All };
        return Some(Network::create(subnet, &shape).unwrap());
    };
    println!("skipped: needs {missing}");
    None
}

fn net(endpoint: &Endpoint) -> Net {
    let Addresses { v4, v6 } = endpoint.addresses();
    let queue = endpoint.as_fd().try_clone_to_owned().unwrap();
    let link = NetLink { queue, v4, v6, tx: Limit::default(), rx: Limit::default() };
    Net::new(NetConfig { mac: MAC, mtu: MTU, link: Some(link) }).unwrap()
}

/// A TCP segment as a guest's kernel gives it away: what is too long is left to be segmented.
fn segment(from: IpAddr, to: IpAddr, data: &[u8]) -> (Header, Vec<u8>) {
    let builder = PacketBuilder::ethernet2(MAC, MAC);
    let (builder, start, kind) = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (builder.ipv4(from.octets(), to.octets(), 64), 34, 1),
        (IpAddr::V6(from), IpAddr::V6(to)) => (builder.ipv6(from.octets(), to.octets(), 64), 54, 4),
        _ => panic!("two families"),
    };
    let mut frame = Vec::new();
    builder.tcp(9000, 9000, 1, 1024).write(&mut frame, data).unwrap();
    let mut header = Header { flags: 1, checksum_start: start, checksum_offset: 16, ..Header::default() };
    if data.len() > usize::from(MTU) {
        header = Header { kind, header_length: start + 20, segment: MTU - 60, ..header };
    }
    (header, frame)
}

fn payload(frame: &[u8]) -> Vec<u8> {
    PacketHeaders::from_ethernet_slice(frame).unwrap().payload.slice().to_vec()
}

/// The next frame of those the test sends.
fn receive(guest: &mut Guest) -> (Header, Vec<u8>) {
    let end = Instant::now() + SOON;
    loop {
        if let Some(frame) = guest.next() {
            guest.fill();
            return frame;
        }
        assert!(Instant::now() < end, "no frame came");
        guest.machine.step(100);
    }
}

fn families(one: &Endpoint, other: &Endpoint) -> [(IpAddr, IpAddr); 2] {
    let (one, other) = (one.addresses(), other.addresses());
    [(one.v4.into(), other.v4.into()), (one.v6.into(), other.v6.into())]
}

#[test]
fn guests_hear_each_other_and_large_segments_stay_whole() {
    let Some(network) = network() else { return };
    let [one, other] = [(); 2].map(|()| network.attach().unwrap());
    let [mut first, mut second] = [&one, &other].map(|endpoint| Guest::new(net(endpoint)));
    second.fill();
    for (from, to) in families(&one, &other) {
        for size in [5, 1300, 40_000, 60_000, 7] {
            let data: Vec<u8> = (0..size).map(|i: u32| (i % 251) as u8).collect();
            let (header, frame) = segment(from, to, &data);
            assert!(first.send(header, &frame));
            let (given, received) = receive(&mut second);
            assert_eq!(payload(&received), data);
            assert_eq!((given.flags, given.kind, given.segment), (1, header.kind, header.segment));
            assert_eq!(received[..12], [MAC, MAC].concat());
        }
    }
    // Under the other's address.
    let (header, frame) = segment(other.addresses().v4.into(), one.addresses().v4.into(), b"forged");
    assert!(first.send(header, &frame));
    assert_eq!((first.counts().tx_frames, first.counts().tx_source), (10, 1));
    assert_eq!((first.counts().tx_refused, second.counts().rx_frames), (0, 10));
}

#[test]
fn a_snapshot_goes_on_behind_another_queue() {
    let Some(network) = network() else { return };
    let [one, other, third] = [(); 3].map(|()| network.attach().unwrap());
    let mut first = Guest::new(super::guest::device(None, Limit::default(), Limit::default()));
    first.fill();
    first.machine.pump(0);
    // The MTU is the first network's; the address must be the same everywhere.
    let image = first.machine.snapshot();
    let [mut second, mut sender] = [first.restored(&image, net(&other)), Guest::new(net(&third))];
    for (from, to) in families(&third, &other) {
        let (header, frame) = segment(from, to, b"hello");
        assert!(sender.send(header, &frame));
        assert_eq!(payload(&receive(&mut second).1), b"hello");
    }
    drop(one);
}

#[test]
fn a_device_that_is_taken_away_leaves_a_quiet_guest() {
    let Some(network) = network() else { return };
    let endpoint = network.attach().unwrap();
    let mut guest = Guest::new(net(&endpoint));
    guest.fill();
    guest.machine.pump(0);
    assert_eq!(guest.status(), 1);
    let addresses = endpoint.addresses();
    network.netns().run(|| Netlink::open().and_then(|netlink| netlink.delete_link("tap0"))).unwrap().unwrap();
    let end = Instant::now() + SOON;
    while guest.status() == 1 {
        assert!(Instant::now() < end, "the guest never hears of it");
        guest.machine.step(100);
    }
    guest.machine.pump(0);
    let (header, frame) = segment(addresses.v4.into(), addresses.v4.into(), b"x");
    assert!(guest.send(header, &frame));
    assert_eq!(guest.counts().tx_detached, 1);
    assert_eq!(guest.machine.step(50), 0, "events without end");
}
