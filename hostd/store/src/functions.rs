//! Functions: created, changed, deleted.

use std::path::PathBuf;

use uuid::Uuid;

use crate::files::discard;
use crate::log::Reader;
use crate::{
    CodeRecord, FUNCTION, FunctionConfig, FunctionRecord, IMAGES, NewCode, SNAPSHOT, SNAPSHOTS,
    SnapshotRecord, Store, StoreError, delete, lock, now_unix_ms, put,
};

impl Store {
    /// Reads a function.
    pub fn function(&self, name: &str) -> Result<Option<FunctionRecord>, StoreError> {
        self.read(&self.0.log, FUNCTION, name)
    }

    /// All functions, by name.
    pub fn functions(&self) -> Result<Vec<FunctionRecord>, StoreError> {
        self.list(FUNCTION)
    }

    /// Path of a function's code image.
    pub fn image_path(&self, code: &CodeRecord) -> PathBuf {
        self.path(IMAGES, &code.image)
    }

    /// Creates a function. On return it is on disk.
    pub fn create_function(
        &self,
        name: &str,
        config: FunctionConfig,
        code: NewCode,
    ) -> Result<FunctionRecord, StoreError> {
        self.exists_not(&self.0.log, name)?;
        let sealed = seal(&code).map_err(|e| self.told(e))?;
        let mut turn = self.0.log.turn();
        self.exists_not(&turn, name)?;
        let image = self.place(code, &sealed)?;
        let record = FunctionRecord {
            name: name.into(),
            config,
            code: sealed,
            revision_id: Uuid::new_v4(),
            last_modified_unix_ms: now_unix_ms(),
        };
        let changed = put(FUNCTION, name, &record).and_then(|change| turn.apply(vec![change]));
        self.settled(changed, image)?;
        Ok(record)
    }

    /// Gives a function new code and forgets its snapshot. `expected`: fail with [`StoreError::Conflict`] if the
    /// function's revision is another.
    pub fn update_code(
        &self,
        name: &str,
        expected: Option<Uuid>,
        code: NewCode,
    ) -> Result<FunctionRecord, StoreError> {
        self.expect(&self.0.log, name, expected)?;
        let sealed = seal(&code).map_err(|e| self.told(e))?;
        let mut turn = self.0.log.turn();
        let mut record = self.expect(&turn, name, expected)?;
        let snapshot: Option<SnapshotRecord> = self.read(&turn, SNAPSHOT, name)?;
        let image = self.place(code, &sealed)?;
        let old = std::mem::replace(&mut record.code, sealed);
        record.revision_id = Uuid::new_v4();
        record.last_modified_unix_ms = now_unix_ms();
        let changed = put(FUNCTION, name, &record).and_then(|change| {
            let mut changes = vec![change];
            changes.extend(snapshot.iter().map(|_| delete(SNAPSHOT, name)));
            turn.apply(changes)
        });
        self.settled(changed, image)?;
        drop(turn);
        discard(&self.image_path(&old));
        self.forget(snapshot);
        Ok(record)
    }

    /// Changes a function's configuration. Its snapshot stays: whether it still fits is for the caller to see
    /// from the fingerprint. `change` runs under the store's lock: it must be quick and not call the store.
    pub fn update_config(
        &self,
        name: &str,
        expected: Option<Uuid>,
        change: impl FnOnce(&mut FunctionConfig),
    ) -> Result<FunctionRecord, StoreError> {
        let mut turn = self.0.log.turn();
        let mut record = self.expect(&turn, name, expected)?;
        change(&mut record.config);
        record.revision_id = Uuid::new_v4();
        record.last_modified_unix_ms = now_unix_ms();
        turn.apply(vec![put(FUNCTION, name, &record)?]).map_err(|e| self.told(e))?;
        Ok(record)
    }

    /// Deletes a function, its code and its snapshot. Returns what it was. Works on a full disk.
    pub fn delete_function(&self, name: &str) -> Result<FunctionRecord, StoreError> {
        let mut turn = self.0.log.turn();
        let record = self.expect(&turn, name, None)?;
        let snapshot: Option<SnapshotRecord> = self.read(&turn, SNAPSHOT, name)?;
        let mut changes = vec![delete(FUNCTION, name)];
        changes.extend(snapshot.iter().map(|_| delete(SNAPSHOT, name)));
        turn.apply(changes)?;
        drop(turn);
        discard(&self.image_path(&record.code));
        self.forget(snapshot);
        Ok(record)
    }

    /// The function `name`, which must exist, with the revision expected if any.
    pub(crate) fn expect(
        &self,
        from: &impl Reader,
        name: &str,
        expected: Option<Uuid>,
    ) -> Result<FunctionRecord, StoreError> {
        let missing = || StoreError::NotFound { what: "Function", name: name.into() };
        let record: FunctionRecord = self.read(from, FUNCTION, name)?.ok_or_else(missing)?;
        match expected {
            Some(revision) if revision != record.revision_id => {
                Err(StoreError::Conflict { name: name.into() })
            }
            _ => Ok(record),
        }
    }

    fn exists_not(&self, from: &impl Reader, name: &str) -> Result<(), StoreError> {
        match self.read::<FunctionRecord>(from, FUNCTION, name)? {
            Some(_) => Err(StoreError::Exists { name: name.into() }),
            None => Ok(()),
        }
    }

    /// Moves an image to its final name, durably.
    fn place(&self, code: NewCode, sealed: &CodeRecord) -> Result<PathBuf, StoreError> {
        let path = self.image_path(sealed);
        code.image.take(&path).map_err(|e| self.told(e))?;
        Ok(path)
    }

    /// After the attempt to name the new file `path` by a record: without the record it goes again. Unless
    /// nobody knows whether there is a record: then the next opening decides.
    pub(crate) fn settled(&self, changed: Result<(), StoreError>, path: PathBuf) -> Result<(), StoreError> {
        changed.map_err(|error| {
            if !matches!(error, StoreError::Unsure) {
                discard(&path);
            }
            self.told(error)
        })
    }

    /// Removes the files of a snapshot that has no record any more.
    pub(crate) fn forget(&self, snapshot: Option<SnapshotRecord>) {
        if let Some(snapshot) = snapshot {
            self.forget_folder(&snapshot.dir);
        }
    }

    /// Removes a folder under `snapshots/` that no record names any more.
    pub(crate) fn forget_folder(&self, dir: &str) {
        lock(&self.0.verified).remove(dir);
        lock(&self.0.used).remove(dir);
        discard(&self.path(SNAPSHOTS, dir));
    }
}

/// Makes an image durable and gives it a name.
fn seal(code: &NewCode) -> Result<CodeRecord, StoreError> {
    let image_size = code.image.seal()?;
    Ok(CodeRecord {
        sha256_base64: code.sha256_base64.clone(),
        zip_size: code.zip_size,
        image: format!("{}.squashfs", Uuid::new_v4()),
        image_size,
        unpacked_size: code.unpacked_size,
    })
}
