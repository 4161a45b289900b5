//! The kernel command line.

use std::fmt::Write;

/// What every guest gets: console on the serial port, reboot through the i8042 (which ends the monitor), a panic
/// does the same, and no probing for what is not there.
const BASE: &str = "console=ttyS0 reboot=k panic=-1 quiet nomodule 8250.nr_uarts=1 i8042.noaux i8042.nomux \
                    i8042.nopnp i8042.dumbkbd random.trust_cpu=on";

/// Root device unless the caller names one.
const DEFAULT_ROOT: &str = "root=/dev/vda";

/// Longest command line, in bytes: what Linux takes on x86.
pub const CMDLINE_LIMIT: usize = 2047;

/// A command line that cannot be passed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CmdlineError {
    /// Too long.
    #[error("Kernel command line has {0} bytes, at most {CMDLINE_LIMIT} are allowed")]
    Length(usize),
    /// Something that is not printable ASCII.
    #[error("Kernel command line has byte {byte:#04x} at offset {offset}")]
    Byte {
        /// The byte.
        byte: u8,
        /// Where, in the caller's part.
        offset: usize,
    },
}

/// A device on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioDevice {
    /// Address of its window.
    pub address: u64,
    /// Its interrupt.
    pub irq: u32,
}

/// Puts the command line together. The caller's part comes last, so that it wins over ours.
///
/// # Errors
/// When it is too long or has bytes that are no text.
pub fn build(extra: &str, devices: &[MmioDevice], root_read_only: bool) -> Result<String, CmdlineError> {
    if let Some((offset, byte)) = extra.bytes().enumerate().find(|(_, byte)| !(b' '..=b'~').contains(byte)) {
        return Err(CmdlineError::Byte { byte, offset });
    }
    let mut text = BASE.to_owned();
    for device in devices {
        // Writing to a String cannot fail.
        let _ = write!(text, " virtio_mmio.device=4K@{:#x}:{}", device.address, device.irq);
    }
    if !extra.split(' ').any(|word| word.starts_with("root=")) {
        let _ = write!(text, " {DEFAULT_ROOT} {}", if root_read_only { "ro" } else { "rw" });
    }
    if !extra.is_empty() {
        let _ = write!(text, " {extra}");
    }
    if text.len() > CMDLINE_LIMIT { Err(CmdlineError::Length(text.len())) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_root_and_extra_are_in_order() {
        let devices =
            [MmioDevice { address: 0xd000_0000, irq: 5 }, MmioDevice { address: 0xd000_1000, irq: 6 }];
        let text = build("init=/x", &devices, true).unwrap();
        assert!(text.starts_with("console=ttyS0 reboot=k panic=-1"));
        assert!(text.ends_with(
            " virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=4K@0xd0001000:6 root=/dev/vda ro init=/x"
        ));
        assert!(!build("root=/dev/vdb rw", &[], true).unwrap().contains("/dev/vda"));
    }

    #[test]
    fn wrong_text_is_named() {
        assert_eq!(build("a\nb", &[], true), Err(CmdlineError::Byte { byte: 10, offset: 1 }));
        assert!(matches!(build(&"x".repeat(2000), &[], true), Err(CmdlineError::Length(_))));
    }
}
