//! Full and read-only disks: real ones, each a small tmpfs in a mount namespace of the test's own.
// Helpers of tests are tests, which clippy cannot know.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;

use common::{base, check, code, config, files, layered, snapshot};
use mote_store::{Options, Recovery, Store, StoreError};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change, mount_remount};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Runs `test` with a tmpfs of `size` bytes on the folder it is given; prints one line instead where that is not
/// permitted.
fn on_small_disk(size: u64, test: impl FnOnce(&Path) + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let dir = tempfile::tempdir().unwrap();
            // SAFETY: this thread is new and shares no file system state it relies on.
            if unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.is_err() {
                println!("skipped: needs the right to mount");
                return;
            }
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
            let options = std::ffi::CString::new(format!("size={size}")).unwrap();
            mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), options.as_c_str()).unwrap();
            test(dir.path());
            rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Fills the disk to its last byte; the file is outside what the store looks after.
fn fill(root: &Path) {
    let mut file = fs::File::create(root.join("filler")).unwrap();
    for block in [1 << 16, 4096, 1] {
        while file.write_all(&vec![1; block]).is_ok() {}
    }
}

fn no_reserve() -> Options {
    Options { reserve_bytes: 0 }
}

fn is_no_space<T: std::fmt::Debug>(outcome: &Result<T, StoreError>) -> bool {
    matches!(outcome, Err(StoreError::NoSpace { .. }))
}

#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    on_small_disk(16 << 20, |root| {
        let (store, _) = Store::open_with(root, &no_reserve()).unwrap();
        for i in 0..3 {
            let name = format!("f{i}");
            store.create_function(&name, config("x"), code(&store, &name, 100_000).unwrap()).unwrap();
            snapshot(&store, &name, 100_000).unwrap();
        }
        fill(root);
        let before = store.functions().unwrap();
        // Written before the disk was full, so that only the record is left to write.
        let create = || {
            let image = store.stage_file(0)?;
            fs::write(image.path(), "").map_err(|_| StoreError::NoSpace { needed: 0, free: 0 })?;
            let code =
                mote_store::NewCode { image, sha256_base64: String::new(), zip_size: 0, unpacked_size: 0 };
            store.create_function("late", config("x"), code)
        };
        match create() {
            // The journal's space ahead may still take it: then it must be there for good.
            Ok(_) => drop(store.delete_function("late").unwrap()),
            Err(error) => assert!(is_no_space(&Err::<(), _>(error))),
        }
        assert!(is_no_space(&code(&store, "big", 200_000)));
        assert!(is_no_space(&snapshot(&store, "f1", 200_000)));
        assert_eq!(store.functions().unwrap(), before);
        // Deleting works, and makes room.
        store.delete_function("f0").unwrap();
        store.remove_snapshot("f1").unwrap();
        fs::remove_file(root.join("filler")).unwrap();
        check(root, &store);
        store.create_function("new", config("x"), code(&store, "new", 100_000).unwrap()).unwrap();
        drop(store);
        let (store, recovery) = Store::open_with(root, &no_reserve()).unwrap();
        assert!(recovery.broken_code.is_empty() && recovery.rebuild.is_empty() && !recovery.lost_changes);
        let names: Vec<_> = store.functions().unwrap().into_iter().map(|f| f.name).collect();
        assert_eq!(names, ["f1", "f2", "new"]);
        check(root, &store);
    });
}

