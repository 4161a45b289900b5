//! Bases and what is layered over them: neither is ever there without the other.
// Helpers of tests are tests, which clippy cannot know.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{base, check, code, config, layered, snapshot};
use mote_store::{SnapshotState, Store, StoreError};

/// A store with three functions.
fn open(root: &Path) -> Store {
    let (store, _) = Store::open(root).unwrap();
    for name in ["a", "b", "c"] {
        store.create_function(name, config(""), code(&store, name, 1000).unwrap()).unwrap();
    }
    store
}

fn state(store: &Store, name: &str) -> SnapshotState {
    store.snapshot(name).unwrap().unwrap().state
}

#[test]
fn what_is_layered_over_a_base_goes_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (first, other) = (base(&store, "x", 5000), base(&store, "y", 5000));
    layered(&store, "a", 1000, Some(first.reference())).unwrap();
    layered(&store, "b", 1000, Some(other.reference())).unwrap();
    snapshot(&store, "c", 1000).unwrap();
    check(dir.path(), &store);

    let second = base(&store, "x", 6000);
    assert_eq!(state(&store, "a"), SnapshotState::Rebuild);
    assert_eq!((state(&store, "b"), state(&store, "c")), (SnapshotState::Sound, SnapshotState::Sound));
    assert_eq!(store.base("x").unwrap(), Some(second.clone()));
    check(dir.path(), &store);

    let late = layered(&store, "a", 1000, Some(first.reference()));
    assert!(matches!(late, Err(StoreError::Stale { .. })), "its base was replaced meanwhile");
    store.remove_base(&first.reference()).unwrap();
    assert_eq!(store.base("x").unwrap(), Some(second), "another one has its name by now");
    store.remove_base(&other.reference()).unwrap();
    assert_eq!(state(&store, "b"), SnapshotState::Rebuild);
    assert!(!store.is_verified(&other.dir));
    check(dir.path(), &store);
}

#[test]
fn a_base_that_is_damaged_is_gone_when_the_store_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (damaged, sound) = (base(&store, "x", 5000), base(&store, "y", 5000));
    layered(&store, "a", 1000, Some(damaged.reference())).unwrap();
    layered(&store, "b", 1000, Some(sound.reference())).unwrap();
    let memory = store.base_path(&damaged.reference()).join("memory");
    drop(store);
    fs::File::options().write(true).open(memory).unwrap().set_len(4999).unwrap();

    let (store, recovery) = Store::open(dir.path()).unwrap();
    assert_eq!((recovery.lost_bases, recovery.rebuild), (vec!["x".to_owned()], vec!["a".to_owned()]));
    assert_eq!(store.base("x").unwrap(), None);
    assert_eq!((state(&store, "a"), state(&store, "b")), (SnapshotState::Rebuild, SnapshotState::Sound));
    check(dir.path(), &store);
}

#[test]
fn bases_are_bounded_and_those_in_use_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let used = base(&store, "1", 100);
    layered(&store, "a", 1000, Some(used.reference())).unwrap();
    base(&store, "2", 100);
    assert!(store.admit_base("2", 2).unwrap(), "it would only be replaced");
    assert!(store.admit_base("3", 2).unwrap());
    assert_eq!(store.base("2").unwrap(), None, "nothing was over it");
    let used = base(&store, "3", 100);
    layered(&store, "b", 1000, Some(used.reference())).unwrap();
    assert!(!store.admit_base("4", 2).unwrap());
    assert_eq!(store.bases().unwrap().len(), 2);
}
