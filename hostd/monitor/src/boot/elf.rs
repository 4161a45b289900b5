//! Just enough of ELF to boot a vmlinux: loadable segments, and the PVH entry point in a note.

const MAGIC: [u8; 4] = [0x7f, b'E', b'L', b'F'];
const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const MACHINE_X86_64: u16 = 62;
const PROGRAM_HEADER_SIZE: u16 = 56;
const PROGRAM_HEADER_LIMIT: u16 = 64;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_NOTE: u32 = 4;
/// `XEN_ELFNOTE_PHYS32_ENTRY`: where to enter in 32-bit mode without paging.
const NOTE_PVH_ENTRY: u32 = 18;

/// An ELF file that is no kernel for us.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ElfError {
    /// The file ends before a header does.
    #[error("File ends inside the {field} at offset {offset}")]
    Truncated {
        /// What was being read.
        field: &'static str,
        /// Where it starts.
        offset: usize,
    },
    /// A field has a value that does not make sense for a kernel.
    #[error("Field {field} has the value {value:#x}")]
    Field {
        /// Which.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// No note names an entry point.
    #[error("It has no PVH entry point (was it built with CONFIG_PVH?)")]
    NoEntry,
}

/// Part of the file that goes into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Guest physical address.
    pub(super) address: u64,
    /// Offset in the file.
    pub(super) offset: u64,
    /// Bytes from the file. What the segment has in memory beyond that is zero, as guest memory is.
    pub(super) length: usize,
}

/// Part of the file that holds notes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// What of an ELF file matters.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ElfImage {
    pub(super) segments: Vec<Segment>,
    pub(super) notes: Vec<Note>,
}

pub(super) fn is_elf(head: &[u8]) -> bool {
    head.starts_with(&MAGIC)
}

fn array<const N: usize>(bytes: &[u8], offset: usize, field: &'static str) -> Result<[u8; N], ElfError> {
    let found = offset.checked_add(N).and_then(|end| bytes.get(offset..end));
    found.and_then(|bytes| bytes.try_into().ok()).ok_or(ElfError::Truncated { field, offset })
}

fn u16_at(bytes: &[u8], offset: usize, field: &'static str) -> Result<u16, ElfError> {
    Ok(u16::from_le_bytes(array(bytes, offset, field)?))
}

fn u32_at(bytes: &[u8], offset: usize, field: &'static str) -> Result<u32, ElfError> {
    Ok(u32::from_le_bytes(array(bytes, offset, field)?))
}

fn u64_at(bytes: &[u8], offset: usize, field: &'static str) -> Result<u64, ElfError> {
    Ok(u64::from_le_bytes(array(bytes, offset, field)?))
}

/// Reads the headers at the start (`head`) of a file of `length` bytes.
pub(super) fn parse(head: &[u8], length: u64) -> Result<ElfImage, ElfError> {
    let [class, endianness] = array(head, 4, "identification")?;
    let machine = u16_at(head, 18, "machine")?;
    let size = u16_at(head, 54, "program header size")?;
    let count = u16_at(head, 56, "number of program headers")?;
    let table = u64_at(head, 32, "program header offset")?;
    let checks = [
        ("class", u64::from(class), class == CLASS_64),
        ("endianness", u64::from(endianness), endianness == LITTLE_ENDIAN),
        ("machine", u64::from(machine), machine == MACHINE_X86_64),
        ("program header size", u64::from(size), size == PROGRAM_HEADER_SIZE),
        ("number of program headers", u64::from(count), count > 0 && count <= PROGRAM_HEADER_LIMIT),
    ];
    for (field, value, sound) in checks {
        if !sound {
            return Err(ElfError::Field { field, value });
        }
    }
    let table = usize::try_from(table)
        .map_err(|_| ElfError::Field { field: "program header offset", value: table })?;
    let mut image = ElfImage { segments: Vec::new(), notes: Vec::new() };
    for index in 0..usize::from(count) {
        let at = table.saturating_add(index * usize::from(PROGRAM_HEADER_SIZE));
        let kind = u32_at(head, at, "program header")?;
        let offset = u64_at(head, at.saturating_add(8), "segment offset")?;
        let address = u64_at(head, at.saturating_add(24), "segment address")?;
        let in_file = u64_at(head, at.saturating_add(32), "segment file size")?;
        let in_memory = u64_at(head, at.saturating_add(40), "segment memory size")?;
        if !matches!(kind, SEGMENT_LOAD | SEGMENT_NOTE) || in_file == 0 {
            continue;
        }
        if offset.checked_add(in_file).is_none_or(|end| end > length) {
            return Err(ElfError::Field { field: "segment file size", value: in_file });
        }
        if kind == SEGMENT_NOTE {
            image.notes.push(Note { offset, length: in_file });
            continue;
        }
        if in_memory < in_file || address < super::HIGH {
            return Err(ElfError::Field { field: "segment address or memory size", value: address });
        }
        let length = usize::try_from(in_file)
            .map_err(|_| ElfError::Field { field: "segment file size", value: in_file })?;
        image.segments.push(Segment { address, offset, length });
    }
    if image.segments.is_empty() {
        return Err(ElfError::Field { field: "number of loadable segments", value: 0 });
    }
    Ok(image)
}

