//! hostd as init supervises it: asked after its health, its crashes noted, stopped in order. In a root folder of the
//! test's own, with a program in hostd's place that does what it is told.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mote_crash::{Crash, Folder, Kind};
use mote_init::cmdline::Cmdline;
use mote_init::machine::Machine;
use mote_init::service::hostd::Status;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind_recursive, mount_change};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Answers two questions and dies of a signal; then does not even begin; then serves until it is asked to end.
const PROGRAM: &str = r#"#!/bin/sh
life=0
[ -e /run/life ] && read life < /run/life
echo $((life + 1)) > /run/life
answer() {
    read word number <&0 || exit 0
    echo "{\"question\": $number, \"serving\": true, \"ready\": true, \"version\": \"9\"}" >&0
}
case $life in
0) answer; echo "these are my last words" >&2; kill -SEGV $$ ;;
1) echo "I do not like the configuration"; exit 3 ;;
*) trap 'echo bye; exit 0' TERM; while true; do answer; done ;;
esac
"#;

/// Folders of the machine the program needs; nothing is written there.
const HOST: &[&str] = &["bin", "lib", "lib64", "usr", "dev", "proc"];

/// Enters a root folder with an empty `/run`, `/data` and `/sys`, in a mount namespace of this thread's own.
fn enter(root: &Path) -> rustix::io::Result<()> {
    // SAFETY: only this thread gets a mount namespace, root and working directory of its own; no file descriptor
    // table or memory is unshared, so no other thread can see a difference.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount("tmpfs", root, "tmpfs", MountFlags::empty(), c"size=16m")?;
    for name in HOST {
        let (from, to) = (Path::new("/").join(name), root.join(name));
        if from.exists() {
            std::fs::create_dir(&to).unwrap();
            mount_bind_recursive(from, to)?;
        }
    }
    for name in ["run", "data", "tmp", "system/bin"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    rustix::process::chroot(root)?;
    rustix::process::chdir("/")
}

fn records(folder: &str) -> Vec<Crash> {
    let folder = Folder::new(folder);
    let list = folder.list().unwrap();
    list.iter().map(|summary| folder.read(&summary.id).unwrap().unwrap()).collect()
}

#[test]
fn its_health_is_heard_and_its_crashes_are_noted() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let path = root.path().to_owned();
    let thread = std::thread::spawn(move || {
        enter(&path).unwrap();
        std::fs::write("/system/bin/hostd", PROGRAM).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions("/system/bin/hostd", mode).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(lives());
    });
    thread.join().unwrap();
}

async fn lives() {
    let second = Duration::from_secs(1);
    let machine = Arc::new(Machine::new(Cmdline::default(), mpsc::channel(1).0));
    tokio::spawn(machine.reaper.clone().run(signal(SignalKind::child()).unwrap()));
    let mut health = machine.hostd.health();
    let mut status = machine.hostd.status();
    let supervisor = Arc::clone(&machine);
    let supervising = tokio::spawn(async move {
        supervisor.hostd.supervise(supervisor.reaper.clone(), "info".to_owned(), &supervisor.crashes).await;
    });

    let heard = timeout(second * 20, health.wait_for(|heard| heard.good)).await.unwrap().unwrap().clone();
    assert!(heard.ready && heard.version == "9");
    // Without a data disk, in memory.
    timeout(second * 20, status.wait_for(|status| *status == Status::Again)).await.unwrap().unwrap();
    let memory = async {
        while records("/run/mote/crashes").is_empty() {
            tokio::time::sleep(second / 20).await;
        }
    };
    timeout(second * 20, memory).await.unwrap();
    machine.crashes.disk_is_ready();
    let first = &records("/run/mote/crashes")[0];
    assert_eq!((first.kind, first.times), (Kind::Hostd, 1));
    assert!(first.reason.contains("SIGSEGV"), "{}", first.reason);
    assert!(first.text.contains("these are my last words"), "{}", first.text);

    // The second life is over when the third is heard of.
    let at = heard.at;
    timeout(second * 30, health.wait_for(|heard| heard.at > at + second / 10)).await.unwrap().unwrap();
    let second_record = &records("/data/crashes")[0];
    assert_eq!(second_record.reason, "exit code 3");
    assert!(second_record.text.ends_with("I do not like the configuration\n"), "{}", second_record.text);

    assert_eq!(machine.hostd.stop(second * 10).await.unwrap(), "ended");
    timeout(second * 10, supervising).await.unwrap().unwrap();
    let noted = records("/run/mote/crashes").len() + records("/data/crashes").len();
    assert_eq!(noted, 2, "an end that was asked for is no crash");
}
