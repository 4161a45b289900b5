//! Snapshots: put, verified, used, evicted. They can always be made again.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use crate::log::Reader;
use crate::{
    NewSnapshot, SNAPSHOT, SNAPSHOTS, SnapshotRecord, SnapshotState, StagedDir, Store, StoreError, delete,
    lock, now_unix_ms, put,
};

/// How often the last use of a snapshot is noted on disk, in milliseconds.
const NOTE_EVERY_MS: u64 = 60_000;

impl Store {
    /// Reads the snapshot of a function, in whatever state it is.
    pub fn snapshot(&self, function: &str) -> Result<Option<SnapshotRecord>, StoreError> {
        self.read(&self.0.log, SNAPSHOT, function)
    }

    /// All snapshots, by function.
    pub fn snapshots(&self) -> Result<Vec<SnapshotRecord>, StoreError> {
        self.list(SNAPSHOT)
    }

    /// Path of a snapshot's folder.
    pub fn snapshot_path(&self, snapshot: &SnapshotRecord) -> PathBuf {
        self.path(SNAPSHOTS, &snapshot.dir)
    }

    /// Takes over a snapshot in place of the function's previous one. [`StoreError::Stale`] if the function has
    /// other code by now or what it is layered over is gone, [`StoreError::NotFound`] if the function is.
    pub fn put_snapshot(&self, new: NewSnapshot, files: StagedDir) -> Result<SnapshotRecord, StoreError> {
        self.current(&self.0.log, &new)?;
        let sealed = files.seal().map_err(|e| self.told(e))?;
        let mut turn = self.0.log.turn();
        self.current(&turn, &new)?;
        let old: Option<SnapshotRecord> = self.read(&turn, SNAPSHOT, &new.function)?;
        let record = SnapshotRecord {
            dir: Uuid::new_v4().to_string(),
            files: sealed.files,
            stored_bytes: sealed.stored_bytes,
            created_unix_ms: now_unix_ms(),
            state: SnapshotState::Sound,
            function: new.function,
            code_image: new.code_image,
            fingerprint: new.fingerprint,
            memory_checksum: new.memory_checksum,
            kind: new.kind,
            paging: new.paging,
            base: new.base,
        };
        let path = self.snapshot_path(&record);
        files.take(&path).map_err(|e| self.told(e))?;
        let changed = put(SNAPSHOT, &record.function, &record).and_then(|change| turn.apply(vec![change]));
        self.settled(changed, path)?;
        // What this process has just written needs no verification by it.
        self.mark_verified(&record.dir);
        lock(&self.0.used).insert(record.dir.clone(), record.created_unix_ms);
        drop(turn);
        self.forget(old);
        Ok(record)
    }

    /// Checks that a function still has the code a snapshot was made with, and its base is there.
    fn current(&self, from: &impl Reader, new: &NewSnapshot) -> Result<(), StoreError> {
        let function = self.expect(from, &new.function, None)?;
        if function.code.image == new.code_image && self.has_base(from, new.base.as_ref())? {
            Ok(())
        } else {
            Err(StoreError::Stale { name: new.function.clone() })
        }
    }

    /// Removes a function's snapshot; `false` if there was none. Works on a full disk.
    pub fn remove_snapshot(&self, function: &str) -> Result<bool, StoreError> {
        let mut turn = self.0.log.turn();
        let Some(old) = self.read::<SnapshotRecord>(&turn, SNAPSHOT, function)? else { return Ok(false) };
        turn.apply(vec![delete(SNAPSHOT, function)])?;
        drop(turn);
        self.forget(Some(old));
        Ok(true)
    }

