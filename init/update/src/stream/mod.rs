//! Reads an update file as it comes, and gives out only what is verified.

use crate::digest::{DIGEST_BYTES, Digest};
use crate::keys::{KeyId, Keys, PublicKey};
use crate::manifest::{HEADER_BYTES, Header, HeaderError, Manifest, ManifestError, Policy, PolicyError};

/// Verifies an update file that comes in pieces of any size.
///
/// It holds one chunk and the table of digests, never more than [`MAX_CHUNK`](crate::manifest::MAX_CHUNK) and
/// [`MAX_CHUNKS`](crate::manifest::MAX_CHUNKS) allow, and before the signature was checked no more than
/// [`MAX_MANIFEST`](crate::manifest::MAX_MANIFEST) bytes.
#[derive(Debug)]
pub struct Verifier {
    keys: Keys,
    policy: Policy,
    stage: Stage,
    /// The part that is read, as far as it is there.
    buffer: Vec<u8>,
    /// The buffer was given out as a chunk, and is done with.
    given: bool,
}

/// Something verified.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// What the file is. Comes once, first.
    Manifest(Manifest),
    /// A part of the payload. They come in order, without gaps.
    Chunk {
        /// Where in the payload.
        offset: u64,
        /// The bytes.
        bytes: &'a [u8],
    },
}

