//! The register file as pure state: what a read returns and what a write asks the transport to do.

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio as reg;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};

use super::TransportError;
use crate::VirtioDevice;

/// "virt", little endian.
const MAGIC: u32 = 0x7472_6976;
/// Version 2: no legacy layout.
const VERSION: u32 = 2;
/// "Mote", little endian: drivers do not look, people reading a dump do.
const VENDOR: u32 = 0x6574_6f4d;

/// What the transport has to do after a register was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// The driver wrote 0 to the status.
    Reset,
    /// The driver set DRIVER_OK.
    Activate,
}

/// The registers of one device and, until it is activated, its queues.
#[derive(Debug)]
pub(super) struct Registers {
    device_type: u32,
    offered: u64,
    pub(super) device_features_sel: u32,
    pub(super) driver_features_sel: u32,
    pub(super) queue_sel: u32,
    accepted: u64,
    status: u32,
    queues: Vec<Queue>,
    max_sizes: &'static [u16],
}

impl Registers {
    pub(super) fn new(device: &dyn VirtioDevice) -> Result<Self, TransportError> {
        let max_sizes = device.queue_sizes();
        let mut queues = Vec::with_capacity(max_sizes.len());
        for (index, &size) in max_sizes.iter().enumerate() {
            queues.push(Queue::new(size).map_err(|_| TransportError::QueueSize { index, size })?);
        }
        Ok(Self {
            device_type: device.device_type(),
            offered: device.features() | 1 << VIRTIO_F_VERSION_1,
            device_features_sel: 0,
            driver_features_sel: 0,
            queue_sel: 0,
            accepted: 0,
            status: 0,
            queues,
            max_sizes,
        })
    }

    pub(super) fn status(&self) -> u32 {
        self.status
    }

    pub(super) fn set_status(&mut self, bits: u32) {
        self.status |= bits;
    }

    pub(super) fn driver_features(&self) -> u64 {
        self.accepted
    }

    pub(super) fn queues(&self) -> &[Queue] {
        &self.queues
    }

    /// Overwrites what a snapshot holds. The caller checked the values.
    pub(super) fn load(&mut self, status: u32, accepted: u64, queues: Vec<Queue>) {
        self.status = status;
        self.accepted = accepted;
        self.queues = queues;
    }

    pub(super) fn offered(&self) -> u64 {
        self.offered
    }

    /// Hands the queues over, with the negotiated ring features applied.
    pub(super) fn take_queues(&mut self) -> Vec<Queue> {
        let event_idx = self.accepted & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let mut queues = std::mem::take(&mut self.queues);
        for queue in &mut queues {
            queue.set_event_idx(event_idx);
        }
        queues
    }

    /// Takes the queues back of a device that could not be activated.
    pub(super) fn return_queues(&mut self, queues: Vec<Queue>) {
        self.queues = queues;
    }

    pub(super) fn reset(&mut self, max_sizes: &'static [u16]) {
        self.status = 0;
        self.accepted = 0;
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.queue_sel = 0;
        // The sizes were good when the device was made.
        self.queues = max_sizes.iter().filter_map(|size| Queue::new(*size).ok()).collect();
    }

    pub(super) fn read(&self, register: u32) -> u32 {
        match register {
            reg::VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            reg::VIRTIO_MMIO_VERSION => VERSION,
            reg::VIRTIO_MMIO_DEVICE_ID => self.device_type,
            reg::VIRTIO_MMIO_VENDOR_ID => VENDOR,
            reg::VIRTIO_MMIO_DEVICE_FEATURES => half(self.offered, self.device_features_sel),
            reg::VIRTIO_MMIO_QUEUE_NUM_MAX => self.max_size().map_or(0, u32::from),
            reg::VIRTIO_MMIO_QUEUE_READY => self.queue_ready(),
            reg::VIRTIO_MMIO_STATUS => self.status,
            // No shared memory region has an id: length and base are all ones (4.2.2).
            reg::VIRTIO_MMIO_SHM_LEN_LOW
            | reg::VIRTIO_MMIO_SHM_LEN_HIGH
            | reg::VIRTIO_MMIO_SHM_BASE_LOW
            | reg::VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            // ConfigGeneration never moves: what changes in a configuration space of ours is one field of two bytes,
            // which is read at once.
            _ => 0,
        }
    }

