//! A raw image file as a disk.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use super::persist::BlockState;
use crate::{DeviceIo, DeviceState, RestoreDeviceError, VirtioDevice};

/// What to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockConfig {
    /// Raw image; a regular file or a block device.
    pub path: PathBuf,
    /// Refuse writes (and open the file read-only).
    pub read_only: bool,
    /// Serial number, at most 20 bytes of it are used; `/sys/block/vdX/serial` in the guest.
    pub id: String,
}

/// A drive cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// The image cannot be opened or measured.
    #[error("Cannot open drive {path}")]
    Open {
        /// The image.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A writable image must be whole sectors.
    #[error("Writable drive {path} has {len} bytes, not a multiple of 512")]
    Odd {
        /// The image.
        path: PathBuf,
        /// Its length.
        len: u64,
    },
}

/// A block device on a raw image.
#[derive(Debug)]
pub struct Block {
    file: File,
    len: u64,
    read_only: bool,
    id: String,
}

impl Block {
    /// Opens the image.
    ///
    /// # Errors
    /// See [`BlockError`].
    pub fn open(config: &BlockConfig) -> Result<Self, BlockError> {
        let fail = |source| BlockError::Open { path: config.path.clone(), source };
        let file = File::options().read(true).write(!config.read_only).open(&config.path).map_err(fail)?;
        let len = io::Seek::seek(&mut &file, io::SeekFrom::End(0)).map_err(fail)?;
        Ok(Self { file, len, read_only: config.read_only, id: config.id.clone() })
    }

    /// Capacity in sectors of 512 bytes.
    pub fn sectors(&self) -> u64 {
        self.len.div_ceil(512)
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[256]
    }

    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn queue_event(&mut self, _index: usize, _io: &mut DeviceIo) {
        let _ = &self.file;
    }

    fn save(&self) -> DeviceState {
        DeviceState::Block(BlockState {
            sectors: self.sectors(),
            read_only: self.read_only,
            id: self.id.clone(),
        })
    }

    fn restore(&mut self, _state: &DeviceState) -> Result<(), RestoreDeviceError> {
        Ok(())
    }
}
