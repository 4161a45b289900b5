//! The network device (virtio 1.2, section 5.1) on a queue of a TAP device.
//!
//! One queue each way, frames with their headers as the TAP device has them too: checksums and segmentation are left
//! to whoever needs them, which within one machine is nobody. Frames go between guest memory and the descriptor in one
//! system call; only their first bytes, which are checked, are copied.
//!
//! The guest is not trusted. It sends under its own addresses and no others, at no more than its rate, and headers that
//! ask of the host's network what the driver may not ask are dropped with their frames.
//!
//! Descriptor, addresses and limits are no part of the device's saved state: a snapshot is of a guest with a network
//! device, and where that leads is said when it is restored. Until then it may be detached, its link down.

mod counters;
mod device;
mod header;
mod identity;
mod limit;
mod link;
mod persist;
mod receive;
mod transmit;
mod wire;

#[cfg(test)]
mod tests;

pub use counters::{NetCounters, NetCounts};
pub use device::{Net, NetConfig, NetError, NetLink};
pub use limit::{Limit, Rate};
pub use persist::NetState;

use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;

/// Frames to the guest.
const RX: usize = 0;
/// Frames from the guest.
const TX: usize = 1;

/// Entries of each queue. The driver fills the first with buffers of some 1500 bytes: room for five of the largest
/// frames.
const SIZE: u16 = 256;

/// Bytes of the longest frame: header, Ethernet, and the longest IP packet there is.
const FRAME_LIMIT: usize = 12 + 14 + 65_536;

/// Segments of one chain: a header and what Linux makes a frame of, with room for a kernel that was built for more.
const MAX_SEGMENTS: usize = 64;

/// What is done one way before the other devices have their turn.
const TURN_FRAMES: u16 = 64;
/// The same in bytes.
const TURN_BYTES: usize = 1 << 20;

/// The driver takes frames that are spread over several chains.
const MERGE: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;
