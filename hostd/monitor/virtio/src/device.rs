//! What a virtio device is to the transport: a type, features, a configuration space, and handlers.

use std::os::fd::RawFd;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

use crate::Interrupt;
use crate::balloon::BalloonState;
use crate::block::BlockState;
use crate::net::NetState;
use crate::rng::RngState;
use crate::vsock::VsockState;

/// A virtio device behind a transport. All calls are made under the transport's lock, so never concurrently.
///
/// The transport owns queues and memory and lends them as [`DeviceIo`]; a device holds only what is its own.
pub trait VirtioDevice: Send {
    /// Device type of the virtio specification (1 network, 2 block, 4 entropy, 5 balloon, 19 socket).
    fn device_type(&self) -> u32;

    /// Largest size of each queue, in entries; each a power of two.
    fn queue_sizes(&self) -> &'static [u16];

    /// Features the device offers, without VIRTIO_F_VERSION_1 which the transport adds.
    fn features(&self) -> u64;

    /// Reads `data.len()` bytes of the configuration space at `offset`; bytes past its end read as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes to the configuration space. No device of ours has a field whose writing matters.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    /// The driver is ready (or the device was restored with a ready driver): start to serve.
    ///
    /// # Errors
    /// The device cannot run; the transport then sets DEVICE_NEEDS_RESET.
    fn activate(&mut self, _io: &mut DeviceIo) -> Result<(), ActivateError> {
        Ok(())
    }

    /// The driver reset the device: drop everything that belongs to the session with it.
    fn reset(&mut self) {}

    /// The driver kicked queue `index`. Work is bounded per call; a device with more to do kicks itself
    /// ([`DeviceIo::kick`]) so that the other devices of the thread get their turn.
    fn queue_event(&mut self, index: usize, io: &mut DeviceIo);

    /// File descriptors of the device itself to be watched for input, fixed for the device's life.
    /// A device must not let them be readable while it is not active.
    fn poll_fds(&self) -> Vec<RawFd> {
        Vec::new()
    }

    /// One of [`poll_fds`](Self::poll_fds) is readable. Only called while active.
    fn poll_event(&mut self, _fd: RawFd, _io: &mut DeviceIo) {}

    /// State to be stored in a snapshot. Called while vCPUs and device thread stand still.
    fn save(&self) -> DeviceState;

    /// Takes over a saved state, on a freshly made device, before [`activate`](Self::activate).
    ///
    /// # Errors
    /// The state is of another device, or contradicts what this one was made of.
    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreDeviceError>;
}

/// What a device works with while it is active.
#[derive(Debug)]
pub struct DeviceIo {
    /// Guest memory.
    pub mem: GuestMemoryMmap,
    /// The device's queues, validated against `mem`, in the order of [`VirtioDevice::queue_sizes`].
    pub queues: Vec<Queue>,
    /// The interrupt line.
    pub interrupt: Arc<Interrupt>,
    /// Features accepted by the driver.
    pub features: u64,
    pub(crate) kicks: Arc<Vec<EventFd>>,
}

impl DeviceIo {
    /// Makes queue `index` be served again on the device thread.
    pub fn kick(&self, index: usize) {
        if let Some(event) = self.kicks.get(index) {
            // Fails only when the counter is full, and then the event is pending anyway.
            let _ = event.write(1);
        }
    }

