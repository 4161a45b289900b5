//! Journal, export and database together: one history of changes.
//!
//! What is true is the export with the journal's entries after it. The database holds the same and answers
//! reads; each of the two can be made from the other. A change is on disk once the journal has it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::database::Database;
use crate::export::{self, Export};
use crate::journal::{self, Entry, Journal, Replay};
use crate::memory::Memory;
use crate::records::{Change, Contents, Records, RecordsError, change, difference};
use crate::{OpenError, SCHEMA, StoreError, files};

/// Bytes of journal after which a new export is written.
const EXPORT_AFTER: u64 = 256 << 10;

/// Names under the store's root.
const EXPORT: &str = "export.json";
const EXPORT_NEW: &str = "tmp/export.json";
const JOURNAL: &str = "export.journal";
const DATABASE: &str = "db";
const DATABASE_BROKEN: &str = "db.broken";

/// What opening found of the history.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// All records.
    pub contents: Contents,
    /// Bytes cut off the journal's end.
    pub torn_bytes: u64,
    /// Changes that had been acknowledged are gone: the journal was damaged and the database did not have them.
    pub lost_changes: bool,
    /// Why the database was set aside, if it was.
    pub rebuilt: Option<String>,
    /// Records of the database that were put right.
    pub mended: u64,
}

/// The history, to be changed by one at a time and read by many.
#[derive(Debug)]
pub(crate) struct Log {
    root: PathBuf,
    /// What answers reads: not behind the writer's lock, which is held while the disk works.
    records: RwLock<Arc<dyn Records>>,
    writer: Mutex<Writer>,
}

/// What only the one who changes something uses.
#[derive(Debug)]
struct Writer {
    seq: u64,
    /// `None` on a read-only disk.
    journal: Option<Journal>,
    /// Bytes of journal at which the next export is tried.
    export_at: u64,
}

/// The right to change something, and to rely on nothing else changing meanwhile.
pub(crate) struct Turn<'a> {
    log: &'a Log,
    writer: MutexGuard<'a, Writer>,
}

/// Reads single records: from the [`Log`], or from within a [`Turn`], which must not wait for itself.
pub(crate) trait Reader {
    /// Reads one record.
    fn get(&self, key: &str) -> Result<Option<String>, StoreError>;
}

impl Reader for Log {
    fn get(&self, key: &str) -> Result<Option<String>, StoreError> {
        self.read(|records| records.get(key))
    }
}

impl Reader for Turn<'_> {
    fn get(&self, key: &str) -> Result<Option<String>, StoreError> {
        self.read(|records| records.get(key))
    }
}

/// What the files say, before the database is made to agree.
struct Truth {
    seq: u64,
    contents: Contents,
    replay: Replay,
    /// Export and journal say exactly this.
    written: bool,
    lost_changes: bool,
}

impl Log {
    /// Opens the history under `root`, whose folders exist. `has_files`: there are files that records must
    /// have named, so that no records at all means they were lost.
    pub(crate) fn open(root: &Path, read_only: bool, has_files: bool) -> Result<(Self, Found), OpenError> {
        let export = export::read(&root.join(EXPORT));
        if let Export::Newer { schema } = export {
            return Err(OpenError::Schema { path: root.join(EXPORT), found: schema, supported: SCHEMA });
        }
        let journal_path = root.join(JOURNAL);
        let io = |path: &Path, source| OpenError::Io { path: path.to_owned(), source };
        let replay = journal::read(&journal_path).map_err(|e| io(&journal_path, e))?;
        let mut found = Found { torn_bytes: replay.torn_bytes, ..Found::default() };

        let database_path = root.join(DATABASE);
        let database = if read_only {
            Err(RecordsError("The disk is read-only".into()))
        } else {
            Database::open(&database_path)
        };
        let seen = database.as_ref().ok().map(|(_, seq, contents)| (*seq, contents));
        let truth = settle(&export, replay, seen, has_files)
            .map_err(|reason| OpenError::Lost { path: root.to_owned(), reason })?;
        found.lost_changes = truth.lost_changes;
        found.contents.clone_from(&truth.contents);
        if read_only {
            let records: Arc<dyn Records> = Arc::new(Memory::new(truth.contents));
            let writer = Writer { seq: truth.seq, journal: None, export_at: u64::MAX };
            return Ok((Self::new(root, records, writer), found));
        }

        let agreed = database.and_then(|(database, seq, contents)| {
            found.mended = agree(&database, seq, &contents, &truth)?;
            Ok(database)
        });
        let records: Arc<dyn Records> = match agreed {
            Ok(database) => Arc::new(database),
            Err(error) => {
                tracing::error!(%error, "Database set aside, building it again");
                found.rebuilt = Some(error.to_string());
                rebuild(root, &truth)
            }
        };
        let journal =
            Journal::open(&journal_path, truth.replay.sound_bytes).map_err(|e| io(&journal_path, e))?;
        let writer = Writer { seq: truth.seq, journal: Some(journal), export_at: EXPORT_AFTER };
        let log = Self::new(root, records, writer);
        if !truth.written {
            log.turn().export(&truth.contents).map_err(|e| io(&root.join(EXPORT), e))?;
        }
        Ok((log, found))
    }

