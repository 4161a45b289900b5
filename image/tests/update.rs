//! `image update`: a machine that takes it has in its slot what a new disk has.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mote_image::disk;
use mote_layout::{Layout, Role};
use mote_update::keys::Keys;
use mote_update::manifest::{Manifest, Policy};
use mote_update::stream::{Item, StreamError, Verifier};
use mote_update::version::Version;
use tempfile::TempDir;

/// A checkout with an image whose parts are small and do not end at whole blocks.
fn checkout() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir_all(root.join("config/kernel")).unwrap();
    fs::create_dir_all(root.join("dist")).unwrap();
    fs::write(root.join("Cargo.toml"), "").unwrap();
    let system: Vec<u8> = (0_u32..500_001).flat_map(u32::to_le_bytes).collect();
    fs::write(root.join("system"), system).unwrap();
    disk::with_content(&root.join("dist/system.img"), disk::SYSTEM, &root.join("system"), "seed").unwrap();
    fs::write(root.join("dist/bzImage"), [1; 5001]).unwrap();
    fs::write(root.join("dist/initramfs.cpio"), [2; 4999]).unwrap();
    let manifest = r#"{"version": "1.2.3", "build": "abc", "cmdline": "console=ttyS0", "inputs": "x"}"#;
    fs::write(root.join("dist/manifest.json"), manifest).unwrap();
    dir
}

fn image(root: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_image")).arg("--root").arg(root).args(words).output().unwrap()
}

fn said(root: &Path, words: &[&str]) -> String {
    let output = image(root, words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A key of this name; gives the file and the public half.
fn key(root: &Path, name: &str) -> (String, String) {
    let path = root.join(name).to_str().unwrap().to_owned();
    let public = said(root, &["update-key", "--out", &path]);
    (path, public)
}

/// What is where in a slot.
type Written = Vec<(u64, Vec<u8>)>;

/// Reads an update as a machine would; gives the manifest and what is in the slot then.
fn installed(file: &Path, public: &str) -> Result<(Manifest, Written), StreamError> {
    let keys = Keys::new(vec![public.parse().unwrap()]).unwrap();
    let policy = Policy { running: Version::new(1, 0, 0), oldest: Version::ZERO };
    let mut verifier = Verifier::new(keys, policy);
    let bytes = fs::read(file).unwrap();
    let (mut rest, mut manifest, mut slot) = (bytes.as_slice(), None, Vec::new());
    while let Some(item) = verifier.feed(&mut rest)? {
        match item {
            Item::Manifest(found) => manifest = Some(found),
            Item::Chunk { offset, bytes } => {
                let places = manifest.unwrap().places(offset, bytes);
                slot.extend(places.map(|(at, bytes)| (at, bytes.to_vec())));
            }
        }
    }
    verifier.finish().map(|manifest| (manifest, slot))
}

#[test]
fn the_slot_is_that_of_a_new_disk() {
    let root = checkout();
    let (key, public) = key(root.path(), "key");
    let disk = said(root.path(), &["disk", "--no-loader", "--append", "x=y"]);
    let file = said(root.path(), &["update", "--key", &key, "--append", "x=y"]);
    assert_eq!(PathBuf::from(&file), root.path().join("dist/mote-x86_64.update"));
    assert!(fs::metadata(&file).unwrap().len() < 4 << 20, "the gap was sent");

    let (manifest, slot) = installed(Path::new(&file), &public).unwrap();
    assert_eq!((manifest.version, manifest.replaces), (Version::new(1, 2, 3), Version::ZERO));
    let layout = Layout::built_in().unwrap();
    let gap = manifest.gap.unwrap();
    assert_eq!(gap.at + gap.size, layout.boot_area().unwrap().start);
    let start = layout.partition(Role::SystemA).unwrap().start;
    let disk = File::open(disk).unwrap();
    let mut total = 0;
    for (at, bytes) in slot {
        let mut there = vec![0; bytes.len()];
        disk.read_exact_at(&mut there, start + at).unwrap();
        assert!(there == bytes, "they differ behind byte {at}");
        total += bytes.len();
    }
    assert_eq!(u64::try_from(total).unwrap(), manifest.size);
    // And nothing is where the gap is, or behind.
    let mut gap_begin = vec![0; 1 << 20];
    disk.read_exact_at(&mut gap_begin, start + gap.at).unwrap();
    assert!(gap_begin.iter().all(|byte| *byte == 0));
}

#[test]
fn twice_is_the_same_and_another_version_is_another_file() {
    let root = checkout();
    let (key, public) = key(root.path(), "key");
    let make = |name: &str, more: &[&str]| {
        let out = root.path().join(name).to_str().unwrap().to_owned();
        let words = [&["update", "--key", key.as_str(), "--out", out.as_str()][..], more].concat();
        PathBuf::from(said(root.path(), &words))
    };
    let first = fs::read(make("a", &[])).unwrap();
    assert!(first == fs::read(make("b", &[])).unwrap());
    let other = make("c", &["--version", "1.3.0", "--replaces", "1.1.0"]);
    assert!(first != fs::read(&other).unwrap());
    let error = installed(&other, &public).unwrap_err();
    assert!(matches!(error, StreamError::Refused(_)), "{error}");
    let left: Vec<_> = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().ends_with(".new")), "{left:?}");
}

#[test]
fn a_key_is_made_once_and_is_its_owners() {
    let root = checkout();
    let (secret, public) = key(root.path(), "key");
    assert_eq!(fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_to_string(format!("{secret}.pub")).unwrap().trim(), public);
    let again = image(root.path(), &["update-key", "--out", &secret]);
    assert!(!again.status.success());
    let (_, other) = key(root.path(), "other");
    assert_ne!(public, other);
    let file = said(root.path(), &["update", "--key", &secret]);
    assert!(matches!(installed(Path::new(&file), &other), Err(StreamError::UnknownKey(_))));
}

#[test]
fn what_is_missing_is_named() {
    let root = checkout();
    let error = |words: &[&str]| {
        let output = image(root.path(), words);
        assert!(!output.status.success(), "{words:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let missing = error(&["update", "--key", "/nowhere/key"]);
    assert!(missing.contains("/nowhere/key"), "{missing}");
    let (key, _) = key(root.path(), "key");
    let wrong = error(&["update", "--key", &key, "--version", "1.2"]);
    assert!(wrong.contains("three numbers"), "{wrong}");
    fs::remove_file(root.path().join("dist/bzImage")).unwrap();
    let missing = error(&["update", "--key", &key]);
    assert!(missing.contains("make image"), "{missing}");
    assert!(!root.path().join("dist/mote-x86_64.update").exists());
}
