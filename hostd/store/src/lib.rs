//! Persistent store: records in sled, bytes in files.
//!
//! An acknowledged change survives a power cut at any moment. The order is always: bytes durable under their
//! final name, then the record, then the old bytes removed.

mod error;
mod model;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub use error::{OpenError, StoreError};
pub use model::{
    CodeRecord, FunctionConfig, FunctionRecord, NewCode, NewSnapshot, SnapshotRecord, SnapshotState,
};
use uuid::Uuid;

/// Version of the records' form.
pub const SCHEMA: u32 = 1;

/// The store. Cheap to clone, to be shared between threads; every call blocks.
#[derive(Debug, Clone)]
pub struct Store {}

/// Knobs of [`Store::open_with`].
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of the disk kept free for records and for the file system itself.
    pub reserve_bytes: u64,
}

/// What opening the store found and mended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Files and folders without a record, removed: paths relative to the root.
    pub removed: Vec<PathBuf>,
    /// Functions whose snapshot was marked for rebuild: its files were missing or had the wrong size.
    pub rebuild: Vec<String>,
    /// Functions whose code image is missing or has the wrong size: they cannot be called until deployed again.
    pub broken_code: Vec<BrokenCode>,
    /// Bytes of an unfinished change cut off the end of the journal.
    pub torn_bytes: u64,
    /// The database was set aside and built again; why.
    pub database_rebuilt: Option<String>,
    /// Records of the database that differed from the journal and were put right.
    pub records_mended: u64,
    /// The disk is read-only: everything can be read, nothing changed.
    pub read_only: bool,
}

/// A function whose code image is not sound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenCode {
    /// Its name.
    pub function: String,
    /// The image's file name.
    pub image: String,
    /// What is wrong.
    pub problem: String,
}

/// Room on the data disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Size of the file system.
    pub total: u64,
    /// Free for new files: the reserve and what is promised to staged files already taken off.
    pub free: u64,
}

/// A new file under `tmp/`, gone when dropped unless the store took it.
#[derive(Debug)]
pub struct StagedFile {
    path: PathBuf,
}

impl StagedFile {
    /// Where to write it. It does not exist yet.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A new folder under `tmp/`, gone with its files when dropped unless the store took it.
#[derive(Debug)]
pub struct StagedDir {
    path: PathBuf,
}

impl StagedDir {
    /// The folder, existing and empty.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Store {
    /// Opens or creates the store in the folder `root`, mends what a power cut left, and says what it did.
    pub fn open(root: &Path) -> Result<(Self, Recovery), OpenError> {
        Err(OpenError::Locked { path: root.to_owned() })
    }

    /// As [`Store::open`], with options.
    pub fn open_with(root: &Path, options: &Options) -> Result<(Self, Recovery), OpenError> {
        let _ = options;
        Self::open(root)
    }

    /// Reads a function.
    pub fn function(&self, name: &str) -> Result<Option<FunctionRecord>, StoreError> {
        Err(StoreError::NotFound { what: "Function", name: name.into() })
    }

    /// All functions, by name.
    pub fn functions(&self) -> Result<Vec<FunctionRecord>, StoreError> {
        Err(StoreError::Unsure)
    }

    /// Path of a function's code image.
    pub fn image_path(&self, code: &CodeRecord) -> PathBuf {
        PathBuf::from(&code.image)
    }

    /// A place for a new file of about `bytes` bytes; [`StoreError::NoSpace`] if there is no room.
    pub fn stage_file(&self, bytes: u64) -> Result<StagedFile, StoreError> {
        let _ = bytes;
        Err(StoreError::Unsure)
    }

    /// A new folder for files of about `bytes` bytes together.
    pub fn stage_dir(&self, bytes: u64) -> Result<StagedDir, StoreError> {
        let _ = bytes;
        Err(StoreError::Unsure)
    }

    /// Creates a function. On return it is on disk.
    pub fn create_function(
        &self,
        name: &str,
        config: FunctionConfig,
        code: NewCode,
    ) -> Result<FunctionRecord, StoreError> {
        let _ = (config, code);
        Err(StoreError::Exists { name: name.into() })
    }

