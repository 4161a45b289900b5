//! The serial console (COM1) with its interrupt.

use std::io;

use serde::{Deserialize, Serialize};
use vm_superio::serial::{Error as SerialFault, NoEvents, SerialState};
use vm_superio::{Serial, Trigger as SuperioTrigger};
use vmm_sys_util::eventfd::EventFd;

use super::SerialLog;

/// An interrupt line raised by an eventfd.
#[derive(Debug)]
pub(crate) struct Trigger(pub(crate) EventFd);

impl SuperioTrigger for Trigger {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// The serial port's state in snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SerialRecord {
    baud_divisor_low: u8,
    baud_divisor_high: u8,
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    in_buffer: Vec<u8>,
}

impl From<SerialState> for SerialRecord {
    fn from(state: SerialState) -> Self {
        Self {
            baud_divisor_low: state.baud_divisor_low,
            baud_divisor_high: state.baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.in_buffer,
        }
    }
}

impl From<&SerialRecord> for SerialState {
    fn from(record: &SerialRecord) -> Self {
        Self {
            baud_divisor_low: record.baud_divisor_low,
            baud_divisor_high: record.baud_divisor_high,
            interrupt_enable: record.interrupt_enable,
            interrupt_identification: record.interrupt_identification,
            line_control: record.line_control,
            line_status: record.line_status,
            modem_control: record.modem_control,
            modem_status: record.modem_status,
            scratch: record.scratch,
            in_buffer: record.in_buffer.clone(),
        }
    }
}

/// The serial port cannot be made as it was saved.
#[derive(Debug, thiserror::Error)]
#[error("Cannot restore the serial port: {0}")]
pub(crate) struct ConsoleError(String);

/// The serial port.
pub(crate) struct Console(Serial<Trigger, NoEvents, SerialLog>);

impl std::fmt::Debug for Console {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Console").finish_non_exhaustive()
    }
}

impl Console {
    /// A port after reset.
    pub(crate) fn new(irq: EventFd, log: SerialLog) -> Self {
        Self(Serial::new(Trigger(irq), log))
    }

    /// A port as it was saved.
    pub(crate) fn restore(record: &SerialRecord, irq: EventFd, log: SerialLog) -> Result<Self, ConsoleError> {
        Serial::from_state(&record.into(), Trigger(irq), NoEvents, log)
            .map(Self)
            .map_err(|error| ConsoleError(error.to_string()))
    }

    /// For a snapshot.
    pub(crate) fn save(&self) -> SerialRecord {
        self.0.state().into()
    }

    pub(crate) fn read(&mut self, offset: u8) -> u8 {
        self.0.read(offset)
    }

    pub(crate) fn write(&mut self, offset: u8, value: u8) {
        match self.0.write(offset, value) {
            // Output that cannot be logged (a full disk) is lost; the guest is not to be stopped by it. An
            // interrupt that cannot be raised, or loopback input that does not fit, is as on real hardware.
            Ok(()) | Err(SerialFault::Trigger(_) | SerialFault::IOError(_) | SerialFault::FullFifo) => {}
        }
    }

    /// Room for input, in bytes.
    pub(crate) fn room(&self) -> usize {
        self.0.fifo_capacity()
    }

    /// Types `input` into the guest; what does not fit is lost, see [`room`](Self::room).
    pub(crate) fn input(&mut self, input: &[u8]) {
        // A full FIFO is the caller's doing.
        let _ = self.0.enqueue_raw_bytes(input);
    }

    /// Hands the log to the kernel.
    pub(crate) fn sync(&mut self) {
        // As for writes: the guest is not to be stopped by a full disk.
        let _ = self.0.writer_mut().sync();
    }
}