    fn new(root: &Path, records: Arc<dyn Records>, writer: Writer) -> Self {
        Self { root: root.to_owned(), records: RwLock::new(records), writer: Mutex::new(writer) }
    }

    /// All records whose key starts with `prefix`.
    pub(crate) fn scan(&self, prefix: &str) -> Result<Contents, StoreError> {
        self.read(|records| records.scan(prefix))
    }

    /// Waits for the right to change something.
    pub(crate) fn turn(&self) -> Turn<'_> {
        Turn { log: self, writer: self.writer.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Writes the export and empties the journal.
    pub(crate) fn export(&self) -> Result<(), StoreError> {
        self.turn().export_now()
    }

    fn read<T>(&self, call: impl Fn(&dyn Records) -> Result<T, RecordsError>) -> Result<T, StoreError> {
        // Whoever finds the database broken waits for the turn to replace it: the journal must not grow meanwhile.
        call(self.current().as_ref()).or_else(|_| self.turn().read(call))
    }

    fn current(&self) -> Arc<dyn Records> {
        Arc::clone(&self.records.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn failed(root: &Path, error: RecordsError) -> StoreError {
    StoreError::Io { path: root.join(DATABASE), source: std::io::Error::other(error.0) }
}

impl Turn<'_> {
    /// Makes all changes or none. On return they are on disk.
    pub(crate) fn apply(&mut self, changes: Vec<Change>) -> Result<(), StoreError> {
        let writer = &mut *self.writer;
        let Some(journal) = &mut writer.journal else { return Err(StoreError::ReadOnly) };
        let entry = Entry { seq: writer.seq + 1, changes };
        journal.append(&entry)?;
        writer.seq = entry.seq;
        let due = journal.len() >= writer.export_at;
        let records = self.log.current();
        if let Err(error) = records.apply(entry.seq, &entry.changes) {
            // The change is on disk: the caller need not know. Unless what is on disk cannot be read either.
            if let Err(error) = self.replace(&records, &error) {
                tracing::error!(%error, "Neither database nor journal can be read");
                self.writer.journal.iter_mut().for_each(Journal::give_up);
                return Err(StoreError::Unsure);
            }
        }
        if due && let Err(error) = self.export_now() {
            tracing::warn!(%error, "Export not written; the journal goes on");
            let length = self.writer.journal.as_ref().map_or(0, Journal::len);
            self.writer.export_at = length + EXPORT_AFTER;
        }
        Ok(())
    }

    fn export_now(&mut self) -> Result<(), StoreError> {
        let contents = self.read(|records| records.scan(""))?;
        self.export(&contents).map_err(|e| StoreError::io(&self.log.root.join(EXPORT), e))
    }

    fn read<T>(&self, call: impl Fn(&dyn Records) -> Result<T, RecordsError>) -> Result<T, StoreError> {
        let records = self.log.current();
        call(records.as_ref()).or_else(|error| {
            let records = self.replace(&records, &error)?;
            call(records.as_ref()).map_err(|e| failed(&self.log.root, e))
        })
    }

    /// Writes the export of `contents` as of now, then empties the journal.
    fn export(&mut self, contents: &Contents) -> std::io::Result<()> {
        let writer = &mut *self.writer;
        let Some(journal) = &mut writer.journal else { return Ok(()) };
        let root = &self.log.root;
        export::write(&root.join(EXPORT), &root.join(EXPORT_NEW), writer.seq, contents)?;
        journal.clear()?;
        writer.export_at = EXPORT_AFTER;
        Ok(())
    }

    /// Puts records in memory in place of a database that failed, unless somebody did already.
    fn replace(
        &self,
        broken: &Arc<dyn Records>,
        error: &RecordsError,
    ) -> Result<Arc<dyn Records>, StoreError> {
        let mut current = self.log.records.write().unwrap_or_else(PoisonError::into_inner);
        if Arc::ptr_eq(&current, broken) {
            tracing::error!(%error, "Answering from memory until the store is opened again");
            let root = &self.log.root;
            let export = export::read(&root.join(EXPORT));
            let replay =
                journal::read(&root.join(JOURNAL)).map_err(|e| StoreError::io(&root.join(JOURNAL), e))?;
            let truth =
                settle(&export, replay, None, true).map_err(|reason| failed(root, RecordsError(reason)))?;
            *current = Arc::new(Memory::new(truth.contents));
        }
        Ok(Arc::clone(&current))
    }
}

/// Decides what is true: the export with the journal after it, unless the database has seen later changes (or
/// the export cannot be read), because then one of the two files is damaged.
fn settle(
    export: &Export,
    replay: Replay,
    database: Option<(u64, &Contents)>,
    has_files: bool,
) -> Result<Truth, String> {
    let database = database.filter(|(seq, _)| *seq > 0);
    let base = match (export, database) {
        (Export::Sound { seq, contents }, _) => Some((*seq, contents.clone())),
        (_, Some((seq, contents))) => Some((seq, contents.clone())),
        // A store that never held anything: its export was not yet written when the power went.
        (Export::Missing, None) if !has_files && replay.entries.is_empty() => Some((0, Contents::new())),
        _ => None,
    };
    let Some((mut seq, mut contents)) = base else {
        return Err(match export {
            Export::Unsound(reason) => format!("export.json: {reason}; the database cannot be used either"),
            _ => "export.json is missing and the database cannot be used".into(),
        });
    };
    for entry in &replay.entries {
        if entry.seq == seq + 1 {
            change(&mut contents, &entry.changes);
            seq = entry.seq;
        }
    }
    // The next entry must follow the journal's last, or reading it again would stop there.
    let follows = replay.entries.last().is_none_or(|last| last.seq == seq);
    let mut written = follows && matches!(export, Export::Sound { .. });
    if let Some((later, theirs)) = database.filter(|(later, _)| *later > seq) {
        contents.clone_from(theirs);
        seq = later;
        written = false;
    }
    let lost_changes = replay.highest > seq;
    Ok(Truth { seq, contents, replay, written, lost_changes })
}

/// Makes a database hold what is true; returns how many records were not.
fn agree(database: &Database, seq: u64, contents: &Contents, truth: &Truth) -> Result<u64, RecordsError> {
    let changes = difference(contents, &truth.contents).map_err(|e| RecordsError(e.to_string()))?;
    if seq != truth.seq || !changes.is_empty() {
        database.apply(truth.seq, &changes)?;
    }
    Ok(u64::try_from(changes.len()).unwrap_or(u64::MAX))
}

/// Sets the database aside and makes a new one; if that fails too, records in memory do.
fn rebuild(root: &Path, truth: &Truth) -> Arc<dyn Records> {
    let path = root.join(DATABASE);
    let aside = root.join(DATABASE_BROKEN);
    let made = files::remove(&aside)
        .and_then(|()| if path.exists() { std::fs::rename(&path, &aside) } else { Ok(()) })
        .map_err(|e| RecordsError(e.to_string()))
        .and_then(|()| Database::open(&path))
        .and_then(|(database, seq, contents)| agree(&database, seq, &contents, truth).map(|_| database));
    match made {
        Ok(database) => Arc::new(database),
        Err(error) => {
            tracing::error!(%error, "No database; answering from memory");
            Arc::new(Memory::new(truth.contents.clone()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::value::RawValue;

    /// A database on a disk that stopped working.
    #[derive(Debug)]
    struct Broken;

    impl Records for Broken {
        fn get(&self, _: &str) -> Result<Option<String>, RecordsError> {
            Err(RecordsError("no".into()))
        }

        fn scan(&self, _: &str) -> Result<Contents, RecordsError> {
            Err(RecordsError("no".into()))
        }

        fn apply(&self, _: u64, _: &[Change]) -> Result<(), RecordsError> {
            Err(RecordsError("no".into()))
        }
    }

    fn put(key: &str, value: &str) -> Vec<Change> {
        vec![Change { key: key.into(), value: Some(RawValue::from_string(format!("\"{value}\"")).unwrap()) }]
    }

    fn open(root: &Path) -> (Log, Found) {
        std::fs::create_dir_all(root.join("tmp")).unwrap();
        Log::open(root, false, false).unwrap()
    }

    #[test]
    fn a_database_that_fails_is_replaced_without_losing_anything() {
        // The call that finds it broken: a read, a read within a turn, a scan, a change, an export.
        let finds: [fn(&Log); 5] = [
            |log| assert_eq!(log.get("t/a").unwrap().as_deref(), Some("\"1\"")),
            |log| assert_eq!(log.turn().get("t/a").unwrap().as_deref(), Some("\"1\"")),
            |log| assert_eq!(log.scan("t/").unwrap().len(), 2),
            |log| log.turn().apply(put("t/c", "3")).unwrap(),
            |log| log.export().unwrap(),
        ];
        for find in finds {
            let dir = tempfile::tempdir().unwrap();
            let (log, _) = open(dir.path());
            log.turn().apply(put("t/a", "1")).unwrap();
            log.export().unwrap();
            log.turn().apply(put("t/b", "2")).unwrap();
            *log.records.write().unwrap() = Arc::new(Broken);
            find(&log);
            log.turn().apply(put("t/d", "4")).unwrap();
            let contents = log.scan("").unwrap();
            assert_eq!(contents["t/b"], "\"2\"");
            assert_eq!(contents["t/d"], "\"4\"");
            drop(log);
            let (log, found) = open(dir.path());
            assert_eq!(found.contents, contents);
            assert!(found.mended > 0 && found.rebuilt.is_none());
            assert_eq!(log.scan("").unwrap(), contents);
        }
    }
}
