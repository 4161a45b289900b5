//! Keeps what is expensive to make outside the source tree, named by the hash of what it is made from.
//!
//! `$MOTE_CACHE`, else `$XDG_CACHE_HOME/mote`, else `~/.cache/mote`. An entry is a folder; it appears by a
//! rename when it is complete, so there are no half entries. A lock per kind keeps two runs from making the
//! same thing twice.

use std::env;
use std::error::Error;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::files::{self, FileError, failed};
use crate::progress::say;

/// Why the cache cannot be used.
#[derive(Debug, Error)]
pub enum CacheError {
    /// No place for it.
    #[error("No place for the cache: set MOTE_CACHE or HOME")]
    NoPlace,
    /// A file operation failed.
    #[error("The cache cannot be used")]
    File(#[from] FileError),
    /// Making an entry failed.
    #[error("Cannot make {what}")]
    Make {
        /// Kind of the entry.
        what: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
}

/// Hash over named parts; the same parts in another split give another key.
#[derive(Debug, Default, Clone)]
pub struct Key(Sha256);

impl Key {
    /// An empty key.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a named part.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        for bytes in [name.as_bytes(), value.as_ref()] {
            // usize is never wider than 64 bits on a platform this builds for.
            self.0.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_le_bytes());
            self.0.update(bytes);
        }
        self
    }

    /// The key in full.
    #[must_use]
    pub fn hex(&self) -> String {
        files::hex(&self.0.clone().finalize())
    }

    /// The key as it appears in names: 24 digits.
    #[must_use]
    pub fn short(&self) -> String {
        self.hex()[..24].to_owned()
    }
}

/// The cache folder.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// Held while one kind of entry is made; released when dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the open file is the lock")] File);

impl Cache {
    /// Opens the cache of this user.
    ///
    /// # Errors
    /// [`CacheError::NoPlace`] when no variable names one, or a folder that cannot be created.
    pub fn open() -> Result<Self, CacheError> {
        let root = place(|name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
            .ok_or(CacheError::NoPlace)?;
        Self::at(&root)
    }

    /// Opens a cache at a given place.
    ///
    /// # Errors
    /// When the folder cannot be created.
    pub fn at(root: &Path) -> Result<Self, CacheError> {
        files::create_dir(root)?;
        let root = std::path::absolute(root).map_err(failed("resolve", root))?;
        Ok(Self { root })
    }

    /// A folder of the cache that is no entry, such as downloaded packages; created.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn folder(&self, name: &str) -> Result<PathBuf, CacheError> {
        let path = self.root.join(name);
        files::create_dir(&path)?;
        Ok(path)
    }

    /// Where an entry is or would be.
    #[must_use]
    pub fn entry(&self, kind: &str, key: &Key) -> PathBuf {
        self.root.join(kind).join(key.short())
    }

    /// Waits for the lock of a kind of work; says so when another run holds it.
    ///
    /// # Errors
    /// When the lock file cannot be opened or locked.
    pub fn lock(&self, kind: &str) -> Result<Lock, CacheError> {
        let path = self.folder("locks")?.join(kind);
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed("open lock", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                say(&format!("waiting for another run that is busy with: {kind}"));
                file.lock().map_err(failed("lock", &path))?;
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error).into()),
        }
        Ok(Lock(file))
    }

    /// Gives the entry, made by `make` in an empty folder when it is not there yet.
    ///
    /// # Errors
    /// [`CacheError::Make`] when `make` fails; nothing of the entry stays then.
    pub fn get_or_make<E>(
        &self,
        kind: &str,
        key: &Key,
        make: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<PathBuf, CacheError>
    where
        E: Error + Send + Sync + 'static,
    {
        let entry = self.entry(kind, key);
        if entry.is_dir() {
            return Ok(entry);
        }
        let _lock = self.lock(kind)?;
        if entry.is_dir() {
            return Ok(entry);
        }
        // The lock is ours: whatever is in the work folder was left by a run that died.
        let work = self.root.join("tmp").join(kind);
        files::remove(&work)?;
        files::create_dir(&work)?;
        let made = make(&work)
            .map_err(|source| CacheError::Make { what: kind.to_owned(), source: Box::new(source) });
        if let Err(error) = made {
            files::remove(&work)?;
            return Err(error);
        }
        self.folder(kind)?;
        files::rename(&work, &entry)?;
        Ok(entry)
    }

    /// Removes all but the `keep` newest entries of a kind, for kinds whose entries change with every build.
    ///
    /// # Errors
    /// When the entries cannot be listed or removed.
    pub fn prune(&self, kind: &str, keep: usize) -> Result<(), CacheError> {
        let _lock = self.lock(kind)?;
        let folder = self.folder(kind)?;
        let mut entries = Vec::new();
        for entry in fs::read_dir(&folder).map_err(failed("read folder", &folder))? {
            let entry = entry.map_err(failed("read folder", &folder))?;
            let made = entry.metadata().and_then(|data| data.modified());
            entries.push((made.map_err(failed("look at", &entry.path()))?, entry.path()));
        }
        entries.sort();
        for (_, path) in entries.iter().rev().skip(keep) {
            files::remove(path)?;
        }
        Ok(())
    }
}

