//! Is a partition really blank? And did we begin to format it?
//!
//! Only a partition that is zero in its first and last MiB is taken for blank: that covers the places
//! where every common file system, volume manager, RAID and partition table keeps its mark.
//!
//! Formatting is not one write. So the last MiB of the partition is never given to the file system, and
//! carries a note while formatting is under way: a power cut in between leaves the note, and the next
//! boot knows that the half-made file system is ours to make again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes looked at on either end; the tail of this size is kept from the file system.
pub const MARGIN: u64 = mote_reset::TAIL;

/// Smallest partition we format, in bytes.
pub const SMALLEST: u64 = 32 << 20;

/// The note, at the start of the last [`MARGIN`] bytes.
const NOTE: &[u8; 33] = b"MOTE: formatting has not finished";

/// What is on a partition, as far as formatting is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Zeros at both ends.
    Blank,
    /// A format of ours did not finish.
    HalfFormatted,
    /// Something.
    Something,
}

/// Looks at both ends of a partition of `size` bytes; `is_known` if a file system was found on it, which
/// saves most of the looking.
pub fn examine(device: &File, size: u64, is_known: bool) -> io::Result<Content> {
    if size < 2 * MARGIN {
        return Ok(Content::Something);
    }
    let mut note = [0; NOTE.len()];
    device.read_exact_at(&mut note, size - MARGIN)?;
    if note == *NOTE {
        return Ok(Content::HalfFormatted);
    }
    if is_known {
        return Ok(Content::Something);
    }
    let tail = read(device, size - MARGIN)?;
    let blank = is_zero(&tail) && is_zero(&read(device, 0)?);
    Ok(if blank { Content::Blank } else { Content::Something })
}

/// Writes the note, or takes it away, durably.
pub fn set_note(device: &File, size: u64, present: bool) -> io::Result<()> {
    let note = if present { *NOTE } else { [0; NOTE.len()] };
    let at = size.checked_sub(MARGIN).ok_or(io::ErrorKind::InvalidInput)?;
    device.write_all_at(&note, at)?;
    device.sync_data()
}

fn read(device: &File, at: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(MARGIN).unwrap_or(usize::MAX)];
    device.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 4 * MARGIN;

    fn disk() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(SIZE).unwrap();
        file
    }

    #[test]
    fn zeros_are_blank_and_one_byte_at_either_end_is_not() {
        assert_eq!(examine(&disk(), SIZE, false).unwrap(), Content::Blank);
        for at in [0, 510, 1080, 65600, MARGIN - 1, SIZE - MARGIN, SIZE - 4096, SIZE - 1] {
            let disk = disk();
            disk.write_all_at(&[1], at).unwrap();
            assert_eq!(examine(&disk, SIZE, false).unwrap(), Content::Something, "byte at {at}");
        }
    }

    #[test]
    fn our_note_is_known_and_goes_without_trace() {
        let disk = disk();
        set_note(&disk, SIZE, true).unwrap();
        assert_eq!(examine(&disk, SIZE, false).unwrap(), Content::HalfFormatted);
        disk.write_all_at(&[7; 8192], 0).unwrap();
        assert_eq!(examine(&disk, SIZE, false).unwrap(), Content::HalfFormatted);
        assert_eq!(examine(&disk, SIZE, true).unwrap(), Content::HalfFormatted);
        set_note(&disk, SIZE, false).unwrap();
        assert_eq!(examine(&disk, SIZE, false).unwrap(), Content::Something);
    }

    #[test]
    fn too_small_is_never_blank() {
        let disk = disk();
        assert_eq!(examine(&disk, MARGIN, false).unwrap(), Content::Something);
        assert!(set_note(&disk, 5, true).is_err());
    }
}
