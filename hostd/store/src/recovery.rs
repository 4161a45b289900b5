//! What is done when the store is opened: files and records are made to agree again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::log::Found;
use crate::records::Change;
use crate::{
    BASE, BaseRecord, FUNCTION, FunctionRecord, IMAGES, LOST, OpenError, SNAPSHOT, SNAPSHOTS, SnapshotRecord,
    SnapshotState, Store, StoreError, TMP, decode, delete, files, put,
};

/// What opening the store found and mended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Files and folders without a record, removed: paths relative to the root.
    pub removed: Vec<PathBuf>,
    /// The same, but kept in `lost/` because of [`Recovery::lost_changes`].
    pub kept: Vec<PathBuf>,
    /// Functions whose snapshot was marked for rebuild: its files were missing or had the wrong size.
    pub rebuild: Vec<String>,
    /// Bases that are no more: as above.
    pub lost_bases: Vec<String>,
    /// Functions whose code image is missing or has the wrong size: they cannot be called until deployed again.
    pub broken_code: Vec<BrokenCode>,
    /// Bytes of an unfinished change cut off the end of the journal.
    pub torn_bytes: u64,
    /// The journal was damaged (not merely torn) and the database did not have its changes either.
    pub lost_changes: bool,
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

/// Makes files and records agree.
pub(crate) fn recover(store: &Store, found: Found, read_only: bool) -> Result<Recovery, OpenError> {
    let root = &store.0.root;
    let mut recovery = Recovery {
        torn_bytes: found.torn_bytes,
        lost_changes: found.lost_changes,
        database_rebuilt: found.rebuilt,
        records_mended: found.mended,
        read_only,
        ..Recovery::default()
    };
    let lost = |error: StoreError| {
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        OpenError::Lost { path: root.clone(), reason: format!("{error}: {source}") }
    };
    let mut named = BTreeSet::new();
    let mut changes = Vec::new();
    let mut bases = BTreeSet::new();
    for (key, text) in &found.contents {
        if key.starts_with(FUNCTION) {
            let function: FunctionRecord = decode(key, text).map_err(lost)?;
            let path = store.image_path(&function.code);
            if let Some(problem) = check(&path, function.code.image_size, &function.code.image) {
                let image = function.code.image.clone();
                recovery.broken_code.push(BrokenCode { function: function.name, image, problem });
            }
            named.insert(path);
        } else if key.starts_with(BASE) {
            let base: BaseRecord = decode(key, text).map_err(lost)?;
            let path = store.path(SNAPSHOTS, &base.dir);
            if is_sound(&path, &base.dir, &base.files) {
                named.insert(path);
                bases.insert(base.dir);
            } else {
                recovery.lost_bases.push(base.name.clone());
                changes.push(delete(BASE, &base.name));
            }
        } else if key.starts_with(SNAPSHOT) {
            let snapshot: SnapshotRecord = decode(key, text).map_err(lost)?;
            let path = store.snapshot_path(&snapshot);
            if snapshot.state == SnapshotState::Sound {
                let has_base = snapshot.base.as_ref().is_none_or(|base| bases.contains(&base.dir));
                if has_base && is_sound(&path, &snapshot.dir, &snapshot.files) {
                    named.insert(path);
                    continue;
                }
                recovery.rebuild.push(snapshot.function.clone());
                let snapshot = snapshot.given_up();
                changes.push(put(SNAPSHOT, &snapshot.function, &snapshot).map_err(lost)?);
            }
        }
    }
    if !read_only {
        mark(store, changes);
        sweep(root, &named, &mut recovery).map_err(|source| OpenError::Io { path: root.clone(), source })?;
    }
    Ok(recovery)
}

/// Records what is to be rebuilt. If that fails it is found again at the next opening; until then restoring
/// such a snapshot fails, which rebuilds it too.
fn mark(store: &Store, changes: Vec<Change>) {
    if !changes.is_empty()
        && let Err(error) = store.0.log.turn().apply(changes)
    {
        tracing::warn!(%error, "Snapshots to rebuild not recorded");
    }
}

/// Whether all files of a folder are there as its record has it.
fn is_sound(path: &Path, dir: &str, files: &BTreeMap<String, u64>) -> bool {
    is_name(dir) && files.iter().all(|(name, size)| check(&path.join(name), *size, name).is_none())
}

/// What is wrong with a file that a record names, if anything.
fn check(path: &Path, size: u64, name: &str) -> Option<String> {
    if !is_name(name) {
        return Some("Its name is not a file name".into());
    }
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.is_file() => Some("It is no regular file".into()),
        Ok(meta) if meta.len() != size => Some(format!("It has {} bytes instead of {size}", meta.len())),
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    }
}

/// Whether a name from a record stays in its folder.
fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

/// Removes what no record names, or keeps it aside if records were lost.
fn sweep(root: &Path, named: &BTreeSet<PathBuf>, recovery: &mut Recovery) -> io::Result<()> {
    for folder in [TMP, IMAGES, SNAPSHOTS] {
        for item in fs::read_dir(root.join(folder))? {
            let item = item?;
            let path = item.path();
            if named.contains(&path) {
                continue;
            }
            let relative = Path::new(folder).join(item.file_name());
            if recovery.lost_changes && folder != TMP {
                let aside = root.join(LOST);
                fs::create_dir_all(&aside)?;
                fs::rename(&path, aside.join(item.file_name()))?;
                recovery.kept.push(relative);
            } else {
                files::remove(&path)?;
                recovery.removed.push(relative);
            }
        }
    }
    recovery.removed.sort();
    recovery.kept.sort();
    Ok(())
}