    /// Takes up to `budget` chains from queue `index`, gives each to `serve`, and returns it to the driver with the
    /// number of bytes `serve` says it wrote. `None` from `serve` puts the chain back and stops.
    ///
    /// With [`Served::Drained`] the driver will kick when it adds a chain; after [`Served::Budget`] the queue has been
    /// kicked here, so that the rest is served after the other devices had their turn. The driver is notified.
    pub fn serve<F>(&mut self, index: usize, budget: u16, mut serve: F) -> Served
    where
        F: FnMut(&GuestMemoryMmap, DescriptorChain<&GuestMemoryMmap>) -> Option<u32>,
    {
        let Some(queue) = self.queues.get_mut(index) else { return Served::Broken };
        let mem = &self.mem;
        let mut used = false;
        let mut outcome = Served::Budget;
        for _ in 0..budget {
            let next = match queue.iter(mem) {
                Ok(mut chains) => chains.next(),
                Err(_) => {
                    outcome = Served::Broken;
                    break;
                }
            };
            let Some(chain) = next else {
                match queue.enable_notification(mem) {
                    // Chains were added in between: go round again, at the cost of the budget.
                    Ok(true) => continue,
                    Ok(false) => outcome = Served::Drained,
                    Err(_) => outcome = Served::Broken,
                }
                break;
            };
            let head = chain.head_index();
            let Some(written) = serve(mem, chain) else {
                queue.go_to_previous_position();
                outcome = Served::Stopped;
                break;
            };
            // Refuses heads that are no descriptors: those the driver never gets back.
            let _ = queue.add_used(mem, head, written);
            used = true;
        }
        if used {
            self.notify(index);
        }
        if outcome == Served::Budget {
            self.kick(index);
        }
        outcome
    }

    /// Raises the interrupt for queue `index` unless the driver asked not to be told yet (EVENT_IDX).
    pub fn notify(&mut self, index: usize) {
        let Some(queue) = self.queues.get_mut(index) else { return };
        // When the ring cannot be read any more, one interrupt too many does no harm.
        if queue.needs_notification(&self.mem).unwrap_or(true) {
            // Fails only when the counter is full, and then the line is raised anyway.
            let _ = self.interrupt.signal_used();
        }
    }
}

/// How [`DeviceIo::serve`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// No chain is left.
    Drained,
    /// The handler put a chain back.
    Stopped,
    /// There may be more; the queue was kicked.
    Budget,
    /// The driver broke the queue (or never set it up). It is left alone until something is kicked again.
    Broken,
}

/// Saved state of a device, by kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceState {
    /// Block device.
    Block(BlockState),
    /// Socket device.
    Vsock(VsockState),
    /// Entropy device.
    Rng(RngState),
    /// Network device.
    Net(NetState),
    /// Balloon.
    Balloon(BalloonState),
}

/// A device cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ActivateError {
    /// A system call for the device's own descriptors failed.
    #[error("{what} failed")]
    System {
        /// The call.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// A saved state does not fit the device it is given to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreDeviceError {
    /// State of another kind of device.
    #[error("State of {found} given to {expected}")]
    Kind {
        /// The device.
        expected: &'static str,
        /// The state.
        found: &'static str,
    },
    /// The drive behind a block device is not the one it had.
    #[error(
        "Drive has {found} sectors (read-only: {found_ro}), the snapshot's had {saved} (read-only: {saved_ro})"
    )]
    Drive {
        /// Sectors when saved.
        saved: u64,
        /// Read-only when saved.
        saved_ro: bool,
        /// Sectors now.
        found: u64,
        /// Read-only now.
        found_ro: bool,
    },
    /// A guest that knows its address cannot be given another.
    #[error("Network device has address {}, the snapshot's has {}", hardware(found), hardware(saved))]
    Mac {
        /// When saved.
        saved: [u8; 6],
        /// Now.
        found: [u8; 6],
    },
    /// A field of the state has a value no device writes.
    #[error("Field {0} of the device state is out of range")]
    Field(&'static str),
}

impl DeviceState {
    /// Name of the kind, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Block(_) => "a block device",
            Self::Vsock(_) => "a socket device",
            Self::Rng(_) => "an entropy device",
            Self::Net(_) => "a network device",
            Self::Balloon(_) => "a balloon",
        }
    }
}

/// A hardware address as it is written.
fn hardware(address: &[u8; 6]) -> String {
    address.map(|byte| format!("{byte:02x}")).join(":")
}

/// Reads `data` at `offset` of a configuration space that consists of `config` and zeros.
pub(crate) fn copy_config(config: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    for (to, from) in data.iter_mut().zip(config.get(offset..).unwrap_or_default()) {
        *to = *from;
    }
}
