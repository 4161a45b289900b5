//! Power cuts: a writer on a real ext4 disk, of which only what the disk has been given survives.
//!
//! The file behind the disk is copied while the writer is stopped. What the writer's kernel still held in memory is
//! not in the copy; so a missing fsync loses data here, as it does when the power goes (and as it does not when
//! only a process is killed).
// Helpers of tests are tests, which clippy cannot know.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
mod writer;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::check;
use mote_store::Store;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::process::{Signal, kill_process};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use writer::{Child, Model};

const CUTS: u64 = 24;

/// The writer; only runs as the child of the test below.
#[test]
fn child() {
    writer::child();
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn mount(disk: &Path, at: &Path) {
    // Nothing is written behind the writer's back for as long as the test runs.
    run("mount", &["-t", "ext4", "-o", "loop,commit=600", disk.to_str().unwrap(), at.to_str().unwrap()]);
}

/// Copies the disk as it is at one moment: again, until nothing changed meanwhile.
fn cut(disk: &Path) -> Vec<u8> {
    let mut before = fs::read(disk).unwrap();
    loop {
        let after = fs::read(disk).unwrap();
        if before == after {
            return after;
        }
        before = after;
    }
}

fn test(dir: &Path) {
    let (disk, root) = (dir.join("disk"), dir.join("root"));
    fs::create_dir(&root).unwrap();
    fs::File::create(&disk).unwrap().set_len(24 << 20).unwrap();
    run("mkfs.ext4", &["-q", "-F", disk.to_str().unwrap()]);
    let mut random = StdRng::seed_from_u64(11);
    let mut model = Model::new();
    let (mut acknowledged, mut interrupted) = (0, 0);
    for seed in 0..CUTS {
        mount(&disk, &root);
        let mut child = Child::start(&root, seed);
        child.let_run(&mut random);
        kill_process(child.pid(), Signal::STOP).unwrap();
        let image = cut(&disk);
        let lines = child.kill();
        unmount(&root, UnmountFlags::empty()).unwrap();
        // The power comes back.
        fs::write(&disk, image).unwrap();
        run("e2fsck", &["-p", "-E", "journal_only", disk.to_str().unwrap()]);
        run("e2fsck", &["-f", "-n", disk.to_str().unwrap()]);
        mount(&disk, &root);
        let (acknowledgements, pending) = writer::follow(&lines, &mut model);
        acknowledged += acknowledgements;
        interrupted += u32::from(pending.is_some());
        let (store, recovery) = Store::open(&root).unwrap();
        assert!(!recovery.lost_changes && recovery.rebuild.is_empty(), "{recovery:?}");
        assert!(recovery.broken_code.is_empty(), "{recovery:?}");
        writer::compare(&store, &mut model, pending, seed);
        check(&root, &store);
        drop(store);
        unmount(&root, UnmountFlags::empty()).unwrap();
    }
    assert!(acknowledged > 50, "the writer wrote: {acknowledged}");
    assert!(interrupted > 5, "and was interrupted: {interrupted}");
}

#[test]
fn what_was_acknowledged_survives_power_cuts() {
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
            let dir = tempfile::tempdir().unwrap();
            test(dir.path());
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}
