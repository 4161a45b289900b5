//! Route netlink in one namespace: rtnetlink, made synchronous, and counted.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::packet_route::neighbour::NeighbourFlags;
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage};
use rtnetlink::{Handle, LinkUnspec, new_connection};
use tokio::runtime::{Builder, Runtime};

/// Bound on one call. The kernel answers at once, except while many namespaces are taken down.
const LIMIT: Duration = Duration::from_secs(30);

/// Netlink cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetlinkError {
    /// There is no socket.
    #[error("Cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// The kernel refused.
    #[error("Cannot {what}")]
    Refused {
        /// What it was asked for.
        what: String,
        /// Its answer.
        #[source]
        source: rtnetlink::Error,
    },
    /// The kernel does not answer.
    #[error("Cannot {what}: no answer within {} s", LIMIT.as_secs())]
    Silent {
        /// What it was asked for.
        what: String,
    },
    /// The device that was just made is not there.
    #[error("No device {name}")]
    NoDevice {
        /// Its name.
        name: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl NetlinkError {
    /// Whether what was to be made is there already.
    pub(crate) fn exists(&self) -> bool {
        let Self::Refused { source: rtnetlink::Error::NetlinkError(answer), .. } = self else { return false };
        answer.raw_code() == -libc::EEXIST
    }
}

/// A netlink socket of the namespace it was opened in. Calls wait for the kernel's answer.
#[derive(Debug)]
pub struct Netlink {
    runtime: Runtime,
    handle: Handle,
    calls: AtomicU64,
}

impl Netlink {
    /// A socket in the calling thread's namespace.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn open() -> Result<Self, NetlinkError> {
        let runtime =
            Builder::new_current_thread().enable_io().enable_time().build().map_err(NetlinkError::Open)?;
        let guard = runtime.enter();
        let (connection, handle, _) = new_connection().map_err(NetlinkError::Open)?;
        drop(guard);
        // Ends with the runtime.
        runtime.spawn(connection);
        Ok(Self { runtime, handle, calls: AtomicU64::new(0) })
    }

    /// Calls made so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Makes a device.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_link(&self, what: &str, link: LinkMessage) -> Result<(), NetlinkError> {
        self.call(what, self.handle.link().add(link).execute())
    }

    /// Changes a device.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_link(&self, what: &str, link: LinkMessage) -> Result<(), NetlinkError> {
        self.call(what, self.handle.link().set(link).execute())
    }

    /// Has the kernel use a device whose other end has just come up, which it otherwise does some time within the next
    /// second: until then what is sent is lost. It does so before it tells of the device (Linux 6.9 and later).
    ///
    /// # Errors
    /// When there is no such device.
    pub fn settle_link(&self, index: u32) -> Result<(), NetlinkError> {
        let mut answers = self.handle.link().get().match_index(index).execute();
        let answered = async { answers.try_next().await.map(drop) };
        self.call(&format!("look at device {index}"), answered)
    }

    /// Takes a device away.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete_link(&self, name: &str) -> Result<(), NetlinkError> {
        let link = LinkUnspec::new_with_name(name).build();
        self.call(&format!("delete device {name}"), self.handle.link().del_with_message(link).execute())
    }

    /// Gives a device an address.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_address(&self, index: u32, address: IpAddr, prefix: u8) -> Result<(), NetlinkError> {
        let mut request = self.handle.address().add(index, address, prefix);
        if address.is_ipv6() {
            // In use at once: nobody else has it.
            request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        self.call(&format!("add address {address}/{prefix}"), request.execute())
    }

    /// Gives a device many addresses: the requests are sent without waiting for the answers in between.
    ///
    /// # Errors
    /// When the kernel refuses one.
    pub fn add_addresses(&self, index: u32, addresses: &[(IpAddr, u8)]) -> Result<(), NetlinkError> {
        self.calls.fetch_add(addresses.len() as u64, Ordering::Relaxed);
        let all = async {
            let requests: Vec<_> = addresses
                .iter()
                .map(|(address, prefix)| {
                    let request = self.handle.address().add(index, *address, *prefix);
                    tokio::spawn(request.execute())
                })
                .collect();
            for request in requests {
                if let Ok(answer) = request.await {
                    answer?;
                }
            }
            Ok(())
        };
        self.wait("add addresses", all)
    }

    /// Adds or replaces a route.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_route(&self, what: &str, route: RouteMessage) -> Result<(), NetlinkError> {
        self.call(what, self.handle.route().add(route).replace().execute())
    }

    /// Says once and for all which hardware address a neighbour has.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_neighbour(&self, index: u32, address: IpAddr, mac: [u8; 6]) -> Result<(), NetlinkError> {
        let request = self.handle.neighbours().add(index, address).link_layer_address(&mac).replace();
        self.call(&format!("add neighbour {address}"), request.execute())
    }

    /// Says at which machine a hardware address is reached through a VXLAN device.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_forwarding(&self, index: u32, mac: [u8; 6], machine: IpAddr) -> Result<(), NetlinkError> {
        let request = self.handle.neighbours().add_bridge(index, &mac);
        let request = request.destination(machine).flags(NeighbourFlags::Own).replace();
        self.call(&format!("add a forwarding entry for {machine}"), request.execute())
    }

    /// Sets what orders packets on their way to a device.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_queueing(&self, index: u32, kind: &str) -> Result<(), NetlinkError> {
        let mut discipline = TcMessage::with_index(index.cast_signed());
        discipline.header.parent = TcHandle::ROOT;
        discipline.attributes.push(TcAttribute::Kind(kind.to_owned()));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(discipline));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let mut handle = self.handle.clone();
        let answered = async move {
            let mut answers = handle.request(request)?;
            // An acknowledgement ends the answers, without one.
            match answers.next().await.map(|answer| answer.payload) {
                Some(NetlinkPayload::Error(error)) => Err(rtnetlink::Error::NetlinkError(error)),
                _ => Ok(()),
            }
        };
        self.call(&format!("set the queueing of device {index} to {kind}"), answered)
    }

    fn call(
        &self,
        what: &str,
        request: impl Future<Output = Result<(), rtnetlink::Error>>,
    ) -> Result<(), NetlinkError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.wait(what, request)
    }

    fn wait(
        &self,
        what: &str,
        request: impl Future<Output = Result<(), rtnetlink::Error>>,
    ) -> Result<(), NetlinkError> {
        let what = || what.to_owned();
        match self.runtime.block_on(async { tokio::time::timeout(LIMIT, request).await }) {
            Ok(answer) => answer.map_err(|source| NetlinkError::Refused { what: what(), source }),
            Err(_) => Err(NetlinkError::Silent { what: what() }),
        }
    }
}

/// Number of the device with this name in the calling thread's namespace.
///
/// # Errors
/// When there is none.
pub fn index_of(name: &str) -> Result<u32, NetlinkError> {
    nix::net::if_::if_nametoindex(name)
        .map_err(|errno| NetlinkError::NoDevice { name: name.to_owned(), source: errno.into() })
}
