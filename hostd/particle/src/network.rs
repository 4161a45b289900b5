//! A tenant's network on this machine.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{LinkUnspec, RouteMessageBuilder};

use crate::lease::{Exhausted, Leases};
use crate::netlink::{Netlink, NetlinkError, index_of};
use crate::netns::{Netns, NetnsError};
use crate::plan::{Addresses, RESERVED, Subnet};
use crate::steering::{Ebpf, Steering, devices};
use crate::sysctl::{self, SysctlError};
use crate::tap::{MAC, Tap, TapError};

/// What a network is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Endpoints, at most as many as the subnet has addresses left.
    pub endpoints: u16,
    /// Largest packet in bytes, on every device.
    pub mtu: u16,
    /// How long an address rests after use.
    pub quarantine: Duration,
    /// What eBPF may be used for; less than the kernel offers only to try what happens without.
    pub ebpf: Ebpf,
}

/// A network that cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// Its namespace.
    #[error("Cannot make a tenant's network")]
    Namespace(#[from] NetnsError),
    /// The namespace's settings.
    #[error("Cannot make a tenant's network")]
    Sysctl(#[from] SysctlError),
    /// Its devices.
    #[error("Cannot make a tenant's network")]
    Tap(#[from] TapError),
    /// Addresses and routes.
    #[error("Cannot make a tenant's network")]
    Netlink(#[from] NetlinkError),
}

/// No endpoint for a sandbox.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// All are taken.
    #[error("No network endpoint is free")]
    Exhausted(#[from] Exhausted),
    /// The process has no descriptor left.
    #[error("Cannot hand over a network endpoint")]
    Descriptor(#[source] io::Error),
}

/// One tenant's namespace with its devices and the leases of its endpoints.
#[derive(Debug)]
pub struct Network {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    // Before the namespace: devices go first.
    taps: Vec<Tap>,
    steering: Steering,
    leases: Mutex<Leases>,
    subnet: Subnet,
    netns: Netns,
    netlink_calls: u64,
}

/// A network that is nobody's yet: namespace, devices and queues are there, and what of the addresses is the same for
/// all tenants.
#[derive(Debug)]
pub struct Blank {
    taps: Vec<Tap>,
    steering: Steering,
    endpoints: u16,
    quarantine: Duration,
    netns: Netns,
    netlink_calls: u64,
}

impl Blank {
    /// Makes a namespace with all its endpoints ready, for any tenant on the machine whose subnet this is one of. Blocks
    /// for some milliseconds; where the kernel has no eBPF for it, for some more.
    ///
    /// # Errors
    /// When the kernel lacks something, or the process the privilege.
    pub fn create(subnet: &Subnet, shape: &Shape) -> Result<Self, NetworkError> {
        let netns = Netns::create()?;
        let endpoints = shape.endpoints.saturating_add(RESERVED).min(subnet.endpoints());
        let (taps, steering, netlink_calls) = netns.run(|| furnish(subnet, endpoints, shape))??;
        Ok(Self { taps, steering, endpoints, quarantine: shape.quarantine, netns, netlink_calls })
    }

    /// Makes it a tenant's: a netlink call per device, and one for the gateway.
    ///
    /// # Errors
    /// As for [`create`](Self::create). What was done goes with it.
    pub fn adopt(mut self, subnet: Subnet) -> Result<Network, NetworkError> {
        let Self { taps, steering, endpoints, netns, .. } = &mut self;
        self.netlink_calls += netns.run(|| address(taps, &subnet, *endpoints, steering))??;
        let Self { taps, steering, endpoints, quarantine, netns, netlink_calls } = self;
        let leases = Mutex::new(Leases::new(RESERVED..endpoints, quarantine));
        Ok(Network { inner: Arc::new(Inner { taps, steering, leases, subnet, netns, netlink_calls }) })
    }
}

impl Network {
    /// Makes a namespace for a subnet: a [`Blank`] that is adopted at once.
    ///
    /// # Errors
    /// As these two.
    pub fn create(subnet: Subnet, shape: &Shape) -> Result<Self, NetworkError> {
        Blank::create(&subnet, shape)?.adopt(subnet)
    }

    /// Leases an endpoint: a descriptor and two addresses. No netlink call.
    ///
    /// # Errors
    /// When none is free, or no descriptor.
    pub fn attach(&self) -> Result<Endpoint, AttachError> {
        let number = self.inner.leases().take(Instant::now())?;
        match self.inner.open(number) {
            Ok((queue, addresses)) => {
                Ok(Endpoint { queue, addresses, lease: Lease { network: Arc::clone(&self.inner), number } })
            }
            Err(error) => {
                self.inner.give_back(number);
                Err(AttachError::Descriptor(error))
            }
        }
    }

    /// Endpoints leased now.
    pub fn leased(&self) -> usize {
        self.inner.leases().leased()
    }

    /// Addresses of this network on this machine.
    pub fn subnet(&self) -> &Subnet {
        &self.inner.subnet
    }

    /// The namespace.
    pub fn netns(&self) -> &Netns {
        &self.inner.netns
    }

    /// Netlink calls its making took.
    pub fn netlink_calls(&self) -> u64 {
        self.inner.netlink_calls
    }

    /// How frames find their endpoint.
    pub fn steering(&self) -> &Steering {
        &self.inner.steering
    }

    /// TAP devices.
    pub fn taps(&self) -> &[Tap] {
        &self.inner.taps
    }
}

impl Inner {
    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, number: u16) -> io::Result<(OwnedFd, Addresses)> {
        let (tap, queue) = self.place(number).ok_or(io::ErrorKind::NotFound)?;
        let addresses = self.subnet.endpoint(number).ok_or(io::ErrorKind::NotFound)?;
        Ok((tap.open(queue)?, addresses))
    }

    fn place(&self, number: u16) -> Option<(&Tap, u16)> {
        let (tap, queue) = self.steering.layout().place(number)?;
        Some((self.taps.get(usize::from(tap))?, queue))
    }

    fn give_back(&self, number: u16) {
        if let Some((tap, queue)) = self.place(number) {
            tap.close(queue);
        }
        self.leases().give_back(number, Instant::now());
    }
}

/// Devices, and IPv4 addresses and routes, in the calling thread's namespace.
fn furnish(
    subnet: &Subnet,
    endpoints: u16,
    shape: &Shape,
) -> Result<(Vec<Tap>, Steering, u64), NetworkError> {
    sysctl::apply()?;
    let netlink = Netlink::open()?;
    let loopback = index_of("lo")?;
    netlink.set_link("bring up lo", LinkUnspec::new_with_index(loopback).up().build())?;
    netlink.add_address(loopback, subnet.gateway().v4.into(), 32)?;
    let (taps, steering) = devices(subnet, endpoints, shape, &netlink)?;
    for tap in &taps {
        let network = tap.plan().v4();
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(network.addr(), network.prefix_len())
            .output_interface(tap.index())
            .scope(RouteScope::Link);
        netlink.add_route(&format!("add route {network}"), route.build())?;
    }
    Ok((taps, steering, netlink.calls()))
}

/// What is a tenant's own: IPv6 addresses and routes, and who may send what. How many netlink calls that took.
fn address(
    taps: &mut [Tap],
    subnet: &Subnet,
    endpoints: u16,
    steering: &Steering,
) -> Result<u64, NetworkError> {
    let netlink = Netlink::open()?;
    netlink.add_address(index_of("lo")?, subnet.gateway().v6.into(), 128)?;
    for (tap, plan) in taps.iter_mut().zip(subnet.taps(endpoints, steering.layout())) {
        tap.address(&plan)?;
        let network = plan.v6();
        let route = RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(network.addr(), network.prefix_len())
            .output_interface(tap.index());
        netlink.add_route(&format!("add route {network}"), route.build())?;
    }
    Ok(netlink.calls())
}

/// An address and a queue, leased until this is dropped.
#[derive(Debug)]
pub struct Endpoint {
    queue: OwnedFd,
    addresses: Addresses,
    lease: Lease,
}

#[derive(Debug)]
struct Lease {
    network: Arc<Inner>,
    number: u16,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.network.give_back(self.number);
    }
}

impl Endpoint {
    /// Its addresses.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Its number in the tenant's subnet.
    pub fn number(&self) -> u16 {
        self.lease.number
    }

    /// Hardware address of its network device.
    pub fn mac(&self) -> [u8; 6] {
        MAC
    }
}

impl AsFd for Endpoint {
    /// The queue: frames behind a header of [`HEADER`](crate::tap::HEADER) bytes; does not block.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.queue.as_fd()
    }
}
