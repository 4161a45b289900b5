//! What the store promises, against a naive model, opened again at every step.
// Helpers of tests are tests, which clippy cannot know.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::fs;

use common::{check, code, config, content, files, snapshot};
use mote_store::{FunctionConfig, FunctionRecord, OpenError, Recovery, SnapshotState, Store, StoreError};
use proptest::prelude::*;

fn open(root: &std::path::Path) -> Store {
    let (store, recovery) = Store::open(root).unwrap();
    assert_eq!(recovery, Recovery::default());
    store
}

#[test]
fn a_function_lives_and_dies() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!(store.function("f").unwrap(), None);
    let created = store.create_function("f", config("one"), code(&store, "one", 5000).unwrap()).unwrap();
    assert_eq!(store.function("f").unwrap().as_ref(), Some(&created));
    assert!(matches!(
        store.create_function("f", config("x"), code(&store, "x", 10).unwrap()),
        Err(StoreError::Exists { .. })
    ));
    check(dir.path(), &store);

    let changed = store.update_config("f", Some(created.revision_id), |c| c.memory_mb = 256).unwrap();
    assert_ne!(changed.revision_id, created.revision_id);
    assert_eq!((changed.config.memory_mb, &changed.code), (256, &created.code));
    for stale in [
        store.update_config("f", Some(created.revision_id), |c| c.memory_mb = 1).err(),
        store.update_code("f", Some(created.revision_id), code(&store, "x", 10).unwrap()).err(),
    ] {
        assert!(matches!(stale, Some(StoreError::Conflict { .. })));
    }

    let first = snapshot(&store, "f", 10_000).unwrap();
    assert!(store.is_verified(&first.dir));
    let second = snapshot(&store, "f", 20_000).unwrap();
    assert_eq!(store.snapshots().unwrap(), std::slice::from_ref(&second));
    assert_eq!(second.files, BTreeMap::from([("memory".into(), 20_000), ("state".into(), 100)]));
    check(dir.path(), &store);

    let updated =
        store.update_code("f", Some(changed.revision_id), code(&store, "two", 6000).unwrap()).unwrap();
    assert_eq!(store.snapshot("f").unwrap(), None, "a snapshot of older code is of no use");
    check(dir.path(), &store);
    assert_eq!(store.delete_function("f").unwrap(), updated);
    assert!(matches!(store.delete_function("f"), Err(StoreError::NotFound { .. })));
    assert_eq!(files(dir.path()), [""; 0]);
}

#[test]
fn a_function_of_before_there_was_concurrency_is_read_and_keeps_its_own_over_new_code() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let created = store.create_function("f", config("one"), code(&store, "one", 10).unwrap()).unwrap();
    let mut old = serde_json::to_value(&created).unwrap();
    for field in ["reserved_concurrency", "provisioned_concurrency", "provisioned_unix_ms"] {
        assert!(old["config"].as_object_mut().unwrap().remove(field).is_some(), "{field}");
    }
    assert_eq!(serde_json::from_value::<FunctionRecord>(old).unwrap(), created);

    let set = |config: &mut FunctionConfig| {
        config.reserved_concurrency = Some(0);
        config.provisioned_concurrency = Some(2);
        config.provisioned_unix_ms = 7;
    };
    let changed = store.update_config("f", Some(created.revision_id), set).unwrap();
    assert_eq!(changed.code, created.code);
    let updated = store.update_code("f", None, code(&store, "two", 10).unwrap()).unwrap();
    assert_eq!(updated.config, changed.config);
    drop(store);
    assert_eq!(open(dir.path()).function("f").unwrap(), Some(updated));
}

