//! What sandboxes reach and what they do not: their network, names, the machine, other tenants, the world. The machine
//! and the world are namespaces. One test after the other: they count the process' descriptors.

#![cfg(test)]

#[path = "support/guest.rs"]
mod guest;
mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use guest::{Guest, settle};
use mote_particle::netlink::{Netlink, index_of};
use mote_particle::netns::Netns;
use mote_particle::nft::{Egress, Nft, REFUSED, TO_HOST, TRANSIT, TenantRules, tenant_table};
use mote_particle::uplink::{Links, Outside, Policy, Uplink, Uplinks};
use mote_particle::{Network, Tenant};
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{LinkUnspec, LinkVeth, RouteMessageBuilder};
use support::{NEVER, SHAPE, SOON, both, descriptors, devices, plan, receive, root, send, subnet};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn turn() -> Option<MutexGuard<'static, ()>> {
    root().then(|| ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner))
}

const WORLD: &str = "1.2.3.4";
const WORLD6: &str = "2600::4";
const SITE: &str = "10.1.2.3";
const SITE6: &str = "fd99::3";
const METADATA: &str = "169.254.169.254";
const METADATA6: &str = "fd00:ec2::254";
const HOST: &str = "5.6.7.8";
const HOST6: &str = "2601::8";
/// In the network of sandboxes, where nobody is.
const NOBODY: &str = "10.127.0.5";
const NOBODY6: &str = "fd6d:6f74:6500:fff:0:7:0:5";

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A machine at a cable to the world.
struct Site {
    machine: Netns,
    world: Netns,
    uplinks: Uplinks,
}

fn outside() -> Outside {
    Outside { plan: plan(), links: Links::default(), devices: vec!["eth0".to_owned()], router: false }
}

fn policy(egress: Egress) -> Policy {
    Policy { egress, flows: 100, mtu: SHAPE.mtu }
}

impl Site {
    fn new() -> Self {
        let [machine, world] = [(); 2].map(|()| Netns::create().unwrap());
        machine
            .run(|| {
                let netlink = Netlink::open().unwrap();
                let far = LinkUnspec::new_with_name("eth0").setns_by_fd(world.as_fd().as_raw_fd()).build();
                let pair =
                    LinkVeth::new("eth0", "eth0").set_info_data(InfoData::Veth(InfoVeth::Peer(far))).build();
                netlink.add_link("make a cable", pair).unwrap();
            })
            .unwrap();
        machine.run(|| plug_in(&[HOST, HOST6])).unwrap();
        world.run(|| plug_in(&[WORLD, WORLD6, SITE, SITE6, METADATA, METADATA6, NOBODY, NOBODY6])).unwrap();
        machine.run(settle_cable).unwrap();
        for (end, text) in [(&machine, HOST6), (&world, WORLD6), (&world, SITE6), (&world, METADATA6)] {
            end.run(|| settle(address(text))).unwrap();
        }
        let own = machine.run(|| Netns::current().unwrap()).unwrap();
        Self { machine, world, uplinks: Uplinks::start(own, &outside()).unwrap() }
    }

    fn tenant(&self, vni: u32, egress: Egress) -> (Network, Option<Uplink>) {
        let network = Network::create(subnet(0, vni), &SHAPE).unwrap();
        let uplink = self.connect(&network, vni, egress);
        (network, uplink)
    }

    fn connect(&self, network: &Network, vni: u32, egress: Egress) -> Option<Uplink> {
        self.uplinks.connect(network, Tenant::new(vni).unwrap(), &policy(egress)).unwrap()
    }

    fn count(&self, counter: &str) -> u64 {
        self.machine.run(|| Nft::open().unwrap().count("mote_uplink", counter).unwrap().packets).unwrap()
    }
}

