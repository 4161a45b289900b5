//! The whole monitor, natively on /dev/kvm, with a guest that runs at CPL 3 wherever there is KVM at all.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper of a test may fail the test")]

mod balloon;
mod blank;
mod damage;
mod net;
mod support;

use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use mote_micro::touch::{Touch, Visit};
use mote_micro::{COUNTER, Program, have_kvm, kernel, kernel_with};
use mote_monitor::control::{Event, Request, RunState};
use mote_monitor::snapshot::{memory_checksum, verify_memory, verify_state};
use support::{Monitor, running};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn boot(dir: &Path, program: Program, extra: &[&str]) -> Monitor {
    let image = dir.join("kernel");
    std::fs::write(&image, kernel(program)).unwrap();
    let mut args = vec!["boot", "--kernel", text(&image), "--mem", "64"];
    args.extend(extra);
    Monitor::start(dir, "boot", &args)
}

fn counter(memory: &Path) -> u64 {
    let mut file = std::fs::File::open(memory).unwrap();
    file.seek(SeekFrom::Start(COUNTER)).unwrap();
    let mut bytes = [0; 8];
    file.read_exact(&mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

#[test]
fn a_reset_ends_the_monitor_in_order() {
    if !have_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut monitor = boot(dir.path(), Program::Reset, &[]);
    assert_eq!(monitor.end(), (Some(0), String::new()));
    assert_eq!(monitor.console(), "up\n");
    assert!(!monitor.control.exists(), "the control socket stays behind");
}

#[test]
fn a_crash_is_reported() {
    if !have_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut monitor = boot(dir.path(), Program::Crash, &[]);
    let (code, stderr) = monitor.end();
    assert_eq!(code, Some(1));
    assert!(stderr.contains("vCPU 0"), "{stderr}");
    assert_eq!(monitor.console(), "b\n");
}

#[test]
fn registers_vectors_and_memory_survive_into_another_process() {
    if !have_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let snapshot = dir.path().join("snapshot");
    // The second vCPU is never started: its waiting is state, too.
    let mut first = boot(dir.path(), Program::Loop, &["--vcpus", "2"]);
    let mut client = first.client();
    running(&mut client);
    first.lines(2);

    let refused = client.request(&Request::Snapshot { dir: snapshot.clone(), sync: false }).unwrap();
    assert!(!refused.ok && refused.error.unwrap().contains("pause"));
    let paused = client.request(&Request::Pause).unwrap();
    assert_eq!(paused.state, Some(RunState::Paused));
    let before = first.console();
    let saved = client.request(&Request::Snapshot { dir: snapshot.clone(), sync: true }).unwrap();
    assert!(saved.ok, "{saved:?}");
    assert_eq!(first.console(), before, "a paused guest goes on");
    let again = client.request(&Request::Snapshot { dir: snapshot.clone(), sync: false }).unwrap();
    assert!(!again.ok, "an existing snapshot is overwritten");

    let memory = snapshot.join("memory");
    assert_eq!(saved.memory_checksum.unwrap(), memory_checksum(&memory).unwrap());
    let info = verify_memory(&snapshot).unwrap();
    assert_eq!((info.memory_bytes, info.vcpus), (64 << 20, 2));
    assert_eq!(info.stored_bytes, saved.stored_bytes.unwrap());
    let rounds = counter(&memory);
    assert!(rounds >= 1);

    // The saved one can go on, and be saved again.
    assert_eq!(client.request(&Request::Resume).unwrap().state, Some(RunState::Running));
    first.lines(before.lines().count() + 2);
    assert!(client.request(&Request::Quit).unwrap().ok);
    assert_eq!(client.event().unwrap(), Event::Exited { reason: "quit".to_owned() });
    assert_eq!(first.end(), (Some(0), String::new()));
    assert!(!first.console().contains('X'), "registers or memory of the first changed");

    for name in ["second", "third"] {
        let mut restored = Monitor::start(dir.path(), name, &["restore", "--snapshot", text(&snapshot)]);
        let mut client = restored.client();
        running(&mut client);
        restored.lines(2);
        assert!(client.request(&Request::Pause).unwrap().ok);
        let deeper = dir.path().join(format!("{name}-snapshot"));
        let saved = client.request(&Request::Snapshot { dir: deeper.clone(), sync: false }).unwrap();
        assert!(saved.ok, "{saved:?}");
        assert!(counter(&deeper.join("memory")) > rounds, "the restored guest started again");
        assert_eq!(verify_memory(&deeper).unwrap().memory_checksum, saved.memory_checksum.unwrap());
        assert!(client.request(&Request::Quit).unwrap().ok);
        assert_eq!(restored.end(), (Some(0), String::new()));
        assert!(!restored.console().contains('X'), "registers or memory of {name} changed");
    }
}

/// Pages a guest filled, wrote and zeroed are the same after a restore, where it goes on with what is typed.
#[test]
fn what_is_typed_reaches_a_restored_guest_whose_pages_are_as_they_were() {
    if !have_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (image, snapshot) = (dir.path().join("kernel"), dir.path().join("snapshot"));
    let mut touch = Touch::new(1024);
    touch.fill(0..700);
    let first = touch.list((0..900).step_by(7).map(Visit::write).chain((0..50).map(Visit::zero))).unwrap();
    let second = touch.list((0..1024).map(Visit::read).chain((5..10).map(Visit::fresh))).unwrap();
    let built = touch.image().unwrap();
    std::fs::write(&image, &built.elf).unwrap();
    let mut model = touch.model();
    let expected = [model.visit(first), model.visit(second), model.visit(second)];
    assert_ne!(expected[1], expected[2]);

    let memory = built.memory_mib.to_string();
    let (mut monitor, serial) =
        Monitor::typed(dir.path(), "first", &["boot", "--kernel", text(&image), "--mem", &memory]);
    let mut serial = BufReader::new(serial);
    let next = |serial: &mut BufReader<_>| {
        let mut line = String::new();
        serial.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    };
    assert_eq!(next(&mut serial), "ready");
    serial.get_mut().write_all(&[first.digit()]).unwrap();
    assert_eq!(next(&mut serial), expected[0].to_string());
    let mut client = monitor.client();
    client.request(&Request::Pause).unwrap();
    assert!(client.request(&Request::Snapshot { dir: snapshot.clone(), sync: false }).unwrap().ok);
    drop(monitor);

    for name in ["second", "third"] {
        let (_monitor, serial) =
            Monitor::typed(dir.path(), name, &["restore", "--snapshot", text(&snapshot)]);
        let mut serial = BufReader::new(serial);
        for checksum in &expected[1..] {
            serial.get_mut().write_all(&[second.digit()]).unwrap();
            assert_eq!(next(&mut serial), checksum.to_string());
        }
    }
}

/// What the monitor does itself before the guest runs takes at most 2 ms of CPU time (KVM's own work apart), however
/// large the kernel: it is mapped, not read.
#[test]
fn the_guest_runs_soon_and_the_kernel_is_not_read() {
    if !have_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("kernel");
    std::fs::write(&image, kernel_with(Program::Loop, 48 << 20)).unwrap();
    // Unoptimised code is no measure; it is only kept from getting out of hand.
    let bound = if cfg!(debug_assertions) { 8000 } else { 2000 };
    let mut best = u64::MAX;
    // The machine may be busy, and then one run costs what another does not: the best counts.
    for round in 0..20 {
        let name = format!("round{round}");
        let mut monitor =
            Monitor::start(dir.path(), &name, &["boot", "--kernel", text(&image), "--mem", "128"]);
        let mut client = monitor.client();
        let (cpu, kvm) = running(&mut client);
        let status = std::fs::read_to_string(format!("/proc/{}/status", monitor.child.id())).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(kib < 16 * 1024, "{kib} KiB are resident");
        best = best.min(cpu - kvm);
        println!("set-up: {cpu} us, of which KVM {kvm} us; resident {kib} KiB");
        if best <= bound {
            return;
        }
    }
    panic!("the set-up takes {best} us of CPU time");
}

#[test]
fn damaged_and_foreign_snapshots_are_refused() {
    if !have_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let snapshot = dir.path().join("snapshot");
    let mut first = boot(dir.path(), Program::Loop, &[]);
    let mut client = first.client();
    first.lines(1);
    client.request(&Request::Pause).unwrap();
    assert!(client.request(&Request::Snapshot { dir: snapshot.clone(), sync: false }).unwrap().ok);
    drop(first);
    let state = std::fs::read(snapshot.join("state")).unwrap();
    let refuse = |name: &str, why: &str| {
        let mut monitor = Monitor::start(dir.path(), name, &["restore", "--snapshot", text(&snapshot)]);
        let (code, stderr) = monitor.end();
        assert_eq!(code, Some(3), "{name}: {stderr}");
        assert!(stderr.contains(why), "{name}: {stderr}");
    };

    let mut flipped = state.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    std::fs::write(snapshot.join("state"), &flipped).unwrap();
    assert!(verify_state(&snapshot).is_err());
    refuse("flipped", "checksum");
    std::fs::write(snapshot.join("state"), &state[..middle]).unwrap();
    refuse("cut", "declares a payload");
    std::fs::write(snapshot.join("state"), &state).unwrap();
    assert!(verify_state(&snapshot).is_ok());

    let file = std::fs::OpenOptions::new().write(true).open(snapshot.join("memory")).unwrap();
    file.set_len(63 << 20).unwrap();
    refuse("short", "bytes, the state records");
    file.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"!", 0x40_0000).unwrap();
    assert!(verify_memory(&snapshot).is_err());
    std::fs::remove_file(snapshot.join("state")).unwrap();
    refuse("gone", "Cannot read");
}

#[test]
fn the_owner_s_end_and_sigterm_end_the_monitor() {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    if !have_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("kernel");
    std::fs::write(&image, kernel(Program::Loop)).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_mote-monitor"))
        .args(["boot", "--kernel", text(&image), "--mem", "64", "--control", "fd:0"])
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .unwrap();
    let mut client = mote_monitor::control::Client::from_stream(ours, Duration::from_secs(30)).unwrap();
    running(&mut client);
    assert_eq!(client.request(&Request::Status).unwrap().state, Some(RunState::Running));
    drop(client);
    assert_eq!(child.wait().unwrap().code(), Some(0));

    let mut monitor = boot(dir.path(), Program::Loop, &[]);
    let mut client = monitor.client();
    running(&mut client);
    let killed = Command::new("kill").arg(monitor.child.id().to_string()).status().unwrap();
    assert!(killed.success());
    assert_eq!(client.event().unwrap(), Event::Exited { reason: "terminated".to_owned() });
    assert_eq!(monitor.end(), (Some(0), String::new()));
}

#[test]
fn kernels_that_are_none_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("kernel");
    for (content, why) in
        [(&b"#!/bin/sh\n"[..], "neither an ELF"), (&b"\x7fELF\x02\x01"[..], "File ends inside")]
    {
        std::fs::write(&image, content).unwrap();
        let mut monitor = Monitor::start(dir.path(), "x", &["boot", "--kernel", text(&image)]);
        let (code, stderr) = monitor.end();
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains(why) || !have_kvm(), "{stderr}");
    }
}
