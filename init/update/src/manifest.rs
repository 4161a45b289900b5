//! The head of an update file: who signed what.

use serde::{Deserialize, Serialize};

use crate::digest::{DIGEST_BYTES, Digest};
use crate::keys::{KEY_ID_BYTES, KeyId, PublicKey, SIGNATURE_BYTES, SecretKey};
use crate::version::Version;

/// The format this code reads and writes.
pub const FORMAT: u32 = 1;

/// Largest manifest, in bytes.
pub const MAX_MANIFEST: usize = 4096;

/// Smallest chunk: what a page and a disk's block are at least.
pub const MIN_CHUNK: u32 = 4096;

/// Largest chunk: that much is held in memory.
pub const MAX_CHUNK: u32 = 4 << 20;

/// Most chunks: their digests are held in memory too, 512 KiB.
pub const MAX_CHUNKS: u64 = 16 * 1024;

/// Bytes in front of the manifest.
pub const HEADER_BYTES: usize = SIGNED_BYTES + SIGNATURE_BYTES;

const MAGIC: [u8; 8] = *b"MOTE-UP\n";

/// Of the header, what the signature is of as well.
const SIGNED_BYTES: usize = 8 + 4 + 4 + KEY_ID_BYTES;

/// Before what is signed: a signature made for anything else is none for an update.
const CONTEXT: &[u8] = b"Mote update file\0";

/// What an update is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version it brings.
    pub version: Version,
    /// When it was built, in seconds since 1970.
    pub built: u64,
    /// Oldest version it can replace.
    pub replaces: Version,
    /// Bytes of the payload.
    pub size: u64,
    /// Bytes of a chunk, a power of two; the last one has what is left.
    pub chunk_size: u32,
    /// Digest of the table of the chunks' digests.
    pub chunks: Digest,
    /// Root of the payload's dm-verity tree, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verity_root: Option<Digest>,
    /// The part of the slot that the payload leaves out, if it leaves out any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<Gap>,
}

/// A part of a slot that nobody reads, and that is therefore not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gap {
    /// Where it begins, in the payload as in the slot, in bytes.
    pub at: u64,
    /// Its bytes: so much further behind in the slot goes the rest of the payload.
    pub size: u64,
}

/// What the machine allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The version that runs.
    pub running: Version,
    /// The oldest that may be installed.
    pub oldest: Version,
}

/// The fixed part in front of the manifest, not verified yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub key: KeyId,
    pub manifest_bytes: usize,
    signature: [u8; SIGNATURE_BYTES],
}

/// Why the beginning of a file is not that of an update file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Another kind of file.
    #[error("Not an update file")]
    Magic,
    /// Of a later format, or damaged.
    #[error("Format {0} of an update file instead of {FORMAT}")]
    Format(u32),
    /// A manifest nobody needs.
    #[error("A manifest of {0} bytes instead of 1 to {MAX_MANIFEST}")]
    ManifestSize(u32),
    /// Nobody signed it.
    #[error("The update is not signed")]
    Unsigned,
}

/// Why signed bytes are not a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not the JSON it should be.
    #[error("The manifest cannot be read")]
    Json(#[source] serde_json::Error),
    /// A size of chunk that is none.
    #[error("Chunks of {0} bytes instead of a power of two from {MIN_CHUNK} to {MAX_CHUNK}")]
    ChunkSize(u32),
    /// Nothing in it, or too much.
    #[error("A payload of {size} bytes instead of 1 to {most}")]
    Size {
        /// What it has.
        size: u64,
        /// What it can have, with chunks of that size.
        most: u64,
    },
    /// A gap that is none.
    #[error("A gap of {} bytes at byte {} of a payload of {size}", gap.size, gap.at)]
    Gap {
        /// The gap.
        gap: Gap,
        /// Bytes of the payload.
        size: u64,
    },
}

/// Why a machine does not take an update that is otherwise fine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Older than what may be installed.
    #[error("Version {version} is older than {oldest}, the oldest that is allowed")]
    TooOld {
        /// The update's.
        version: Version,
        /// The machine's limit.
        oldest: Version,
    },
    /// The machine is too far behind.
    #[error("The update replaces {replaces} and newer, not {running}")]
    CannotReplace {
        /// The update's limit.
        replaces: Version,
        /// The machine's version.
        running: Version,
    },
}