/// The PVH entry point in a segment of notes.
pub(super) fn pvh_entry(notes: &[u8]) -> Option<u64> {
    let mut at = 0usize;
    loop {
        let name_size = usize::try_from(u32_at(notes, at, "note").ok()?).ok()?;
        let value_size = usize::try_from(u32_at(notes, at.checked_add(4)?, "note").ok()?).ok()?;
        let kind = u32_at(notes, at.checked_add(8)?, "note").ok()?;
        let name_at = at.checked_add(12)?;
        let name = notes.get(name_at..name_at.checked_add(name_size)?)?;
        let value_at = name_at.checked_add(name_size.checked_next_multiple_of(4)?)?;
        if kind == NOTE_PVH_ENTRY && name == b"Xen\0" {
            return match value_size {
                4 => u32_at(notes, value_at, "note").ok().map(u64::from),
                8 => u64_at(notes, value_at, "note").ok(),
                _ => None,
            };
        }
        at = value_at.checked_add(value_size.checked_next_multiple_of(4)?)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(segments: &[(u32, u64, u64, u64, u64)]) -> Vec<u8> {
        let mut file = vec![0u8; 64];
        file[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        file[18..20].copy_from_slice(&62u16.to_le_bytes());
        file[32..40].copy_from_slice(&64u64.to_le_bytes());
        file[54..56].copy_from_slice(&56u16.to_le_bytes());
        file[56..58].copy_from_slice(&u16::try_from(segments.len()).unwrap().to_le_bytes());
        for (kind, offset, address, in_file, in_memory) in segments {
            file.extend(kind.to_le_bytes());
            file.extend([0; 4]);
            for field in [*offset, 0, *address, *in_file, *in_memory, 4096] {
                file.extend(field.to_le_bytes());
            }
        }
        file
    }

    fn note(name: &[u8], kind: u32, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in [u32::try_from(name.len()).unwrap(), u32::try_from(value.len()).unwrap(), kind] {
            bytes.extend(number.to_le_bytes());
        }
        for part in [name, value] {
            bytes.extend(part);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    #[test]
    fn segments_and_notes_are_found() {
        let head =
            header(&[(1, 0x1000, 0x100_0000, 0x500, 0x900), (4, 0x2000, 0, 0x20, 0x20), (6, 1, 2, 3, 4)]);
        let image = parse(&head, 0x3000).unwrap();
        assert_eq!(image.segments, [Segment { address: 0x100_0000, offset: 0x1000, length: 0x500 }]);
        assert_eq!(image.notes, [Note { offset: 0x2000, length: 0x20 }]);
    }

    #[test]
    fn entry_is_found_behind_other_notes() {
        let mut notes = note(b"Linux\0", 18, &[1, 2, 3, 4]);
        notes.extend(note(b"Xen\0", 7, &[9; 3]));
        notes.extend(note(b"Xen\0", 18, &0x100_0000u64.to_le_bytes()));
        assert_eq!(pvh_entry(&notes), Some(0x100_0000));
        assert_eq!(pvh_entry(&notes[..notes.len() - 1]), None);
        assert_eq!(pvh_entry(&note(b"Xen\0", 18, &[0, 0, 0, 1])), Some(0x100_0000));
    }

    #[test]
    fn nonsense_is_named() {
        let beyond = header(&[(1, 0x1000, 0x100_0000, 0x5000, 0x5000)]);
        assert_eq!(
            parse(&beyond, 0x3000),
            Err(ElfError::Field { field: "segment file size", value: 0x5000 })
        );
        let low = header(&[(1, 0, 0x1000, 0x10, 0x10)]);
        assert!(matches!(parse(&low, 0x3000), Err(ElfError::Field { .. })));
        let mut other = header(&[(1, 0, 0x100_0000, 0x10, 0x10)]);
        other[18] = 3;
        assert_eq!(parse(&other, 0x3000), Err(ElfError::Field { field: "machine", value: 3 }));
        assert!(matches!(parse(&other[..60], 0x3000), Err(ElfError::Field { .. })));
        assert!(matches!(parse(&other[..40], 0x3000), Err(ElfError::Truncated { .. })));
    }

    proptest! {
        #[test]
        fn wild_headers_never_panic(noise in proptest::collection::vec((0usize..200, any::<u8>()), 0..20), length in any::<u64>()) {
            let mut head = header(&[(1, 0x1000, 0x100_0000, 0x500, 0x900), (4, 0x2000, 0, 0x20, 0x20)]);
            for (position, value) in noise {
                if let Some(byte) = head.get_mut(position) {
                    *byte = value;
                }
            }
            let _ = parse(&head, length);
        }

        #[test]
        fn wild_notes_never_panic(notes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = pvh_entry(&notes);
        }
    }
}
