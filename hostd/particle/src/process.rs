//! Sandboxes that are processes: one namespace and one device for all of a tenant's, an address each (figure 3.3 of
//! Ao's dissertation). The device is the namespace's own loopback: it is there on every kernel, and what comes from
//! other machines is for an address of the namespace, whichever device has it.
//!
//! What the dissertation leaves to `LD_PRELOAD` is done by eBPF on the sandbox's cgroup ([`crate::bpf::CgroupGuard`]):
//!
//! | what a process does | what comes of it |
//! |---|---|
//! | binds to `0.0.0.0`, `::`, `127.0.0.0/8`, `::1` | is bound to its own address |
//! | binds to its own address | is bound to it |
//! | binds to any other, IPv4 in IPv6 included | `EPERM` |
//! | connects or sends without `bind` | does so from its own address |
//! | connects or sends to `0.0.0.0`, `::`, loopback | does so to its own address |
//! | makes a socket that is neither TCP nor UDP | `EPERM` |
//! | finds another way to a foreign address | what it sends is refused, what it is sent is dropped |
//!
//! So all sandboxes serve on the same port at once, and what a sandbox serves on its loopback address is its own: such a
//! socket hears nobody else. Seen from inside, peers on the loopback address have the sandbox's own address instead. A
//! socket for both protocols that is bound to `::` is an IPv6 socket after that: who serves both opens both. A UDP socket
//! that sent before it was connected cannot be connected usefully any more. There is no multicast.
//!
//! The owner's duties: every sandbox is one folder right below the one the network was made with; its processes enter
//! the namespace ([`ProcessNetwork::netns`]) and the folder before anything of the tenant's runs, and have neither
//! `CAP_NET_ADMIN` nor `CAP_NET_RAW` (packet sockets are beyond cgroups), nor sockets of the owner's. Processes in
//! folders further below have no network. At the end the owner kills what is in the folder (`cgroup.kill`) and drops the
//! endpoint; sockets that are left behind reach nobody from then on, as their cgroup has no address. If the owner dies,
//! the sandboxes stay guarded until their folder is removed.

use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rtnetlink::LinkUnspec;

use crate::bpf::{BpfError, CgroupGuard, Table};
use crate::lease::{Exhausted, Leases};
use crate::netlink::{Netlink, NetlinkError, index_of};
use crate::netns::{Netns, NetnsError};
use crate::plan::{Addresses, RESERVED, Subnet};
use crate::sysctl::{self, SysctlError};

/// How long an address should rest: connections that ended keep their port of it for a minute (the kernel's
/// `TCP_TIMEWAIT_LEN`), and the next owner could not serve there.
pub const QUARANTINE: Duration = Duration::from_secs(61);

/// Addresses sent to the kernel before its answers are read.
const BATCH: usize = 64;

/// `CGROUP2_SUPER_MAGIC` of linux/magic.h.
const CGROUP2: i64 = 0x6367_7270;

