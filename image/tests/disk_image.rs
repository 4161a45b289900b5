//! `image disk`: other people's programs find nothing wrong with what it makes, and twice is the same.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mote_image::disk;
use mote_layout::{Layout, Role};
use tempfile::TempDir;

/// A checkout with an image whose parts are small.
fn checkout() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    std::fs::create_dir_all(root.join("config/kernel")).unwrap();
    std::fs::create_dir_all(root.join("dist")).unwrap();
    std::fs::write(root.join("Cargo.toml"), "").unwrap();
    let system: Vec<u8> = (0_u32..500_000).flat_map(u32::to_le_bytes).collect();
    std::fs::write(root.join("system"), system).unwrap();
    disk::with_content(&root.join("dist/system.img"), disk::SYSTEM, &root.join("system"), "seed").unwrap();
    std::fs::write(root.join("dist/bzImage"), [1; 5000]).unwrap();
    std::fs::write(root.join("dist/initramfs.cpio"), [2; 5000]).unwrap();
    let manifest = r#"{"version": "1.2.3", "build": "abc", "cmdline": "console=ttyS0", "inputs": "x"}"#;
    std::fs::write(root.join("dist/manifest.json"), manifest).unwrap();
    dir
}

fn make(root: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_image"));
    command.arg("--root").arg(root).args(["disk", "--no-loader"]).args(more).output().unwrap()
}

fn made(root: &Path, more: &[&str]) -> PathBuf {
    let output = make(root, more);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// A program of the system, or nothing, which is said.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/sbin".into(), "/usr/sbin".into()]);
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    if found.is_none() {
        println!("skipped: no {name} here");
    }
    found
}

/// The bytes of a partition in a file of its own.
fn cut(disk: &Path, role: Role, out: &Path) {
    let layout = Layout::built_in().unwrap();
    let partition = layout.partition(role).unwrap();
    let mut bytes = vec![0; usize::try_from(partition.size).unwrap()];
    File::open(disk).unwrap().read_exact_at(&mut bytes, partition.start).unwrap();
    std::fs::write(out, bytes).unwrap();
}

#[test]
fn partitions_are_what_other_programs_expect() {
    let root = checkout();
    let disk = made(root.path(), &[]);
    assert_eq!(disk, root.path().join("dist/mote-x86_64.img"));
    assert!(std::fs::metadata(&disk).unwrap().blocks() * 512 < 16 << 20, "not sparse");
    if let Some(sfdisk) = program("sfdisk") {
        let said = Command::new(&sfdisk).arg("--verify").arg(&disk).output().unwrap();
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.status.success() && text.contains("No errors detected"), "{text}");
        let said = Command::new(sfdisk).arg("--json").arg(&disk).output().unwrap();
        let table: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
        let found: Vec<_> = table["partitiontable"]["partitions"].as_array().unwrap().clone();
        let layout = Layout::built_in().unwrap();
        assert_eq!(found.len(), layout.partitions().len());
        for (found, partition) in found.iter().zip(layout.partitions()) {
            assert_eq!(found["name"], partition.label);
            assert_eq!(found["start"], partition.first_sector());
            let text = |field: &str| found[field].as_str().unwrap().to_lowercase();
            assert_eq!(text("type"), partition.kind.to_string());
            assert_eq!(text("uuid"), partition.guid.to_string());
        }
    }
    if let Some(sgdisk) = program("sgdisk") {
        let said = Command::new(sgdisk).arg("-v").arg(&disk).output().unwrap();
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        assert!(said.status.success() && text.contains("No problems found"), "{text}");
    }
    if let Some(fsck) = program("fsck.fat") {
        for role in [Role::Esp, Role::Config] {
            let volume = root.path().join(format!("{role}.fat"));
            cut(&disk, role, &volume);
            let said = Command::new(&fsck).arg("-n").arg(&volume).output().unwrap();
            assert!(said.status.success(), "{role}: {}", String::from_utf8_lossy(&said.stdout));
        }
    }
}

#[test]
fn twice_is_the_same_and_data_is_blank() {
    let root = checkout();
    let first = made(root.path(), &[]);
    let again = root.path().join("again.img");
    let again = made(root.path(), &["--out", again.to_str().unwrap()]);
    let (mut first, mut again) = (File::open(first).unwrap(), File::open(again).unwrap());
    let layout = Layout::built_in().unwrap();
    let data = layout.partition(Role::Data).unwrap();
    let (mut at, mut a, mut b) = (0, vec![0; 1 << 20], vec![0; 1 << 20]);
    while at < layout.image_size() {
        first.read_exact(&mut a).unwrap();
        again.read_exact(&mut b).unwrap();
        assert!(a == b, "they differ in the MiB at {at}");
        // What init takes for blank and formats.
        let is_data = (data.start..data.end()).contains(&at);
        assert!(!is_data || a.iter().all(|byte| *byte == 0), "data at {at}");
        at += 1 << 20;
    }
    assert_eq!(first.read(&mut a).unwrap(), 0);
}

#[test]
fn the_label_of_the_data_is_the_one_init_looks_for() {
    let layout = Layout::built_in().unwrap();
    assert_eq!(layout.partition(Role::Data).unwrap().label, disk::DATA);
    assert!(layout.partition(Role::Data).unwrap().size >= disk::SMALLEST_DATA);
}

#[test]
fn what_is_missing_is_named() {
    let root = checkout();
    let said = |output: Output| {
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let error = said(make(root.path(), &["--config", "/nowhere/mote.toml"]));
    assert!(error.contains("/nowhere/mote.toml"), "{error}");
    let error = said(make(root.path(), &["--out", "/proc/x.img"]));
    assert!(error.contains("/proc/"), "{error}");
    std::fs::remove_file(root.path().join("dist/system.img")).unwrap();
    let error = said(make(root.path(), &[]));
    assert!(error.contains("make image"), "{error}");
    assert!(!root.path().join("dist/mote-x86_64.img").exists());
}

#[test]
fn help_says_what_to_do_with_it() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_image"));
    let help = String::from_utf8(command.args(["disk", "--help"]).output().unwrap().stdout).unwrap();
    for word in ["config/layout.toml", "dd if=", "qemu-system-x86_64", "--no-loader", "--config"] {
        assert!(help.contains(word), "{word}: {help}");
    }
}

#[test]
fn a_reader_of_the_image_sees_the_system() -> io::Result<()> {
    let root = checkout();
    let disk = File::open(made(root.path(), &[]))?;
    let layout = Layout::built_in().unwrap();
    let start = layout.partition(Role::SystemA).unwrap().start;
    let mut bytes = vec![0; 2_000_000];
    disk.read_exact_at(&mut bytes, start)?;
    assert!(bytes == std::fs::read(root.path().join("system"))?);
    let mut magic = [0; 6];
    disk.read_exact_at(&mut magic, start + layout.boot_area().unwrap().start)?;
    assert_eq!(&magic, b"070701");
    Ok(())
}
