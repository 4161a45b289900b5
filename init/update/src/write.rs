//! Makes an update file: the build tool's side.

use std::io::{self, Read, Seek, SeekFrom, Write};

use crate::digest::Digest;
use crate::keys::SecretKey;
use crate::manifest::{Gap, Header, HeaderError, Manifest, ManifestError};
use crate::version::Version;

/// The size of chunk to take: few digests, little memory.
pub const CHUNK_SIZE: u32 = 1 << 20;

/// What is known of an update before its payload is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    /// The version it brings.
    pub version: Version,
    /// When it was built, in seconds since 1970.
    pub built: u64,
    /// Oldest version it can replace.
    pub replaces: Version,
    /// Bytes of a chunk; [`CHUNK_SIZE`] unless there is a reason.
    pub chunk_size: u32,
    /// Root of the payload's dm-verity tree, if it has one.
    pub verity_root: Option<Digest>,
    /// The part of the slot that is not in the payload.
    pub gap: Option<Gap>,
}

/// Why no update file was made.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The payload could not be read.
    #[error("Cannot read the payload")]
    Read(#[source] io::Error),
    /// The file could not be written.
    #[error("Cannot write the update file")]
    Write(#[source] io::Error),
    /// Sizes nobody would accept.
    #[error("Not an update that can be installed")]
    Manifest(#[source] ManifestError),
    /// A manifest that does not fit.
    #[error("The manifest cannot be signed")]
    Sign(#[source] HeaderError),
    /// The payload is being written to.
    #[error("The payload changed at byte {offset} while it was read")]
    Changed {
        /// Where the chunk begins.
        offset: u64,
    },
}

/// Writes the update file of a payload, which is read twice, from its beginning. What was written before an
/// error is of no use.
pub fn write(
    payload: &mut (impl Read + Seek),
    release: &Release,
    key: &SecretKey,
    out: &mut impl Write,
) -> Result<Manifest, WriteError> {
    let mut manifest = Manifest {
        version: release.version,
        built: release.built,
        replaces: release.replaces,
        size: payload.seek(SeekFrom::End(0)).map_err(WriteError::Read)?,
        chunk_size: release.chunk_size,
        chunks: Digest::of(&[]),
        verity_root: release.verity_root,
        gap: release.gap,
    };
    // Limits first: there is no need to read what is too large.
    manifest.to_bytes().map_err(WriteError::Manifest)?;

    let mut digests = Vec::new();
    each_chunk(payload, &manifest, |_, chunk| {
        digests.push(Digest::of(chunk));
        Ok(())
    })?;
    let table: Vec<u8> = digests.iter().flat_map(|digest| digest.0).collect();
    manifest.chunks = Digest::of(&table);
    let head =
        Header::sign(&manifest.to_bytes().map_err(WriteError::Manifest)?, key).map_err(WriteError::Sign)?;

    out.write_all(&head).and_then(|()| out.write_all(&table)).map_err(WriteError::Write)?;
    let mut expected = digests.iter();
    each_chunk(payload, &manifest, |offset, chunk| {
        if expected.next() != Some(&Digest::of(chunk)) {
            return Err(WriteError::Changed { offset });
        }
        out.write_all(chunk).map_err(WriteError::Write)
    })?;
    out.flush().map_err(WriteError::Write)?;
    Ok(manifest)
}

/// Reads the payload from its beginning to where it ended when its size was taken.
fn each_chunk(
    payload: &mut (impl Read + Seek),
    manifest: &Manifest,
    mut each: impl FnMut(u64, &[u8]) -> Result<(), WriteError>,
) -> Result<(), WriteError> {
    payload.rewind().map_err(WriteError::Read)?;
    let size = u64::from(manifest.chunk_size);
    let mut chunk = Vec::new();
    let mut offset = 0;
    while offset < manifest.size {
        let wanted = size.min(manifest.size - offset);
        chunk.clear();
        payload.by_ref().take(wanted).read_to_end(&mut chunk).map_err(WriteError::Read)?;
        if u64::try_from(chunk.len()).ok() != Some(wanted) {
            return Err(WriteError::Changed { offset });
        }
        each(offset, &chunk)?;
        offset += wanted;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::manifest::{HEADER_BYTES, MIN_CHUNK};

    const RELEASE: Release = Release {
        version: Version::new(1, 0, 0),
        built: 1,
        replaces: Version::ZERO,
        chunk_size: MIN_CHUNK,
        verity_root: None,
        gap: None,
    };

    fn key() -> SecretKey {
        SecretKey::from_seed(&[1; 32])
    }

    #[test]
    fn a_file_is_as_it_is_drawn() {
        let payload = vec![5; 5000];
        let mut file = Vec::new();
        let manifest = write(&mut Cursor::new(&payload), &RELEASE, &key(), &mut file).unwrap();
        let json = manifest.to_bytes().unwrap();
        let table = [Digest::of(&payload[..4096]).0, Digest::of(&payload[4096..]).0].concat();
        assert_eq!(file[..8], *b"MOTE-UP\n");
        assert_eq!(file[8..12], 1_u32.to_le_bytes());
        assert_eq!(file[12..16], u32::try_from(json.len()).unwrap().to_le_bytes());
        assert_eq!(file[16..24], key().public().id().0);
        assert_eq!(file[HEADER_BYTES..], [json.as_slice(), &table, &payload].concat());
        assert_eq!(manifest.chunks, Digest::of(&table));
        // The same twice: a build can be repeated.
        let mut again = Vec::new();
        write(&mut Cursor::new(&payload), &RELEASE, &key(), &mut again).unwrap();
        assert!(again == file);
    }

    #[test]
    fn what_nobody_would_accept_is_not_made() {
        let none = write(&mut Cursor::new(b""), &RELEASE, &key(), &mut Vec::new());
        assert!(matches!(none, Err(WriteError::Manifest(ManifestError::Size { size: 0, .. }))));
        let odd = Release { chunk_size: 5000, ..RELEASE };
        let odd = write(&mut Cursor::new(b"x"), &odd, &key(), &mut Vec::new());
        assert!(matches!(odd, Err(WriteError::Manifest(ManifestError::ChunkSize(5000)))));
    }

    /// Of other content, or shorter, every time it is read from its beginning.
    struct Restless {
        bytes: Cursor<Vec<u8>>,
        shrinks: bool,
    }

    impl Read for Restless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.bytes.read(buffer)
        }
    }

    impl Seek for Restless {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            if to == SeekFrom::Start(0) {
                let bytes = self.bytes.get_mut();
                if self.shrinks {
                    bytes.pop();
                } else if let Some(last) = bytes.last_mut() {
                    *last += 1;
                }
            }
            self.bytes.seek(to)
        }
    }

    #[test]
    fn a_payload_that_changes_is_noticed() {
        for shrinks in [false, true] {
            let mut payload = Restless { bytes: Cursor::new(vec![0; 5000]), shrinks };
            let result = write(&mut payload, &RELEASE, &key(), &mut Vec::new());
            assert!(matches!(result, Err(WriteError::Changed { offset: 4096 })), "{result:?}");
        }
    }
}
