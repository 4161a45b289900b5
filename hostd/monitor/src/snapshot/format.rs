//! The container of the state file: a checked header, then sections.
//!
//! ```text
//! 0   8  magic "MOTESNAP"
//! 8   4  format version
//! 12  4  zero
//! 16  8  length of the payload
//! 24  8  xxh3-64 of bytes 0..24 and the payload
//! 32  …  payload: sections of { kind u32, index u32, length u64, bytes }, little-endian
//! ```

use xxhash_rust::xxh3::Xxh3;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// First bytes of a state file.
const MAGIC: [u8; 8] = *b"MOTESNAP";

/// Version of everything behind the header. Raised with every change of a section's content.
pub const FORMAT_VERSION: u32 = 3;

const HEADER_LENGTH: usize = 32;
const CHECKED_HEADER: usize = 24;

/// Largest state file that is read, in bytes. A vCPU takes some 9 KiB.
pub const STATE_LIMIT: u64 = 16 * 1024 * 1024;

/// A state file that is not one of ours, or not whole. Offsets count from the start of the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// It ends too early.
    #[error(
        "State ends at offset {length}, in field {field} which starts at {offset} and has {needed} bytes"
    )]
    Truncated {
        /// What was being read.
        field: &'static str,
        /// Where it starts.
        offset: usize,
        /// Its size.
        needed: usize,
        /// Where the data ends.
        length: usize,
    },
    /// It is something else.
    #[error("State has no magic number at offset 0")]
    Magic,
    /// It is of another format version.
    #[error("State has format version {found} at offset 8, this monitor reads {FORMAT_VERSION}")]
    Version {
        /// The version found.
        found: u32,
    },
    /// Header and file length disagree.
    #[error("State declares a payload of {declared} bytes at offset 16, the file has {found}")]
    Length {
        /// By the header.
        declared: u64,
        /// Behind the header.
        found: u64,
    },
    /// The content is not what was written.
    #[error("State has checksum {found:016x}, recorded at offset 24 is {recorded:016x}")]
    Checksum {
        /// By the header.
        recorded: u64,
        /// Of the content.
        found: u64,
    },
    /// A section that must be there is not.
    #[error("State has no section {section} with index {index}")]
    Missing {
        /// The section.
        section: &'static str,
        /// Its index.
        index: u32,
    },
    /// A field has a value nobody writes.
    #[error("Field {field} at offset {offset} is out of range")]
    Field {
        /// The field.
        field: &'static str,
        /// Where it is.
        offset: usize,
    },
    /// A section of JSON does not parse; the message is the parser's.
    #[error("Section {section} at offset {offset} does not parse: {message}")]
    Json {
        /// The section.
        section: &'static str,
        /// Where it starts.
        offset: usize,
        /// What the parser says.
        message: String,
    },
}

/// Kinds of section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Section {
    /// [`SnapshotInfo`](super::SnapshotInfo) as JSON.
    Info = 1,
    /// Devices as JSON.
    Devices = 2,
    /// Interrupt controllers, timer and clock.
    Vm = 3,
    /// One vCPU; the index is its number.
    Vcpu = 4,
}

impl Section {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Devices => "devices",
            Self::Vm => "vm",
            Self::Vcpu => "vcpu",
        }
    }

    fn tag(self) -> u32 {
        match self {
            Self::Info => 1,
            Self::Devices => 2,
            Self::Vm => 3,
            Self::Vcpu => 4,
        }
    }
}

/// Builds a state file in memory.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    payload: Vec<u8>,
}

impl Builder {
    /// Appends a section.
    pub(crate) fn section(&mut self, section: Section, index: u32, bytes: &[u8]) {
        self.payload.extend_from_slice(&section.tag().to_le_bytes());
        self.payload.extend_from_slice(&index.to_le_bytes());
        self.payload.extend_from_slice(&length_u64(bytes).to_le_bytes());
        self.payload.extend_from_slice(bytes);
    }

    /// The whole file.
    pub(crate) fn finish(self) -> Vec<u8> {
        let mut file = Vec::with_capacity(HEADER_LENGTH + self.payload.len());
        file.extend_from_slice(&MAGIC);
        file.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        file.extend_from_slice(&0u32.to_le_bytes());
        file.extend_from_slice(&length_u64(&self.payload).to_le_bytes());
        let checksum = checksum(&file, &self.payload);
        file.extend_from_slice(&checksum.to_le_bytes());
        file.extend_from_slice(&self.payload);
        file
    }
}

fn length_u64(bytes: &[u8]) -> u64 {
    // usize is 64 bits wide on the one architecture the monitor is for.
    bytes.len() as u64
}

fn checksum(header: &[u8], payload: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(header);
    hash.update(payload);
    hash.digest()
}

/// A state file whose header and checksum are right.
#[derive(Debug)]
pub(crate) struct Container<'a> {
    sections: Vec<(u32, u32, Reader<'a>)>,
}

