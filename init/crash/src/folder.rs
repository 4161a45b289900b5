//! The folder of records.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::record::{Crash, Id, Kind, MOST_TEXT, Summary};

/// Records kept of each kind.
pub const MOST_PER_KIND: usize = 16;

/// Names looked at; there are more only if somebody else put them there.
const MOST_NAMES: usize = 1024;

/// Largest file read: a text may take six bytes for one, as JSON.
const MOST_BYTES: u64 = 6 * MOST_TEXT as u64 + 64 * 1024;

/// How a record ends that is being written.
const STAGED: &str = "staged";

/// Something about a record or the folder did not work.
#[derive(Debug, thiserror::Error)]
#[error("Cannot {what} {path}")]
pub struct FolderError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// A folder of records; it need not be there.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// The records in a folder.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Notes a crash: as one more of the last, if it is for the same reason and soon after it.
    pub fn note(&self, crash: &Crash) -> Result<Id, FolderError> {
        fs::create_dir_all(&self.path).map_err(|source| self.failed("make", &self.path, source))?;
        let mut ids = self.ids()?;
        ids.retain(|id| id.kind() == Some(crash.kind));
        if let Some(last) = ids.last()
            && let Ok(Some(mut before)) = self.read(last)
            && before.is_again(crash)
        {
            before.count(crash);
            self.write(last, &before)?;
            return Ok(last.clone());
        }
        let free = |id: &Id| !self.file(id).exists();
        let id = (0..9999).map(|number| Id::new(crash, number)).find(free);
        let id = id.unwrap_or_else(|| Id::new(crash, 9999));
        self.write(&id, crash)?;
        // Only now: what is there is worth more than what could not be written.
        for old in ids.iter().take((ids.len() + 1).saturating_sub(MOST_PER_KIND)) {
            self.remove(old)?;
        }
        Ok(id)
    }

    /// All records, oldest first. One that cannot be read is there with what is wrong with it.
    pub fn list(&self) -> Result<Vec<Summary>, FolderError> {
        let ids = self.ids()?;
        Ok(ids.into_iter().filter_map(|id| self.summary(id)).collect())
    }

    fn summary(&self, id: Id) -> Option<Summary> {
        match self.read(&id) {
            Ok(Some(crash)) => Some(crash.summary(id)),
            // Removed meanwhile.
            Ok(None) => None,
            Err(error) => Some(Summary {
                kind: id.kind(),
                id,
                unix_ms: 0,
                last_unix_ms: 0,
                times: 1,
                version: String::new(),
                reason: format!("{error}: {}", error.source),
            }),
        }
    }

    /// One record; `None` if there is none of this name.
    pub fn read(&self, id: &Id) -> Result<Option<Crash>, FolderError> {
        let path = self.file(id);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(|source| self.failed("open", &path, source))?,
        };
        let mut bytes = Vec::new();
        file.take(MOST_BYTES).read_to_end(&mut bytes).map_err(|source| self.failed("read", &path, source))?;
        let read = serde_json::from_slice(&bytes);
        read.map(Some).map_err(|error| self.failed("understand", &path, error.into()))
    }

    /// Removes a record; whether there was one.
    pub fn remove(&self, id: &Id) -> Result<bool, FolderError> {
        let path = self.file(id);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(self.failed("remove", &path, source)),
        }
    }

    /// Number of records of a kind.
    pub fn count(&self, kind: Kind) -> Result<usize, FolderError> {
        Ok(self.ids()?.iter().filter(|id| id.kind() == Some(kind)).count())
    }

    /// Names of the records, oldest first.
    fn ids(&self) -> Result<Vec<Id>, FolderError> {
        let items = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            read => read.map_err(|source| self.failed("list", &self.path, source))?,
        };
        let mut ids: Vec<Id> = items
            .take(MOST_NAMES)
            .filter_map(|item| Id::parse(item.ok()?.file_name().to_str()?.strip_suffix(".json")?))
            .collect();
        ids.sort();
        Ok(ids)
    }

    /// Writes beside, syncs, renames, syncs the folder.
    fn write(&self, id: &Id, crash: &Crash) -> Result<(), FolderError> {
        let (path, staged) = (self.file(id), self.path.join(STAGED));
        let text = serde_json::to_vec(crash).map_err(|error| self.failed("write", &path, error.into()))?;
        let write = || -> io::Result<()> {
            let mut file = File::create(&staged)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&staged, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|source| {
            let _ = fs::remove_file(&staged);
            self.failed("write", &path, source)
        })
    }

    fn file(&self, id: &Id) -> PathBuf {
        self.path.join(format!("{id}.json"))
    }

    fn failed(&self, what: &'static str, path: &Path, source: io::Error) -> FolderError {
        FolderError { what, path: path.to_owned(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn crash(kind: Kind, at: u64, reason: &str) -> Crash {
        Crash::new(kind, at, reason, "the end")
    }

    #[test]
    fn records_are_written_listed_read_and_removed() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path().join("crashes"));
        assert!(folder.list().unwrap().is_empty());
        let first = folder.note(&crash(Kind::Kernel, 5, "panic")).unwrap();
        let second = folder.note(&crash(Kind::Hostd, 3, "signal 11")).unwrap();
        let list = folder.list().unwrap();
        assert_eq!(list.iter().map(|summary| &summary.id).collect::<Vec<_>>(), [&second, &first]);
        assert_eq!(folder.read(&first).unwrap().unwrap().text, "the end");
        assert!(folder.remove(&first).unwrap() && !folder.remove(&first).unwrap());
        assert_eq!(folder.read(&first).unwrap(), None);
        assert_eq!(
            std::fs::read_dir(root.path().join("crashes")).unwrap().count(),
            1,
            "nothing is left over"
        );
    }

    #[test]
    fn the_same_again_is_counted_and_others_are_records() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        let first = folder.note(&crash(Kind::Hostd, 1_000, "exit code 1")).unwrap();
        for again in 1..50 {
            assert_eq!(
                folder.note(&crash(Kind::Hostd, 1_000 + again * 30_000, "exit code 1")).unwrap(),
                first
            );
        }
        let read = folder.read(&first).unwrap().unwrap();
        assert_eq!((read.times, read.unix_ms, read.last_unix_ms), (50, 1_000, 1_471_000));
        assert_ne!(folder.note(&crash(Kind::Hostd, 1_480_000, "signal 9")).unwrap(), first);
        assert_ne!(folder.note(&crash(Kind::Hostd, 90_000_000, "signal 9")).unwrap(), first);
        assert_eq!(folder.list().unwrap().len(), 3);
    }

    #[test]
    fn damage_is_shown_and_harms_nothing() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path());
        std::fs::write(root.path().join("000000000000007-kernel-0.json"), "{\"kind\":").unwrap();
        std::fs::write(root.path().join("lost+found"), "").unwrap();
        let id = folder.note(&crash(Kind::Kernel, 9, "panic")).unwrap();
        let list = folder.list().unwrap();
        assert_eq!(list.len(), 2);
        assert!(list[0].reason.starts_with("Cannot understand"), "{list:?}");
        assert_eq!(list[1].id, id);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn never_more_than_the_bound_and_the_newest_stay(crashes in prop::collection::vec((0usize..3, 0u64..1 << 40), 1..60)) {
            let root = tempfile::tempdir().unwrap();
            let folder = Folder::new(root.path());
            for (number, (kind, at)) in crashes.iter().enumerate() {
                let id = folder.note(&crash(Kind::ALL[*kind], *at, &number.to_string())).unwrap();
                prop_assert!(folder.count(Kind::ALL[*kind]).unwrap() <= MOST_PER_KIND);
                // What was just noted is there, even if the clock says that it is old.
                prop_assert!(folder.read(&id).unwrap().is_some());
            }
            for kind in Kind::ALL {
                let noted = crashes.iter().filter(|(which, _)| Kind::ALL[*which] == kind).count();
                prop_assert_eq!(folder.count(kind).unwrap(), noted.min(MOST_PER_KIND));
            }
        }
    }
}
