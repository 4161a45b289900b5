//! Host page recording (section 5.3.4): which pages of the memory file enter the page cache, and in which order.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use crate::map::{Map, is_resident};
use crate::working_set::WorkingSet;

/// Recording failed.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The memory file cannot be opened for writing: `mincore` would not tell the truth.
    #[error("Cannot open {path} to watch it")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It cannot be mapped.
    #[error("Cannot map {path}")]
    Map {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The page cache cannot be asked.
    #[error("Cannot see which pages of {path} are in memory")]
    Residency {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Watches the memory file of a snapshot while a microVM restored from it serves a call.
///
/// The file must have been dropped from the page cache before ([`crate::cache::drop_file`]): what is there already
/// counts as used.
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    map: Map,
    flags: Vec<u8>,
    set: WorkingSet,
    // Keeps the file's identity: a snapshot may be replaced under its path.
    _file: File,
}

impl Recorder {
    /// Starts watching.
    ///
    /// # Errors
    /// When the file cannot be opened for writing, or mapped.
    pub fn new(memory: &Path) -> Result<Self, RecordError> {
        let path = memory.to_owned();
        let file = match OpenOptions::new().read(true).write(true).open(memory) {
            Ok(file) => file,
            Err(source) => return Err(RecordError::Open { path, source }),
        };
        match Map::new(&file) {
            Ok(map) => {
                let set = WorkingSet::new(map.pages());
                Ok(Self { path, map, flags: Vec::new(), set, _file: file })
            }
            Err(source) => Err(RecordError::Map { path, source }),
        }
    }

    /// Looks once; returns how many pages are new.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn poll(&mut self) -> Result<u64, RecordError> {
        match self.map.residency(&mut self.flags) {
            Ok(()) => Ok(self.set.absorb(self.flags.iter().map(|flag| is_resident(*flag)))),
            Err(source) => Err(RecordError::Residency { path: self.path.clone(), source }),
        }
    }

    /// What was seen.
    #[must_use]
    pub fn finish(self) -> WorkingSet {
        self.set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn pages_are_seen_in_the_order_they_are_read() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("memory");
        std::fs::write(&path, vec![7; 16 << 20]).unwrap();
        assert_eq!(crate::cache::drop_file(&path).unwrap(), 0);
        let mut recorder = Recorder::new(&path).unwrap();
        assert_eq!(recorder.poll().unwrap(), 0);
        let file = File::open(&path).unwrap();
        let mut page = [0; 4096];
        file.read_exact_at(&mut page, 12 << 20).unwrap();
        assert!(recorder.poll().unwrap() >= 1);
        crate::cache::load_file(&path).unwrap();
        let rest = recorder.poll().unwrap();
        assert!(rest > 3000, "{rest}");
        let set = recorder.finish();
        assert_eq!(set.len(), 4096);
        assert_eq!(set.group((12 << 20) / 4096), Some(1), "the page read first is in the first group");
        assert!(matches!(Recorder::new(&dir.path().join("none")), Err(RecordError::Open { .. })));
    }
}
