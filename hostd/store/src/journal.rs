//! The journal: every change since the last export, one line each, on disk before it is acknowledged.
//!
//! A line is the xxh3 of its text in hexadecimal, a space, and the text: JSON `{"seq":N,"changes":[…]}`. Only
//! the last line can be torn by a power cut, and then its change was never acknowledged.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::StoreError;
use crate::files::PRIVATE;
use crate::records::Change;

/// Bytes of disk the journal holds ahead, so that deleting works on a full disk.
const AHEAD: u64 = 1 << 20;

/// Bytes of a journal read at most; it is exported and emptied long before.
const MAX_READ: u64 = 1 << 30;

/// One change of the store: all of `changes` or none.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Counts changes, from 1.
    pub seq: u64,
    /// What changed.
    pub changes: Vec<Change>,
}

/// What a journal file holds.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    /// Its sound entries, in order and without a gap.
    pub entries: Vec<Entry>,
    /// Bytes of the file they take.
    pub sound_bytes: u64,
    /// Bytes after them.
    pub torn_bytes: u64,
    /// The last change of which any line tells, those after unsound lines included. No power cut leaves such.
    pub highest: u64,
}

/// Reads the journal at `path`; a missing one is empty.
pub(crate) fn read(path: &Path) -> io::Result<Replay> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(MAX_READ).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    Ok(parse(&bytes))
}

/// Sorts a journal's bytes into sound entries and the rest.
pub(crate) fn parse(bytes: &[u8]) -> Replay {
    let mut replay = Replay::default();
    let mut sound = true;
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        let entry = decode(line);
        replay.highest = replay.highest.max(entry.as_ref().map_or(0, |e| e.seq));
        let follows =
            entry.as_ref().is_some_and(|e| replay.entries.last().is_none_or(|last| last.seq + 1 == e.seq));
        match entry {
            Some(entry) if sound && follows => {
                replay.entries.push(entry);
                replay.sound_bytes += length;
            }
            _ => {
                sound = false;
                replay.torn_bytes += length;
            }
        }
    }
    replay
}

fn decode(line: &[u8]) -> Option<Entry> {
    let (sum, text) = line.strip_suffix(b"\n")?.split_at_checked(17)?;
    let sum = u64::from_str_radix(std::str::from_utf8(sum.strip_suffix(b" ")?).ok()?, 16).ok()?;
    if sum == xxh3_64(text) { serde_json::from_slice(text).ok() } else { None }
}

fn encode(entry: &Entry) -> Result<Vec<u8>, serde_json::Error> {
    let text = serde_json::to_vec(entry)?;
    let mut line = format!("{:016x} ", xxh3_64(&text)).into_bytes();
    line.extend(text);
    line.push(b'\n');
    Ok(line)
}

/// The journal, open for writing.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    /// Bytes of sound entries.
    length: u64,
    /// A write failed and could not be undone: what is on disk is not known.
    unsure: bool,
}

impl Journal {
    /// Opens the journal to append after its first `length` bytes; what follows them is cut off.
    pub(crate) fn open(path: &Path, length: u64) -> io::Result<Self> {
        let file =
            File::options().read(true).write(true).create(true).truncate(false).mode(PRIVATE).open(path)?;
        let journal = Self { path: path.to_owned(), file, length, unsure: false };
        journal.cut()?;
        Ok(journal)
    }

    /// Bytes of sound entries.
    pub(crate) fn len(&self) -> u64 {
        self.length
    }

    /// Writes an entry; on return it is on disk. On [`StoreError::Unsure`] nobody knows, after any other error
    /// it is not.
    pub(crate) fn append(&mut self, entry: &Entry) -> Result<(), StoreError> {
        if self.unsure {
            return Err(StoreError::Unsure);
        }
        let line = encode(entry)
            .map_err(|source| StoreError::Record { key: format!("journal/{}", entry.seq), source })?;
        let end = self.length + u64::try_from(line.len()).unwrap_or(u64::MAX);
        if end / AHEAD != self.length / AHEAD {
            self.reserve(end);
        }
        match self.file.write_all_at(&line, self.length).and_then(|()| self.file.sync_data()) {
            Ok(()) => {
                self.length = end;
                Ok(())
            }
            Err(error) => {
                self.unsure = self.cut().is_err();
                if self.unsure { Err(StoreError::Unsure) } else { Err(StoreError::io(&self.path, error)) }
            }
        }
    }

    /// Takes no further entries.
    pub(crate) fn give_up(&mut self) {
        self.unsure = true;
    }

    /// Forgets all entries: an export has them.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        let before = std::mem::take(&mut self.length);
        // Entries an export already has are skipped when read: a failure here does no harm.
        self.cut().inspect_err(|_| self.length = before)
    }

    /// Cuts the file to its sound entries, durably, and holds disk space ahead.
    fn cut(&self) -> io::Result<()> {
        self.file.set_len(self.length)?;
        self.file.sync_all()?;
        self.reserve(self.length);
        Ok(())
    }

    /// Holds disk space after `from`. Without it all works but deleting on a full disk.
    fn reserve(&self, from: u64) {
        if let Err(error) = fallocate(&self.file, FallocateFlags::KEEP_SIZE, from, AHEAD) {
            tracing::debug!(path = %self.path.display(), %error, "No disk space held for the journal");
        }
    }
}