    /// Gives a function new code and forgets its snapshot. `expected`: fail with [`StoreError::Conflict`] if the
    /// function's revision is another.
    pub fn update_code(
        &self,
        name: &str,
        expected: Option<Uuid>,
        code: NewCode,
    ) -> Result<FunctionRecord, StoreError> {
        let _ = (expected, code);
        Err(StoreError::Exists { name: name.into() })
    }

    /// Changes a function's configuration. Its snapshot stays: whether it still fits is for the caller to see
    /// from the fingerprint. `change` runs under the store's lock: it must be quick and not call the store.
    pub fn update_config(
        &self,
        name: &str,
        expected: Option<Uuid>,
        change: impl FnOnce(&mut FunctionConfig),
    ) -> Result<FunctionRecord, StoreError> {
        let _ = (expected, change);
        Err(StoreError::Exists { name: name.into() })
    }

    /// Deletes a function, its code and its snapshot. Returns what it was.
    pub fn delete_function(&self, name: &str) -> Result<FunctionRecord, StoreError> {
        Err(StoreError::Exists { name: name.into() })
    }

    /// Reads the snapshot of a function, in whatever state it is.
    pub fn snapshot(&self, function: &str) -> Result<Option<SnapshotRecord>, StoreError> {
        Err(StoreError::Exists { name: function.into() })
    }

    /// All snapshots, by function.
    pub fn snapshots(&self) -> Result<Vec<SnapshotRecord>, StoreError> {
        Err(StoreError::Unsure)
    }

    /// Path of a snapshot's folder.
    pub fn snapshot_path(&self, snapshot: &SnapshotRecord) -> PathBuf {
        PathBuf::from(&snapshot.dir)
    }

    /// Takes over a snapshot in place of the function's previous one. [`StoreError::Stale`] if the function has
    /// other code by now, [`StoreError::NotFound`] if it is gone.
    pub fn put_snapshot(&self, new: NewSnapshot, files: StagedDir) -> Result<SnapshotRecord, StoreError> {
        let _ = files;
        Err(StoreError::Exists { name: new.function })
    }

    /// Removes a function's snapshot; `false` if there was none.
    pub fn remove_snapshot(&self, function: &str) -> Result<bool, StoreError> {
        let _ = function;
        Err(StoreError::Unsure)
    }

    /// Marks the snapshot in folder `dir` of a function as bad and removes its files; nothing happens if the
    /// function has another snapshot by now.
    pub fn mark_rebuild(&self, function: &str, dir: &str) -> Result<(), StoreError> {
        let _ = (function, dir);
        Err(StoreError::Unsure)
    }

    /// Whether the checksums of this snapshot have been verified (or it was made) since the store was opened.
    pub fn is_verified(&self, snapshot: &SnapshotRecord) -> bool {
        let _ = snapshot;
        false
    }

    /// Notes that the checksums of this snapshot are right.
    pub fn mark_verified(&self, snapshot: &SnapshotRecord) {
        let _ = snapshot;
    }

    /// Notes that this snapshot is used now, for [`Store::evict`]. Cheap, not durable at once.
    pub fn touch_snapshot(&self, snapshot: &SnapshotRecord) {
        let _ = snapshot;
    }

    /// Room on the disk.
    pub fn space(&self) -> Result<Space, StoreError> {
        Err(StoreError::Unsure)
    }

    /// Removes snapshots, least recently used first, never one of a function in `keep`, until `bytes` bytes are
    /// free; returns the functions whose snapshot went. Fewer bytes may be free afterwards: staging tells.
    pub fn evict(&self, bytes: u64, keep: &BTreeSet<String>) -> Result<Vec<String>, StoreError> {
        let _ = (bytes, keep);
        Err(StoreError::Unsure)
    }

    /// Writes the export and flushes everything; also done when the last clone is dropped.
    pub fn close(&self) -> Result<(), StoreError> {
        Err(StoreError::Unsure)
    }
}
