//! Records in sled.
//!
//! sled can panic, or hang, on files a power cut left; so it is opened and read through on a thread of its own,
//! and every call catches panics. Its flush does not wait for the disk's own cache (it uses `sync_file_range`):
//! the journal is what makes a change durable, this is the index that answers.

use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use crate::records::{Change, Contents, Records, RecordsError};

/// The last change seen, in a key that no record has.
const SEQ: &[u8] = b"\0seq";

/// Bytes of sled's page cache.
const CACHE: u64 = 8 << 20;

/// Pause before a second attempt to open.
const AGAIN: Duration = Duration::from_millis(100);

/// How long sled may take to open and read through.
const OPEN_LIMIT: Duration = Duration::from_secs(30);

/// A sled database. Dropped while sound, it closes; after a failure it is leaked, as sled would panic again.
#[derive(Debug)]
pub(crate) struct Database {
    /// There until dropped.
    db: Option<sled::Db>,
    sound: AtomicBool,
}

impl Database {
    /// Opens or creates the database in `path` and reads all of it.
    pub(crate) fn open(path: &Path) -> Result<(Self, u64, Contents), RecordsError> {
        let path = path.to_owned();
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::Builder::new().name("store-open".into()).spawn(move || {
            let opened = catch(|| {
                // sled's own files would be readable by all.
                std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
                // No flushing thread of its own: every change is flushed.
                let config = sled::Config::new().path(path).cache_capacity(CACHE).flush_every_ms(None);
                config.open().or_else(|_| {
                    // A child of a killed process may still hold sled's lock, until it execs.
                    std::thread::sleep(AGAIN);
                    config.open()
                })
            });
            let read = opened.and_then(|db| {
                let database = Self { db: Some(db), sound: AtomicBool::new(true) };
                let seq = database.seq()?;
                let contents = database.scan("")?;
                Ok((database, seq, contents))
            });
            // Nobody receives after the time limit.
            let _ = sender.send(read);
        });
        thread.map_err(|e| RecordsError(format!("No thread to open it: {e}")))?;
        match receiver.recv_timeout(OPEN_LIMIT) {
            Ok(opened) => opened,
            Err(_) => Err(RecordsError(format!("It did not open within {} s", OPEN_LIMIT.as_secs()))),
        }
    }

    /// The last change seen; 0 if none.
    fn seq(&self) -> Result<u64, RecordsError> {
        let Some(value) = self.guard(|db| db.get(SEQ))? else { return Ok(0) };
        let bytes = <[u8; 8]>::try_from(value.as_ref());
        bytes.map(u64::from_be_bytes).map_err(|_| RecordsError("Its sequence number is malformed".into()))
    }

    fn guard<T>(&self, call: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T, RecordsError> {
        let Some(db) = &self.db else { return Err(RecordsError("It is closed".into())) };
        catch(|| call(db)).inspect_err(|_| self.sound.store(false, Ordering::Relaxed))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let db = self.db.take();
        if self.sound.load(Ordering::Relaxed) {
            // A panic while closing changes nothing: the journal has everything.
            let _ = catch(|| {
                drop(db);
                Ok(())
            });
        } else {
            std::mem::forget(db);
        }
    }
}

/// Calls into sled; a panic there becomes an error here.
fn catch<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, RecordsError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(outcome) => outcome.map_err(|e| RecordsError(e.to_string())),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(RecordsError(format!("It panicked: {}", text.unwrap_or("no message"))))
        }
    }
}

fn text(bytes: &[u8]) -> Result<String, RecordsError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| RecordsError("A key or record is not UTF-8".into()))
}

impl Records for Database {
    fn get(&self, key: &str) -> Result<Option<String>, RecordsError> {
        self.guard(|db| db.get(key))?.map(|value| text(&value)).transpose()
    }

    fn scan(&self, prefix: &str) -> Result<Contents, RecordsError> {
        let pairs = self.guard(|db| db.scan_prefix(prefix).collect::<sled::Result<Vec<_>>>())?;
        let records = pairs.iter().filter(|(key, _)| key.as_ref() != SEQ);
        records.map(|(key, value)| Ok((text(key)?, text(value)?))).collect()
    }

    fn apply(&self, seq: u64, changes: &[Change]) -> Result<(), RecordsError> {
        let mut batch = sled::Batch::default();
        for change in changes {
            match &change.value {
                Some(value) => batch.insert(change.key.as_bytes(), value.get().as_bytes()),
                None => batch.remove(change.key.as_bytes()),
            }
        }
        batch.insert(SEQ, &seq.to_be_bytes());
        self.guard(|db| db.apply_batch(batch))?;
        self.guard(|db| db.flush()).map(|_| ())
    }
}
