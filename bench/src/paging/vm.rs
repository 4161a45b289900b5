//! A monitor process with a micro-guest: its serial line and its control socket.

use std::ffi::OsStr;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mote_micro::touch::Checksum;
use mote_monitor::control::{Client, Event, Request};
use rustix::io::{FdFlags, fcntl_setfd};

use super::pattern::Call;
use crate::Outcome;

/// Bound on every answer: the guest may be filling memory, or the monitor writing it to a slow disk.
const PATIENCE: Duration = Duration::from_secs(180);

/// The guest's serial line is the monitor's standard input and output.
const TERMINAL: [&str; 2] = ["--serial", "-"];

/// A running monitor. Killed when dropped.
#[derive(Debug)]
pub struct Vm {
    child: Child,
    control: Client,
    serial: UnixStream,
    output: Vec<u8>,
}

impl Vm {
    /// Starts a monitor; `typed` waits on the guest's serial line when it starts.
    pub fn start<S: AsRef<OsStr>>(monitor: &Path, arguments: &[S], typed: &[u8]) -> Outcome<Self> {
        let mut arguments: Vec<&OsStr> = arguments.iter().map(AsRef::as_ref).collect();
        arguments.extend(TERMINAL.map(OsStr::new));
        Self::spawn(monitor, &arguments, typed)
    }

    /// Starts a monitor that waits to be told what to be.
    pub fn blank(monitor: &Path, typed: &[u8]) -> Outcome<Self> {
        let mut blank = Self::spawn(monitor, &["blank".as_ref()], typed)?;
        match blank.control.event()? {
            Event::Blank { .. } => Ok(blank),
            other => Err(format!("The monitor says {other:?}, not that it is a blank").into()),
        }
    }

    /// Has a blank become what would have been started with these arguments.
    pub fn become_one(&mut self, arguments: &[String]) -> Outcome<()> {
        let all = arguments.iter().cloned().chain(TERMINAL.map(str::to_owned)).collect();
        Ok(self.control.start(all, None)?)
    }

    fn spawn(monitor: &Path, arguments: &[&OsStr], typed: &[u8]) -> Outcome<Self> {
        let (mut serial, line) = UnixStream::pair()?;
        serial.write_all(typed)?;
        let (control, inherited) = UnixStream::pair()?;
        // The child's end goes to the child under its number. Nothing else is started meanwhile.
        fcntl_setfd(&inherited, FdFlags::empty())?;
        let child = Command::new(monitor)
            .args(arguments)
            .args(["--control", &format!("fd:{}", inherited.as_raw_fd())])
            .stdin(Stdio::from(OwnedFd::from(line.try_clone()?)))
            .stdout(Stdio::from(OwnedFd::from(line)))
            .spawn()?;
        Ok(Self { child, control: Client::from_stream(control, PATIENCE)?, serial, output: Vec::new() })
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the guest runs.
    pub fn running(&mut self) -> Outcome<()> {
        match self.control.event()? {
            Event::Running { .. } => Ok(()),
            Event::Blank { .. } => Err("The monitor is a blank".into()),
            Event::Exited { reason } => Err(format!("The monitor ended: {reason}").into()),
        }
    }

    /// Waits for a line of output.
    pub fn line(&mut self) -> Outcome<String> {
        self.line_within(PATIENCE)?.ok_or_else(|| format!("Nothing within {} s", PATIENCE.as_secs()).into())
    }

    /// Waits for a line of output until `patience` is over.
    pub fn line_within(&mut self, patience: Duration) -> Outcome<Option<String>> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(end) = self.output.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.output.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.serial.set_read_timeout(Some(left))?;
            let mut chunk = [0; 256];
            match self.serial.read(&mut chunk) {
                Ok(0) => return Err("The monitor closed the serial line".into()),
                Ok(read) => self.output.extend_from_slice(chunk.get(..read).unwrap_or_default()),
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Tells the guest to visit a list.
    pub fn tell(&mut self, call: &Call) -> io::Result<()> {
        self.serial.write_all(&[call.list.digit()])
    }

    /// Stops the guest and writes a snapshot.
    pub fn save(&mut self, dir: &Path) -> Outcome<()> {
        for request in [Request::Pause, Request::Snapshot { dir: dir.to_owned(), sync: false }] {
            let reply = self.control.request(&request)?;
            if !reply.ok {
                return Err(reply.error.unwrap_or_default().into());
            }
        }
        Ok(())
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Whether a guest answered right.
pub fn check(found: &str, expected: Checksum) -> Outcome<()> {
    if found == expected.to_string() {
        Ok(())
    } else {
        Err(format!("The guest's answer is {found}, not {expected}: its memory is not what it should be")
            .into())
    }
}
