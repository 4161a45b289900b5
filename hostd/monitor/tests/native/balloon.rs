//! Memory goes back to the host and is there again, natively, with a guest that drives the device.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use mote_micro::balloon::balloon;
use mote_micro::{Program, have_kvm};
use mote_monitor::control::{Client, Reply, Request};

use crate::support::{Monitor, running};
use crate::{boot, text};

/// MiB the guest fills.
const MIB: u32 = 96;
const PAGES: u64 = MIB as u64 * 256;
const LEFT_MIB: u32 = 8;

/// KiB of the monitor's own, guest included.
fn own_kib(monitor: &Monitor) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", monitor.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn line(serial: &mut BufReader<UnixStream>) -> String {
    let mut line = String::new();
    serial.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// Pages the guest has that are as they should be, written anew before or only read.
fn sound(serial: &mut BufReader<UnixStream>, key: u8) -> u64 {
    serial.get_mut().write_all(&[key]).unwrap();
    u64::from_str_radix(&line(serial), 16).unwrap()
}

fn ask(client: &mut Client, request: &Request) -> Reply {
    let reply = client.request(request).unwrap();
    assert!(reply.ok, "{reply:?}");
    reply
}

/// Waits until the guest has all its pages again.
fn deflated(client: &mut Client) {
    let end = Instant::now() + Duration::from_secs(20);
    while ask(client, &Request::Status).balloon_bytes != Some(0) {
        assert!(Instant::now() < end, "pages stay in the balloon");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Has all but a little given back and used again. The guest is in the same state afterwards.
fn there_and_back(monitor: &mut Monitor, serial: &mut BufReader<UnixStream>, what: &str) {
    let mut client = monitor.client();
    running(&mut client);
    assert_eq!(sound(serial, b'?'), PAGES, "{what}");
    // What was restored and only read is not this process's own, and no reason to ask for it.
    assert_eq!(sound(serial, b'!'), PAGES, "{what}");
    let reclaim = Request::Reclaim { leave_mb: LEFT_MIB, within_ms: 20_000 };
    let (before, start) = (own_kib(monitor), Instant::now());
    let reply = ask(&mut client, &reclaim);
    let (after, took) = (own_kib(monitor), start.elapsed());
    let (given, seen) = (reply.reclaimed_bytes.unwrap() >> 20, before.saturating_sub(after) >> 10);
    println!("{what}: {before} KiB before, {after} after; {given} MiB back in {} ms", took.as_millis());
    assert_eq!(reply.balloon_bytes, Some(u64::from(MIB - LEFT_MIB) << 20), "{what}");
    let least = u64::from(MIB - LEFT_MIB) * 9 / 10;
    assert!(given >= least && seen >= least, "{what}: {given} MiB given, {seen} seen");
    assert_eq!(sound(serial, b'?'), u64::from(LEFT_MIB) * 256, "{what}: what the guest kept");
    // All that is free is given already.
    let again = ask(&mut client, &reclaim);
    assert_eq!(again.balloon_bytes, reply.balloon_bytes, "{what}");
    assert!(again.reclaimed_bytes.unwrap() < 1 << 20, "{what}");

    ask(&mut client, &Request::Deflate);
    deflated(&mut client);
    assert_eq!(sound(serial, b'?'), PAGES, "{what}: used again");
    assert!(own_kib(monitor) - after > least * 1024, "{what}");
}

#[test]
fn a_guest_s_memory_goes_back_and_is_used_again_in_every_life() {
    if !have_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (image, full, empty) = (dir.path().join("kernel"), dir.path().join("full"), dir.path().join("empty"));
    let (elf, memory) = balloon(MIB);
    std::fs::write(&image, elf).unwrap();
    let (mut monitor, serial) =
        Monitor::typed(dir.path(), "boot", &["boot", "--kernel", text(&image), "--mem", &memory.to_string()]);
    let mut serial = BufReader::new(serial);
    assert_eq!(line(&mut serial), "ready");
    there_and_back(&mut monitor, &mut serial, "booted");

    let mut client = monitor.client();
    ask(&mut client, &Request::Pause);
    ask(&mut client, &Request::Snapshot { dir: empty.clone(), sync: false });
    ask(&mut client, &Request::Resume);
    // And one with almost all its memory in the balloon.
    ask(&mut client, &Request::Reclaim { leave_mb: LEFT_MIB, within_ms: 20_000 });
    ask(&mut client, &Request::Pause);
    let saved = ask(&mut client, &Request::Snapshot { dir: full.clone(), sync: false });
    assert!(saved.stored_bytes.unwrap() < u64::from(LEFT_MIB + 4) << 20, "{saved:?}");
    drop(monitor);

    for (name, snapshot, extra) in [
        ("lazy", &empty, &["--mode", "lazy"][..]),
        ("recorded", &empty, &["--record"]),
        ("layered", &empty, &["--base", text(&empty)]),
        ("full", &full, &[]),
    ] {
        let mut arguments = vec!["restore", "--snapshot", text(snapshot)];
        arguments.extend(extra);
        let (mut monitor, serial) = Monitor::typed(dir.path(), name, &arguments);
        let mut serial = BufReader::new(serial);
        // Who is restored has all its memory, whatever it had when it was saved.
        deflated(&mut monitor.client());
        there_and_back(&mut monitor, &mut serial, name);
    }
}

/// Restores from files made for it, the ones in whose anonymous memory there are large pages, and the ones a thread fills.
#[test]
fn it_goes_back_whoever_brought_it() {
    if !have_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (image, snapshot) = (dir.path().join("kernel"), dir.path().join("snapshot"));
    let (elf, memory) = balloon(MIB);
    std::fs::write(&image, elf).unwrap();
    let (mut monitor, serial) =
        Monitor::typed(dir.path(), "boot", &["boot", "--kernel", text(&image), "--mem", &memory.to_string()]);
    assert_eq!(line(&mut BufReader::new(serial)), "ready");
    crate::damage::save(&mut monitor, &snapshot, None);
    drop(monitor);
    for mode in ["regions", "faasnap", "reap"] {
        let arguments = ["restore", "--snapshot", text(&snapshot), "--mode", mode];
        let (mut monitor, serial) = Monitor::typed(dir.path(), mode, &arguments);
        there_and_back(&mut monitor, &mut BufReader::new(serial), mode);
    }
}

/// A guest without a driver: it is waited for as long as was said, by nobody else, and gives nothing.
#[test]
fn a_guest_that_does_not_answer_gives_nothing_and_holds_nobody_up() {
    if !have_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut monitor = boot(dir.path(), Program::Loop, &[]);
    let mut client = monitor.client();
    running(&mut client);
    let reclaim = |within_ms| Request::Reclaim { leave_mb: 0, within_ms };
    let start = Instant::now();
    let reply = ask(&mut client, &reclaim(300));
    assert!(start.elapsed() >= Duration::from_millis(300) && start.elapsed() < Duration::from_secs(5));
    // It counts its rounds meanwhile; a few pages come and go.
    assert!(reply.reclaimed_bytes.unwrap() < 1 << 20, "{reply:?}");
    assert_eq!(reply.balloon_bytes, Some(0));

    // Another client is answered at once, and that is when the first one gets his answer, too.
    let start = Instant::now();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| ask(&mut client, &reclaim(20_000)));
        std::thread::sleep(Duration::from_millis(100));
        let mut other = monitor.client();
        running(&mut other);
        assert_eq!(ask(&mut other, &Request::Status).balloon_bytes, Some(0));
        assert_eq!(waiting.join().unwrap().balloon_bytes, Some(0));
        ask(&mut other, &Request::Deflate);
    });
    assert!(start.elapsed() < Duration::from_secs(10));

    // Who goes away while he waits gets no answer, nor does the next one, under the same descriptor.
    let mut gone = UnixStream::connect(&monitor.control).unwrap();
    gone.write_all(b"{\"op\":\"reclaim\",\"leave_mb\":0,\"within_ms\":20000}\n").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    drop(gone);
    std::thread::sleep(Duration::from_millis(50));
    let mut next = monitor.client();
    running(&mut next);
    assert_eq!(ask(&mut next, &Request::Status).reclaimed_bytes, None);
    ask(&mut client, &Request::Pause);
    let refused = client.request(&reclaim(100)).unwrap();
    assert!(!refused.ok && refused.error.unwrap().contains("paused"));
    ask(&mut client, &Request::Deflate);
    ask(&mut client, &Request::Resume);
    monitor.lines(2);
    assert!(!monitor.console().contains('X'));
}
