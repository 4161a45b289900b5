//! A monitor to run micro-guests in.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mote_monitor::control::{Client, Event};

/// A monitor process and its files. Killed when dropped.
pub struct Monitor {
    pub child: Child,
    pub control: PathBuf,
    pub serial: PathBuf,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Monitor {
    /// Starts the program with `args`, control socket and console log in `dir` under `name`.
    pub fn start(dir: &Path, name: &str, args: &[&str]) -> Self {
        let (control, serial) = (dir.join(format!("{name}.sock")), dir.join(format!("{name}.log")));
        let child = Command::new(env!("CARGO_BIN_EXE_mote-monitor"))
            .args(args)
            .arg("--control")
            .arg(&control)
            .arg("--serial")
            .arg(&serial)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, control, serial }
    }

    /// Starts the program with `args` and its control socket in `dir` under `name`; the stream is the guest's
    /// serial line.
    pub fn typed(dir: &Path, name: &str, args: &[&str]) -> (Self, UnixStream) {
        let control = dir.join(format!("{name}.sock"));
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_mote-monitor"))
            .args(args)
            .arg("--control")
            .arg(&control)
            .args(["--serial", "-"])
            .stdin(Stdio::from(OwnedFd::from(theirs.try_clone().unwrap())))
            .stdout(Stdio::from(OwnedFd::from(theirs)))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        (Self { child, control, serial: PathBuf::new() }, ours)
    }

    /// Connects to the control socket as soon as it is there.
    pub fn client(&mut self) -> Client {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            match Client::connect(&self.control, Duration::from_secs(30)) {
                Ok(client) => return client,
                Err(error) => {
                    if let Some(status) = self.child.try_wait().unwrap() {
                        panic!("monitor ended: {status}: {}", self.stderr());
                    }
                    assert!(Instant::now() < end, "no control socket: {error}");
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }

    /// Waits for the end; exit code and standard error.
    pub fn end(&mut self) -> (Option<i32>, String) {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return (status.code(), self.stderr());
            }
            assert!(Instant::now() < end, "the monitor does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn stderr(&mut self) -> String {
        let mut text = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            std::io::Read::read_to_string(&mut stderr, &mut text).unwrap();
        }
        text
    }

    /// Console output so far.
    pub fn console(&self) -> String {
        std::fs::read_to_string(&self.serial).unwrap_or_default()
    }

    /// Waits until the console has at least `count` lines, and returns it.
    pub fn lines(&mut self, count: usize) -> String {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let text = self.console();
            if text.lines().count() >= count {
                return text;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("monitor ended: {status}: {}; console: {text}", self.stderr());
            }
            assert!(Instant::now() < end, "only {} lines: {text}", text.lines().count());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// CPU time of the set-up in microseconds, as the first event says.
pub fn running(client: &mut Client) -> (u64, u64) {
    match client.event().unwrap() {
        Event::Running { setup_cpu_us, setup_kvm_us, .. } => (setup_cpu_us, setup_kvm_us),
        other => panic!("{other:?} instead of running"),
    }
}
