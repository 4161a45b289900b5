//! The block device (virtio 1.2, section 5.2) on a raw image file.
//!
//! Requests are parsed ([`request`]), carried out ([`disk`]) and answered ([`queue`]) in separate steps, so that
//! carrying out can become asynchronous without the others noticing.

mod device;
mod disk;
mod persist;
mod queue;
mod request;
#[cfg(test)]
mod tests;

pub use device::{Block, BlockConfig};
pub use disk::BlockError;
pub use persist::BlockState;

/// Bytes of a sector: the unit of every address and length in the protocol.
const SECTOR: u64 = 512;
