//! The socket device.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Instant;

use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::VsockLimits;
use super::listener::{Host, VsockError, VsockListener};
use super::mux::Mux;
use super::persist::{self, VsockState};
use super::queue::{self, EVENT, Reset, TX};
use crate::device::copy_config;
use crate::{ActivateError, DeviceIo, DeviceState, RestoreDeviceError, VirtioDevice};

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

/// The socket device.
#[derive(Debug)]
pub struct Vsock {
    mux: Mux,
    limits: VsockLimits,
    reset: Reset,
    /// Packets of the guest wait in the queue for room.
    held_back: bool,
}

impl Vsock {
    /// Binds (or takes over) the listening socket. Clients are served once the guest's driver is ready; until then
    /// they wait in the backlog.
    ///
    /// # Errors
    /// See [`VsockError`].
    pub fn new(config: VsockConfig) -> Result<Self, VsockError> {
        Self::with_limits(config, VsockLimits::default())
    }

    /// As [`new`](Self::new), with bounds of one's own.
    ///
    /// # Errors
    /// See [`VsockError`].
    pub fn with_limits(config: VsockConfig, limits: VsockLimits) -> Result<Self, VsockError> {
        if !is_guest_cid(config.cid) {
            return Err(VsockError::Cid(config.cid));
        }
        let host = Host::new(config.listener, config.path)?;
        let mux = Mux::new(config.cid, host, limits)
            .map_err(|source| VsockError::System { what: "Creating epoll and timer", source })?;
        Ok(Self { mux, limits, reset: Reset::Done, held_back: false })
    }

    /// Everything that may have become possible after an event of any kind.
    fn serve(&mut self, io: &mut DeviceIo) {
        if self.reset.holds() {
            self.reset = queue::reset(io, self.reset, Instant::now());
        }
        if self.reset.holds() {
            return;
        }
        queue::deliver(io, &mut self.mux);
        if self.held_back && self.mux.has_room() {
            self.held_back = false;
            io.kick(TX);
        }
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &queue::SIZES
    }

    fn features(&self) -> u64 {
        // No feature of the device's own: that means stream sockets.
        1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        copy_config(&self.mux.cid.to_le_bytes(), offset, data);
    }

    fn activate(&mut self, _io: &mut DeviceIo) -> Result<(), ActivateError> {
        self.mux
            .start()
            .map_err(|source| ActivateError::System { what: "Watching the listening socket", source })?;
        if let Some(deadline) = self.reset.deadline() {
            self.mux.poll.arm(deadline);
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.mux.stop();
        self.reset = Reset::Done;
        self.held_back = false;
    }

    fn queue_event(&mut self, index: usize, io: &mut DeviceIo) {
        if index == TX {
            self.held_back = !queue::transmit(io, &mut self.mux);
        }
        debug_assert!(index <= EVENT);
        self.serve(io);
    }

    fn poll_fds(&self) -> Vec<RawFd> {
        vec![self.mux.poll.fd()]
    }

    fn poll_event(&mut self, _fd: RawFd, io: &mut DeviceIo) {
        if self.mux.host_events()
            && let Some(deadline) = self.reset.deadline()
        {
            self.mux.poll.arm(deadline);
        }
        self.serve(io);
    }

    fn save(&self) -> DeviceState {
        DeviceState::Vsock(VsockState {
            cid: self.mux.cid,
            next_port: self.mux.peers.next_port,
            reset_needed: self.mux.is_known_to_guest() || self.reset.holds(),
        })
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreDeviceError> {
        let state = persist::check(state)?;
        self.mux.cid = state.cid;
        self.mux.peers.next_port = state.next_port;
        if state.reset_needed {
            self.reset = Reset::owed(self.limits.reset_timeout);
        }
        Ok(())
    }
}

/// Ids below 3 mean the hypervisor, the guest itself and the host; the protocol reserves the upper 32 bits.
pub(super) fn is_guest_cid(cid: u64) -> bool {
    (3..u64::from(u32::MAX)).contains(&cid)
}
