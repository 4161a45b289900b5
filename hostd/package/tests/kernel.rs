//! The kernel reads the images as they were meant: mounted for real, in a mount namespace of the test's own.
// Helpers of tests are tests, which clippy cannot know.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use mote_package::{Limits, build};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// Mounts `image` and lets `look` at it; prints one line instead where that is not permitted.
fn mounted(image: &Path, look: impl FnOnce(&Path) + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: this thread is new and shares no file system state it relies on.
            let unshared = unsafe { unshare_unsafe(UnshareFlags::NEWNS) };
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            if unshared.and_then(|()| mount_change("/", private)).is_err()
                || !Path::new("/dev/loop-control").exists()
            {
                println!("skipped: needs the right to mount, and loop devices");
                return;
            }
            let at = tempfile::tempdir().unwrap();
            let mut mount = Command::new("mount");
            mount.args(["-t", "squashfs", "-o", "loop,ro"]).arg(image).arg(at.path());
            let output = mount.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            look(at.path());
            unmount(at.path(), UnmountFlags::DETACH).unwrap();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn the_kernel_reads_what_was_packed() {
    let mut files = BTreeMap::new();
    for i in 0..1500_usize {
        let name = format!("many/{i:05}-{}", "long".repeat(i % 40));
        files.insert(name, format!("{i}").repeat(i % 50).into_bytes());
    }
    for i in 0..300_usize {
        files.insert(format!("deep/{}x{i}", "d/".repeat(i % 30)), vec![b'z'; i * 7]);
    }
    let noise = |n: usize| {
        (0..n).scan(1_u32, |s, _| {
            *s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            Some(s.to_be_bytes()[0])
        })
    };
    for size in [0, 1, 4095, 4096, 65_535, 65_536, 65_537, 131_072, 1_000_003] {
        files.insert(format!("noise-{size}"), noise(size).collect());
        files.insert(format!("zeros-{size}"), vec![0; size]);
        files.insert(
            format!("text-{size}"),
            b"some text that repeats ".iter().copied().cycle().take(size).collect(),
        );
    }
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default();
    for (name, bytes) in &files {
        let time = zip::DateTime::from_date_and_time(2024, 5, 6, 7, 8, 10).unwrap();
        let mode = if name.starts_with("text") { 0o775 } else { 0o600 };
        writer.start_file(name.as_str(), options.last_modified_time(time).unix_permissions(mode)).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.add_symlink("deep/link", "../noise-4096", options).unwrap();
    let zip = writer.finish().unwrap().into_inner();

    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let info = build(&zip, &image, &Limits::default()).unwrap();
    assert_eq!(info.unpacked_size, files.values().map(Vec::len).sum::<usize>() as u64);
    mounted(&image, |root| {
        for (name, bytes) in &files {
            assert_eq!(&fs::read(root.join(name)).unwrap(), bytes, "{name}");
            let meta = fs::metadata(root.join(name)).unwrap();
            let mode = if name.starts_with("text") { 0o755 } else { 0o644 };
            assert_eq!((meta.permissions().mode() & 0o7777, meta.uid(), meta.gid()), (mode, 0, 0));
            assert_eq!(meta.mtime(), 1_714_979_290, "as unzip in UTC");
        }
        assert_eq!(fs::read_dir(root.join("many")).unwrap().count(), 1500);
        assert_eq!(fs::read_link(root.join("deep/link")).unwrap(), PathBuf::from("../noise-4096"));
        assert_eq!(fs::read(root.join("deep/link")).unwrap(), files["noise-4096"]);
        assert_eq!(fs::metadata(root).unwrap().permissions().mode() & 0o7777, 0o755);
    });
}

/// As many entries as allowed: neither time nor memory may run away.
#[test]
fn the_most_entries_allowed() {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for i in 0..65_000 {
        writer.start_file(format!("d{}/f{i}", i % 7), SimpleFileOptions::default()).unwrap();
    }
    let zip = writer.finish().unwrap().into_inner();
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let start = std::time::Instant::now();
    assert_eq!(build(&zip, &image, &Limits::default()).unwrap().entries, 65_007);
    assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
    mounted(&image, |root| {
        for i in 0..7 {
            assert!(fs::read_dir(root.join(format!("d{i}"))).unwrap().count() > 9000);
        }
    });
}
