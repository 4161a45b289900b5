//! The balloon (virtio 1.2, section 5.5): how memory a guest does not use goes back to the host.
//!
//! The host says how many pages it wants ([`BalloonControl::aim`]); the guest's driver takes as many from its free
//! memory and names them, and they are taken out of this process. When the host wants fewer, or when the guest runs out
//! of memory, the driver uses them again without asking: touched, they are there again, with any content at all.
//!
//! The guest is not trusted. What it names outside its memory is passed over; what it gives too much, or twice, or uses
//! all the same, is its own loss. Its statistics are bytes it chose, and how much it has given is what it says: the host
//! plans by both and measures by its own means.

mod control;
mod device;
mod pages;
mod persist;
mod statistics;
#[cfg(test)]
mod tests;

pub use control::BalloonControl;
pub use device::{Balloon, DEVICE_TYPE};
pub use pages::give_back;
pub use persist::BalloonState;

/// Pages from the guest.
const INFLATE: usize = 0;
/// Pages it uses again.
const DEFLATE: usize = 1;
/// Statistics: one buffer, which the driver fills whenever it gets it back.
const STATISTICS: usize = 2;

/// The queue to be kicked for a wish of the host's to be looked at ([`MmioTransport::kick`](crate::MmioTransport::kick)).
pub const WISHES: u32 = 2;

/// Entries of each queue; Linux has one request outstanding in each.
const SIZE: u16 = 16;

/// Requests served before the other devices have their turn.
const BUDGET: u16 = 8;

/// Segments of one request.
const MAX_SEGMENTS: usize = 16;

/// Size of a page in this device's terms, whatever it is in the guest's.
pub const BALLOON_PAGE: u64 = 4096;