/// Addresses for a cable's end, and all else behind it.
fn plug_in(addresses: &[&str]) {
    let netlink = Netlink::open().unwrap();
    let loopback = index_of("lo").unwrap();
    netlink.set_link("bring up lo", LinkUnspec::new_with_index(loopback).up().build()).unwrap();
    let index = index_of("eth0").unwrap();
    std::fs::write("/proc/sys/net/ipv6/conf/eth0/accept_dad", "0").unwrap();
    for text in addresses {
        let prefix = if text.contains(':') { 128 } else { 32 };
        netlink.add_address(index, address(text), prefix).unwrap();
    }
    netlink
        .set_link("plug it in", LinkUnspec::new_with_index(index).arp(false).address(vec![2; 6]).up().build())
        .unwrap();
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new().output_interface(index).build();
    netlink.add_route("default", v4).unwrap();
    let v6 = RouteMessageBuilder::<Ipv6Addr>::new().output_interface(index).build();
    netlink.add_route("default", v6).unwrap();
}

/// What is sent from now on arrives.
fn settle_cable() {
    Netlink::open().unwrap().settle_link(index_of("eth0").unwrap()).unwrap();
}

/// Whether a datagram from one namespace reaches the other and the answer comes back; tells who seemed to ask.
fn ask(from: &Netns, at: &Netns, to: IpAddr, port: u16, within: Duration) -> Option<IpAddr> {
    let server = at.run(|| UdpSocket::bind((to, port)).unwrap()).unwrap();
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let client = from.run(|| UdpSocket::bind((any, 0)).unwrap()).unwrap();
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(within)).unwrap();
    }
    // A route may be missing, or the gateway say no.
    let _ = client.send_to(b"question", (to, port));
    let mut text = [0; 100];
    let (length, asker) = server.recv_from(&mut text).ok()?;
    assert_eq!(&text[..length], b"question");
    server.send_to(b"answer", asker).unwrap();
    let (length, answerer) = client.recv_from(&mut text).unwrap();
    assert_eq!((&text[..length], answerer.ip()), (&b"answer"[..], to));
    Some(asker.ip())
}

/// The same by TCP.
fn call(from: &Netns, at: &Netns, to: IpAddr, port: u16, within: Duration) -> Option<IpAddr> {
    let server = at.run(|| TcpListener::bind((to, port)).unwrap()).unwrap();
    server.set_nonblocking(true).unwrap();
    let mut client = from.run(|| TcpStream::connect_timeout(&(to, port).into(), within)).unwrap().ok()?;
    let end = Instant::now() + SOON;
    let (mut served, asker) = loop {
        match server.accept() {
            // The last packet of the handshake is on its way.
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(1));
            }
            accepted => break accepted.unwrap(),
        }
    };
    served.set_nonblocking(false).unwrap();
    // Several packets, each way.
    let much = vec![7; 100_000];
    let mut back = vec![0; much.len()];
    std::thread::scope(|scope| {
        scope.spawn(|| client.write_all(&much).unwrap());
        served.read_exact(&mut back).unwrap();
    });
    assert!(back == much);
    served.write_all(b"answer").unwrap();
    let mut text = [0; 6];
    client.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"answer");
    Some(asker.ip())
}

#[test]
fn the_internet_is_reached_by_those_who_may() {
    let Some(_turn) = turn() else { return };
    let site = Site::new();
    let (network, uplink) = site.tenant(7, Egress::Internet);
    assert_eq!(uplink.as_ref().unwrap().name(), "mt-000007");
    let guest = Guest::of(&network);
    for (to, seen) in [(WORLD, HOST), (WORLD6, HOST6)] {
        assert_eq!(ask(&guest.netns, &site.world, address(to), 7000, SOON), Some(address(seen)));
        assert_eq!(call(&guest.netns, &site.world, address(to), 443, SOON), Some(address(seen)));
    }
    // The site's own networks, metadata, what sandboxes have elsewhere.
    for to in [SITE, SITE6, METADATA, METADATA6, NOBODY, NOBODY6] {
        for port in [80, 7000] {
            assert_eq!(ask(&guest.netns, &site.world, address(to), port, NEVER), None, "{to}");
            assert_eq!(call(&guest.netns, &site.world, address(to), port, NEVER), None, "{to}");
        }
    }
    // Nobody outside can begin.
    for to in [guest.v4(), guest.v6()] {
        assert_eq!(ask(&site.world, &guest.netns, to, 7000, NEVER), None);
    }
    // A policy taken back.
    drop(uplink);
    assert_eq!(site.uplinks.used(), 0);
    assert!(site.connect(&network, 7, Egress::None).is_none());
    for to in [WORLD, WORLD6] {
        assert_eq!(ask(&guest.netns, &site.world, address(to), 7000, NEVER), None);
    }
    // And given again.
    let _uplink = site.connect(&network, 7, Egress::Internet);
    assert!(ask(&guest.netns, &site.world, address(WORLD), 7000, SOON).is_some());
}

