//! The monitor process of one microVM: this very program, started again as `hostd monitor …`.

use std::ffi::OsString;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use super::cgroup::Group;
use super::run_dir::tail;
use mote_monitor::control::{Event, Reply, Request, send_with};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};

/// Longest line the monitor may send.
const LINE_LIMIT: u64 = 64 * 1024;

/// Of all processes, a microVM's is the first the OOM killer should choose.
const BUSY_SCORE: u16 = 500;

/// Of these, one without a call: nobody misses it.
const IDLE_SCORE: u16 = 900;

/// Bound on any control request but a snapshot.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Descriptor a monitor finds the queue of its network device at. It prints nothing while it runs a microVM, and only
/// the three standard descriptors are passed on without code in the new process. A blank puts what it is passed there.
pub const QUEUE_FD: i32 = 1;

/// Exit code with which the monitor refuses a snapshot that does not fit this machine or is damaged.
pub const EXIT_INCOMPATIBLE: i32 = 3;

/// Why the monitor could not do its part.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// It could not be started.
    #[error("Cannot start a monitor process")]
    Spawn(#[source] std::io::Error),
    /// It used more memory than it may.
    #[error("The monitor was killed at its memory limit of {limit_mb} MiB")]
    OutOfMemory {
        /// For guest and monitor.
        limit_mb: u64,
    },
    /// It ended; the text is what it said.
    #[error("The monitor ended ({status}): {said}")]
    Ended {
        /// Exit status or signal.
        status: String,
        /// Exit code, if it exited.
        code: Option<i32>,
        /// Its last words.
        said: String,
    },
    /// It refused a request.
    #[error("The monitor refused to {operation}: {reason}")]
    Refused {
        /// What was asked.
        operation: &'static str,
        /// What it said.
        reason: String,
    },
    /// No answer in time.
    #[error("The monitor did not {operation} within {seconds} s")]
    Timeout {
        /// What was asked.
        operation: &'static str,
        /// The bound.
        seconds: u64,
    },
}

/// A running monitor. Killed when dropped.
#[derive(Debug)]
pub struct Monitor {
    child: Child,
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    /// What was read of a line that is not whole yet.
    partial: Vec<u8>,
    /// Answers still to come to requests nobody waits for any more.
    owed: u32,
    said: PathBuf,
    // Behind the process in it.
    group: Option<Group>,
}

/// A monitor that has not been told what to be. Killed when dropped.
#[derive(Debug)]
pub struct Waiting(Monitor);

impl Monitor {
    /// Starts a monitor with `arguments`, in `group` if there is one; its control socket is its standard input, the
    /// queue of its network device, if there is one, its standard output ([`QUEUE_FD`]); what it complains about goes
    /// to the file `said`.
    ///
    /// # Errors
    /// When the process or the socket pair cannot be made.
    pub fn spawn(
        arguments: &[OsString],
        queue: Option<OwnedFd>,
        said: PathBuf,
        group: Option<Group>,
    ) -> Result<Self, MonitorError> {
        let (ours, theirs) = StdUnixStream::pair().map_err(MonitorError::Spawn)?;
        ours.set_nonblocking(true).map_err(MonitorError::Spawn)?;
        let control = UnixStream::from_std(ours).map_err(MonitorError::Spawn)?;
        let complaints = File::create(&said).map_err(MonitorError::Spawn)?;
        let mut command = Command::new(super::PROGRAM);
        command.arg("monitor").args(arguments).args(["--control", "fd:0"]);
        if let Some(group) = &group {
            // It goes there itself, before there is a guest.
            command.arg("--cgroup").arg(group.path());
        }
        let child = command
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(queue.map_or_else(Stdio::null, Stdio::from))
            .stderr(Stdio::from(complaints))
            .kill_on_drop(true)
            .spawn()
            .map_err(MonitorError::Spawn)?;
        // hostd is protected from the OOM killer and its children inherit that: microVMs must go first.
        if let Some(pid) = child.id() {
            expose(pid, BUSY_SCORE);
        }
        let (reader, writer) = control.into_split();
        let reader = BufReader::new(reader);
        Ok(Self { child, reader, writer, partial: Vec::new(), owed: 0, said, group })
    }