#[test]
fn a_snapshot_of_older_code_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let function = store.create_function("f", config(""), code(&store, "a", 10).unwrap()).unwrap();
    let staged = store.stage_dir(0).unwrap();
    fs::write(staged.path().join("memory"), "m").unwrap();
    store.update_code("f", None, code(&store, "b", 10).unwrap()).unwrap();
    let new = mote_store::NewSnapshot {
        function: "f".into(),
        code_image: function.code.image,
        fingerprint: String::new(),
        memory_checksum: String::new(),
        ..mote_store::NewSnapshot::default()
    };
    assert!(matches!(store.put_snapshot(new, staged), Err(StoreError::Stale { .. })));
    check(dir.path(), &store);
}

#[test]
fn a_store_is_opened_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert!(matches!(Store::open(dir.path()), Err(OpenError::Locked { .. })));
    let clone = store.clone();
    drop(store);
    assert!(matches!(Store::open(dir.path()), Err(OpenError::Locked { .. })));
    drop(clone);
    open(dir.path());
}

#[test]
fn what_is_staged_and_not_taken_goes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let staged = store.stage_file(1 << 20).unwrap();
    fs::write(staged.path(), "x").unwrap();
    let folder = store.stage_dir(0).unwrap();
    fs::write(folder.path().join("x"), "x").unwrap();
    assert_eq!(files(dir.path()).len(), 2);
    drop((staged, folder));
    assert_eq!(files(dir.path()), [""; 0]);
    assert!(matches!(store.stage_file(u64::MAX), Err(StoreError::NoSpace { .. })));
}

#[test]
fn opening_makes_files_and_records_agree() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for name in ["whole", "short", "gone", "torn", "broken"] {
        store.create_function(name, config(""), code(&store, name, 1000).unwrap()).unwrap();
        snapshot(&store, name, 1000).unwrap();
    }
    let path = |name: &str| store.snapshot_path(&store.snapshot(name).unwrap().unwrap());
    let (short, gone, torn) = (path("short"), path("gone"), path("torn"));
    let image = store.image_path(&store.function("broken").unwrap().unwrap().code);
    let image_name = image.file_name().unwrap().to_str().unwrap().to_owned();
    drop(store);
    fs::write(short.join("memory"), "short").unwrap();
    fs::remove_dir_all(&gone).unwrap();
    fs::remove_file(torn.join("state")).unwrap();
    fs::write(&image, "bad").unwrap();
    fs::write(dir.path().join("images/orphan"), "x").unwrap();
    fs::create_dir(dir.path().join("snapshots/orphan")).unwrap();
    fs::write(dir.path().join("tmp/orphan"), "x").unwrap();

    let (store, recovery) = Store::open(dir.path()).unwrap();
    assert_eq!(recovery.rebuild, ["gone", "short", "torn"]);
    assert_eq!(recovery.broken_code.len(), 1);
    assert_eq!((&*recovery.broken_code[0].function, &recovery.broken_code[0].image), ("broken", &image_name));
    assert_eq!(recovery.broken_code[0].problem, "It has 3 bytes instead of 1000");
    let removed: Vec<_> = recovery.removed.iter().map(|p| p.to_str().unwrap()).collect();
    for orphan in ["images/orphan", "snapshots/orphan", "tmp/orphan"] {
        assert!(removed.contains(&orphan), "{removed:?}");
    }
    assert_eq!(removed.len(), 5, "and the folders of the two bad snapshots: {removed:?}");
    let states: Vec<_> = store.snapshots().unwrap().iter().map(|s| s.state).collect();
    use SnapshotState::{Rebuild, Sound};
    assert_eq!(states, [Sound, Rebuild, Rebuild, Rebuild, Sound]);
    // Made again, it is sound again.
    snapshot(&store, "gone", 1000).unwrap();
    drop(store);
    let (store, recovery) = Store::open(dir.path()).unwrap();
    assert_eq!((recovery.rebuild.len(), recovery.removed.len()), (0, 0), "marked once");
    assert_eq!(store.snapshot("gone").unwrap().unwrap().state, Sound);
}