#[test]
fn the_site_is_reached_by_those_who_may() {
    let Some(_turn) = turn() else { return };
    let site = Site::new();
    let (network, uplink) = site.tenant(7, Egress::All);
    let guest = Guest::of(&network);
    for (to, seen) in [(WORLD, HOST), (WORLD6, HOST6), (SITE, HOST), (SITE6, HOST6)] {
        assert_eq!(call(&guest.netns, &site.world, address(to), 443, SOON), Some(address(seen)), "{to}");
    }
    for to in [METADATA, METADATA6, NOBODY, NOBODY6] {
        assert_eq!(call(&guest.netns, &site.world, address(to), 80, NEVER), None, "{to}");
    }
    for to in [HOST, HOST6] {
        assert_eq!(call(&guest.netns, &site.machine, address(to), 8080, NEVER), None, "{to}");
    }
    // A stricter policy in its place: the old uplink's end takes nothing of the new one along.
    let stricter = site.connect(&network, 7, Egress::Internet);
    drop(uplink);
    assert_eq!(call(&guest.netns, &site.world, address(SITE), 443, NEVER), None);
    assert_eq!(call(&guest.netns, &site.world, address(WORLD), 443, SOON), Some(address(HOST)));
    drop(stricter);
}

#[test]
fn the_machines_filter_holds_whatever_the_tenants_says() {
    let Some(_turn) = turn() else { return };
    let site = Site::new();
    let (network, _uplink) = site.tenant(7, Egress::Internet);
    let (other, _other) = site.tenant(8, Egress::All);
    // From the namespaces themselves, without their own filters.
    let inside = network.netns();
    inside.run(|| Nft::open().unwrap().remove("mote_tenant").unwrap()).unwrap();
    other.netns().run(|| Nft::open().unwrap().remove("mote_tenant").unwrap()).unwrap();
    assert_eq!(ask(inside, &site.world, address(WORLD), 53, SOON), Some(address(HOST)));
    for to in [SITE, SITE6, METADATA, METADATA6, NOBODY, NOBODY6] {
        let before = site.count(TRANSIT);
        assert_eq!(ask(inside, &site.world, address(to), 80, NEVER), None, "{to}");
        assert!(site.count(TRANSIT) > before, "{to}");
    }
    let mine = |number: u8| Ipv4Addr::new(100, 126, 0, number);
    for to in [address(HOST), address(HOST6), mine(0).into(), mine(2).into()] {
        let before = site.count(TO_HOST);
        assert_eq!(ask(inside, &site.machine, to, 8080, NEVER), None, "{to}");
        assert!(site.count(TO_HOST) > before, "{to}");
    }
    // The other tenant's end of its link.
    let before = site.count(TRANSIT);
    assert_eq!(ask(inside, other.netns(), mine(3).into(), 53, NEVER), None);
    assert!(site.count(TRANSIT) > before);
    assert_eq!(ask(other.netns(), &site.world, address(SITE), 80, SOON), Some(address(HOST)));
}