    /// Marks the snapshot in folder `dir` of a function as bad and removes its files; nothing happens if the
    /// function has another snapshot by now.
    pub fn mark_rebuild(&self, function: &str, dir: &str) -> Result<(), StoreError> {
        let mut turn = self.0.log.turn();
        let found: Option<SnapshotRecord> = self.read(&turn, SNAPSHOT, function)?;
        let Some(record) = found.filter(|record| record.dir == dir) else { return Ok(()) };
        let record = record.given_up();
        turn.apply(vec![put(SNAPSHOT, function, &record)?])?;
        drop(turn);
        self.forget(Some(record));
        Ok(())
    }

    /// Whether the checksums of the snapshot or base in this folder have been verified (or it was made) since the store was opened.
    pub fn is_verified(&self, dir: &str) -> bool {
        lock(&self.0.verified).contains(dir)
    }

    /// Notes that they are right.
    pub fn mark_verified(&self, dir: &str) {
        lock(&self.0.verified).insert(dir.to_owned());
    }

    /// Notes that this snapshot is used now, for [`Store::evict`]. Cheap; after a power cut the last minute of it
    /// may be forgotten.
    pub fn touch_snapshot(&self, snapshot: &SnapshotRecord) {
        let now = now_unix_ms();
        let before = lock(&self.0.used).insert(snapshot.dir.clone(), now);
        if before.is_none_or(|before| now.saturating_sub(before) >= NOTE_EVERY_MS) {
            let noted = std::fs::File::open(self.snapshot_path(snapshot))
                .and_then(|folder| folder.set_modified(SystemTime::now()));
            if let Err(error) = noted {
                tracing::debug!(function = %snapshot.function, %error, "Use of a snapshot not noted");
            }
        }
    }

    /// When a snapshot was last used, in milliseconds since 1970: as noted here, else on disk, else its making.
    pub fn last_used_unix_ms(&self, snapshot: &SnapshotRecord) -> u64 {
        if let Some(used) = lock(&self.0.used).get(&snapshot.dir) {
            return *used;
        }
        let modified = std::fs::metadata(self.snapshot_path(snapshot)).and_then(|meta| meta.modified());
        let since = modified.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let used = since.as_ref().map(Duration::as_millis).and_then(|ms| u64::try_from(ms).ok());
        used.unwrap_or(snapshot.created_unix_ms)
    }

    /// Removes snapshots, least recently used first, never one of a function in `keep`, until `bytes` bytes are
    /// free, then bases nothing is layered over; returns the functions whose snapshot went. Code is never evicted. [`StoreError::NoSpace`], and
    /// nothing removed, if all of them would not make enough room.
    pub fn evict(&self, bytes: u64, keep: &BTreeSet<String>) -> Result<Vec<String>, StoreError> {
        let mut victims = Vec::new();
        let mut free = self.space()?.free;
        if free >= bytes {
            return Ok(victims);
        }
        let (mut candidates, kept): (Vec<_>, Vec<_>) = self
            .snapshots()?
            .into_iter()
            .filter(|snapshot| snapshot.state == SnapshotState::Sound)
            .partition(|snapshot| !keep.contains(&snapshot.function));
        let needed: BTreeSet<&str> =
            kept.iter().filter_map(|snapshot| Some(snapshot.base.as_ref()?.dir.as_str())).collect();
        let bases = self.bases()?;
        let bases =
            bases.iter().filter(|base| !needed.contains(base.dir.as_str())).map(|base| base.stored_bytes);
        let stored = candidates.iter().map(|s| s.stored_bytes).chain(bases).fold(0, u64::saturating_add);
        if free.saturating_add(stored) < bytes {
            return Err(StoreError::NoSpace { needed: bytes, free });
        }
        candidates.sort_by_cached_key(|s| self.last_used_unix_ms(s));
        for candidate in candidates {
            if free >= bytes {
                break;
            }
            if self.remove_snapshot(&candidate.function)? {
                victims.push(candidate.function);
            }
            free = self.space()?.free;
        }
        for base in self.unused_bases()? {
            if free >= bytes {
                break;
            }
            self.remove_base(&base.reference())?;
            free = self.space()?.free;
        }
        Ok(victims)
    }
}
