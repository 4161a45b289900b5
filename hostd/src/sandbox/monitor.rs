//! The monitor process of one microVM: this very program, started again as `hostd monitor …`.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use super::run_dir::tail;
use mote_monitor::control::{Event, Reply, Request};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};

/// Longest line the monitor may send.
const LINE_LIMIT: u64 = 64 * 1024;

/// Of all processes, a microVM's is the first the OOM killer should choose.
const OOM_SCORE_ADJ: &str = "500";

/// Bound on any control request but a snapshot.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Descriptor a monitor finds the queue of its network device at. It prints nothing while it runs a microVM, and only
/// the three standard descriptors are passed on without code in the new process.
pub const QUEUE_FD: i32 = 1;

/// Exit code with which the monitor refuses a snapshot that does not fit this machine or is damaged.
pub const EXIT_INCOMPATIBLE: i32 = 3;

/// Why the monitor could not do its part.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// It could not be started.
    #[error("Cannot start a monitor process")]
    Spawn(#[source] std::io::Error),
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
    said: PathBuf,
}

impl Monitor {
    /// Starts a monitor with `arguments`; its control socket is its standard input, the queue of its network device,
    /// if there is one, its standard output ([`QUEUE_FD`]); what it complains about goes to the file `said`.
    ///
    /// # Errors
    /// When the process or the socket pair cannot be made.
    pub fn spawn(
        arguments: &[OsString],
        queue: Option<OwnedFd>,
        said: PathBuf,
    ) -> Result<Self, MonitorError> {
        let (ours, theirs) = StdUnixStream::pair().map_err(MonitorError::Spawn)?;
        ours.set_nonblocking(true).map_err(MonitorError::Spawn)?;
        let control = UnixStream::from_std(ours).map_err(MonitorError::Spawn)?;
        let complaints = File::create(&said).map_err(MonitorError::Spawn)?;
        let child = Command::new("/proc/self/exe")
            .arg("monitor")
            .args(arguments)
            .args(["--control", "fd:0"])
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(queue.map_or_else(Stdio::null, Stdio::from))
            .stderr(Stdio::from(complaints))
            .kill_on_drop(true)
            .spawn()
            .map_err(MonitorError::Spawn)?;
        // hostd is protected from the OOM killer and its children inherit that: microVMs must go first.
        if let Some(pid) = child.id()
            && let Err(error) = std::fs::write(format!("/proc/{pid}/oom_score_adj"), OOM_SCORE_ADJ)
        {
            tracing::warn!(pid, %error, "Cannot expose a monitor to the OOM killer");
        }
        let (reader, writer) = control.into_split();
        Ok(Self { child, reader: BufReader::new(reader), writer, said })
    }

    /// Waits until the guest runs. The caller bounds the time.
    ///
    /// # Errors
    /// When the monitor ended instead.
    pub async fn running(&mut self) -> Result<(), MonitorError> {
        match self.event().await? {
            Event::Running { .. } | Event::Blank { .. } => Ok(()),
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
        let mut line = String::new();
        let read = (&mut self.reader).take(LINE_LIMIT).read_line(&mut line).await;
        (matches!(read, Ok(1..)) && line.ends_with('\n')).then_some(line)
    }

    async fn event(&mut self) -> Result<Event, MonitorError> {
        match self.line().await.and_then(|line| serde_json::from_str(&line).ok()) {
            Some(event) => Ok(event),
            None => Err(self.ended(None).await),
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
        MonitorError::Ended { status, code, said }
    }

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
            loop {
                let Some(line) = self.line().await else { return Err(self.ended(None).await) };
                if let Ok(Event::Exited { reason }) = serde_json::from_str(&line) {
                    return Err(self.ended(Some(reason)).await);
                }
                match serde_json::from_str::<Reply>(&line) {
                    Ok(reply) if reply.ok => return Ok(reply),
                    Ok(reply) => {
                        return Err(MonitorError::Refused {
                            operation,
                            reason: reply.error.unwrap_or_default(),
                        });
                    }
                    Err(_) => {}
                }
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
        let reply = self.request("write a snapshot", &request, bound).await?;
        Ok(reply.memory_checksum.unwrap_or_default())
    }

    /// Writes which pages the guest has touched into `dir`, if it was restored to record that.
    ///
    /// # Errors
    /// As the monitor says.
    pub async fn touched(&mut self, dir: &Path) -> Result<(), MonitorError> {
        let request = Request::Touched { dir: dir.to_owned() };
        self.request("record touched pages", &request, REQUEST_TIMEOUT).await.map(drop)
    }

    /// Process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Ends the process and reaps it.
    pub async fn kill(&mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::warn!(%error, "Cannot kill a monitor process");
        }
    }
}
