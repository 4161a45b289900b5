//! Host page recording (section 5.3.4): which pages of the memory file enter the page cache, and in which order.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use crate::MEMORY_FILE;
use crate::map::{Map, is_resident};
use crate::pages::PageSet;
use crate::source::{inherited_path, read_runs};
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

/// A file whose pages in the page cache are looked at.
#[derive(Debug)]
struct Watched {
    path: PathBuf,
    map: Map,
    flags: Vec<u8>,
    // Keeps the file's identity: a snapshot may be replaced under its path.
    _file: File,
}

impl Watched {
    fn new(path: &Path) -> Result<Self, RecordError> {
        let path = path.to_owned();
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(source) => return Err(RecordError::Open { path, source }),
        };
        match Map::new(&file) {
            Ok(map) => Ok(Self { path, map, flags: Vec::new(), _file: file }),
            Err(source) => Err(RecordError::Map { path, source }),
        }
    }

    fn look(&mut self) -> Result<(), RecordError> {
        let looked = self.map.residency(&mut self.flags);
        looked.map_err(|source| RecordError::Residency { path: self.path.clone(), source })
    }

    fn has(&self, page: u64) -> bool {
        usize::try_from(page)
            .ok()
            .and_then(|page| self.flags.get(page))
            .is_some_and(|flag| is_resident(*flag))
    }
}

/// Watches the memory file of a snapshot, and that of its base, while a microVM restored from it serves a call.
///
/// The files should have been dropped from the page cache before ([`crate::cache::drop_file`]): what is there already
/// counts as used.
#[derive(Debug)]
pub struct Recorder {
    own: Watched,
    /// The base's memory, and the pages that come from there.
    base: Option<(Watched, PageSet)>,
    set: WorkingSet,
}

impl Recorder {
    /// Starts watching the memory file `memory`.
    ///
    /// # Errors
    /// When it cannot be opened for writing, or mapped.
    pub fn new(memory: &Path) -> Result<Self, RecordError> {
        let own = Watched::new(memory)?;
        let set = WorkingSet::new(own.map.pages());
        Ok(Self { own, base: None, set })
    }

    /// Starts watching the snapshot in `dir`, layered over the one in `base`.
    ///
    /// # Errors
    /// As [`Recorder::new`], or when it cannot be told what comes from the base.
    pub fn layered(dir: &Path, base: &Path) -> Result<Self, RecordError> {
        let mut recorder = Self::new(&dir.join(MEMORY_FILE))?;
        let path = inherited_path(dir);
        match read_runs(&path, recorder.own.map.pages() as u64) {
            Ok(inherited) => {
                let watched = Watched::new(&base.join(MEMORY_FILE))?;
                recorder.base = Some((watched, inherited.unwrap_or_default()));
                Ok(recorder)
            }
            Err(source) => Err(RecordError::Open { path, source }),
        }
    }

    /// Looks once; returns how many pages are new.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn poll(&mut self) -> Result<u64, RecordError> {
        self.own.look()?;
        let own = &self.own;
        let mut present: Vec<bool> = own.flags.iter().map(|flag| is_resident(*flag)).collect();
        if let Some((watched, inherited)) = &mut self.base {
            watched.look()?;
            for page in inherited.iter() {
                if let Some(flag) = usize::try_from(page).ok().and_then(|page| present.get_mut(page)) {
                    *flag = watched.has(page);
                }
            }
        }
        Ok(self.set.absorb(present))
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

    #[test]
    fn inherited_pages_are_looked_for_in_the_base() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let (own, base) = (dir.path().join("own"), dir.path().join("base"));
        for folder in [&own, &base] {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join(MEMORY_FILE), vec![7; 64 * 4096]).unwrap();
        }
        let inherited = PageSet::from_runs(vec![crate::pages::Run { page: 10, pages: 5 }]);
        crate::source::write_runs(&inherited_path(&own), &inherited).unwrap();
        let there = |own_cached: bool, base_cached: bool| {
            for (folder, cached) in [(&own, own_cached), (&base, base_cached)] {
                let path = folder.join(MEMORY_FILE);
                crate::cache::drop_file(&path).unwrap();
                if cached {
                    crate::cache::load_file(&path).unwrap();
                }
            }
            let mut recorder = Recorder::layered(&own, &base).unwrap();
            recorder.poll().unwrap();
            recorder.finish().pages()
        };
        assert_eq!(there(false, true), inherited);
        assert_eq!(there(true, false).len(), 59);
        assert_eq!(there(true, true).len(), 64);
    }
}
