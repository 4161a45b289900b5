//! Damaged databases, exports and journals: what was acknowledged is found as long as one of them has it, and
//! nothing ever panics.
// Helpers of tests are tests, which clippy cannot know.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{check, code, config, snapshot};
use mote_store::{FunctionRecord, OpenError, Store};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A store with some history, as a power cut leaves it: part in the export, part in the journal.
fn history() -> (tempfile::TempDir, Vec<FunctionRecord>) {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path()).unwrap();
    for i in 0..8 {
        let name = format!("f{i}");
        store.create_function(&name, config(&name), code(&store, &name, 500).unwrap()).unwrap();
        snapshot(&store, &name, 500).unwrap();
    }
    store.close().unwrap();
    for i in 0..4 {
        store.update_config(&format!("f{i}"), None, |c| c.memory_mb = 512).unwrap();
    }
    store.delete_function("f7").unwrap();
    let functions = store.functions().unwrap();
    let cut = copy(dir.path());
    (cut, functions)
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    let status = std::process::Command::new("cp").arg("-a").arg(from.join(".")).arg(to.path()).status();
    assert!(status.unwrap().success());
    to
}

fn database_files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.join("db")];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

fn damage(path: &Path, random: &mut StdRng) {
    let mut bytes = fs::read(path).unwrap();
    match random.random_range(0..4) {
        _ if bytes.is_empty() => bytes = vec![0xff; 64],
        0 => bytes.truncate(random.random_range(0..bytes.len())),
        1 => {
            let at = random.random_range(0..bytes.len());
            bytes[at] ^= 1 << random.random_range(0..8);
        }
        2 => {
            let at = random.random_range(0..bytes.len());
            let end = bytes.len().min(at + random.random_range(1..5000));
            bytes[at..end].fill(0);
        }
        _ => {
            let at = random.random_range(0..bytes.len());
            let end = bytes.len().min(at + random.random_range(1..5000));
            random.fill(&mut bytes[at..end]);
        }
    }
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_database_is_built_again() {
    let (whole, functions) = history();
    let mut rebuilt = 0;
    for seed in 0..60 {
        let mut random = StdRng::seed_from_u64(seed);
        let cut = copy(whole.path());
        let files = database_files(cut.path());
        for _ in 0..random.random_range(1..4) {
            damage(&files[random.random_range(0..files.len())], &mut random);
        }
        let (store, recovery) = Store::open(cut.path()).unwrap();
        rebuilt += u32::from(recovery.database_rebuilt.is_some());
        assert_eq!(store.functions().unwrap(), functions, "seed {seed}");
        assert!(!recovery.lost_changes && recovery.removed.is_empty());
        check(cut.path(), &store);
        store.update_config("f1", None, |c| c.timeout_s = 9).unwrap();
        drop(store);
        let (store, recovery) = Store::open(cut.path()).unwrap();
        assert_eq!(recovery.database_rebuilt, None, "built once, seed {seed}");
        assert_eq!(store.function("f1").unwrap().unwrap().config.timeout_s, 9);
    }
    assert!(rebuilt >= 10, "the damage was real: {rebuilt}");
}

#[test]
fn a_missing_or_foreign_database_is_built_again() {
    let (whole, functions) = history();
    let cases: [fn(&Path); 3] = [
        |db| fs::remove_dir_all(db).unwrap(),
        |db| {
            fs::remove_dir_all(db).unwrap();
            fs::write(db, "a file").unwrap();
        },
        |db| fs::write(db.join("conf"), "nonsense").unwrap(),
    ];
    for case in cases {
        let cut = copy(whole.path());
        case(&cut.path().join("db"));
        let (store, _) = Store::open(cut.path()).unwrap();
        assert_eq!(store.functions().unwrap(), functions);
        check(cut.path(), &store);
    }
}

#[test]
fn an_older_database_is_brought_forward() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path()).unwrap();
    store.create_function("f", config("old"), code(&store, "f", 10).unwrap()).unwrap();
    drop(store);
    let old = copy(dir.path());
    let (store, _) = Store::open(dir.path()).unwrap();
    store.update_config("f", None, |c| c.description = "new".into()).unwrap();
    let functions = store.functions().unwrap();
    // The power goes; sled had not reached the disk.
    let cut = copy(dir.path());
    fs::remove_dir_all(cut.path().join("db")).unwrap();
    fs::rename(old.path().join("db"), cut.path().join("db")).unwrap();
    let (store, recovery) = Store::open(cut.path()).unwrap();
    assert_eq!((recovery.records_mended, recovery.database_rebuilt), (1, None));
    assert_eq!(store.functions().unwrap(), functions);
}

