//! What the tests share: functions whose code and snapshot say whose they are.
// Helpers of tests are tests, which clippy cannot know.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mote_store::{
    BaseRecord, BaseRef, FunctionConfig, NewBase, NewCode, NewSnapshot, SnapshotRecord, Store, StoreError,
};

pub fn config(note: &str) -> FunctionConfig {
    FunctionConfig {
        runtime: "python3.11".into(),
        handler: "app.handler".into(),
        role: "arn:aws:iam::000000000000:role/any".into(),
        description: note.into(),
        memory_mb: 128,
        timeout_s: 3,
        storage_mb: 512,
        environment: BTreeMap::from([("NOTE".into(), note.into())]),
        architectures: vec!["x86_64".into()],
        package_type: "Zip".into(),
        tags: BTreeMap::new(),
        reserved_concurrency: None,
        provisioned_concurrency: None,
        provisioned_unix_ms: 0,
    }
}

/// Code of `size` bytes which can be told from other code.
pub fn code(store: &Store, note: &str, size: usize) -> Result<NewCode, StoreError> {
    let image = store.stage_file(size as u64)?;
    write(image.path(), note, size)?;
    Ok(NewCode { image, sha256_base64: note.into(), zip_size: 7, unpacked_size: 9 })
}

pub fn content(note: &str, size: usize) -> Vec<u8> {
    format!("{note}|").bytes().cycle().take(size).collect()
}

fn write(path: &Path, note: &str, size: usize) -> Result<(), StoreError> {
    fs::write(path, content(note, size)).map_err(|source| match source.kind() {
        std::io::ErrorKind::StorageFull => StoreError::NoSpace { needed: size as u64, free: 0 },
        _ => StoreError::Io { path: path.to_owned(), source },
    })
}

pub fn snapshot(store: &Store, name: &str, size: usize) -> Result<SnapshotRecord, StoreError> {
    layered(store, name, size, None)
}

/// A snapshot over `base`.
pub fn layered(
    store: &Store,
    name: &str,
    size: usize,
    base: Option<BaseRef>,
) -> Result<SnapshotRecord, StoreError> {
    let dir = store.stage_dir(size as u64)?;
    write(&dir.path().join("state"), "state", 100)?;
    write(&dir.path().join("memory"), name, size)?;
    let code_image = store.function(name)?.map(|f| f.code.image).unwrap_or_default();
    let new = NewSnapshot {
        function: name.into(),
        code_image,
        fingerprint: "f".into(),
        memory_checksum: "c".into(),
        base,
        ..NewSnapshot::default()
    };
    store.put_snapshot(new, dir)
}

pub fn base(store: &Store, name: &str, size: usize) -> BaseRecord {
    let dir = store.stage_dir(size as u64).unwrap();
    write(&dir.path().join("memory"), name, size).unwrap();
    let new = NewBase { name: name.into(), fingerprint: "f".into(), memory_checksum: "c".into() };
    store.put_base(new, dir).unwrap()
}

/// Everything under a root that is bytes of functions: relative paths.
pub fn files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["images", "snapshots", "tmp"] {
        for item in fs::read_dir(root.join(folder)).unwrap() {
            found.push(format!("{folder}/{}", item.unwrap().file_name().into_string().unwrap()));
        }
    }
    found.sort();
    found
}

/// Checks that records and files say the same, each function's code being what its record says it is.
pub fn check(root: &Path, store: &Store) {
    let mut named = Vec::new();
    for function in store.functions().unwrap() {
        let size = function.code.image_size;
        let bytes = fs::read(store.image_path(&function.code)).unwrap();
        assert_eq!(bytes, content(&function.code.sha256_base64, usize::try_from(size).unwrap()));
        named.push(format!("images/{}", function.code.image));
    }
    let mut bases = Vec::new();
    for base in store.bases().unwrap() {
        for (name, size) in &base.files {
            assert_eq!(fs::metadata(store.base_path(&base.reference()).join(name)).unwrap().len(), *size);
        }
        named.push(format!("snapshots/{}", base.dir));
        bases.push(base.dir);
    }
    for snapshot in store.snapshots().unwrap() {
        let function = store.function(&snapshot.function).unwrap().expect("a snapshot has a function");
        assert_eq!(function.code.image, snapshot.code_image);
        if snapshot.state == mote_store::SnapshotState::Sound {
            assert!(snapshot.base.as_ref().is_none_or(|base| bases.contains(&base.dir)));
            for (name, size) in &snapshot.files {
                let path = store.snapshot_path(&snapshot).join(name);
                assert_eq!(fs::metadata(path).unwrap().len(), *size);
            }
            named.push(format!("snapshots/{}", snapshot.dir));
        }
    }
    named.sort();
    assert_eq!(files(root), named);
}
