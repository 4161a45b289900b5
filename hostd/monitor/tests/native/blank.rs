//! Monitors that are started before anybody knows what for.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mote_micro::{Program, have_kvm, kernel};
use mote_monitor::control::{Client, Event, LINE_LIMIT, Request, RunState, send_with};
use mote_monitor::snapshot::verify_memory;

use crate::support::running;
use crate::{counter, text};

const PATIENCE: Duration = Duration::from_secs(30);
const LINK: &str = "fd:1,v4=10.64.0.2,v6=fd6d::2,mtu=1450";

/// A blank, or what became of it. Killed when dropped.
struct Blank {
    child: Child,
    client: Client,
    stream: UnixStream,
}

impl Drop for Blank {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Blank {
    /// One that waits.
    fn new(vcpus: u8) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_mote-monitor"))
            .args(["blank", "--control", "fd:0", "--vcpus", &vcpus.to_string()])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stream = ours.try_clone().unwrap();
        let mut client = Client::from_stream(ours, PATIENCE).unwrap();
        let ready = client.event().unwrap();
        assert!(matches!(ready, Event::Blank { vcpus: made, .. } if made == vcpus), "{ready:?}");
        Self { child, client, stream }
    }

    fn start(&mut self, line: &str, queue: Option<&UnixDatagram>) {
        self.client.start(words(line), queue.map(AsFd::as_fd)).unwrap();
    }

    /// Waits for the end; the reason it gave over the socket, exit code and standard error.
    fn end(&mut self) -> (Option<String>, Option<i32>, String) {
        let reason = match self.client.event() {
            Ok(Event::Exited { reason }) => Some(reason),
            Ok(other) => panic!("{other:?} instead of the end"),
            Err(_) => None,
        };
        let code = self.child.wait().unwrap().code();
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        (reason, code, stderr)
    }