impl<'a> Container<'a> {
    /// Checks header, length and checksum of `file` and splits it into sections.
    pub(crate) fn parse(file: &'a [u8]) -> Result<Self, FormatError> {
        let mut header = Reader { bytes: file, base: 0, at: 0 };
        if header.array::<8>("magic")? != MAGIC {
            return Err(FormatError::Magic);
        }
        let version = header.u32("version")?;
        if version != FORMAT_VERSION {
            return Err(FormatError::Version { found: version });
        }
        if header.u32("reserved")? != 0 {
            return Err(FormatError::Field { field: "reserved", offset: 12 });
        }
        let declared = header.u64("payload length")?;
        let recorded = header.u64("checksum")?;
        let payload = file.get(HEADER_LENGTH..).unwrap_or_default();
        if declared != length_u64(payload) {
            return Err(FormatError::Length { declared, found: length_u64(payload) });
        }
        let found = checksum(file.get(..CHECKED_HEADER).unwrap_or_default(), payload);
        if found != recorded {
            return Err(FormatError::Checksum { recorded, found });
        }
        let mut sections = Vec::new();
        while !header.is_empty() {
            let tag = header.u32("section kind")?;
            let index = header.u32("section index")?;
            let offset = header.offset();
            let length = usize::try_from(header.u64("section length")?)
                .map_err(|_| FormatError::Field { field: "section length", offset })?;
            let base = header.offset();
            let bytes = header.bytes("section", length)?;
            sections.push((tag, index, Reader { bytes, base, at: 0 }));
        }
        Ok(Self { sections })
    }

    /// A reader of one section, from its start.
    pub(crate) fn section(&self, section: Section, index: u32) -> Result<Reader<'a>, FormatError> {
        self.sections
            .iter()
            .find(|(tag, found, _)| *tag == section.tag() && *found == index)
            .map(|(_, _, reader)| reader.clone())
            .ok_or(FormatError::Missing { section: section.name(), index })
    }

    /// A section of JSON.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self, section: Section) -> Result<T, FormatError> {
        let reader = self.section(section, 0)?;
        serde_json::from_slice(reader.bytes).map_err(|error| FormatError::Json {
            section: section.name(),
            offset: reader.base,
            message: error.to_string(),
        })
    }
}

/// Reads fields one after the other and knows where it is.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    base: usize,
    at: usize,
}

impl<'a> Reader<'a> {
    /// Offset in the file of the next field.
    pub(crate) fn offset(&self) -> usize {
        self.base + self.at
    }

    /// Whether everything was read.
    pub(crate) fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// The next `length` bytes.
    pub(crate) fn bytes(&mut self, field: &'static str, length: usize) -> Result<&'a [u8], FormatError> {
        let found = self.at.checked_add(length).and_then(|end| self.bytes.get(self.at..end));
        let bytes = found.ok_or(FormatError::Truncated {
            field,
            offset: self.offset(),
            needed: length,
            length: self.base + self.bytes.len(),
        })?;
        self.at += length;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], FormatError> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(field, N)?);
        Ok(array)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// A structure of the KVM interface as it lies in memory.
    pub(crate) fn value<T: FromBytes>(&mut self, field: &'static str) -> Result<T, FormatError> {
        let offset = self.offset();
        let bytes = self.bytes(field, size_of::<T>())?;
        T::read_from_bytes(bytes).map_err(|_| FormatError::Field { field, offset })
    }

    /// Fails unless everything was read.
    pub(crate) fn finish(self, section: &'static str) -> Result<(), FormatError> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(FormatError::Field { field: section, offset: self.offset() })
        }
    }
}

/// Appends a structure of the KVM interface as it lies in memory.
pub(crate) fn put<T: IntoBytes + Immutable + ?Sized>(bytes: &mut Vec<u8>, value: &T) {
    bytes.extend_from_slice(value.as_bytes());
}

/// Gives a file of at least a header's size the header its content deserves, so that tests get past it.
#[cfg(test)]
pub(crate) fn reseal(file: Vec<u8>) -> Vec<u8> {
    Builder { payload: file[HEADER_LENGTH..].to_vec() }.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Vec<u8> {
        let mut builder = Builder::default();
        builder.section(Section::Info, 0, b"{}");
        builder.section(Section::Vcpu, 0, &[1; 100]);
        builder.section(Section::Vcpu, 1, &[2; 50]);
        builder.finish()
    }

    #[test]
    fn sections_come_back() {
        let file = sample();
        let container = Container::parse(&file).unwrap();
        let mut vcpu = container.section(Section::Vcpu, 1).unwrap();
        assert_eq!(vcpu.bytes("all", 50).unwrap(), &[2; 50]);
        assert!(vcpu.finish("vcpu").is_ok());
        assert_eq!(
            container.section(Section::Vm, 0).unwrap_err(),
            FormatError::Missing { section: "vm", index: 0 }
        );
    }

    #[test]
    fn reading_past_the_end_names_field_and_offset() {
        let file = sample();
        let container = Container::parse(&file).unwrap();
        let mut info = container.section(Section::Info, 0).unwrap();
        let error = info.u64("example").unwrap_err();
        // Behind the file's header and the section's.
        let offset = HEADER_LENGTH + 16;
        assert_eq!(error, FormatError::Truncated { field: "example", offset, needed: 8, length: offset + 2 });
    }

    proptest! {
        #[test]
        fn every_flipped_bit_is_noticed(position in 0usize..1000, bit in 0u8..8) {
            let mut file = sample();
            let position = position % file.len();
            file[position] ^= 1 << bit;
            prop_assert!(Container::parse(&file).is_err());
        }

        #[test]
        fn every_truncation_is_noticed(length in 0usize..1000) {
            let file = sample();
            let length = length % file.len();
            prop_assert!(Container::parse(&file[..length]).is_err());
        }

        #[test]
        fn wild_sections_with_a_right_checksum_never_panic(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let file = Builder { payload }.finish();
            if let Ok(container) = Container::parse(&file) {
                let _ = container.json::<serde_json::Value>(Section::Info);
                let _ = container.section(Section::Vcpu, 0).map(|mut reader| reader.u64("x"));
            }
        }
    }
}