fn place(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    variable("MOTE_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|dir| dir.join("mote")))
        .or_else(|| variable("HOME").map(|dir| dir.join(".cache/mote")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn the_place_is_looked_up_in_order() {
        let mut set = BTreeMap::from([("HOME", "/h")]);
        let look =
            |set: &BTreeMap<&str, &str>| place(|name| set.get(name).map(PathBuf::from)).unwrap_or_default();
        assert_eq!(look(&set), Path::new("/h/.cache/mote"));
        set.insert("XDG_CACHE_HOME", "/x");
        assert_eq!(look(&set), Path::new("/x/mote"));
        set.insert("MOTE_CACHE", "/m");
        assert_eq!(look(&set), Path::new("/m"));
        assert_eq!(look(&BTreeMap::new()), Path::new(""));
    }

    #[test]
    fn keys_tell_apart_how_parts_are_split() {
        let a = Key::new().with("a", "bc").short();
        let b = Key::new().with("ab", "c").short();
        let c = Key::new().with("a", "b").with("c", "").short();
        assert!(a != b && a != c && b != c);
        assert_eq!(a, Key::new().with("a", "bc").short());
        assert_eq!(a.len(), 24);
    }

    #[test]
    fn an_entry_is_made_once_even_by_many_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let made = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let cache = Cache::at(dir.path()).unwrap();
                    let entry = cache
                        .get_or_make("thing", &Key::new().with("v", "1"), |work| {
                            made.fetch_add(1, Ordering::SeqCst);
                            std::thread::sleep(std::time::Duration::from_millis(30));
                            files::write(&work.join("file"), "x")
                        })
                        .unwrap();
                    assert_eq!(files::read_text(&entry.join("file")).unwrap(), "x");
                });
            }
        });
        assert_eq!(made.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn only_the_newest_entries_stay() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        let entries: Vec<PathBuf> = (0..5)
            .map(|n| {
                std::thread::sleep(std::time::Duration::from_millis(15));
                let key = Key::new().with("v", n.to_string());
                cache.get_or_make("thing", &key, |work| files::write(&work.join("file"), "x")).unwrap()
            })
            .collect();
        cache.prune("thing", 2).unwrap();
        let stay: Vec<bool> = entries.iter().map(|entry| entry.exists()).collect();
        assert_eq!(stay, [false, false, false, true, true]);
        cache.prune("nothing", 2).unwrap();
    }

    #[test]
    fn a_failed_entry_leaves_nothing_and_can_be_made_later() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        let key = Key::new().with("v", "1");
        let error = cache
            .get_or_make("thing", &key, |work| {
                files::write(&work.join("half"), "x")?;
                files::read_text(Path::new("/no/such/file")).map(|_| ())
            })
            .unwrap_err();
        assert_eq!(error.to_string(), "Cannot make thing");
        assert!(!cache.entry("thing", &key).exists());
        let entry = cache.get_or_make("thing", &key, |_| Ok::<(), FileError>(())).unwrap();
        assert!(!entry.join("half").exists());
    }
}
