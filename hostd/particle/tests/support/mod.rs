//! Frames, and endpoints that send and receive them.

// Every test program uses some of it.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};
use mote_particle::tap::{HEADER, MAC};
use mote_particle::{Addresses, Ebpf, Endpoint, Network, Node, Plan, Shape, Subnet, Tenant};

/// Bound on a frame's way.
pub const SOON: Duration = Duration::from_secs(2);

/// After this a frame that was to be dropped has been.
pub const NEVER: Duration = Duration::from_millis(150);

pub const SHAPE: Shape = Shape { endpoints: 10, mtu: 1400, quarantine: Duration::ZERO, ebpf: Ebpf::All };

/// Whether namespaces and TAP devices can be made here; says so if not.
pub fn root() -> bool {
    let missing = if !rustix::process::geteuid().is_root() {
        "root, for network namespaces"
    } else if !std::path::Path::new("/dev/net/tun").exists() {
        "/dev/net/tun"
    } else {
        return true;
    };
    println!("skipped: needs {missing}");
    false
}

pub fn plan() -> Plan {
    Plan::new("10.64.0.0/10".parse().unwrap(), "fd6d:6f74:6500::/48".parse().unwrap(), 22).unwrap()
}

pub fn subnet(node: u16, vni: u32) -> Subnet {
    plan().subnet(Node(node), Tenant::new(vni).unwrap()).unwrap()
}

pub fn network(shape: &Shape) -> Network {
    Network::create(subnet(0, 7), shape).unwrap()
}

/// Sender, receiver, text.
pub type Datagram = (IpAddr, IpAddr, String);

/// Sends a UDP datagram with addresses as given, whatever the endpoint's are.
pub fn send(endpoint: &Endpoint, from: IpAddr, to: IpAddr, text: &str) {
    send_to(endpoint, from, to, 9000, text);
}

pub fn send_to(endpoint: &Endpoint, from: IpAddr, to: IpAddr, port: u16, text: &str) {
    let builder = PacketBuilder::ethernet2(MAC, MAC);
    let builder = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), 64),
        _ => panic!("two families"),
    };
    let mut frame = vec![0; HEADER];
    builder.udp(9000, port).write(&mut frame, text.as_bytes()).unwrap();
    write(endpoint, &frame);
}

pub fn write(endpoint: &Endpoint, frame: &[u8]) {
    let mut file = std::fs::File::from(endpoint.as_fd().try_clone_to_owned().unwrap());
    assert_eq!(file.write(frame).unwrap(), frame.len());
}

/// The next UDP datagram at an endpoint, if one comes in time; anything else is passed over.
pub fn receive(endpoint: &Endpoint, within: Duration) -> Option<Datagram> {
    let mut file = std::fs::File::from(endpoint.as_fd().try_clone_to_owned().unwrap());
    let mut frame = vec![0; 70_000];
    let end = Instant::now() + within;
    loop {
        match file.read(&mut frame) {
            Ok(length) => {
                if let Some(datagram) = parse(&frame[HEADER..length]) {
                    return Some(datagram);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if Instant::now() > end {
                    return None;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn parse(frame: &[u8]) -> Option<Datagram> {
    let packet = PacketHeaders::from_ethernet_slice(frame).ok()?;
    let (from, to): (IpAddr, IpAddr) = match packet.net? {
        NetHeaders::Ipv4(header, _) => {
            (Ipv4Addr::from(header.source).into(), Ipv4Addr::from(header.destination).into())
        }
        NetHeaders::Ipv6(header, _) => {
            (Ipv6Addr::from(header.source).into(), Ipv6Addr::from(header.destination).into())
        }
        NetHeaders::Arp(_) => return None,
    };
    matches!(packet.transport?, TransportHeader::Udp(_))
        .then(|| (from, to, String::from_utf8_lossy(packet.payload.slice()).into_owned()))
}

/// Both addresses.
pub fn both(addresses: Addresses) -> [IpAddr; 2] {
    [addresses.v4.into(), addresses.v6.into()]
}

/// Descriptors of this process.
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Names of the devices in the calling thread's namespace.
pub fn devices() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    text.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}