#[test]
fn a_bad_snapshot_is_marked_by_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.create_function("f", config(""), code(&store, "f", 10).unwrap()).unwrap();
    let old = snapshot(&store, "f", 10).unwrap();
    let new = snapshot(&store, "f", 10).unwrap();
    store.mark_rebuild("f", &old.dir).unwrap();
    assert_eq!(store.snapshot("f").unwrap().unwrap(), new);
    store.mark_rebuild("f", &new.dir).unwrap();
    assert_eq!(store.snapshot("f").unwrap().unwrap().state, SnapshotState::Rebuild);
    assert!(!store.is_verified(&new.dir));
    check(dir.path(), &store);
    assert!(store.remove_snapshot("f").unwrap());
    assert!(!store.remove_snapshot("f").unwrap());
    drop(store);
    open(dir.path());
}

#[test]
fn verification_is_forgotten_when_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.create_function("f", config(""), code(&store, "f", 10).unwrap()).unwrap();
    let snapshot = snapshot(&store, "f", 10).unwrap();
    drop(store);
    let store = open(dir.path());
    assert!(!store.is_verified(&snapshot.dir));
    store.mark_verified(&snapshot.dir);
    assert!(store.is_verified(&snapshot.dir));
}

#[test]
fn many_may_use_it_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let created = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let (store, created) = (store.clone(), &created);
            scope.spawn(move || {
                for round in 0..15 {
                    let name = format!("f{}", round % 5);
                    let note = format!("{thread}-{round}");
                    match store.create_function(&name, config(&note), code(&store, &note, 3000).unwrap()) {
                        Ok(_) => drop(created.fetch_add(1, std::sync::atomic::Ordering::Relaxed)),
                        Err(error) => assert!(matches!(error, StoreError::Exists { .. }), "{error}"),
                    }
                    let outcomes = [
                        snapshot(&store, &name, 2000).err(),
                        store.update_code(&name, None, code(&store, &note, 100).unwrap()).err(),
                        snapshot(&store, &name, 2000).err(),
                        store.update_config(&name, None, |c| c.memory_mb += 1).err(),
                    ];
                    for error in outcomes.into_iter().flatten() {
                        assert!(
                            matches!(error, StoreError::NotFound { .. } | StoreError::Stale { .. }),
                            "{error}"
                        );
                    }
                    if round % 4 == thread % 4 {
                        let _ = store.delete_function(&name);
                    }
                }
            });
        }
    });
    assert!(created.into_inner() >= 5);
    check(dir.path(), &store);
    drop(store);
    check(dir.path(), &open(dir.path()));
}

/// A step of the property test; functions and contents are few, so that steps meet.
#[derive(Debug, Clone)]
enum Step {
    Create(u8, u8),
    Code(u8, u8),
    Config(u8, u8),
    Delete(u8),
    Snapshot(u8),
    Forget(u8),
    Rebuild(u8),
    Reopen,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    let name = || 0_u8..4;
    prop_oneof![
        4 => (name(), any::<u8>()).prop_map(|(f, c)| Step::Create(f, c)),
        3 => (name(), any::<u8>()).prop_map(|(f, c)| Step::Code(f, c)),
        2 => (name(), any::<u8>()).prop_map(|(f, c)| Step::Config(f, c)),
        2 => name().prop_map(Step::Delete),
        4 => name().prop_map(Step::Snapshot),
        1 => name().prop_map(Step::Forget),
        1 => name().prop_map(Step::Rebuild),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
    ]
}

/// What the model knows of a function: note of its code, note of its configuration, its snapshot's soundness.
type Model = BTreeMap<String, (String, String, Option<bool>)>;