#[test]
fn a_damaged_export_is_made_up_for_by_the_database() {
    let (whole, functions) = history();
    for seed in 0..20 {
        let mut random = StdRng::seed_from_u64(seed);
        let cut = copy(whole.path());
        for name in ["export.json", "export.journal"] {
            if random.random_bool(0.7) {
                damage(&cut.path().join(name), &mut random);
            }
        }
        let (store, recovery) = Store::open(cut.path()).unwrap();
        assert_eq!(store.functions().unwrap(), functions, "seed {seed}");
        assert!(!recovery.lost_changes);
        drop(store);
        fs::remove_dir_all(cut.path().join("db")).unwrap();
        let (store, _) = Store::open(cut.path()).unwrap();
        assert_eq!(store.functions().unwrap(), functions, "and the export is whole again, seed {seed}");
    }
}

/// Every length the journal can have after a power cut in the middle of a write.
#[test]
fn a_torn_journal_loses_only_what_was_not_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path()).unwrap();
    store.create_function("f", config("0"), code(&store, "f", 10).unwrap()).unwrap();
    store.close().unwrap();
    let journal = dir.path().join("export.journal");
    let mut ends = vec![0];
    for i in 1..4 {
        store.update_config("f", None, |c| c.description = i.to_string()).unwrap();
        ends.push(fs::metadata(&journal).unwrap().len());
    }
    let whole = copy(dir.path());
    let bytes = fs::read(whole.path().join("export.journal")).unwrap();
    fs::remove_dir_all(whole.path().join("db")).unwrap();
    for length in (0..=bytes.len()).step_by(23).chain(ends.iter().map(|e| usize::try_from(*e).unwrap())) {
        let cut = copy(whole.path());
        fs::write(cut.path().join("export.journal"), &bytes[..length]).unwrap();
        let (store, recovery) = Store::open(cut.path()).unwrap();
        let sound = ends.iter().filter(|end| **end <= length as u64).count() - 1;
        assert_eq!(store.function("f").unwrap().unwrap().config.description, sound.to_string());
        assert_eq!(recovery.torn_bytes, length as u64 - ends[sound]);
        assert!(!recovery.lost_changes);
        // What is written after the tear is found again.
        store.update_config("f", None, |c| c.description = "after".into()).unwrap();
        let again = copy(cut.path());
        fs::remove_dir_all(again.path().join("db")).unwrap();
        let (store, _) = Store::open(again.path()).unwrap();
        assert_eq!(store.function("f").unwrap().unwrap().config.description, "after");
    }
}

#[test]
fn when_changes_are_lost_no_file_is() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path()).unwrap();
    for name in ["a", "b", "c"] {
        store.create_function(name, config(""), code(&store, name, 10).unwrap()).unwrap();
    }
    let cut = copy(dir.path());
    let path = cut.path().join("export.journal");
    let mut bytes = fs::read(&path).unwrap();
    let second = bytes.iter().position(|b| *b == b'\n').unwrap() + 30;
    bytes[second] ^= 1;
    fs::write(&path, bytes).unwrap();
    fs::remove_dir_all(cut.path().join("db")).unwrap();
    let (store, recovery) = Store::open(cut.path()).unwrap();
    assert!(recovery.lost_changes);
    assert_eq!(store.functions().unwrap().len(), 1);
    assert_eq!((recovery.kept.len(), recovery.removed.len()), (2, 0));
    assert_eq!(fs::read_dir(cut.path().join("lost")).unwrap().count(), 2);
    drop(store);
    let (_, recovery) = Store::open(cut.path()).unwrap();
    assert_eq!(recovery, mote_store::Recovery::default(), "said once");
}

#[test]
fn without_any_records_nothing_is_deleted() {
    let (whole, _) = history();
    let images = fs::read_dir(whole.path().join("images")).unwrap().count();
    for export in [None, Some("{"), Some("")] {
        let cut = copy(whole.path());
        fs::remove_dir_all(cut.path().join("db")).unwrap();
        match export {
            None => fs::remove_file(cut.path().join("export.json")).unwrap(),
            Some(text) => fs::write(cut.path().join("export.json"), text).unwrap(),
        }
        assert!(matches!(Store::open(cut.path()), Err(OpenError::Lost { .. })));
        assert_eq!(fs::read_dir(cut.path().join("images")).unwrap().count(), images);
    }
}

#[test]
fn a_newer_schema_is_refused() {
    let (whole, _) = history();
    let path = whole.path().join("export.json");
    let text = fs::read_to_string(&path).unwrap().replacen("\"schema\":1", "\"schema\":2", 1);
    fs::write(&path, text).unwrap();
    assert!(matches!(Store::open(whole.path()), Err(OpenError::Schema { found: 2, supported: 1, .. })));
}