/// The disk fills up somewhere in the middle of each change, at every possible place in turn.
#[test]
fn a_disk_that_fills_up_leaves_nothing_half() {
    on_small_disk(8 << 20, |root| {
        let mut refused = 0;
        let mut accepted = 0;
        for round in 0..40_u64 {
            let (store, _) = Store::open_with(root, &no_reserve()).unwrap();
            let filler = root.join("filler");
            fill(root);
            // Leave a little room, a page more each time.
            let size = fs::metadata(&filler).unwrap().len();
            let keep = size.saturating_sub(round * 4096);
            fs::File::options().write(true).open(&filler).unwrap().set_len(keep).unwrap();
            let name = format!("f{round}");
            let long = "y".repeat(3000);
            let mut done = |worked: bool| if worked { accepted += 1 } else { refused += 1 };
            let created = code(&store, &name, 20_000)
                .and_then(|code| store.create_function(&name, config(&long), code));
            assert!(created.is_ok() || is_no_space(&created), "{created:?}");
            assert_eq!(store.function(&name).unwrap().is_some(), created.is_ok());
            done(created.is_ok());
            let pictured = created.is_ok().then(|| snapshot(&store, &name, 30_000));
            if let Some(pictured) = &pictured {
                assert!(pictured.is_ok() || is_no_space(pictured), "{pictured:?}");
                done(pictured.is_ok());
            }
            check(root, &store);
            let expected = (store.functions().unwrap(), store.snapshots().unwrap());
            drop(store);
            fs::remove_file(&filler).unwrap();
            let (store, recovery) = Store::open_with(root, &no_reserve()).unwrap();
            assert!(!recovery.lost_changes && recovery.rebuild.is_empty() && recovery.broken_code.is_empty());
            println!(
                "round {round}: {} mended, rebuilt: {:?}",
                recovery.records_mended, recovery.database_rebuilt
            );
            assert_eq!(recovery.removed, [""; 0].map(std::path::PathBuf::from));
            assert_eq!((store.functions().unwrap(), store.snapshots().unwrap()), expected);
            check(root, &store);
            if round % 3 == 0 && created.is_ok() {
                store.delete_function(&name).unwrap();
            }
        }
        assert!(refused > 5 && accepted > 5, "{refused} refused, {accepted} accepted");
    });
}

/// Records are changed on a full disk until nothing more can be written, then the store is opened on it.
#[test]
fn changes_on_a_full_disk_are_refused_or_kept() {
    on_small_disk(16 << 20, |root| {
        let (store, _) = Store::open_with(root, &no_reserve()).unwrap();
        store.create_function("f", config("x"), code(&store, "f", 1000).unwrap()).unwrap();
        store.create_function("g", config("x"), code(&store, "g", 1000).unwrap()).unwrap();
        fill(root);
        let mut kept = None;
        for i in 0..2000 {
            let long = format!("{i}{}", "z".repeat(3000));
            match store.update_config("f", None, |c| c.description = long.clone()) {
                Ok(_) => kept = Some(long),
                Err(error) => {
                    assert!(is_no_space(&Err::<(), _>(error)));
                    break;
                }
            }
            assert!(i < 1999, "the disk was not full");
        }
        let expected = kept.expect("the journal holds space ahead");
        assert_eq!(store.function("f").unwrap().unwrap().config.description, expected);
        drop(store);
        let (store, recovery) = Store::open_with(root, &no_reserve()).unwrap();
        println!("{recovery:?}");
        assert!(!recovery.lost_changes && recovery.removed.is_empty());
        assert_eq!(store.function("f").unwrap().unwrap().config.description, expected);
        store.delete_function("g").unwrap();
        drop(store);
        fs::remove_file(root.join("filler")).unwrap();
        let (store, recovery) = Store::open_with(root, &no_reserve()).unwrap();
        println!("{recovery:?}");
        assert_eq!(store.functions().unwrap().len(), 1);
        assert_eq!(store.function("f").unwrap().unwrap().config.description, expected);
        check(root, &store);
    });
}

#[test]
fn the_reserve_is_kept() {
    on_small_disk(40 << 20, |root| {
        let (store, recovery) = Store::open(root).unwrap();
        assert_eq!(recovery, Recovery::default());
        let space = store.space().unwrap();
        assert_eq!(space.total, 40 << 20);
        // A twentieth of the disk is less than the default.
        assert!(space.free <= 38 << 20);
        assert!(is_no_space(&store.stage_file(space.free + 4096)));
        let half = store.stage_file(space.free / 2).unwrap();
        assert_eq!(store.space().unwrap().free, space.free - space.free / 2);
        assert!(is_no_space(&store.stage_dir(space.free * 3 / 4)));
        drop(half);
        assert_eq!(store.space().unwrap(), space);
    });
}