    fn descriptors(&self) -> Vec<String> {
        descriptors(self.child.id())
    }
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// What a process has open, without what differs from one to another.
fn descriptors(pid: u32) -> Vec<String> {
    let folder = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut open: Vec<String> = folder
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .map(|target| target.to_string_lossy().split([':', '[']).next().unwrap_or_default().to_owned())
        .collect();
    open.sort();
    open
}

fn lines(serial: &Path, count: usize) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        let text = std::fs::read_to_string(serial).unwrap_or_default();
        if text.lines().count() >= count {
            return text;
        }
        assert!(Instant::now() < end, "only {text}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A folder with a kernel, and with the snapshot of a guest with `vcpus` vCPUs that ran in what had been a blank.
fn booted(vcpus: u8) -> (tempfile::TempDir, u64) {
    let dir = tempfile::tempdir().unwrap();
    let (image, snapshot, serial) =
        (dir.path().join("kernel"), dir.path().join("snapshot"), dir.path().join("boot.log"));
    std::fs::write(&image, kernel(Program::Loop)).unwrap();
    let mut blank = Blank::new(vcpus);
    let (image, log) = (text(&image), text(&serial));
    blank.start(
        &format!("boot --kernel {image} --mem 64 --vcpus {vcpus} --net detached --serial {log}"),
        None,
    );
    running(&mut blank.client);
    lines(&serial, 2);
    assert!(blank.client.request(&Request::Pause).unwrap().ok);
    let saved = blank.client.request(&Request::Snapshot { dir: snapshot.clone(), sync: false }).unwrap();
    assert!(saved.ok, "{saved:?}");
    assert_eq!(verify_memory(&snapshot).unwrap().vcpus, vcpus);
    assert_eq!(blank.client.request(&Request::Resume).unwrap().state, Some(RunState::Running));
    assert!(blank.client.request(&Request::Quit).unwrap().ok);
    let (reason, code, stderr) = blank.end();
    assert_eq!((reason.as_deref(), code, stderr.as_str()), (Some("quit"), Some(0), ""));
    assert!(!lines(&serial, 2).contains('X'), "registers or memory changed");
    let rounds = counter(&snapshot.join("memory"));
    (dir, rounds)
}

/// The same arguments as on a command line make the same microVM, with the same descriptors open.
#[test]
fn a_blank_becomes_what_it_is_told() {
    if !have_kvm() {
        return;
    }
    for vcpus in [1, 2] {
        let (dir, rounds) = booted(vcpus);
        let snapshot = dir.path().join("snapshot");
        for mode in ["lazy", "cached"] {
            let serial = dir.path().join(format!("{mode}.log"));
            let (queue, outside) = UnixDatagram::pair().unwrap();
            let line = format!(
                "restore --snapshot {} --mode {mode} --net {LINK} --serial {}",
                text(&snapshot),
                text(&serial)
            );
            let mut blank = Blank::new(vcpus);
            blank.start(&line, Some(&queue));
            running(&mut blank.client);
            lines(&serial, 2);
            let status = blank.client.request(&Request::Status).unwrap();
            assert_eq!((status.vcpus, status.state), (Some(vcpus), Some(RunState::Running)));
            assert_eq!(status.net, Some(Default::default()));
            drop(queue);
            // Only the monitor holds the other end now.
            outside.send(&[0; 60]).unwrap();

            let (inherited, _outside) = UnixDatagram::pair().unwrap();
            let (ours, theirs) = UnixStream::pair().unwrap();
            let mut child = Command::new(env!("CARGO_BIN_EXE_mote-monitor"))
                .args(words(&line))
                .args(["--control", "fd:0"])
                .stdin(Stdio::from(OwnedFd::from(theirs)))
                .stdout(Stdio::from(OwnedFd::from(inherited)))
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut client = Client::from_stream(ours, PATIENCE).unwrap();
            running(&mut client);
            let fresh = descriptors(child.id());
            drop(client);
            child.wait().unwrap();
            assert_eq!(blank.descriptors(), fresh);

            assert!(blank.client.request(&Request::Pause).unwrap().ok);
            let deeper = dir.path().join(format!("{mode}-snapshot"));
            assert!(
                blank.client.request(&Request::Snapshot { dir: deeper.clone(), sync: false }).unwrap().ok
            );
            assert!(counter(&deeper.join("memory")) > rounds, "the guest started again");
            assert!(blank.client.request(&Request::Quit).unwrap().ok);
            assert_eq!(blank.end().1, Some(0));
            assert!(outside.send(&[0; 60]).is_err(), "somebody still holds the queue");
            assert!(!lines(&serial, 2).contains('X'), "registers or memory changed");
        }
    }
}

#[test]
fn it_is_told_once() {
    if !have_kvm() {
        return;
    }
    let (dir, _) = booted(1);
    let serial = dir.path().join("log");
    let line =
        format!("restore --snapshot {} --serial {}", text(&dir.path().join("snapshot")), text(&serial));
    let request = Request::Start { arguments: words(&line) };
    let mut once = serde_json::to_vec(&request).unwrap();
    once.push(b'\n');
    // One after the other, and both at once.
    let mut blank = Blank::new(1);
    blank.start(&line, None);
    running(&mut blank.client);
    let before = blank.descriptors();
    let (queue, _outside) = UnixDatagram::pair().unwrap();
    assert_eq!(send_with(&blank.stream, &once, Some(queue.as_fd())).unwrap(), once.len());
    let refused = blank.client.request(&Request::Status).unwrap();
    assert!(!refused.ok && refused.error.unwrap().contains("knows already"), "the second is served, too");
    assert_eq!(blank.descriptors(), before, "what comes with a refused request stays open");
    lines(&serial, 2);

    let mut blank = Blank::new(1);
    blank.stream.write_all(&once.repeat(2)).unwrap();
    running(&mut blank.client);
    let refused = blank.client.request(&Request::Status).unwrap();
    assert!(!refused.ok && refused.error.unwrap().contains("knows already"), "the second is served, too");
    assert!(blank.child.try_wait().unwrap().is_none());
}

#[test]
fn what_cannot_be_ends_it_with_a_reason() {
    if !have_kvm() {
        return;
    }
    let (dir, _) = booted(2);
    let (snapshot, image) = (dir.path().join("snapshot"), dir.path().join("kernel"));
    let (snapshot, image) = (text(&snapshot), text(&image));
    let start = |line: String| {
        let mut line = serde_json::to_string(&Request::Start { arguments: words(&line) }).unwrap();
        line.push('\n');
        line.into_bytes()
    };
    let mut early = start(format!("restore --snapshot {snapshot}"));
    early.pop();
    // What is said, how many descriptors come with it, the exit code, and the reason.
    let table: [(&str, Vec<u8>, usize, i32, &str); 15] = [
        ("garbage", b"garbage\n".to_vec(), 0, 1, "does not understand"),
        ("bytes", vec![0xff, 0, b'\n'], 0, 1, "does not understand"),
        ("operation", b"{\"op\":\"explode\"}\n".to_vec(), 0, 1, "does not understand"),
        ("early", b"{\"op\":\"pause\"}\n".to_vec(), 0, 1, "nothing else to do with it"),
        ("long", vec![b'x'; LINE_LIMIT], 0, 1, "more than 65536 bytes"),
        ("arguments", start("restore".to_owned()), 0, 1, "--snapshot <SNAPSHOT>"),
        ("command", start("blank --control fd:0".to_owned()), 0, 1, "nothing else"),
        ("control", start(format!("boot --kernel {image} --control c")), 0, 1, "control socket"),
        ("unnamed", start(format!("boot --kernel {image}")), 1, 1, "do not name"),
        ("missing", start(format!("boot --kernel {image} --net {LINK}")), 0, 1, "descriptor 1"),
        ("other", start(format!("boot --kernel {image} --net fd:5{}", &LINK[4..])), 1, 1, "descriptor 5"),
        ("two", start(format!("boot --kernel {image} --net {LINK}")), 2, 1, "more than one"),
        ("boot", start(format!("boot --kernel {image} --vcpus 1")), 0, 1, "needs 1 vCPUs, 2 were prepared"),
        ("none", start(format!("restore --snapshot {snapshot}/none")), 0, 3, "Cannot read"),
        ("kernel", start("boot --kernel /none --vcpus 2".to_owned()), 0, 1, "/none"),
    ];
    for (name, said, passed, status, why) in table {
        let mut blank = Blank::new(2);
        // Byte by byte at first: a request may come in pieces, each with a descriptor.
        for at in 0..passed {
            let (queue, _) = UnixDatagram::pair().unwrap();
            send_with(&blank.stream, &said[at..=at], Some(queue.as_fd())).unwrap();
        }
        // It may end before it has heard all.
        let _ = blank.stream.write_all(&said[passed..]);
        let (reason, code, stderr) = blank.end();
        assert_eq!(code, Some(status), "{name}: {stderr}");
        assert!(stderr.contains(why), "{name}: {stderr}");
        assert!(reason.is_some_and(|reason| reason.contains(why)), "{name} is not told to the owner");
    }
    // A snapshot of another number of vCPUs is not damaged: nobody has to make it anew.
    let mut blank = Blank::new(1);
    blank.start(&format!("restore --snapshot {snapshot}"), None);
    let (reason, code, stderr) = blank.end();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(reason.is_some_and(|reason| reason.contains("needs 2 vCPUs, 1 were prepared")), "{stderr}");
    // The end of the socket, before and within a request.
    for said in [b"".to_vec(), early] {
        let mut blank = Blank::new(1);
        blank.stream.write_all(&said).unwrap();
        blank.stream.shutdown(std::net::Shutdown::Write).unwrap();
        let (reason, code, stderr) = blank.end();
        assert_eq!((reason.as_deref(), code, stderr.as_str()), (Some("owner gone"), Some(0), ""));
    }
    let mut blank = Blank::new(1);
    assert!(blank.client.request(&Request::Quit).unwrap().ok);
    assert_eq!(blank.end().1, Some(0));
    let mut blank = Blank::new(1);
    let killed = Command::new("kill").arg(blank.child.id().to_string()).status().unwrap();
    assert!(killed.success());
    assert_eq!(blank.end().0.as_deref(), Some("terminated"));
}
