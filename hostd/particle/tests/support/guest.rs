//! A guest behind an endpoint: a namespace with the kernel's own network in it, and a thread that carries frames.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mote_particle::netlink::{Netlink, index_of};
use mote_particle::netns::Netns;
use mote_particle::tap::{HEADER, MAC};
use mote_particle::{Endpoint, Network};
use rtnetlink::{LinkUnspec, RouteMessageBuilder};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::support::{SHAPE, SOON};

pub struct Guest {
    pub netns: Netns,
    pub endpoint: Arc<Endpoint>,
    stop: Arc<AtomicBool>,
    carrier: Option<JoinHandle<()>>,
}

impl Guest {
    /// A guest at a new endpoint.
    pub fn of(network: &Network) -> Self {
        let endpoint = Arc::new(network.attach().unwrap());
        let netns = Netns::create().unwrap();
        let device = netns.run(|| device(&endpoint)).unwrap();
        netns.run(|| settle(endpoint.addresses().v6.into())).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (ours, end) = (Arc::clone(&endpoint), Arc::clone(&stop));
        let carrier = std::thread::spawn(move || carry(&ours, &device, &end));
        Self { netns, endpoint, stop, carrier: Some(carrier) }
    }

    pub fn v4(&self) -> IpAddr {
        self.endpoint.addresses().v4.into()
    }

    pub fn v6(&self) -> IpAddr {
        self.endpoint.addresses().v6.into()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.carrier.take().unwrap().join().unwrap();
    }
}

/// Waits until an address of the calling thread's namespace is in use: of IPv6 that takes the kernel a moment.
pub fn settle(address: IpAddr) {
    let works = || {
        let socket = UdpSocket::bind((address, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(10)))?;
        socket.send_to(b"it works", socket.local_addr()?)?;
        socket.recv(&mut [0; 10])
    };
    let end = Instant::now() + SOON;
    while let Err(error) = works() {
        assert!(Instant::now() < end, "{address}: {error}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// `struct ifreq` as TUNSETIFF reads it.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: i16,
    padding: [u8; 22],
}

fn device(endpoint: &Endpoint) -> File {
    const SET_IFF: libc::c_ulong = 0x4004_54ca;
    const SET_HEADER: libc::c_ulong = 0x4004_54d8;
    const TAP_NO_PI_VNET_HDR: i16 = 0x0002 | 0x1000 | 0x4000;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .unwrap();
    let mut request = Request { name: [0; 16], flags: TAP_NO_PI_VNET_HDR, padding: [0; 22] };
    request.name[..4].copy_from_slice(b"eth0");
    let mut header = i32::try_from(HEADER).unwrap();
    // SAFETY: both calls read a structure of the type given, and keep no pointer to it.
    let done = unsafe {
        libc::ioctl(file.as_raw_fd(), SET_IFF, &raw mut request)
            | libc::ioctl(file.as_raw_fd(), SET_HEADER, &raw mut header)
    };
    assert_eq!(done, 0);
    let netlink = Netlink::open().unwrap();
    let loopback = index_of("lo").unwrap();
    netlink.set_link("bring up lo", LinkUnspec::new_with_index(loopback).up().build()).unwrap();
    let index = index_of("eth0").unwrap();
    std::fs::write("/proc/sys/net/ipv6/conf/eth0/addr_gen_mode", "1").unwrap();
    let link = LinkUnspec::new_with_index(index).address(MAC.to_vec()).arp(false).mtu(SHAPE.mtu.into()).up();
    netlink.set_link("bring up a guest", link.build()).unwrap();
    for (address, prefix) in [(endpoint.addresses().v4.into(), 32), (endpoint.addresses().v6.into(), 128)] {
        netlink.add_address(index, address, prefix).unwrap();
    }
    let v4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new().output_interface(index).build();
    netlink.add_route("default", v4).unwrap();
    let v6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new().output_interface(index).build();
    netlink.add_route("default", v6).unwrap();
    file
}

fn carry(endpoint: &Endpoint, device: &File, stop: &AtomicBool) {
    let queue = File::from(endpoint.as_fd().try_clone_to_owned().unwrap());
    let mut frame = vec![0; 70_000];
    while !stop.load(Ordering::Relaxed) {
        let mut fds = [&queue, device].map(|file| PollFd::new(file, PollFlags::IN));
        let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 20_000_000 }));
        for (mut from, mut to) in [(&queue, device), (device, &queue)] {
            while let Ok(length) = from.read(&mut frame) {
                let _ = to.write(&frame[..length]);
            }
        }
    }
}
