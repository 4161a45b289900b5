//! Restore modes: which pieces of which file are laid over the anonymous base.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::ram::{GuestRam, RamError, RamRange};
use crate::snapshot::MEMORY_FILE;

/// How guest memory is brought back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum RestoreMode {
    /// Map the whole memory file; the guest faults every page in when it touches it.
    Lazy,
}

/// A piece of guest memory that comes from the memory file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Guest address.
    pub(crate) guest: u64,
    /// Bytes, whole pages.
    pub(crate) length: usize,
    /// Offset in the memory file.
    pub(crate) file_offset: u64,
}

impl RestoreMode {
    /// The pieces to lay over memory which consists of `ranges`. Later pieces win.
    pub(crate) fn pieces(self, ranges: &[RamRange]) -> Vec<Piece> {
        match self {
            Self::Lazy => ranges
                .iter()
                .map(|range| Piece {
                    guest: range.guest,
                    length: range.length,
                    file_offset: range.file_offset,
                })
                .collect(),
        }
    }
}

/// Memory of a snapshot cannot be brought back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreMemoryError {
    /// The memory file cannot be opened.
    #[error("Cannot open {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Mapping failed.
    #[error("Cannot map the memory file")]
    Ram(#[from] RamError),
}

/// Maps `bytes` of memory with the snapshot in `dir` laid over it.
pub(crate) fn restore(dir: &Path, bytes: u64, mode: RestoreMode) -> Result<GuestRam, RestoreMemoryError> {
    let path = dir.join(MEMORY_FILE);
    let file = File::open(&path).map_err(|source| RestoreMemoryError::Open { path, source })?;
    let file = Arc::new(file);
    let mut ram = GuestRam::new(bytes)?;
    for piece in mode.pieces(ram.ranges()) {
        ram.overlay(piece.guest, piece.length, &file, piece.file_offset)?;
    }
    Ok(ram)
}