#[test]
fn without_a_policy_nothing_leaves() {
    let Some(_turn) = turn() else { return };
    let site = Site::new();
    let (network, uplink) = site.tenant(7, Egress::None);
    assert!(uplink.is_none());
    assert_eq!(site.machine.run(devices).unwrap(), ["lo", "eth0"]);
    assert!(!network.netns().run(devices).unwrap().contains(&"up0".to_owned()));
    let guest = Guest::of(&network);
    for to in [WORLD, WORLD6, SITE, METADATA, METADATA6] {
        assert_eq!(ask(&guest.netns, &site.world, address(to), 80, NEVER), None, "{to}");
        assert_eq!(call(&guest.netns, &site.world, address(to), 80, NEVER), None, "{to}");
    }
}

#[test]
fn a_sandbox_reaches_its_own_network_and_names_and_nothing_else() {
    let Some(_turn) = turn() else { return };
    let site = Site::new();
    let (network, _uplink) = site.tenant(7, Egress::All);
    let [one, two] = [(); 2].map(|()| Guest::of(&network));
    for (from, to) in [(one.v4(), two.v4()), (one.v6(), two.v6())] {
        assert_eq!(ask(&one.netns, &two.netns, to, 7000, SOON), Some(from));
        assert_eq!(call(&one.netns, &two.netns, to, 7000, SOON), Some(from));
    }
    for (from, gateway) in [one.v4(), one.v6()].into_iter().zip(both(network.subnet().gateway())) {
        assert_eq!(ask(&one.netns, network.netns(), gateway, 53, SOON), Some(from));
        assert_eq!(call(&one.netns, network.netns(), gateway, 53, SOON), Some(from));
        assert_eq!(ask(&one.netns, network.netns(), gateway, 54, NEVER), None);
        assert_eq!(call(&one.netns, network.netns(), gateway, 8080, NEVER), None);
        // What the gateway asks is answered.
        assert!(ask(network.netns(), &one.netns, from, 7001, SOON).is_some());
    }
    // A service on all addresses of the namespace is no more open.
    for to in both(network.subnet().gateway()).into_iter().chain([Ipv4Addr::new(100, 126, 0, 1).into()]) {
        assert_eq!(call(&one.netns, network.netns(), to, 80, NEVER), None);
    }
    // Nothing of this was tracked, but for the gateway's own questions.
    let tracked = network.netns().run(|| std::fs::read_to_string("/proc/thread-self/net/nf_conntrack"));
    if let Ok(tracked) = tracked.unwrap() {
        assert!(!tracked.contains("dport=7000") && !tracked.contains("dport=53 "), "{tracked}");
    }
}

#[test]
fn no_port_but_that_of_names_is_open() {
    let Some(_turn) = turn() else { return };
    let site = Site::new();
    let (network, _uplink) = site.tenant(7, Egress::All);
    let guest = Guest::of(&network);
    let ports = 1..400u16;
    // Listeners for all of them, as a scan of what is closed would find nothing anyway.
    for (at, gateway) in both(network.subnet().gateway())
        .into_iter()
        .map(|at| (network.netns(), at))
        .chain([(&site.machine, address(HOST)), (&site.machine, Ipv4Addr::new(100, 126, 0, 0).into())])
    {
        let listeners: Vec<_> = at
            .run(|| ports.clone().map(|port| TcpListener::bind((gateway, port)).unwrap()).collect())
            .unwrap();
        let open = guest.netns.run(|| scan(gateway, ports.clone())).unwrap();
        drop::<Vec<_>>(listeners);
        let expected: &[u16] = if std::ptr::eq(at, network.netns()) { &[53] } else { &[] };
        assert_eq!(open, expected, "{gateway}");
    }
}

/// Ports that answer.
fn scan(at: IpAddr, ports: std::ops::Range<u16>) -> Vec<u16> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let sockets: Vec<_> = ports
        .map(|port| {
            let socket = socket_with(family, SocketType::STREAM, flags, None).unwrap();
            let _ = connect(&socket, &SocketAddr::from((at, port)));
            (port, TcpStream::from(socket))
        })
        .collect();
    std::thread::sleep(2 * NEVER);
    let open = |stream: &TcpStream| match stream.peer_addr() {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::NotConnected => false,
        Err(error) => panic!("{error}"),
    };
    sockets.iter().filter(|(_, stream)| open(stream)).map(|(port, _)| *port).collect()
}

