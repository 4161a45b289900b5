//! A sandbox's place in its tenant's network: what its monitor is given, what its agent is told.

use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use mote_particle::dns::{self, Listed};
use mote_particle::{Addresses, Endpoint};
use mote_protocol::NetworkSpec;

use super::tenancy::Share;

/// A place; given back when dropped.
#[derive(Debug)]
pub struct Place {
    // Before the endpoint: a name goes first.
    listed: Option<Listed>,
    endpoint: Endpoint,
    share: Share,
}

impl Place {
    pub(super) fn new(endpoint: Endpoint, share: Share) -> Self {
        Self { listed: None, endpoint, share }
    }

    /// From now on the sandbox is found by its function's name.
    pub fn announce(&mut self, function: &str) {
        if self.listed.is_none() {
            self.listed = self.share.tenancy().list(function, self.addresses());
        }
    }

    /// Its addresses.
    pub fn addresses(&self) -> Addresses {
        self.endpoint.addresses()
    }

    /// Name of the tenant.
    pub fn tenant(&self) -> &str {
        &self.share.tenancy().config.name
    }

    /// What the agent is told.
    pub fn spec(&self) -> NetworkSpec {
        let Addresses { v4, v6 } = self.addresses();
        let gateway = self.share.tenancy().gateway();
        NetworkSpec {
            v4,
            v6,
            gateway_v4: gateway.v4,
            gateway_v6: gateway.v6,
            mtu: self.share.tenancy().shared.layout.shape.mtu,
            search: vec![format!("{}.{}", self.tenant(), dns::DOMAIN), dns::DOMAIN.to_owned()],
        }
    }

    /// The queue, for a process to inherit.
    ///
    /// # Errors
    /// When this process has no descriptor left.
    pub fn queue(&self) -> io::Result<OwnedFd> {
        self.endpoint.as_fd().try_clone_to_owned()
    }

    /// What the monitor is told, with the queue as its descriptor `fd`.
    pub fn argument(&self, fd: i32) -> String {
        let Addresses { v4, v6 } = self.addresses();
        let mac = self.endpoint.mac().map(|byte| format!("{byte:02x}")).join(":");
        let layout = &self.share.tenancy().shared.layout;
        let mut text = format!("fd:{fd},mac={mac},mtu={},v4={v4},v6={v6}", layout.shape.mtu);
        for way in ["tx", "rx"] {
            if let Some(packets) = layout.rates.packets {
                let _ = write!(text, ",{way}-packets={packets}");
            }
            if let Some(bytes) = layout.rates.bytes {
                let _ = write!(text, ",{way}-bytes={bytes}");
            }
        }
        text
    }
}