    /// Starts a monitor that waits to be told what to be, and waits until it does. The caller bounds the time.
    ///
    /// # Errors
    /// When the process cannot be made, or ended instead.
    pub async fn blank(vcpus: u8, said: PathBuf, group: Option<Group>) -> Result<Waiting, MonitorError> {
        let arguments = ["blank".into(), "--vcpus".into(), vcpus.to_string().into()];
        let mut monitor = Self::spawn(&arguments, None, said, group)?;
        match monitor.event().await? {
            Event::Blank { .. } => Ok(Waiting(monitor)),
            Event::Running { .. } => Err(monitor.ended(None).await),
            Event::Exited { reason } => Err(monitor.ended(Some(reason)).await),
        }
    }

    /// Waits until the guest runs. The caller bounds the time.
    ///
    /// # Errors
    /// When the monitor ended instead.
    pub async fn running(&mut self) -> Result<(), MonitorError> {
        match self.event().await? {
            Event::Running { .. } => Ok(()),
            Event::Blank { .. } => Err(self.ended(None).await),
            Event::Exited { reason } => Err(self.ended(Some(reason)).await),
        }
    }

    /// Waits for the monitor's end and says why it came.
    pub async fn exited(&mut self) -> MonitorError {
        loop {
            match self.event().await {
                Ok(Event::Running { .. } | Event::Blank { .. }) => {}
                Ok(Event::Exited { reason }) => return self.ended(Some(reason)).await,
                Err(error) => return error,
            }
        }
    }

    async fn line(&mut self) -> Option<String> {
        let left = LINE_LIMIT.saturating_sub(self.partial.len() as u64);
        // What was read stays in `partial` when the caller gives up.
        let read = (&mut self.reader).take(left).read_until(b'\n', &mut self.partial).await;
        let line = String::from_utf8(std::mem::take(&mut self.partial)).ok()?;
        (matches!(read, Ok(1..)) && line.ends_with('\n')).then_some(line)
    }

    async fn event(&mut self) -> Result<Event, MonitorError> {
        loop {
            let Some(line) = self.line().await else { return Err(self.ended(None).await) };
            match serde_json::from_str(&line) {
                Ok(event) => return Ok(event),
                Err(_) if self.owed > 0 => self.owed -= 1,
                Err(_) => return Err(self.ended(None).await),
            }
        }
    }

    async fn ended(&mut self, reason: Option<String>) -> MonitorError {
        let status = tokio::time::timeout(REQUEST_TIMEOUT, self.child.wait()).await;
        let mut said = tail(&self.said);
        if let Some(reason) = reason {
            said = if said.is_empty() { reason } else { format!("{reason}: {said}") };
        }
        let (status, code) = match status {
            Ok(Ok(status)) => (status.to_string(), status.code()),
            _ => ("still there".to_owned(), None),
        };
        if let Some(limit_mb) = self.group.as_ref().and_then(Group::killed) {
            return MonitorError::OutOfMemory { limit_mb };
        }
        MonitorError::Ended { status, code, said }
    }

    /// Asks and waits for the answer. A caller who gives up leaves an answer behind, which the next one passes over:
    /// they come in the order of the requests.
    async fn request(
        &mut self,
        operation: &'static str,
        request: &Request,
        bound: Duration,
    ) -> Result<Reply, MonitorError> {
        let exchange = async {
            let mut line = serde_json::to_vec(request).unwrap_or_default();
            line.push(b'\n');
            if self.writer.write_all(&line).await.is_err() {
                return Err(self.ended(None).await);
            }
            self.owed += 1;
            loop {
                let Some(line) = self.line().await else { return Err(self.ended(None).await) };
                if let Ok(Event::Exited { reason }) = serde_json::from_str(&line) {
                    return Err(self.ended(Some(reason)).await);
                }
                let Ok(reply) = serde_json::from_str::<Reply>(&line) else { continue };
                self.owed = self.owed.saturating_sub(1);
                if self.owed > 0 {
                    continue;
                }
                if reply.ok {
                    return Ok(reply);
                }
                return Err(MonitorError::Refused { operation, reason: reply.error.unwrap_or_default() });
            }
        };
        tokio::time::timeout(bound, exchange)
            .await
            .unwrap_or(Err(MonitorError::Timeout { operation, seconds: bound.as_secs() }))
    }

