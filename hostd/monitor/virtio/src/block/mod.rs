//! The block device (virtio 1.2, section 5.2) on a raw image file.

mod device;
mod persist;

pub use device::{Block, BlockConfig, BlockError};
pub use persist::BlockState;
