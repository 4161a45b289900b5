//! virtio-mmio transport and devices of the monitor: block, vsock, rng, net, balloon.
//!
//! # How a monitor uses it
//!
//! 1. Make a device ([`Block`], [`Vsock`], [`Rng`], [`Net`], [`Balloon`]) and wrap it: [`MmioTransport::new`], in an `Arc`.
//! 2. Give the guest a 4 KiB window ([`MMIO_WINDOW`]); vCPU threads pass exits in it to
//!    [`MmioTransport::read`] and [`MmioTransport::write`].
//! 3. Register the transport's [`irq`](MmioTransport::irq) as a KVM irqfd, and each of
//!    [`queue_events`](MmioTransport::queue_events) as an ioeventfd at offset [`QUEUE_NOTIFY`] of the window, 4
//!    bytes wide, with the queue's index as datamatch. (Without ioeventfds the kick arrives as a plain write.)
//! 4. Add the `Arc<MmioTransport>` as a subscriber to the one `EventManager` of the device thread.
//!
//! # Save and restore
//!
//! Pause in this order: stop the vCPUs, then the device thread (between two `EventManager::run` calls), then
//! [`MmioTransport::save`] each transport and copy the memory. Nothing in this crate touches guest memory while the
//! device thread stands still, so state and memory agree.
//!
//! Restore: make the same devices in the same order, [`MmioTransport::restore`] each, register irqfds and
//! ioeventfds, set the interrupt controllers, then call [`MmioTransport::resume`] on each **before** the first
//! `KVM_RUN`: it raises one interrupt and kicks every queue, so nothing that was in flight is lost. The guest's
//! driver does nothing. `resume` is also right (and harmless) after a plain pause.

// Tests make bytes of counters everywhere; the library itself is checked when built without them.
#![cfg_attr(test, allow(clippy::cast_possible_truncation))]

pub mod balloon;
pub mod block;
mod chain;
mod device;
mod interrupt;
pub mod mmio;
pub mod net;
mod ring;
pub mod rng;
#[cfg(test)]
mod testing;
pub mod vsock;

pub use balloon::{Balloon, BalloonControl};
pub use block::{Block, BlockConfig, BlockError};
pub use chain::{Buffers, ChainError};
pub use device::{ActivateError, DeviceIo, DeviceState, RestoreDeviceError, Served, VirtioDevice};
pub use interrupt::Interrupt;
pub use mmio::{MMIO_WINDOW, MmioTransport, QUEUE_NOTIFY, RestoreError, TransportError, TransportState};
pub use net::{Net, NetConfig, NetError, NetLink};
pub use rng::Rng;
pub use vsock::{Vsock, VsockConfig, VsockError, VsockLimits, VsockListener};