    /// Stops the vCPUs.
    ///
    /// # Errors
    /// As the monitor says.
    pub async fn pause(&mut self) -> Result<(), MonitorError> {
        self.request("pause", &Request::Pause, REQUEST_TIMEOUT).await.map(drop)
    }

    /// Lets the vCPUs go on.
    ///
    /// # Errors
    /// As the monitor says.
    pub async fn resume(&mut self) -> Result<(), MonitorError> {
        self.request("resume", &Request::Resume, REQUEST_TIMEOUT).await.map(drop)
    }

    /// Writes the snapshot of the paused microVM into `dir`; returns the checksum of its memory.
    ///
    /// # Errors
    /// As the monitor says.
    pub async fn snapshot(&mut self, dir: &Path, bound: Duration) -> Result<String, MonitorError> {
        let request = Request::Snapshot { dir: dir.to_owned(), sync: false };
        if let Some(group) = &self.group {
            group.lift();
        }
        let reply = self.request("write a snapshot", &request, bound).await;
        if let Some(group) = &mut self.group {
            group.lower();
        }
        Ok(reply?.memory_checksum.unwrap_or_default())
    }

    /// Writes which pages the guest has touched into `dir`, if it was restored to record that.
    ///
    /// # Errors
    /// As the monitor says.
    pub async fn touched(&mut self, dir: &Path) -> Result<(), MonitorError> {
        let request = Request::Touched { dir: dir.to_owned() };
        self.request("record touched pages", &request, REQUEST_TIMEOUT).await.map(drop)
    }

    /// Has the guest give back what it has free but for `leave_mb` MiB, and says how many bytes the host has back after
    /// at most `within`. Safe to give up: whatever is asked of the monitor next ends it there, too.
    ///
    /// # Errors
    /// As the monitor says. A guest that does not answer is no error, it gives nothing.
    pub async fn reclaim(&mut self, leave_mb: u32, within: Duration) -> Result<u64, MonitorError> {
        let within_ms = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
        let request = Request::Reclaim { leave_mb, within_ms };
        let reply = self.request("give memory back", &request, within + REQUEST_TIMEOUT).await?;
        Ok(reply.reclaimed_bytes.unwrap_or(0))
    }

    /// Lets the guest have all its memory again, which it takes as it needs it.
    ///
    /// # Errors
    /// As the monitor says.
    pub async fn deflate(&mut self) -> Result<(), MonitorError> {
        self.request("give memory to the guest", &Request::Deflate, REQUEST_TIMEOUT).await.map(drop)
    }

    /// Process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Whether it goes before those with a call, should the kernel have to kill something for memory.
    pub fn set_idle(&self, idle: bool) {
        if let Some(pid) = self.pid() {
            expose(pid, if idle { IDLE_SCORE } else { BUSY_SCORE });
        }
    }

    /// Bytes of its memory that nothing on a disk stands for, where its group tells.
    pub fn anonymous(&self) -> Option<u64> {
        self.group.as_ref().and_then(Group::anonymous)
    }

    /// Ends the process and reaps it; its group is removed.
    pub async fn kill(&mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::warn!(%error, "Cannot kill a monitor process");
        }
        if let Some(group) = self.group.take() {
            group.remove().await;
        }
    }
}

fn expose(pid: u32, score: u16) {
    if let Err(error) = std::fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string()) {
        tracing::warn!(pid, %error, "Cannot expose a monitor to the OOM killer");
    }
}