#[test]
fn tenants_with_uplinks_do_not_reach_each_other() {
    let Some(_turn) = turn() else { return };
    let site = Site::new();
    let (one, _one) = site.tenant(7, Egress::All);
    let (other, _other) = site.tenant(8, Egress::All);
    let [here, there] = [&one, &other].map(Guest::of);
    // IPv4 addresses are the same; IPv6 ones are the other's own.
    assert_eq!(here.v4(), there.v4());
    assert_eq!(ask(&here.netns, &there.netns, there.v6(), 7000, NEVER), None);
    for to in [
        Ipv4Addr::new(100, 126, 0, 3).into(),
        address("fd6d:6f74:6c6b::3"),
        both(other.subnet().gateway())[1],
    ] {
        assert_eq!(ask(&here.netns, other.netns(), to, 53, NEVER), None, "{to}");
    }
    // Both are outside at once, from the same address and port.
    for guest in [&here, &there] {
        assert_eq!(call(&guest.netns, &site.world, address(WORLD), 443, SOON), Some(address(HOST)));
    }
}

#[test]
fn flows_to_the_world_are_bounded() {
    let Some(_turn) = turn() else { return };
    let site = Site::new();
    let (network, _uplink) = site.tenant(7, Egress::Internet);
    let guest = Guest::of(&network);
    let server = site.world.run(|| UdpSocket::bind((WORLD, 7000)).unwrap()).unwrap();
    server.set_read_timeout(Some(NEVER)).unwrap();
    let clients: Vec<_> = guest
        .netns
        .run(|| (0..150).map(|_| UdpSocket::bind("0.0.0.0:0").unwrap()).collect::<Vec<_>>())
        .unwrap();
    for client in &clients {
        client.send_to(b"question", (WORLD, 7000)).unwrap();
    }
    let heard = std::iter::from_fn(|| server.recv_from(&mut [0; 10]).ok()).count();
    assert_eq!(heard, 100);
    let dropped = network.netns().run(|| Nft::open().unwrap().count("mote_tenant", "too_many").unwrap());
    assert_eq!(dropped.unwrap().packets, 50);
    // Among themselves and to names nothing is bounded.
    assert!(ask(&guest.netns, network.netns(), both(network.subnet().gateway())[0], 53, SOON).is_some());
}

#[test]
fn a_machine_that_is_no_router_does_not_become_one() {
    let Some(_turn) = turn() else { return };
    let site = Site::new();
    let neighbour = Netns::create().unwrap();
    site.machine
        .run(|| {
            let netlink = Netlink::open().unwrap();
            let far = LinkUnspec::new_with_name("eth0").setns_by_fd(neighbour.as_fd().as_raw_fd()).build();
            let pair =
                LinkVeth::new("eth1", "eth0").set_info_data(InfoData::Veth(InfoVeth::Peer(far))).build();
            netlink.add_link("make a cable", pair).unwrap();
            let index = index_of("eth1").unwrap();
            let link = LinkUnspec::new_with_index(index).arp(false).address(vec![2; 6]).up().build();
            netlink.set_link("plug it in", link).unwrap();
            let route = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(Ipv4Addr::new(9, 9, 9, 9), 32)
                .output_interface(index);
            netlink.add_route("route", route.build()).unwrap();
        })
        .unwrap();
    neighbour.run(|| plug_in(&["9.9.9.9"])).unwrap();
    let before = site.count(TRANSIT);
    assert_eq!(ask(&site.world, &neighbour, address("9.9.9.9"), 7000, NEVER), None);
    assert!(site.count(TRANSIT) > before);
    // Its own traffic is its own.
    assert_eq!(ask(&site.world, &site.machine, address(HOST), 8080, SOON), Some(address(WORLD)));
    assert!(ask(&site.machine, &site.world, address(SITE), 8080, SOON).is_some());
    // Where it was one before, it stays one.
    let own = site.machine.run(|| Netns::current().unwrap()).unwrap();
    let _uplinks = Uplinks::start(own, &Outside { router: true, ..outside() }).unwrap();
    site.machine.run(|| std::fs::write("/proc/sys/net/ipv4/conf/eth1/forwarding", "1").unwrap()).unwrap();
    assert!(ask(&site.world, &neighbour, address("9.9.9.9"), 7000, SOON).is_some());
}