impl Manifest {
    /// Reads a manifest; whether it can be trusted is not its matter.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// As it is written.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ManifestError> {
        self.check()?;
        serde_json::to_vec(self).map_err(ManifestError::Json)
    }

    /// How many chunks the payload has.
    pub fn chunk_count(&self) -> u64 {
        self.size.div_ceil(u64::from(self.chunk_size.max(1)))
    }

    /// Where in the slot it ends, in bytes.
    pub fn slot_end(&self) -> u64 {
        // No overflow: `check`.
        self.size.saturating_add(self.gap.map_or(0, |gap| gap.size))
    }

    /// Where in the slot bytes of the payload go that are at `offset` of it: in front of the gap and behind it. Either
    /// may be empty.
    pub fn places<'a>(&self, offset: u64, bytes: &'a [u8]) -> [(u64, &'a [u8]); 2] {
        let Gap { at, size } = self.gap.unwrap_or(Gap { at: u64::MAX, size: 0 });
        let before = usize::try_from(at.saturating_sub(offset)).unwrap_or(usize::MAX).min(bytes.len());
        let (before, behind) = bytes.split_at(before);
        [(offset, before), (offset.max(at).saturating_add(size), behind)]
    }

    /// Bytes of the table of digests.
    pub(crate) fn table_bytes(&self) -> usize {
        // Bounded by `check`.
        usize::try_from(self.chunk_count()).map_or(usize::MAX, |count| count.saturating_mul(DIGEST_BYTES))
    }

    /// Whether a machine takes it.
    pub fn allowed(&self, policy: &Policy) -> Result<(), PolicyError> {
        if self.version < policy.oldest {
            return Err(PolicyError::TooOld { version: self.version, oldest: policy.oldest });
        }
        if policy.running < self.replaces {
            return Err(PolicyError::CannotReplace { replaces: self.replaces, running: policy.running });
        }
        Ok(())
    }

    fn check(&self) -> Result<(), ManifestError> {
        if !self.chunk_size.is_power_of_two() || !(MIN_CHUNK..=MAX_CHUNK).contains(&self.chunk_size) {
            return Err(ManifestError::ChunkSize(self.chunk_size));
        }
        let most = u64::from(self.chunk_size) * MAX_CHUNKS;
        if !(1..=most).contains(&self.size) {
            return Err(ManifestError::Size { size: self.size, most });
        }
        match self.gap {
            Some(gap) if !gap.is_in(self.size) => Err(ManifestError::Gap { gap, size: self.size }),
            _ => Ok(()),
        }
    }
}

impl Gap {
    /// Whether a payload of that size can have it: inside, and in whole blocks of a disk.
    fn is_in(self, size: u64) -> bool {
        let blocks = |bytes: u64| bytes > 0 && bytes.is_multiple_of(u64::from(MIN_CHUNK));
        blocks(self.at) && blocks(self.size) && self.at < size && size.checked_add(self.size).is_some()
    }
}

impl Header {
    pub(crate) fn parse(bytes: &[u8; HEADER_BYTES]) -> Result<Self, HeaderError> {
        let mut rest = bytes.as_slice();
        if take(&mut rest) != MAGIC {
            return Err(HeaderError::Magic);
        }
        let format = u32::from_le_bytes(take(&mut rest));
        if format != FORMAT {
            return Err(HeaderError::Format(format));
        }
        let length = u32::from_le_bytes(take(&mut rest));
        let manifest_bytes = usize::try_from(length).unwrap_or(usize::MAX);
        if !(1..=MAX_MANIFEST).contains(&manifest_bytes) {
            return Err(HeaderError::ManifestSize(length));
        }
        let header = Self { key: KeyId(take(&mut rest)), manifest_bytes, signature: take(&mut rest) };
        if header.key.0 == [0; KEY_ID_BYTES] || header.signature == [0; SIGNATURE_BYTES] {
            return Err(HeaderError::Unsigned);
        }
        Ok(header)
    }

    /// Header and manifest, signed.
    pub(crate) fn sign(manifest: &[u8], key: &SecretKey) -> Result<Vec<u8>, HeaderError> {
        let length = u32::try_from(manifest.len()).unwrap_or(u32::MAX);
        if !(1..=MAX_MANIFEST).contains(&manifest.len()) {
            return Err(HeaderError::ManifestSize(length));
        }
        let id = key.public().id();
        let signature = key.sign(&message(id, length, manifest));
        Ok([head(id, length).as_slice(), signature.as_slice(), manifest].concat())
    }

    /// Whether the key signed this header with this manifest.
    pub(crate) fn is_signed(&self, manifest: &[u8], key: &PublicKey) -> bool {
        u32::try_from(self.manifest_bytes)
            .is_ok_and(|length| key.verify(&message(self.key, length, manifest), &self.signature))
    }
}

/// The signed part of the header.
fn head(key: KeyId, manifest_bytes: u32) -> Vec<u8> {
    [MAGIC.as_slice(), &FORMAT.to_le_bytes(), &manifest_bytes.to_le_bytes(), &key.0].concat()
}

