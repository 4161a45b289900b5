//! Reads the one thing of an ELF kernel that our monitor needs: the PVH entry note.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Note type of the 32-bit PVH entry point; its owner is `Xen`.
const PVH_NOTE: u32 = 18;
const PVH_OWNER: &[u8] = b"Xen\0";
const PT_NOTE: u32 = 4;

/// Why a file is not a kernel with a PVH entry.
#[derive(Debug, Error)]
pub enum ElfError {
    /// It cannot be read.
    #[error("Cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not a 64-bit little-endian ELF file, or is cut off.
    #[error("{0} is not a whole 64-bit ELF file")]
    NotElf(PathBuf),
    /// It has no PVH note.
    #[error("{0} has no PVH entry note")]
    NoPvh(PathBuf),
}

/// The physical address at which a PVH monitor enters the kernel.
///
/// # Errors
/// When the file cannot be read, is no ELF file, or has no such note.
pub fn pvh_entry(path: &Path) -> Result<u64, ElfError> {
    let bytes = fs::read(path).map_err(|source| ElfError::Read { path: path.to_path_buf(), source })?;
    match find(&bytes) {
        None => Err(ElfError::NotElf(path.to_path_buf())),
        Some(None) => Err(ElfError::NoPvh(path.to_path_buf())),
        Some(Some(entry)) => Ok(entry),
    }
}

/// Outer `None`: not a whole ELF file. Inner: the note's value.
fn find(bytes: &[u8]) -> Option<Option<u64>> {
    if bytes.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let table = u64_at(bytes, 32)?;
    let (size, count) = (u16_at(bytes, 54)?, u16_at(bytes, 56)?);
    for index in 0..count {
        let at = table.checked_add(usize::from(index).checked_mul(usize::from(size))?)?;
        if u32_at(bytes, at)? != PT_NOTE {
            continue;
        }
        let (start, length) = (u64_at(bytes, at.checked_add(8)?)?, u64_at(bytes, at.checked_add(32)?)?);
        let notes = bytes.get(start..start.checked_add(length)?)?;
        if let Some(entry) = note(notes) {
            return Some(Some(entry));
        }
    }
    Some(None)
}

fn note(mut notes: &[u8]) -> Option<u64> {
    while notes.len() >= 12 {
        let name_length = usize::try_from(u32_at(notes, 0)?).ok()?;
        let value_length = usize::try_from(u32_at(notes, 4)?).ok()?;
        let kind = u32_at(notes, 8)?;
        let name = notes.get(12..12usize.checked_add(name_length)?)?;
        let value_at = 12usize.checked_add(name_length)?.checked_next_multiple_of(4)?;
        let value = notes.get(value_at..value_at.checked_add(value_length)?)?;
        if kind == PVH_NOTE && name == PVH_OWNER {
            let mut wide = [0; 8];
            wide.get_mut(..value.len())?.copy_from_slice(value);
            return Some(u64::from_le_bytes(wide));
        }
        let next = value_at.checked_add(value_length)?.checked_next_multiple_of(4)?;
        notes = notes.get(next..).unwrap_or_default();
    }
    None
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<usize> {
    array(bytes, at).map(u64::from_le_bytes).and_then(|value| usize::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A file with one note segment.
    fn elf(notes: &[u8]) -> Vec<u8> {
        let mut file = vec![0u8; 64 + 56];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[32] = 64;
        file[54] = 56;
        file[56] = 1;
        file[64..68].copy_from_slice(&PT_NOTE.to_le_bytes());
        file[72..80].copy_from_slice(&120u64.to_le_bytes());
        file[96..104].copy_from_slice(&u64::try_from(notes.len()).unwrap().to_le_bytes());
        file.extend_from_slice(notes);
        file
    }

    fn note_bytes(owner: &[u8], kind: u32, value: &[u8]) -> Vec<u8> {
        let mut note = Vec::new();
        for length in [owner.len(), value.len()] {
            note.extend_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
        }
        note.extend_from_slice(&kind.to_le_bytes());
        for part in [owner, value] {
            note.extend_from_slice(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    }

    #[test]
    fn the_note_is_found_behind_others() {
        let mut notes = note_bytes(b"GNU\0", 3, &[7; 20]);
        notes.extend(note_bytes(b"Xen\0", 6, b"linux\0"));
        notes.extend(note_bytes(PVH_OWNER, PVH_NOTE, &0x0100_0040u32.to_le_bytes()));
        assert_eq!(find(&elf(&notes)), Some(Some(0x0100_0040)));
    }

    #[test]
    fn a_kernel_without_the_note_is_refused() {
        assert_eq!(find(&elf(&note_bytes(b"GNU\0", 3, &[7; 20]))), Some(None));
        assert_eq!(find(b"MZ not an ELF file, but long enough to look at"), None);
        assert_eq!(find(&elf(&[1; 40])[..130]), None, "cut off");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>, notes: Vec<u8>) {
            let _ = find(&bytes);
            let _ = find(&elf(&notes));
        }
    }
}
