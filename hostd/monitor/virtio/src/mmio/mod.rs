//! The virtio-mmio transport, version 2 (virtio 1.2, section 4.2).

mod persist;
mod registers;
#[cfg(test)]
mod tests;
mod transport;

pub use persist::{QueueRecord, RestoreError, TransportState};
pub use transport::{MmioTransport, TransportError};

/// Bytes of guest address space a transport takes: registers, then the configuration space at 0x100.
pub const MMIO_WINDOW: u64 = 0x1000;

/// Offset of the QueueNotify register in the window: where ioeventfds belong.
pub const QUEUE_NOTIFY: u64 = 0x50;
