//! The entropy device (virtio 1.2, section 5.4).

mod device;
mod persist;
mod queue;
#[cfg(test)]
mod tests;

pub use device::Rng;
pub use persist::RngState;
