//! A verified device over a partition: the kernel's dm-verity, set up through its control device.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use mote_update::verity::Verity;

const CONTROL: &str = "/dev/mapper/control";

/// Interface that is asked for; every kernel of the last twenty years has it.
const VERSION: [u32; 3] = [4, 0, 0];

/// The kernel's `struct dm_ioctl`: its size, and where its fields are.
const HEADER: usize = 312;
const DATA_SIZE_AT: usize = 12;
const DATA_START_AT: usize = 16;
const TARGETS_AT: usize = 20;
const FLAGS_AT: usize = 28;
const DEVICE_AT: usize = 40;
const NAME_AT: usize = 48;
const NAME_ROOM: usize = 128;

/// Its `struct dm_target_spec`, which the target's parameters follow.
const TARGET: usize = 40;
const LENGTH_AT: usize = HEADER + 8;
const KIND_AT: usize = HEADER + 24;

/// Header, one target, and more than the longest parameters.
const MESSAGE: usize = 1024;

const READ_ONLY: u32 = 1;

/// A command: its number as in `_IOWR(0xfd, N, struct dm_ioctl)`.
#[derive(Debug, Clone, Copy)]
enum Command {
    Create = 3,
    Remove = 4,
    Resume = 6,
    Load = 9,
}

/// Why there is no verified device.
#[derive(Debug, thiserror::Error)]
pub enum VerityError {
    /// The kernel has no device mapper.
    #[error("Cannot open {CONTROL}")]
    Control(#[source] io::Error),
    /// It refused a step.
    #[error("The kernel does not {step} the verified device")]
    Step {
        /// What it was to do.
        step: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The names are longer than they can be.
    #[error("The description of the verified device does not fit")]
    Size,
}

/// Makes a verified device `name` of a partition that has data and tree. Reading from it what was changed is an I/O
/// error.
pub fn open(name: &str, partition: &Path, verity: &Verity) -> Result<PathBuf, VerityError> {
    let control = File::options().read(true).write(true).open(CONTROL).map_err(VerityError::Control)?;
    // What an earlier attempt left; usually there is nothing.
    let _ = call(&control, Command::Remove, "remove", &mut message(name)?);
    let mut message = message(name)?;
    call(&control, Command::Create, "create", &mut message)?;
    let minor = minor(&message);
    let loaded = load(&control, name, partition, verity);
    if loaded.is_err() {
        // What failed is said; a device without a table is in nobody's way.
        let _ = call(&control, Command::Remove, "remove", &mut self::message(name)?);
    }
    loaded?;
    Ok(PathBuf::from(format!("/dev/dm-{minor}")))
}

fn load(control: &File, name: &str, partition: &Path, verity: &Verity) -> Result<(), VerityError> {
    let mut table = message(name)?;
    put(&mut table, FLAGS_AT, &READ_ONLY.to_ne_bytes())?;
    put(&mut table, TARGETS_AT, &1_u32.to_ne_bytes())?;
    put(&mut table, LENGTH_AT, &verity.sectors().to_ne_bytes())?;
    put(&mut table, KIND_AT, b"verity")?;
    // One byte of the buffer stays zero behind it.
    let parameters = verity.table(&partition.to_string_lossy());
    if parameters.contains('\0') || HEADER + TARGET + parameters.len() >= MESSAGE {
        return Err(VerityError::Size);
    }
    put(&mut table, HEADER + TARGET, parameters.as_bytes())?;
    call(control, Command::Load, "take the table of", &mut table)?;
    call(control, Command::Resume, "start", &mut message(name)?)
}

fn message(name: &str) -> Result<[u8; MESSAGE], VerityError> {
    let mut message = [0; MESSAGE];
    for (at, number) in (0..).step_by(4).zip(VERSION) {
        put(&mut message, at, &number.to_ne_bytes())?;
    }
    let size = u32::try_from(MESSAGE).map_err(|_| VerityError::Size)?;
    let start = u32::try_from(HEADER).map_err(|_| VerityError::Size)?;
    put(&mut message, DATA_SIZE_AT, &size.to_ne_bytes())?;
    put(&mut message, DATA_START_AT, &start.to_ne_bytes())?;
    if name.len() >= NAME_ROOM {
        return Err(VerityError::Size);
    }
    put(&mut message, NAME_AT, name.as_bytes())?;
    Ok(message)
}

fn put(message: &mut [u8; MESSAGE], at: usize, bytes: &[u8]) -> Result<(), VerityError> {
    message.get_mut(at..at + bytes.len()).ok_or(VerityError::Size)?.copy_from_slice(bytes);
    Ok(())
}

/// The minor number in the kernel's answer; what it is in the number of a device is history.
fn minor(message: &[u8; MESSAGE]) -> u64 {
    let device = message.get(DEVICE_AT..DEVICE_AT + 8).and_then(|bytes| bytes.try_into().ok());
    let device = u64::from_ne_bytes(device.unwrap_or_default());
    device & 0xff | device >> 12 & 0xf_ff00
}

fn call(
    control: &File,
    command: Command,
    step: &'static str,
    message: &mut [u8; MESSAGE],
) -> Result<(), VerityError> {
    // _IOWR: both directions, the size of the header, device mapper's letter, the command.
    let request: libc::c_ulong = 3 << 30 | 312 << 16 | 0xfd << 8 | command as libc::c_ulong;
    // SAFETY: the descriptor is open; the kernel reads and writes at most as many bytes as the message says it has
    // (`DATA_SIZE_AT`), which is its size, and keeps no pointer to it.
    let done = unsafe { libc::ioctl(control.as_raw_fd(), request, message.as_mut_ptr()) };
    if done < 0 {
        return Err(VerityError::Step { step, source: io::Error::last_os_error() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_as_the_kernel_reads_it() {
        let message = message("mote-system").unwrap();
        assert_eq!(message[..12], [4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(message[12..20], [0, 4, 0, 0, 0x38, 1, 0, 0]);
        assert_eq!(message[48..60], *b"mote-system\0");
        assert!(matches!(super::message(&"x".repeat(128)), Err(VerityError::Size)));
    }

    #[test]
    fn minor_numbers_are_put_together() {
        let mut message = [0; MESSAGE];
        for (device, expected) in [(0xfe00_u64, 0), (0xfe07, 7), (0x1000_fe07, 0x10007), (0xfeff, 255)] {
            message[40..48].copy_from_slice(&device.to_ne_bytes());
            assert_eq!(minor(&message), expected, "{device:#x}");
        }
    }
}
