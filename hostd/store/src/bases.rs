//! Bases: snapshots of microVMs before any function, over which snapshots of functions are layered.

use std::collections::BTreeSet;
use std::path::PathBuf;

use uuid::Uuid;

use crate::log::{Reader, Turn};
use crate::records::Change;
use crate::{
    BASE, BaseRecord, BaseRef, NewBase, SNAPSHOT, SNAPSHOTS, SnapshotRecord, SnapshotState, StagedDir, Store,
    StoreError, delete, now_unix_ms, put,
};

impl Store {
    /// The base of that name.
    pub fn base(&self, name: &str) -> Result<Option<BaseRecord>, StoreError> {
        self.read(&self.0.log, BASE, name)
    }

    /// All bases, by name.
    pub fn bases(&self) -> Result<Vec<BaseRecord>, StoreError> {
        self.list(BASE)
    }

    /// Path of the folder of a base.
    pub fn base_path(&self, base: &BaseRef) -> PathBuf {
        self.path(SNAPSHOTS, &base.dir)
    }

    /// Takes over a base in place of the previous one of its name; snapshots over that are to be rebuilt.
    pub fn put_base(&self, new: NewBase, files: StagedDir) -> Result<BaseRecord, StoreError> {
        let sealed = files.seal().map_err(|e| self.told(e))?;
        let mut turn = self.0.log.turn();
        let (mut changes, gone) = self.without_base(&turn, &new.name)?;
        let record = BaseRecord {
            dir: Uuid::new_v4().to_string(),
            files: sealed.files,
            stored_bytes: sealed.stored_bytes,
            created_unix_ms: now_unix_ms(),
            name: new.name,
            fingerprint: new.fingerprint,
            memory_checksum: new.memory_checksum,
        };
        let path = self.path(SNAPSHOTS, &record.dir);
        files.take(&path).map_err(|e| self.told(e))?;
        let changed = put(BASE, &record.name, &record).and_then(|change| {
            changes.push(change);
            turn.apply(changes)
        });
        self.settled(changed, path)?;
        self.mark_verified(&record.dir);
        drop(turn);
        gone.iter().for_each(|folder| self.forget_folder(folder));
        Ok(record)
    }

    /// Removes a base, unless it has been replaced meanwhile; snapshots over it are to be rebuilt.
    pub fn remove_base(&self, base: &BaseRef) -> Result<(), StoreError> {
        let mut turn = self.0.log.turn();
        let found: Option<BaseRecord> = self.read(&turn, BASE, &base.name)?;
        if found.is_none_or(|found| found.dir != base.dir) {
            return Ok(());
        }
        let (changes, gone) = self.without_base(&turn, &base.name)?;
        turn.apply(changes)?;
        drop(turn);
        gone.iter().for_each(|folder| self.forget_folder(folder));
        Ok(())
    }

    /// Makes sure that one more base of that name leaves at most `limit`, by removing the oldest over which nothing
    /// is layered. `false` if there is none.
    pub fn admit_base(&self, name: &str, limit: usize) -> Result<bool, StoreError> {
        let mut others = self.bases()?;
        others.retain(|base| base.name != name);
        if others.len() < limit {
            return Ok(true);
        }
        let oldest = self.unused_bases()?.into_iter().find(|base| base.name != name);
        match oldest {
            None => Ok(false),
            Some(oldest) => self.remove_base(&oldest.reference()).map(|()| true),
        }
    }

    /// Bases over which no sound snapshot is layered, oldest first.
    pub(crate) fn unused_bases(&self) -> Result<Vec<BaseRecord>, StoreError> {
        let used: BTreeSet<String> = self
            .snapshots()?
            .into_iter()
            .filter(|snapshot| snapshot.state == SnapshotState::Sound)
            .filter_map(|snapshot| snapshot.base.map(|base| base.dir))
            .collect();
        let mut unused = self.bases()?;
        unused.retain(|base| !used.contains(&base.dir));
        unused.sort_by_key(|base| base.created_unix_ms);
        Ok(unused)
    }

    /// Whether what a snapshot is layered over is there, if it is.
    pub fn is_complete(&self, snapshot: &SnapshotRecord) -> Result<bool, StoreError> {
        self.has_base(&self.0.log, snapshot.base.as_ref())
    }

    pub(crate) fn has_base(&self, from: &impl Reader, base: Option<&BaseRef>) -> Result<bool, StoreError> {
        let Some(base) = base else { return Ok(true) };
        let found: Option<BaseRecord> = self.read(from, BASE, &base.name)?;
        Ok(found.is_some_and(|found| found.dir == base.dir))
    }

    /// The changes that remove a base and mark what is layered over it, and the folders to be discarded after them.
    fn without_base(&self, turn: &Turn<'_>, name: &str) -> Result<(Vec<Change>, Vec<String>), StoreError> {
        let Some(old) = self.read::<BaseRecord>(turn, BASE, name)? else { return Ok(Default::default()) };
        let mut changes = vec![delete(BASE, name)];
        let mut gone = vec![old.dir.clone()];
        for snapshot in self.list::<SnapshotRecord>(SNAPSHOT)? {
            let layered = snapshot.base.as_ref().is_some_and(|base| base.dir == old.dir);
            if layered && snapshot.state == SnapshotState::Sound {
                gone.push(snapshot.dir.clone());
                let snapshot = snapshot.given_up();
                changes.push(put(SNAPSHOT, &snapshot.function, &snapshot)?);
            }
        }
        Ok((changes, gone))
    }
}