impl Waiting {
    /// Tells it what to be, with the `arguments` it would have been started with, for a guest with `memory_mb`.
    ///
    /// # Errors
    /// When it is gone. What becomes of it is told as it is of a monitor that was started so.
    pub async fn start(
        self,
        arguments: Vec<OsString>,
        queue: Option<OwnedFd>,
        memory_mb: u32,
    ) -> Result<Monitor, MonitorError> {
        let Self(mut monitor) = self;
        let arguments: Result<Vec<String>, _> = arguments.into_iter().map(OsString::into_string).collect();
        let arguments = arguments.map_err(|_| MonitorError::Spawn(ErrorKind::InvalidFilename.into()))?;
        if let Some(group) = &mut monitor.group {
            group.limit(memory_mb);
        }
        let mut line = serde_json::to_vec(&Request::Start { arguments }).unwrap_or_default();
        line.push(b'\n');
        let send = async {
            let queue = queue.as_ref().map(AsFd::as_fd);
            let socket = monitor.writer.as_ref();
            let sent = socket.async_io(Interest::WRITABLE, || send_with(socket, &line, queue)).await?;
            monitor.writer.write_all(line.get(sent..).unwrap_or_default()).await
        };
        match tokio::time::timeout(REQUEST_TIMEOUT, send).await {
            Ok(Ok(())) => Ok(monitor),
            Ok(Err(_)) => Err(monitor.ended(None).await),
            Err(_) => {
                let seconds = REQUEST_TIMEOUT.as_secs();
                Err(MonitorError::Timeout { operation: "take its orders", seconds })
            }
        }
    }

    /// Waits for its end and says why it came. Safe to cancel.
    pub async fn died(&mut self) -> MonitorError {
        // Nothing is taken out, and it says nothing more before its end.
        let _ = self.0.reader.fill_buf().await;
        self.0.exited().await
    }

    /// Whether it still waits, as far as can be seen.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.0.child.try_wait(), Ok(None))
    }

    /// Process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.0.pid()
    }

    /// Ends the process and reaps it.
    pub async fn kill(mut self) {
        self.0.kill().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, Write};

    /// A monitor whose end of the control socket is the test's; its process only waits.
    fn monitor() -> (Monitor, StdUnixStream) {
        let (ours, theirs) = StdUnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let (reader, writer) = UnixStream::from_std(ours).unwrap().into_split();
        let child = Command::new("sleep").arg("60").kill_on_drop(true).spawn().unwrap();
        let (reader, said) = (BufReader::new(reader), PathBuf::from("said"));
        (Monitor { child, reader, writer, partial: Vec::new(), owed: 0, said, group: None }, theirs)
    }

    fn request(theirs: &StdUnixStream) -> Request {
        let mut line = String::new();
        std::io::BufReader::new(theirs).read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    #[tokio::test]
    async fn who_gives_up_leaves_no_answer_to_the_next() {
        let (mut monitor, mut theirs) = monitor();
        let within = Duration::from_millis(500);
        let asked = Request::Reclaim { leave_mb: 16, within_ms: 500 };
        let gives_up = Duration::from_millis(20);
        assert!(tokio::time::timeout(gives_up, monitor.reclaim(16, within)).await.is_err());
        assert_eq!(request(&theirs), asked);
        // Half of an answer is there when the next one gives up.
        theirs.write_all(br#"{"ok":true,"recl"#).unwrap();
        assert!(tokio::time::timeout(gives_up, monitor.deflate()).await.is_err());
        assert_eq!(request(&theirs), Request::Deflate);
        theirs.write_all(b"aimed_bytes\":4096}\n{\"ok\":true}\n").unwrap();
        theirs.write_all(b"{\"ok\":true,\"reclaimed_bytes\":8192}\n").unwrap();
        assert_eq!(monitor.reclaim(16, within).await.unwrap(), 8192);
        assert_eq!(request(&theirs), asked);

        assert!(tokio::time::timeout(gives_up, monitor.reclaim(16, within)).await.is_err());
        theirs.write_all(b"{\"ok\":true}\n{\"event\":\"exited\",\"reason\":\"quit\"}\n").unwrap();
        assert!(matches!(monitor.event().await.unwrap(), Event::Exited { reason } if reason == "quit"));
    }
}