#[test]
fn nothing_is_left_of_uplinks() {
    let Some(_turn) = turn() else { return };
    // The async runtime's descriptors, which stay.
    drop(Netns::create());
    let before = (descriptors(), devices());
    let site = Site::new();
    let held = descriptors();
    let inside = site.machine.run(devices).unwrap();
    for round in 0..20 {
        let (network, uplink) = site.tenant(7, Egress::Internet);
        assert!(site.machine.run(devices).unwrap().contains(&"mt-000007".to_owned()));
        // The uplink first, or the network.
        if round % 2 == 0 {
            drop((uplink, network))
        } else {
            drop((network, uplink))
        }
        assert_eq!((site.machine.run(devices).unwrap(), site.uplinks.used()), (inside.clone(), 0));
        assert_eq!(descriptors(), held);
    }
    // As after a process that was killed: the device goes with the namespace, without anybody taking it away.
    let (network, uplink) = site.tenant(7, Egress::Internet);
    std::mem::forget(uplink);
    drop(network);
    let end = Instant::now() + 5 * SOON;
    while site.machine.run(devices).unwrap() != inside {
        assert!(Instant::now() < end, "The device is not gone");
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(site);
    // What forgetting left: the share of the machine's namespace.
    assert_eq!((descriptors(), devices()), (before.0 + 1, before.1));
}

#[test]
fn a_new_process_begins_anew() {
    let Some(_turn) = turn() else { return };
    let site = Site::new();
    let (network, uplink) = site.tenant(7, Egress::Internet);
    let guest = Guest::of(&network);
    let own = site.machine.run(|| Netns::current().unwrap()).unwrap();
    // Its uplinks are of namespaces that are about to vanish.
    let second = Uplinks::start(own, &outside()).unwrap();
    assert_eq!(site.machine.run(devices).unwrap(), ["lo", "eth0"]);
    assert_eq!(ask(&guest.netns, &site.world, address(WORLD), 7000, NEVER), None);
    let _again = second.connect(&network, Tenant::new(7).unwrap(), &policy(Egress::Internet)).unwrap();
    assert!(ask(&guest.netns, &site.world, address(WORLD), 7000, SOON).is_some());
    // The old one's end is none of the new one's.
    drop(uplink);
    assert!(ask(&guest.netns, &site.world, address(WORLD), 7000, SOON).is_some());
}

#[test]
fn what_is_refused_is_counted() {
    let Some(_turn) = turn() else { return };
    let network = support::network(&SHAPE);
    let tenant = Tenant::new(7).unwrap();
    let gateway = network.subnet().gateway();
    let rules = TenantRules { plan: plan(), tenant, gateway, egress: Egress::None, flows: 1 };
    let mut nft = network.netns().run(|| Nft::open().unwrap()).unwrap();
    // Again and again the same.
    for _ in 0..3 {
        nft.replace(&tenant_table(&rules)).unwrap();
    }
    let endpoint = network.attach().unwrap();
    for (from, to) in both(endpoint.addresses()).into_iter().zip(both(gateway)) {
        send(&endpoint, from, to, "knock");
    }
    assert_eq!(receive(&endpoint, NEVER), None);
    let count = nft.count("mote_tenant", REFUSED).unwrap();
    assert_eq!((count.packets, count.bytes), (2, 28 + 48 + 10));
    let missing = nft.count("mote_tenant", "nonsense").unwrap_err();
    assert!(missing.to_string().contains("nonsense"));
    nft.remove("mote_tenant").unwrap();
    nft.remove("mote_tenant").unwrap();
    assert!(nft.count("mote_tenant", REFUSED).is_err());
}