/// Why a file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The beginning is wrong.
    #[error("The update file's header is wrong")]
    Header(#[source] HeaderError),
    /// Signed by somebody who is not trusted.
    #[error("The update is signed by key {0}, which is not trusted")]
    UnknownKey(KeyId),
    /// Not signed by the key it names, or changed since.
    #[error("The signature by key {0} is wrong")]
    Signature(KeyId),
    /// Signed, and wrong all the same.
    #[error("The update's manifest is wrong")]
    Manifest(#[source] ManifestError),
    /// Right, but not for this machine.
    #[error("The update is not for this machine")]
    Refused(#[source] PolicyError),
    /// The table of digests is not the one of the manifest.
    #[error("The table of the chunks' digests is damaged")]
    Table,
    /// A part of the payload is not what was signed.
    #[error("The chunk at byte {offset} of the payload is damaged")]
    Chunk {
        /// Where in the payload.
        offset: u64,
    },
    /// There is more than the manifest says.
    #[error("The update file goes on after its end")]
    TooLong,
    /// There is less.
    #[error("The update file ends too early, in its {0}")]
    Truncated(Part),
    /// It failed before.
    #[error("The update file was refused already")]
    Broken,
}

/// The parts of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Fixed fields and the signature.
    Header,
    /// What the file is.
    Manifest,
    /// The chunks' digests.
    Table,
    /// What is to be installed.
    Payload,
}

#[derive(Debug)]
enum Stage {
    Header,
    Manifest { header: Header, key: PublicKey },
    Table(Manifest),
    Payload { manifest: Manifest, table: Vec<u8>, offset: u64 },
    End(Manifest),
    Broken,
}

/// An [`Item`] whose bytes are those in the buffer.
enum Found {
    Manifest(Manifest),
    Chunk { offset: u64 },
}

impl Verifier {
    /// For one file, by the keys and limits of this machine.
    pub fn new(keys: Keys, policy: Policy) -> Self {
        Self { keys, policy, stage: Stage::Header, buffer: Vec::new(), given: false }
    }

    /// Takes bytes from the front of `input`, up to the next thing that is whole and verified. `None`: all are
    /// taken and more are needed, or the end is reached.
    ///
    /// After an error nothing more is taken or given out.
    pub fn feed<'a>(&'a mut self, input: &mut &[u8]) -> Result<Option<Item<'a>>, StreamError> {
        match self.step(input) {
            Ok(None) => Ok(None),
            Ok(Some(Found::Manifest(manifest))) => Ok(Some(Item::Manifest(manifest))),
            Ok(Some(Found::Chunk { offset })) => {
                self.given = true;
                Ok(Some(Item::Chunk { offset, bytes: &self.buffer }))
            }
            Err(error) => {
                self.stage = Stage::Broken;
                self.buffer = Vec::new();
                Err(error)
            }
        }
    }

    /// There are no more bytes: says whether that was all.
    pub fn finish(self) -> Result<Manifest, StreamError> {
        match self.stage {
            Stage::End(manifest) => Ok(manifest),
            Stage::Broken => Err(StreamError::Broken),
            Stage::Header => Err(StreamError::Truncated(Part::Header)),
            Stage::Manifest { .. } => Err(StreamError::Truncated(Part::Manifest)),
            Stage::Table(_) => Err(StreamError::Truncated(Part::Table)),
            Stage::Payload { .. } => Err(StreamError::Truncated(Part::Payload)),
        }
    }

    fn step(&mut self, input: &mut &[u8]) -> Result<Option<Found>, StreamError> {
        if self.given {
            self.given = false;
            self.buffer.clear();
        }
        loop {
            let Some(wanted) = self.wanted()? else {
                return if input.is_empty() { Ok(None) } else { Err(StreamError::TooLong) };
            };
            // Exactly: a buffer that doubles would hold more than it may.
            self.buffer.reserve_exact(wanted.saturating_sub(self.buffer.len()));
            let missing = wanted.saturating_sub(self.buffer.len()).min(input.len());
            let (taken, rest) = input.split_at(missing);
            self.buffer.extend_from_slice(taken);
            *input = rest;
            if self.buffer.len() < wanted {
                return Ok(None);
            }
            if let Some(found) = self.verify()? {
                return Ok(Some(found));
            }
        }
    }

    /// Bytes of the part that is read; `None` at the end.
    fn wanted(&self) -> Result<Option<usize>, StreamError> {
        Ok(match &self.stage {
            Stage::Header => Some(HEADER_BYTES),
            Stage::Manifest { header, .. } => Some(header.manifest_bytes),
            Stage::Table(manifest) => Some(manifest.table_bytes()),
            Stage::Payload { manifest, offset, .. } => {
                let left = manifest.size.saturating_sub(*offset).min(u64::from(manifest.chunk_size));
                // No more than a chunk, which is less than 4 GiB.
                Some(usize::try_from(left).unwrap_or(usize::MAX))
            }
            Stage::End(_) => None,
            Stage::Broken => return Err(StreamError::Broken),
        })
    }

    /// The part is whole in the buffer.
    fn verify(&mut self) -> Result<Option<Found>, StreamError> {
        // Whatever returns early leaves the stage broken, which is what it is then.
        let (next, found) = match std::mem::replace(&mut self.stage, Stage::Broken) {
            Stage::Header => {
                let bytes = self.buffer.first_chunk().ok_or(StreamError::Truncated(Part::Header))?;
                let header = Header::parse(bytes).map_err(StreamError::Header)?;
                let key = self.keys.find(header.key).ok_or(StreamError::UnknownKey(header.key))?.clone();
                (Stage::Manifest { header, key }, None)
            }
            Stage::Manifest { header, key } => {
                if !header.is_signed(&self.buffer, &key) {
                    return Err(StreamError::Signature(header.key));
                }
                let manifest = Manifest::parse(&self.buffer).map_err(StreamError::Manifest)?;
                manifest.allowed(&self.policy).map_err(StreamError::Refused)?;
                (Stage::Table(manifest), Some(Found::Manifest(manifest)))
            }
            Stage::Table(manifest) => {
                if Digest::of(&self.buffer) != manifest.chunks {
                    return Err(StreamError::Table);
                }
                let table = std::mem::take(&mut self.buffer);
                (Stage::Payload { manifest, table, offset: 0 }, None)
            }
            Stage::Payload { manifest, table, offset } => {
                let digest = digest_at(&table, offset / u64::from(manifest.chunk_size.max(1)));
                if digest != Some(Digest::of(&self.buffer)) {
                    return Err(StreamError::Chunk { offset });
                }
                let end = offset.saturating_add(u64::from(manifest.chunk_size));
                let next = if end < manifest.size {
                    Stage::Payload { manifest, table, offset: end }
                } else {
                    Stage::End(manifest)
                };
                self.stage = next;
                return Ok(Some(Found::Chunk { offset }));
            }
            Stage::End(manifest) => (Stage::End(manifest), None),
            Stage::Broken => return Err(StreamError::Broken),
        };
        self.stage = next;
        self.buffer.clear();
        Ok(found)
    }
}

fn digest_at(table: &[u8], index: u64) -> Option<Digest> {
    let at = usize::try_from(index).ok()?.checked_mul(DIGEST_BYTES)?;
    table.get(at..)?.first_chunk().map(|bytes| Digest(*bytes))
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::Manifest => "manifest",
            Self::Table => "table of digests",
            Self::Payload => "payload",
        })
    }
}

#[cfg(test)]
mod tests;
