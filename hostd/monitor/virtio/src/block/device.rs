//! A raw image file as a disk.

use std::path::PathBuf;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::disk::{BlockError, Disk};
use super::persist::{self, BlockState};
use super::{queue, request};
use crate::{DeviceIo, DeviceState, RestoreDeviceError, VirtioDevice};

/// What to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockConfig {
    /// Capacity in sectors of a read-only drive, if it is not that of the file; zeros lie behind the file's end.
    pub sectors: Option<u64>,
    /// Raw image; a regular file or a block device.
    pub path: PathBuf,
    /// Refuse writes (and open the file read-only).
    pub read_only: bool,
    /// Serial number, of which 20 bytes are used; `/sys/block/vdX/serial` in the guest.
    pub id: String,
}

/// A block device on a raw image.
#[derive(Debug)]
pub struct Block {
    disk: Disk,
    id: String,
    /// `id` as the guest gets it.
    serial: [u8; queue::ID_BYTES],
}

impl Block {
    /// Opens the image.
    ///
    /// # Errors
    /// See [`BlockError`].
    pub fn open(config: &BlockConfig) -> Result<Self, BlockError> {
        let disk = Disk::open(config)?;
        Ok(Self { disk, serial: serial(&config.id), id: config.id.clone() })
    }

    /// Capacity in sectors of 512 bytes.
    pub fn sectors(&self) -> u64 {
        self.disk.sectors()
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[queue::SIZE]
    }

    fn features(&self) -> u64 {
        // Without FLUSH a driver takes every write for durable; with it, it says when it must be.
        let mode = if self.disk.read_only { VIRTIO_BLK_F_RO } else { VIRTIO_BLK_F_FLUSH };
        [
            mode,
            VIRTIO_BLK_F_SIZE_MAX,
            VIRTIO_BLK_F_SEG_MAX,
            VIRTIO_RING_F_EVENT_IDX,
            VIRTIO_RING_F_INDIRECT_DESC,
        ]
        .iter()
        .fold(0, |features, bit| features | 1 << bit)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // struct virtio_blk_config: capacity, size_max, seg_max; what follows belongs to features not offered.
        let mut config = [0u8; 16];
        config[..8].copy_from_slice(&self.sectors().to_le_bytes());
        config[8..12].copy_from_slice(&request::MAX_SEGMENT_BYTES.to_le_bytes());
        config[12..].copy_from_slice(&request::MAX_SEGMENTS.to_le_bytes());
        crate::device::copy_config(&config, offset, data);
    }

    fn queue_event(&mut self, index: usize, io: &mut DeviceIo) {
        queue::serve(index, io, &self.disk, &self.serial);
    }

    fn save(&self) -> DeviceState {
        DeviceState::Block(BlockState {
            sectors: self.sectors(),
            read_only: self.disk.read_only,
            id: self.id.clone(),
        })
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreDeviceError> {
        let state = persist::check(state, self.sectors(), self.disk.read_only)?;
        self.id.clone_from(&state.id);
        self.serial = serial(&state.id);
        Ok(())
    }
}

/// The first 20 bytes of `id`, padded with zeros.
fn serial(id: &str) -> [u8; queue::ID_BYTES] {
    let mut serial = [0; queue::ID_BYTES];
    for (to, from) in serial.iter_mut().zip(id.bytes()) {
        *to = from;
    }
    serial
}