    pub(super) fn write(&mut self, register: u32, value: u32) -> Effect {
        match register {
            reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.device_features_sel = value,
            reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            reg::VIRTIO_MMIO_DRIVER_FEATURES => self.write_features(value),
            reg::VIRTIO_MMIO_QUEUE_SEL => self.queue_sel = value,
            reg::VIRTIO_MMIO_STATUS => return self.write_status(value),
            other => self.write_queue(other, value),
        }
        Effect::None
    }

    fn selected(&self) -> Option<usize> {
        usize::try_from(self.queue_sel).ok().filter(|index| *index < self.max_sizes.len())
    }

    fn max_size(&self) -> Option<u16> {
        self.max_sizes.get(self.selected()?).copied()
    }

    fn queue_ready(&self) -> u32 {
        match self.selected() {
            None => 0,
            // Queues that were handed over: Linux asks before it sets a queue up, which is never then.
            Some(_) if self.queues.is_empty() => 1,
            Some(index) => u32::from(self.queues.get(index).is_some_and(QueueT::ready)),
        }
    }

    fn write_features(&mut self, value: u32) {
        let negotiating =
            self.status & (VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK) == VIRTIO_CONFIG_S_DRIVER;
        if !negotiating {
            return;
        }
        let value = u64::from(value);
        match self.driver_features_sel {
            0 => self.accepted = self.accepted & !0xffff_ffff | value,
            1 => self.accepted = self.accepted & 0xffff_ffff | value << 32,
            _ => {}
        }
    }

    /// Queue registers count between FEATURES_OK and DRIVER_OK only; addresses with bad alignment are not taken,
    /// which leaves the queue where it was: outside memory or unready, and so unused.
    fn write_queue(&mut self, register: u32, value: u32) {
        let setting_up = self.status & (VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK)
            == VIRTIO_CONFIG_S_FEATURES_OK;
        let queue = match self.selected() {
            Some(index) if setting_up => self.queues.get_mut(index),
            _ => None,
        };
        let Some(queue) = queue else { return };
        match register {
            reg::VIRTIO_MMIO_QUEUE_READY => queue.set_ready(value == 1),
            // The others must not change under a ready queue (4.2.2.2).
            _ if queue.ready() => {}
            reg::VIRTIO_MMIO_QUEUE_NUM => {
                // A size that is no size is not taken: the driver's view and ours differ, and only it is hurt.
                let _ = u16::try_from(value).map(|size| queue.set_size(size));
            }
            reg::VIRTIO_MMIO_QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
            reg::VIRTIO_MMIO_QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
            reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW => queue.set_avail_ring_address(Some(value), None),
            reg::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => queue.set_avail_ring_address(None, Some(value)),
            reg::VIRTIO_MMIO_QUEUE_USED_LOW => queue.set_used_ring_address(Some(value), None),
            reg::VIRTIO_MMIO_QUEUE_USED_HIGH => queue.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }

    fn write_status(&mut self, value: u32) -> Effect {
        if value == 0 {
            return Effect::Reset;
        }
        // Only the device sets NEEDS_RESET, and a driver never clears a bit but by a reset (2.1.1).
        let added = value & !self.status & !VIRTIO_CONFIG_S_NEEDS_RESET;
        // Each bit rests on the ones before it; a driver that jumps ahead is not followed.
        const STEPS: [(u32, u32); 4] = [
            (VIRTIO_CONFIG_S_ACKNOWLEDGE, 0),
            (VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_ACKNOWLEDGE),
            (VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_DRIVER),
            (VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK),
        ];
        for (bit, needs) in STEPS {
            let allowed = self.status & needs == needs && self.status & VIRTIO_CONFIG_S_FAILED == 0;
            if added & bit != 0 && allowed && (bit != VIRTIO_CONFIG_S_FEATURES_OK || self.features_fit()) {
                self.status |= bit;
            }
        }
        self.status |= added & VIRTIO_CONFIG_S_FAILED;
        if added & self.status & VIRTIO_CONFIG_S_DRIVER_OK != 0 { Effect::Activate } else { Effect::None }
    }

    fn features_fit(&self) -> bool {
        self.accepted & !self.offered == 0 && self.accepted & 1 << VIRTIO_F_VERSION_1 != 0
    }
}

/// The 32 bits of `features` selected by `sel`.
fn half(features: u64, sel: u32) -> u32 {
    let [a, b, c, d, e, f, g, h] = features.to_le_bytes();
    match sel {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}
