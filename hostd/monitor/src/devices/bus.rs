//! Which device an access of the guest belongs to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mote_virtio::{MMIO_WINDOW, MmioTransport};

use super::serial::Console;
use crate::vm::{ExitReason, ExitSignal, VcpuBus};

/// COM1.
const SERIAL_PORTS: std::ops::RangeInclusive<u16> = 0x3f8..=0x3ff;
/// Interrupt of COM1.
pub(crate) const SERIAL_IRQ: u32 = 4;

/// The command port of the i8042 keyboard controller, and the command that resets the machine.
const I8042_COMMAND: u16 = 0x64;
const I8042_RESET: u8 = 0xfe;
const I8042_PORTS: std::ops::RangeInclusive<u16> = 0x60..=0x64;

/// Where the windows of virtio devices start.
const VIRTIO_BASE: u64 = 0xd000_0000;
/// Interrupt of the first virtio device; the others follow.
pub(crate) const VIRTIO_IRQ_FIRST: u32 = 5;
/// Most virtio devices: as many as the I/O APIC has free lines.
pub(crate) const VIRTIO_LIMIT: usize = 19;

/// What an absent port reads as.
const NOTHING: u8 = 0xff;

/// Address of the window of virtio device `index`.
pub(crate) fn window(index: usize) -> u64 {
    VIRTIO_BASE + index as u64 * MMIO_WINDOW
}

/// All devices of a microVM.
#[derive(Debug)]
pub(crate) struct Bus {
    console: Mutex<Console>,
    virtio: Vec<Arc<MmioTransport>>,
    exit: Arc<ExitSignal>,
}

impl Bus {
    /// Puts the devices together; the virtio devices get windows in order.
    pub(crate) fn new(console: Console, virtio: Vec<Arc<MmioTransport>>, exit: Arc<ExitSignal>) -> Self {
        Self { console: Mutex::new(console), virtio, exit }
    }

    /// The serial port.
    pub(crate) fn console(&self) -> MutexGuard<'_, Console> {
        self.console.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The virtio devices in order.
    pub(crate) fn virtio(&self) -> &[Arc<MmioTransport>] {
        &self.virtio
    }

    fn device(&self, address: u64) -> Option<(&MmioTransport, u64)> {
        let offset = address.checked_sub(VIRTIO_BASE)?;
        let index = usize::try_from(offset / MMIO_WINDOW).ok()?;
        Some((self.virtio.get(index)?, offset % MMIO_WINDOW))
    }
}

/// Offset of a port in a range of less than 256.
fn offset(port: u16, range: &std::ops::RangeInclusive<u16>) -> u8 {
    u8::try_from(port - range.start()).unwrap_or_default()
}

impl VcpuBus for Bus {
    fn port_read(&self, port: u16, data: &mut [u8]) {
        data.fill(NOTHING);
        // Both devices have registers of one byte; wider accesses see nothing.
        let [byte] = data else { return };
        if SERIAL_PORTS.contains(&port) {
            *byte = self.console().read(offset(port, &SERIAL_PORTS));
        } else if I8042_PORTS.contains(&port) {
            // No key waits, no command is under way.
            *byte = 0;
        }
    }

    fn port_write(&self, port: u16, data: &[u8]) {
        let [byte] = data else { return };
        if SERIAL_PORTS.contains(&port) {
            self.console().write(offset(port, &SERIAL_PORTS), *byte);
        } else if port == I8042_COMMAND && *byte == I8042_RESET {
            self.exit.raise(ExitReason::Reset);
        }
    }

    fn mmio_read(&self, address: u64, data: &mut [u8]) {
        match self.device(address) {
            Some((device, offset)) => device.read(offset, data),
            None => data.fill(NOTHING),
        }
    }

    fn mmio_write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.device(address) {
            device.write(offset, data);
        }
    }
}