/// Why there is no network for processes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessNetworkError {
    /// The folder of sandboxes.
    #[error("Cannot make a tenant's network for processes")]
    Folder(#[from] FolderError),
    /// Its namespace.
    #[error("Cannot make a tenant's network for processes")]
    Namespace(#[from] NetnsError),
    /// The namespace's settings.
    #[error("Cannot make a tenant's network for processes")]
    Sysctl(#[from] SysctlError),
    /// Its addresses.
    #[error("Cannot make a tenant's network for processes")]
    Netlink(#[from] NetlinkError),
    /// Programs.
    #[error("Cannot make a tenant's network for processes")]
    Guard(#[from] BpfError),
}

/// No address for a sandbox.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessAttachError {
    /// All are taken.
    #[error("No network address is free")]
    Exhausted(#[from] Exhausted),
    /// Its folder.
    #[error("Cannot give a sandbox its network address")]
    Folder(#[from] FolderError),
    /// The kernel does not take it.
    #[error("Cannot give a sandbox its network address")]
    Guard(#[from] BpfError),
}

/// A folder that is no cgroup for a sandbox.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// Nothing is known about it.
    #[error("Cannot look at a cgroup's folder")]
    Look(#[source] io::Error),
    /// It is something else.
    #[error("The folder is not of a cgroup v2")]
    Kind,
    /// The programs do not hold there.
    #[error("The folder is not right below that of the network's sandboxes")]
    Elsewhere,
    /// It has an address already.
    #[error("The cgroup has an address already")]
    Taken,
}

/// What a network for processes is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessShape {
    /// Addresses, at most as many as the subnet has left.
    pub endpoints: u16,
    /// How long an address rests after use; see [`QUARANTINE`].
    pub quarantine: Duration,
}

/// One tenant's namespace with a pool of addresses, and the leases of them.
#[derive(Debug)]
pub struct ProcessNetwork {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    // Before the table, which it looks into.
    _guard: CgroupGuard,
    table: Table,
    cgroup: u64,
    state: Mutex<State>,
    subnet: Subnet,
    netns: Netns,
    netlink_calls: u64,
}

#[derive(Debug)]
struct State {
    leases: Leases,
    cgroups: std::collections::HashSet<u64>,
}

impl ProcessNetwork {
    /// Makes a namespace for a subnet with all its addresses, and puts the programs on the cgroup whose folder has, or
    /// will have, the sandboxes' folders in it. Blocks for some milliseconds.
    ///
    /// # Errors
    /// When the kernel lacks something, or the process the privilege.
    pub fn create(
        subnet: Subnet,
        shape: &ProcessShape,
        cgroup: BorrowedFd<'_>,
    ) -> Result<Self, ProcessNetworkError> {
        let number = number(cgroup)?;
        let endpoints = shape.endpoints.saturating_add(RESERVED).min(subnet.endpoints());
        let netns = Netns::create()?;
        let netlink_calls = netns.run(|| furnish(&subnet, endpoints))??;
        let table = Table::new(endpoints)?;
        let guard = CgroupGuard::place(cgroup, &table)?;
        let leases = Leases::new(RESERVED..endpoints, shape.quarantine);
        let state = Mutex::new(State { leases, cgroups: std::collections::HashSet::new() });
        let inner = Inner { _guard: guard, table, cgroup: number, state, subnet, netns, netlink_calls };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Leases an address to the sandbox in a folder right below the network's: three system calls, and none of them
    /// netlink. Until then its processes have no network.
    ///
    /// # Errors
    /// When no address is free, or the folder is another one.
    pub fn attach(&self, cgroup: BorrowedFd<'_>) -> Result<ProcessEndpoint, ProcessAttachError> {
        let number = number(cgroup)?;
        if parent(cgroup)? != self.inner.cgroup {
            return Err(FolderError::Elsewhere.into());
        }
        let mut state = self.inner.state();
        if !state.cgroups.insert(number) {
            return Err(FolderError::Taken.into());
        }
        let leased = state.leases.take(Instant::now());
        let endpoint = match leased {
            Ok(endpoint) => endpoint,
            Err(exhausted) => {
                state.cgroups.remove(&number);
                return Err(exhausted.into());
            }
        };
        drop(state);
        // From here on dropping it gives everything back.
        let network = Arc::clone(&self.inner);
        let addresses = self.inner.subnet.endpoint(endpoint).unwrap_or_else(|| self.inner.subnet.gateway());
        let lease = ProcessEndpoint { network, addresses, endpoint, cgroup: number };
        self.inner.table.insert(number, addresses)?;
        Ok(lease)
    }

    /// Addresses leased now.
    pub fn leased(&self) -> usize {
        self.inner.state().leases.leased()
    }

    /// Addresses of this network on this machine.
    pub fn subnet(&self) -> &Subnet {
        &self.inner.subnet
    }

    /// The namespace the sandboxes' processes are to enter.
    pub fn netns(&self) -> &Netns {
        &self.inner.netns
    }

    /// Netlink calls its making took.
    pub fn netlink_calls(&self) -> u64 {
        self.inner.netlink_calls
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An address, a sandbox's until this is dropped.
#[derive(Debug)]
pub struct ProcessEndpoint {
    network: Arc<Inner>,
    addresses: Addresses,
    endpoint: u16,
    cgroup: u64,
}

impl ProcessEndpoint {
    /// Its addresses.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Its number in the tenant's subnet.
    pub fn number(&self) -> u16 {
        self.endpoint
    }
}

impl Drop for ProcessEndpoint {
    fn drop(&mut self) {
        // It fails when it was never entered.
        let _ = self.network.table.remove(self.cgroup);
        let mut state = self.network.state();
        state.cgroups.remove(&self.cgroup);
        state.leases.give_back(self.endpoint, Instant::now());
    }
}

/// The addresses, in the calling thread's namespace.
fn furnish(subnet: &Subnet, endpoints: u16) -> Result<u64, ProcessNetworkError> {
    sysctl::apply()?;
    let netlink = Netlink::open()?;
    let index = index_of("lo")?;
    netlink.set_link("bring up lo", LinkUnspec::new_with_index(index).up().build())?;
    // Its own, which is no endpoint's, comes first: the kernel takes it where nobody chose.
    let gateway = std::iter::once(subnet.gateway());
    let all = gateway.chain((RESERVED..endpoints).filter_map(|number| subnet.endpoint(number)));
    let all: Vec<(IpAddr, u8)> =
        all.flat_map(|Addresses { v4, v6 }| [(v4.into(), 32), (v6.into(), 128)]).collect();
    for batch in all.chunks(BATCH) {
        netlink.add_addresses(index, batch)?;
    }
    Ok(netlink.calls())
}

/// The number of a cgroup by its folder: programs see the same, and the kernel never gives it twice.
fn number(folder: BorrowedFd<'_>) -> Result<u64, FolderError> {
    let look = |errno: rustix::io::Errno| FolderError::Look(errno.into());
    if rustix::fs::fstatfs(folder).map_err(look)?.f_type != CGROUP2 {
        return Err(FolderError::Kind);
    }
    Ok(rustix::fs::fstat(folder).map_err(look)?.st_ino)
}

/// The number of the cgroup above.
fn parent(folder: BorrowedFd<'_>) -> Result<u64, FolderError> {
    let above = rustix::fs::statat(folder, "..", rustix::fs::AtFlags::empty());
    above.map(|above| above.st_ino).map_err(|errno| FolderError::Look(errno.into()))
}
