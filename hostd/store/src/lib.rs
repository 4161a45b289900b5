//! Persistent store: records in sled, bytes in files.
//!
//! An acknowledged change survives a power cut at any moment. The order is always: bytes durable under their
//! final name, then the record, then the old bytes removed.
//!
//! ```text
//! export.json      all records as of some change      ┐ together the truth
//! export.journal   every change since, fsynced        ┘
//! db/              sled: the same records, to answer reads
//! images/          code images, named by records
//! snapshots/       folders of snapshots and bases, named by records
//! tmp/             staged, emptied when the store is opened
//! lost/            files whose records a damaged journal lost
//! ```

mod bases;
mod database;
mod error;
mod export;
mod files;
mod functions;
mod journal;
mod log;
mod memory;
mod model;
mod records;
mod recovery;
mod snapshots;
mod space;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{FlockOperation, StatVfsMountFlags, flock, statvfs};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::to_raw_value;

pub use error::{OpenError, StoreError};
pub use files::{StagedDir, StagedFile};
pub use model::{
    BaseRecord, BaseRef, CodeRecord, FunctionConfig, FunctionRecord, NewBase, NewCode, NewSnapshot,
    PagingRecord, SnapshotKind, SnapshotRecord, SnapshotState,
};
pub use recovery::{BrokenCode, Recovery};
pub use space::Space;

use log::{Log, Reader};
use records::Change;

/// Version of the records' form.
pub const SCHEMA: u32 = 1;

/// Folders under the root.
const IMAGES: &str = "images";
const SNAPSHOTS: &str = "snapshots";
const TMP: &str = "tmp";
const LOST: &str = "lost";
const LOCK: &str = "lock";

/// How often, and with what pause, the lock is tried for.
const LOCK_TRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Prefixes of the records' keys.
const FUNCTION: &str = "function/";
const SNAPSHOT: &str = "snapshot/";
/// Sorts before snapshots: recovery knows the sound bases when it comes to what is layered over them.
const BASE: &str = "base/";

/// Knobs of [`Store::open_with`].
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of the disk kept free for records and for the file system itself; never more than a twentieth of
    /// the disk.
    pub reserve_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { reserve_bytes: 64 << 20 }
    }
}

/// The store. Cheap to clone, to be shared between threads; every call blocks.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    reserve: u64,
    log: Log,
    /// Bytes promised to what is staged.
    promised: Arc<AtomicU64>,
    /// Folders of snapshots whose checksums were verified since opening.
    verified: Mutex<BTreeSet<String>>,
    /// When snapshots were last used: folder to milliseconds since 1970.
    used: Mutex<BTreeMap<String, u64>>,
    /// Holds the lock; `None` on a read-only disk.
    _lock: Option<File>,
}

impl Store {
    /// Opens or creates the store in the folder `root`, mends what a power cut left, and says what it did.
    pub fn open(root: &Path) -> Result<(Self, Recovery), OpenError> {
        Self::open_with(root, &Options::default())
    }

    /// As [`Store::open`], with options.
    pub fn open_with(root: &Path, options: &Options) -> Result<(Self, Recovery), OpenError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        let disk = statvfs(root).map_err(|e| io(root)(e.into()))?;
        let read_only = disk.f_flag.contains(StatVfsMountFlags::RDONLY);
        let mut lock = None;
        if !read_only {
            lock = Some(lock_root(root)?);
            for name in [IMAGES, SNAPSHOTS, TMP] {
                let path = root.join(name);
                fs::create_dir_all(&path).map_err(io(&path))?;
            }
            files::sync(root).map_err(io(root))?;
        }
        let has_files = [IMAGES, SNAPSHOTS]
            .iter()
            .any(|name| fs::read_dir(root.join(name)).is_ok_and(|mut items| items.next().is_some()));
        let (log, found) = Log::open(root, read_only, has_files)?;
        let total = disk.f_frsize.saturating_mul(disk.f_blocks);
        let store = Self(Arc::new(Inner {
            root: root.to_owned(),
            reserve: options.reserve_bytes.min(total / 20),
            log,
            promised: Arc::default(),
            verified: Mutex::default(),
            used: Mutex::default(),
            _lock: lock,
        }));
        let recovery = recovery::recover(&store, found, read_only)?;
        Ok((store, recovery))
    }

    /// Writes the export; also done when the last clone is dropped. Nothing is lost without it.
    pub fn close(&self) -> Result<(), StoreError> {
        self.0.log.export()
    }

    /// A place for a new file of about `bytes` bytes; [`StoreError::NoSpace`] if there is no room.
    pub fn stage_file(&self, bytes: u64) -> Result<StagedFile, StoreError> {
        self.require(bytes)?;
        Ok(StagedFile::new(self.temporary(), bytes, &self.0.promised))
    }

    /// A new folder for files of about `bytes` bytes together; [`StoreError::NoSpace`] if there is no room.
    pub fn stage_dir(&self, bytes: u64) -> Result<StagedDir, StoreError> {
        self.require(bytes)?;
        StagedDir::new(self.temporary(), bytes, &self.0.promised)
    }

    fn temporary(&self) -> PathBuf {
        self.path(TMP, &uuid::Uuid::new_v4().to_string())
    }

    fn path(&self, folder: &str, name: &str) -> PathBuf {
        self.0.root.join(folder).join(name)
    }

    fn read<T: DeserializeOwned>(
        &self,
        from: &impl Reader,
        table: &str,
        name: &str,
    ) -> Result<Option<T>, StoreError> {
        let key = format!("{table}{name}");
        from.get(&key)?.map(|text| decode(&key, &text)).transpose()
    }

    fn list<T: DeserializeOwned>(&self, table: &str) -> Result<Vec<T>, StoreError> {
        self.0.log.scan(table)?.iter().map(|(key, text)| decode(key, text)).collect()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.log.export() {
            tracing::warn!(%error, "Export not written at the end; the journal has everything");
        }
    }
}

fn decode<T: DeserializeOwned>(key: &str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|source| StoreError::Record { key: key.into(), source })
}

fn put(table: &str, name: &str, record: &impl Serialize) -> Result<Change, StoreError> {
    let key = format!("{table}{name}");
    match to_raw_value(record) {
        Ok(value) => Ok(Change { key, value: Some(value) }),
        Err(source) => Err(StoreError::Record { key, source }),
    }
}

fn delete(table: &str, name: &str) -> Change {
    Change { key: format!("{table}{name}"), value: None }
}

/// A lock whose holder panicked: the data under these are plain sets, sound at every moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now_unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn lock_root(root: &Path) -> Result<File, OpenError> {
    let path = root.join(LOCK);
    let open = File::options().write(true).create(true).truncate(false).open(&path);
    let file = open.map_err(|source| OpenError::Io { path: path.clone(), source })?;
    // Between fork and exec a child still holds what its parent, perhaps killed by now, had locked.
    for _ in 0..LOCK_TRIES {
        match flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(io::Error::from) {
            Ok(()) => return Ok(file),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(LOCK_PAUSE),
            Err(source) => return Err(OpenError::Io { path, source }),
        }
    }
    Err(OpenError::Locked { path: root.to_owned() })
}