fn run(store: &Store, model: &mut Model, step: &Step) {
    let name = |f: &u8| format!("f{f}");
    let note = |c: &u8| format!("note{c}");
    match step {
        Step::Create(f, c) => {
            let made = store.create_function(&name(f), config(&note(c)), code(store, &note(c), 50).unwrap());
            assert_eq!(made.is_ok(), !model.contains_key(&name(f)));
            model.entry(name(f)).or_insert_with(|| (note(c), note(c), None));
        }
        Step::Code(f, c) => {
            let changed = store.update_code(&name(f), None, code(store, &note(c), 60).unwrap());
            assert_eq!(changed.is_ok(), model.contains_key(&name(f)));
            if let Some(function) = model.get_mut(&name(f)) {
                function.0 = note(c);
                function.2 = None;
            }
        }
        Step::Config(f, c) => {
            let changed = store.update_config(&name(f), None, |config| config.description = note(c));
            assert_eq!(changed.is_ok(), model.contains_key(&name(f)));
            if let Some(function) = model.get_mut(&name(f)) {
                function.1 = note(c);
            }
        }
        Step::Delete(f) => {
            assert_eq!(store.delete_function(&name(f)).is_ok(), model.remove(&name(f)).is_some());
        }
        Step::Snapshot(f) => {
            assert_eq!(snapshot(store, &name(f), 70).is_ok(), model.contains_key(&name(f)));
            if let Some(function) = model.get_mut(&name(f)) {
                function.2 = Some(true);
            }
        }
        Step::Forget(f) => {
            let had = model.get_mut(&name(f)).and_then(|function| function.2.take());
            assert_eq!(store.remove_snapshot(&name(f)).unwrap(), had.is_some());
        }
        Step::Rebuild(f) => {
            if let Some(snapshot) = store.snapshot(&name(f)).unwrap() {
                store.mark_rebuild(&name(f), &snapshot.dir).unwrap();
                model.get_mut(&name(f)).unwrap().2 = Some(false);
            }
        }
        Step::Reopen | Step::Kill => {}
    }
}

fn compare(store: &Store, model: &Model) {
    let found: Model = store
        .functions()
        .unwrap()
        .into_iter()
        .map(|f| {
            let snapshot = store.snapshot(&f.name).unwrap().map(|s| s.state == SnapshotState::Sound);
            (f.name, (f.code.sha256_base64, f.config.description, snapshot))
        })
        .collect();
    assert_eq!(&found, model);
}

/// Copies a store as a power cut at this moment would leave it, without what only closing writes.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    let status = std::process::Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap();
    assert!(status.success());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]

    #[test]
    fn it_does_what_the_model_does(steps in prop::collection::vec(step(), 1..25)) {
        let mut dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        let mut model = Model::new();
        for step in &steps {
            run(&store, &mut model, step);
            compare(&store, &model);
            check(dir.path(), &store);
            if matches!(step, Step::Reopen) {
                drop(store);
                store = open(dir.path());
                compare(&store, &model);
            }
            // As it would be found after a power cut here.
            let cut = tempfile::tempdir().unwrap();
            copy(dir.path(), cut.path());
            let again = open(cut.path());
            compare(&again, &model);
            check(cut.path(), &again);
            if matches!(step, Step::Kill) {
                store = again;
                dir = cut;
            }
        }
    }
}

#[test]
fn many_changes_are_exported_and_survive() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.create_function("f", config(""), code(&store, "f", 10).unwrap()).unwrap();
    let long = "x".repeat(4000);
    for i in 0..150_u32 {
        store.update_config("f", None, |c| c.description = format!("{i}{long}")).unwrap();
    }
    let journal = fs::metadata(dir.path().join("export.journal")).unwrap().len();
    assert!(journal < 300 << 10, "the journal is emptied now and then: {journal}");
    let cut = tempfile::tempdir().unwrap();
    copy(dir.path(), cut.path());
    assert!(open(cut.path()).function("f").unwrap().unwrap().config.description.starts_with("149"));
    drop(store);
    assert_eq!(fs::metadata(dir.path().join("export.journal")).unwrap().len(), 0, "closing exports");
    assert!(open(dir.path()).function("f").unwrap().unwrap().config.description.starts_with("149"));
    assert_eq!(content("f", 3), b"f|f");
}
