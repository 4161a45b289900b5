//! Saved state of a transport: plain data, checked field by field when it comes back.

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueState, QueueT};
use vm_memory::GuestMemoryMmap;

use super::TransportError;
use super::registers::Registers;
use crate::{ActivateError, DeviceState, RestoreDeviceError, VirtioDevice};

/// Everything a transport and its device need to go on elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransportState {
    /// Device type of the virtio specification.
    pub device_type: u32,
    /// Status register.
    pub status: u32,
    /// Features the driver accepted.
    pub driver_features: u64,
    /// DeviceFeaturesSel.
    pub device_features_sel: u32,
    /// DriverFeaturesSel.
    pub driver_features_sel: u32,
    /// QueueSel.
    pub queue_sel: u32,
    /// InterruptStatus.
    pub interrupt_status: u32,
    /// The device was serving its queues.
    pub active: bool,
    /// The queues in order.
    pub queues: Vec<QueueRecord>,
    /// The device's own state.
    pub device: DeviceState,
}

/// State of one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRecord {
    /// Entries the device offers.
    pub max_size: u16,
    /// Entries the driver chose.
    pub size: u16,
    /// Set up by the driver.
    pub ready: bool,
    /// VIRTIO_F_EVENT_IDX is in use.
    pub event_idx: bool,
    /// Guest address of the descriptor table.
    pub desc_table: u64,
    /// Guest address of the available ring.
    pub avail_ring: u64,
    /// Guest address of the used ring.
    pub used_ring: u64,
    /// Next available entry to be taken.
    pub next_avail: u16,
    /// Next used entry to be written.
    pub next_used: u16,
}

impl From<QueueState> for QueueRecord {
    fn from(s: QueueState) -> Self {
        Self {
            max_size: s.max_size,
            size: s.size,
            ready: s.ready,
            event_idx: s.event_idx_enabled,
            desc_table: s.desc_table,
            avail_ring: s.avail_ring,
            used_ring: s.used_ring,
            next_avail: s.next_avail,
            next_used: s.next_used,
        }
    }
}

impl From<QueueRecord> for QueueState {
    fn from(r: QueueRecord) -> Self {
        Self {
            max_size: r.max_size,
            size: r.size,
            ready: r.ready,
            event_idx_enabled: r.event_idx,
            desc_table: r.desc_table,
            avail_ring: r.avail_ring,
            used_ring: r.used_ring,
            next_avail: r.next_avail,
            next_used: r.next_used,
        }
    }
}

/// A saved transport cannot be brought back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The device is of another type than the saved one.
    #[error("Device has type {found}, the snapshot's has {saved}")]
    DeviceType {
        /// In the snapshot.
        saved: u32,
        /// Here.
        found: u32,
    },
    /// The driver uses features this device does not have.
    #[error("Features {0:#x} of the snapshot are not offered by this device")]
    Features(u64),
    /// Queue count or size differ from the device's, or an address is out of place.
    #[error("Queue {0} of the snapshot is not a queue of this device")]
    Queue(usize),
    /// The device refused its state.
    #[error("Cannot restore the device")]
    Device(#[from] RestoreDeviceError),
    /// The device could not start.
    #[error("Cannot activate the device")]
    Activate(#[from] ActivateError),
    /// The transport could not be made.
    #[error("Cannot make the transport")]
    Transport(#[from] TransportError),
}

pub(super) fn state(
    registers: &Registers,
    device: &dyn VirtioDevice,
    queues: Vec<QueueRecord>,
    interrupt_status: u32,
    active: bool,
) -> TransportState {
    TransportState {
        device_type: device.device_type(),
        status: registers.status(),
        driver_features: registers.driver_features(),
        device_features_sel: registers.device_features_sel,
        driver_features_sel: registers.driver_features_sel,
        queue_sel: registers.queue_sel,
        interrupt_status,
        active,
        queues,
        device: device.save(),
    }
}

/// The register file of `state`, for `device`. Its queues are those of the state unless it is active.
pub(super) fn registers(
    state: &TransportState,
    device: &dyn VirtioDevice,
) -> Result<Registers, RestoreError> {
    if state.device_type != device.device_type() {
        return Err(RestoreError::DeviceType { saved: state.device_type, found: device.device_type() });
    }
    let mut registers = Registers::new(device)?;
    let unknown = state.driver_features & !registers.offered();
    if state.active && unknown != 0 {
        return Err(RestoreError::Features(unknown));
    }
    let sizes = device.queue_sizes();
    if state.queues.len() != sizes.len() {
        return Err(RestoreError::Queue(state.queues.len().min(sizes.len())));
    }
    let mut queues = Vec::with_capacity(sizes.len());
    let event_idx = state.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
    for (index, (record, &size)) in state.queues.iter().zip(sizes).enumerate() {
        let fits = record.max_size == size && (!state.active || record.event_idx == event_idx);
        let queue = Queue::try_from(QueueState::from(*record)).ok().filter(|_| fits);
        queues.push(queue.ok_or(RestoreError::Queue(index))?);
    }
    if state.active {
        queues.clear();
    }
    registers.device_features_sel = state.device_features_sel;
    registers.driver_features_sel = state.driver_features_sel;
    registers.queue_sel = state.queue_sel;
    registers.load(state.status, state.driver_features, queues);
    Ok(registers)
}

/// The queues of an active transport, checked against the memory they lie in.
pub(super) fn queues(records: &[QueueRecord], mem: &GuestMemoryMmap) -> Result<Vec<Queue>, RestoreError> {
    let queue = |(index, record): (usize, &QueueRecord)| {
        Queue::try_from(QueueState::from(*record))
            .ok()
            .filter(|queue| !queue.ready() || queue.is_valid(mem))
            .ok_or(RestoreError::Queue(index))
    };
    records.iter().enumerate().map(queue).collect()
}
