//! Files on the data disk: durable before they are named, gone when nobody takes them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::StoreError;

/// Bytes of one block in `st_blocks`.
const BLOCK: u64 = 512;

/// Mode of files with records: environment variables are often secrets.
pub(crate) const PRIVATE: u32 = 0o600;

/// Waits until a file's (or folder's) content is on disk.
pub(crate) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Waits until the name of a file is on disk.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), sync)
}

/// Removes a file or a folder with all in it; that it is not there is no error.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    removed.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Removes what no record names any more. A failure only costs space, until the store is opened next.
pub(crate) fn discard(path: &Path) {
    if let Err(error) = remove(path) {
        tracing::warn!(path = %path.display(), %error, "File without a record could not be removed");
    }
}

/// Disk space promised to something staged.
#[derive(Debug)]
struct Promise {
    bytes: u64,
    total: Arc<AtomicU64>,
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A path under `tmp/`, removed when dropped.
#[derive(Debug)]
struct Staged {
    path: PathBuf,
    taken: bool,
    _promise: Promise,
}

impl Staged {
    fn new(path: PathBuf, bytes: u64, total: &Arc<AtomicU64>) -> Self {
        total.fetch_add(bytes, Ordering::Relaxed);
        Self { path, taken: false, _promise: Promise { bytes, total: Arc::clone(total) } }
    }

    /// Gives it its final name, durably. If that fails it is at neither name.
    fn take(mut self, to: &Path) -> Result<(), StoreError> {
        fs::rename(&self.path, to).map_err(|e| StoreError::io(&self.path, e))?;
        self.taken = true;
        sync_parent(to).map_err(|e| {
            discard(to);
            StoreError::io(to, e)
        })
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.taken {
            discard(&self.path);
        }
    }
}

/// A new file under `tmp/`, gone when dropped unless the store took it.
#[derive(Debug)]
pub struct StagedFile(Staged);

impl StagedFile {
    pub(crate) fn new(path: PathBuf, bytes: u64, total: &Arc<AtomicU64>) -> Self {
        Self(Staged::new(path, bytes, total))
    }

    /// Where to write it. It does not exist yet.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Makes its content durable and returns its size in bytes.
    pub(crate) fn seal(&self) -> Result<u64, StoreError> {
        let path = self.path();
        let meta = fs::symlink_metadata(path).map_err(|e| StoreError::io(path, e))?;
        if !meta.is_file() {
            return Err(StoreError::Staged { path: path.to_owned(), reason: "It is no regular file" });
        }
        sync(path).map_err(|e| StoreError::io(path, e))?;
        Ok(meta.len())
    }

    pub(crate) fn take(self, to: &Path) -> Result<(), StoreError> {
        self.0.take(to)
    }
}

/// A new folder under `tmp/`, gone with its files when dropped unless the store took it.
#[derive(Debug)]
pub struct StagedDir(Staged);

/// What a sealed folder holds.
#[derive(Debug)]
pub(crate) struct Sealed {
    /// Its files and their lengths.
    pub files: std::collections::BTreeMap<String, u64>,
    /// Bytes they take on disk.
    pub stored_bytes: u64,
}

impl StagedDir {
    pub(crate) fn new(path: PathBuf, bytes: u64, total: &Arc<AtomicU64>) -> Result<Self, StoreError> {
        let staged = Staged::new(path, bytes, total);
        fs::create_dir(&staged.path).map_err(|e| StoreError::io(&staged.path, e))?;
        Ok(Self(staged))
    }

    /// The folder, existing and empty at first. Only regular files belong in it.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Makes its files durable.
    pub(crate) fn seal(&self) -> Result<Sealed, StoreError> {
        let mut sealed = Sealed { files: std::collections::BTreeMap::new(), stored_bytes: 0 };
        let refuse = |path: PathBuf, reason| StoreError::Staged { path, reason };
        let failed = |e| StoreError::io(self.path(), e);
        for item in fs::read_dir(self.path()).map_err(failed)? {
            let item = item.map_err(failed)?;
            let path = item.path();
            let meta = item.metadata().map_err(|e| StoreError::io(&path, e))?;
            if !meta.is_file() {
                return Err(refuse(path, "It is no regular file"));
            }
            let Ok(name) = item.file_name().into_string() else {
                return Err(refuse(path, "Its name is not UTF-8"));
            };
            sync(&path).map_err(|e| StoreError::io(&path, e))?;
            // Only now are blocks counted that were allocated late.
            let meta = item.metadata().map_err(|e| StoreError::io(&path, e))?;
            sealed.stored_bytes += meta.blocks() * BLOCK;
            sealed.files.insert(name, meta.len());
        }
        if sealed.files.is_empty() {
            return Err(refuse(self.path().to_owned(), "It has no files"));
        }
        sync(self.path()).map_err(failed)?;
        Ok(sealed)
    }

    pub(crate) fn take(self, to: &Path) -> Result<(), StoreError> {
        self.0.take(to)
    }
}
