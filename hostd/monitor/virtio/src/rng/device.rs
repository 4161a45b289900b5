//! The entropy device.

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

use super::persist::RngState;
use super::queue;
use crate::{DeviceIo, DeviceState, RestoreDeviceError, VirtioDevice};

/// Fills guest buffers from the host's random number generator.
#[derive(Debug, Default)]
pub struct Rng {}

impl Rng {
    /// A device that needs nothing.
    pub fn new() -> Self {
        Self {}
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[queue::SIZE]
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn queue_event(&mut self, index: usize, io: &mut DeviceIo) {
        queue::serve(index, io);
    }

    fn save(&self) -> DeviceState {
        DeviceState::Rng(RngState::default())
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreDeviceError> {
        match state {
            DeviceState::Rng(RngState {}) => Ok(()),
            other => Err(RestoreDeviceError::Kind { expected: "an entropy device", found: other.kind() }),
        }
    }
}
