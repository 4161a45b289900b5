//! The interrupt line of one virtio-mmio device: a status register and an irqfd.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use vmm_sys_util::eventfd::EventFd;

/// Interrupt status register plus the eventfd that raises the line (a KVM irqfd).
///
/// It stands outside the device's lock: the guest's interrupt handler reads and acknowledges the status on a
/// vCPU thread while the device thread may be in the middle of a slow disk read.
#[derive(Debug)]
pub struct Interrupt {
    status: AtomicU32,
    irq: EventFd,
}

impl Interrupt {
    /// An idle line that is raised through `irq`.
    pub(crate) fn new(irq: EventFd, status: u32) -> Self {
        Self { status: AtomicU32::new(status), irq }
    }

    /// Tells the driver that buffers were used.
    ///
    /// # Errors
    /// The eventfd cannot be written: it was closed, or its counter is full (then the line is raised anyway).
    pub fn signal_used(&self) -> io::Result<()> {
        self.signal(VIRTIO_MMIO_INT_VRING)
    }

    /// Tells the driver that the configuration space (or the status register) changed.
    ///
    /// # Errors
    /// As for [`signal_used`](Self::signal_used).
    pub fn signal_config(&self) -> io::Result<()> {
        self.signal(VIRTIO_MMIO_INT_CONFIG)
    }

    /// Value of the InterruptStatus register.
    pub fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    pub(crate) fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::SeqCst);
    }

    pub(crate) fn clear(&self) {
        self.status.store(0, Ordering::SeqCst);
    }

    pub(crate) fn event(&self) -> &EventFd {
        &self.irq
    }

    fn signal(&self, bit: u32) -> io::Result<()> {
        // The bit first: a guest that sees the interrupt must find its reason.
        self.status.fetch_or(bit, Ordering::SeqCst);
        self.irq.write(1)
    }
}