/// What the signature is of.
fn message(key: KeyId, manifest_bytes: u32, manifest: &[u8]) -> Vec<u8> {
    [CONTEXT, &head(key, manifest_bytes), manifest].concat()
}

/// The next `N` bytes; zeros where there are none.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (bytes, left) =
        rest.split_first_chunk().map_or(([0; N], [].as_slice()), |(bytes, left)| (*bytes, left));
    *rest = left;
    bytes
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A manifest like those of real updates.
    pub(crate) fn manifest() -> Manifest {
        Manifest {
            version: Version::new(1, 2, 3),
            built: 1_790_000_000,
            replaces: Version::new(1, 0, 0),
            size: 100_000,
            chunk_size: MIN_CHUNK,
            chunks: Digest::of(b"table"),
            verity_root: None,
            gap: None,
        }
    }

    fn key() -> SecretKey {
        SecretKey::from_seed(&[7; 32])
    }

    fn header_of(file: &[u8]) -> Result<Header, HeaderError> {
        Header::parse(file.first_chunk().unwrap())
    }

    #[test]
    fn the_largest_manifest_fits() {
        let version = Version::new(u32::MAX, u32::MAX, u32::MAX);
        let large = Manifest {
            version,
            built: u64::MAX,
            replaces: version,
            size: u64::from(MAX_CHUNK) * MAX_CHUNKS,
            chunk_size: MAX_CHUNK,
            verity_root: Some(Digest::of(b"")),
            gap: Some(Gap { at: 4096, size: 1 << 62 }),
            ..manifest()
        };
        let bytes = large.to_bytes().unwrap();
        assert!(bytes.len() < MAX_MANIFEST / 4);
        assert_eq!(Manifest::parse(&bytes).unwrap(), large);
    }

    #[test]
    fn limits_hold() {
        let most = u64::from(MIN_CHUNK) * MAX_CHUNKS;
        for size in [0, most + 1, u64::MAX] {
            let wrong = Manifest { size, ..manifest() };
            assert!(matches!(wrong.to_bytes(), Err(ManifestError::Size { .. })), "{size}");
        }
        for chunk_size in [0, 1, 2048, 4097, 3 * 4096, MAX_CHUNK * 2, u32::MAX] {
            let wrong = Manifest { chunk_size, ..manifest() };
            assert!(matches!(wrong.to_bytes(), Err(ManifestError::ChunkSize(_))), "{chunk_size}");
            let json = serde_json::to_vec(&wrong).unwrap();
            assert!(matches!(Manifest::parse(&json), Err(ManifestError::ChunkSize(_))), "{chunk_size}");
        }
        assert!(Manifest { size: most, ..manifest() }.to_bytes().is_ok());
    }

    #[test]
    fn a_gap_is_inside_and_of_whole_blocks() {
        let with = |at, size| Manifest { gap: Some(Gap { at, size }), ..manifest() }.to_bytes();
        assert!(with(4096, 4096).is_ok() && with(98_304, 1 << 40).is_ok());
        for (at, size) in
            [(0, 4096), (4096, 0), (4097, 4096), (4096, 512), (102_400, 4096), (4096, u64::MAX - 4095)]
        {
            assert!(matches!(with(at, size), Err(ManifestError::Gap { .. })), "{at} {size}");
        }
    }

    #[test]
    fn only_the_fields_it_has() {
        let json = String::from_utf8(manifest().to_bytes().unwrap()).unwrap();
        for wrong in [
            json.replacen('{', r#"{"more":1,"#, 1),
            json.replacen('{', r#"{"size":1,"#, 1),
            json.replace("\"built\"", "\"build\""),
            json.replace("1.2.3", "1.2"),
            format!("{json}{json}"),
            "null".to_owned(),
        ] {
            assert!(matches!(Manifest::parse(wrong.as_bytes()), Err(ManifestError::Json(_))), "{wrong}");
        }
    }

    #[test]
    fn header_errors_have_names() {
        let file = Header::sign(b"manifest", &key()).unwrap();
        let with = |at: usize, bytes: &[u8]| {
            let mut file = file.clone();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            header_of(&file)
        };
        assert_eq!(with(0, b"X"), Err(HeaderError::Magic));
        assert_eq!(with(8, &[2, 0, 0, 0]), Err(HeaderError::Format(2)));
        assert_eq!(with(12, &[0; 4]), Err(HeaderError::ManifestSize(0)));
        assert_eq!(with(12, &[1, 16, 0, 0]), Err(HeaderError::ManifestSize(4097)));
        assert_eq!(with(16, &[0; KEY_ID_BYTES]), Err(HeaderError::Unsigned));
        assert_eq!(with(24, &[0; SIGNATURE_BYTES]), Err(HeaderError::Unsigned));
        assert_eq!(Header::sign(&[], &key()), Err(HeaderError::ManifestSize(0)));
        assert_eq!(Header::sign(&[0; 4097], &key()), Err(HeaderError::ManifestSize(4097)));
    }

    #[test]
    fn a_signature_is_of_this_header_and_this_manifest() {
        let file = Header::sign(b"manifest", &key()).unwrap();
        let header = header_of(&file).unwrap();
        assert_eq!((header.key, header.manifest_bytes), (key().public().id(), 8));
        assert!(header.is_signed(b"manifest", &key().public()));
        assert!(!header.is_signed(b"manifesT", &key().public()));
        assert!(!header.is_signed(b"manifest", &SecretKey::from_seed(&[8; 32]).public()));
        // What the same key signed for something else is no update.
        let bare = Header {
            signature: key().sign(&[head(header.key, 8).as_slice(), b"manifest"].concat()),
            ..header
        };
        assert!(!bare.is_signed(b"manifest", &key().public()));
    }

    #[test]
    fn a_machine_takes_what_is_new_enough_and_near_enough() {
        let (version, replaces) = (manifest().version, manifest().replaces);
        let older = Version::new(0, 9, 0);
        let newer = Version::new(2, 0, 0);
        let ask = |running, oldest| manifest().allowed(&Policy { running, oldest });
        assert_eq!(ask(replaces, version), Ok(()));
        assert_eq!(ask(newer, Version::ZERO), Ok(()));
        assert_eq!(ask(replaces, newer), Err(PolicyError::TooOld { version, oldest: newer }));
        assert_eq!(ask(older, version), Err(PolicyError::CannotReplace { replaces, running: older }));
    }

    proptest! {
        #[test]
        fn any_header_is_read_or_refused(bytes in prop::array::uniform32(any::<u8>()), right in 0..5_usize) {
            let whole = Header::sign(b"manifest", &key()).unwrap();
            let mut file = whole.clone();
            // Of the fields the first ones right, or none.
            let from = [0, 8, 12, 16, 24][right];
            file[from..].iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte);
            if let Ok(header) = header_of(&file) {
                prop_assert!((1..=MAX_MANIFEST).contains(&header.manifest_bytes));
                prop_assert!(file == whole || !header.is_signed(b"manifest", &key().public()));
            }
        }

        #[test]
        fn any_bytes_are_a_manifest_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Manifest::parse(&bytes).is_err());
        }

        /// However a payload is cut, its parts go where the whole of it would.
        #[test]
        fn parts_go_where_the_whole_does(
            size in 1..40_usize,
            at in 1..40_u64,
            gap in 0..9_u64,
            cuts in prop::collection::vec(1..9_usize, 1..40),
        ) {
            let payload: Vec<u8> = (1..=u8::try_from(size).unwrap()).collect();
            let bytes = u64::try_from(size).unwrap();
            let gap = (at < bytes && gap > 0).then_some(Gap { at, size: gap });
            let manifest = Manifest { size: bytes, gap, ..manifest() };
            let mut slot = vec![0; usize::try_from(manifest.slot_end()).unwrap()];
            let mut offset = 0;
            for cut in cuts.iter().cycle() {
                let end = (offset + cut).min(size);
                for (at, part) in manifest.places(u64::try_from(offset).unwrap(), &payload[offset..end]) {
                    if !part.is_empty() {
                        let at = usize::try_from(at).unwrap();
                        slot[at..at + part.len()].copy_from_slice(part);
                    }
                }
                offset = end;
                if offset == size {
                    break;
                }
            }
            let mut expected = payload;
            if let Some(Gap { at, size }) = gap {
                let at = usize::try_from(at).unwrap();
                expected.splice(at..at, vec![0; usize::try_from(size).unwrap()]);
            }
            prop_assert_eq!(slot, expected);
        }

        /// A manifest with something else somewhere: what is read is within the limits.
        #[test]
        fn any_change_is_read_or_refused(
            at in any::<prop::sample::Index>(),
            with in "\\PC{0,3}|[0-9]{1,20}",
            less in 0..20_usize,
        ) {
            let mut json = manifest().to_bytes().unwrap();
            let at = at.index(json.len());
            let end = (at + less).min(json.len());
            json.splice(at..end, with.bytes());
            if let Ok(manifest) = Manifest::parse(&json) {
                prop_assert!((1..=MAX_CHUNKS).contains(&manifest.chunk_count()));
                let bytes = manifest.to_bytes().unwrap();
                prop_assert_eq!(Manifest::parse(&bytes).unwrap(), manifest);
            }
        }
    }
}
