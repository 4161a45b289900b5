//! The devices that are not virtio, and the bus that finds them all.

mod bus;
mod log;
mod serial;

pub(crate) use bus::{Bus, SERIAL_IRQ, VIRTIO_IRQ_FIRST, VIRTIO_LIMIT, window};
pub(crate) use log::SerialLog;
pub(crate) use serial::{Console, SerialRecord};