#[test]
fn the_least_recently_used_snapshots_are_evicted() {
    on_small_disk(64 << 20, |root| {
        let (store, _) = Store::open(root).unwrap();
        for name in ["a", "b", "c", "d"] {
            store.create_function(name, config(""), code(&store, name, 10).unwrap()).unwrap();
            snapshot(&store, name, 1 << 20).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        store.touch_snapshot(&store.snapshot("a").unwrap().unwrap());
        let free = store.space().unwrap().free;
        assert_eq!(store.evict(free, &BTreeSet::new()).unwrap(), [""; 0]);
        assert!(is_no_space(&store.evict(free + (8 << 20), &BTreeSet::new())));
        assert_eq!(store.snapshots().unwrap().len(), 4, "nothing goes if it would not be enough");
        let keep = BTreeSet::from(["b".to_owned()]);
        assert_eq!(store.evict(free + (1 << 19), &keep).unwrap(), ["c"]);
        // Opened again, the order is that of the folders' times, where the first use since opening is noted.
        drop(store);
        let (store, _) = Store::open(root).unwrap();
        store.touch_snapshot(&store.snapshot("a").unwrap().unwrap());
        drop(store);
        let (store, _) = Store::open(root).unwrap();
        let free = store.space().unwrap().free;
        assert_eq!(store.evict(free + (1 << 19), &keep).unwrap(), ["d"]);
        let free = store.space().unwrap().free;
        assert_eq!(store.evict(free + (3 << 19), &BTreeSet::new()).unwrap(), ["b", "a"]);
        assert_eq!(store.functions().unwrap().len(), 4, "code is never evicted");
        assert!(store.snapshots().unwrap().is_empty());
        check(root, &store);
    });
}

#[test]
fn a_read_only_disk_is_read() {
    on_small_disk(16 << 20, |root| {
        let (store, _) = Store::open(root).unwrap();
        let function = store.create_function("f", config("x"), code(&store, "f", 1000).unwrap()).unwrap();
        snapshot(&store, "f", 1000).unwrap();
        drop(store);
        // Another change, only in the journal.
        let (store, _) = Store::open(root).unwrap();
        let function = store.update_config("f", Some(function.revision_id), |c| c.memory_mb = 1).unwrap();
        let copy = tempfile::tempdir().unwrap();
        let status = std::process::Command::new("cp").arg("-a").arg(root.join(".")).arg(copy.path()).status();
        assert!(status.unwrap().success());
        drop(store);
        fs::copy(copy.path().join("export.json"), root.join("export.json")).unwrap();
        fs::copy(copy.path().join("export.journal"), root.join("export.journal")).unwrap();
        fs::write(root.join("images/orphan"), "x").unwrap();
        mount_remount(root, MountFlags::RDONLY, "").unwrap();
        let before = files(root);

        let (store, recovery) = Store::open(root).unwrap();
        assert_eq!(recovery, Recovery { read_only: true, ..Recovery::default() });
        assert_eq!(store.functions().unwrap(), [function]);
        assert!(matches!(store.stage_file(0), Err(StoreError::ReadOnly)));
        assert!(matches!(store.delete_function("f"), Err(StoreError::ReadOnly)));
        assert!(matches!(store.update_config("f", None, |_| ()), Err(StoreError::ReadOnly)));
        assert!(matches!(store.remove_snapshot("f"), Err(StoreError::ReadOnly)));
        assert_eq!(files(root), before);
    });
}

/// ext4 remounts itself read-only on errors: the store is open and finds out.
#[test]
fn a_disk_that_becomes_read_only_is_noticed() {
    on_small_disk(16 << 20, |root| {
        let (store, _) = Store::open(root).unwrap();
        let function = store.create_function("f", config("x"), code(&store, "f", 1000).unwrap()).unwrap();
        // Files open for writing forbid a remount; what a forced one does is done here by a second mount on top.
        rustix::mount::mount_bind(root, root).unwrap();
        mount_remount(root, MountFlags::RDONLY | MountFlags::BIND, "").unwrap();
        assert!(matches!(store.stage_file(0), Err(StoreError::ReadOnly)));
        assert_eq!(store.functions().unwrap(), [function]);
        drop(store);
        rustix::mount::unmount(root, rustix::mount::UnmountFlags::DETACH).unwrap();
    });
}

#[test]
fn a_base_makes_room_once_nothing_is_over_it() {
    on_small_disk(16 << 20, |root| {
        let (store, _) = Store::open_with(root, &no_reserve()).unwrap();
        store.create_function("a", config(""), code(&store, "a", 1000).unwrap()).unwrap();
        let used = base(&store, "x", 4 << 20);
        layered(&store, "a", 1 << 20, Some(used.reference())).unwrap();
        let wanted = store.space().unwrap().free + (4 << 20);
        let keep = BTreeSet::from(["a".to_owned()]);
        assert!(is_no_space(&store.evict(wanted, &keep)));
        assert_eq!(store.bases().unwrap().len(), 1);
        assert_eq!(store.evict(wanted, &BTreeSet::new()).unwrap(), ["a"]);
        assert_eq!(store.bases().unwrap(), []);
        check(root, &store);
    });
}
