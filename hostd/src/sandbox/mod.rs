//! One sandbox: a microVM in its own monitor process, the session with its agent, and everything they own.

mod blank;
mod cgroup;
mod monitor;
mod paging;
mod run_dir;
mod seat;
mod session;
mod start;

pub use blank::Blank;
pub use cgroup::Groups;
pub use monitor::MonitorError;
pub use paging::Paging;
pub use seat::{CODE_DRIVE_MIB, Restoring};
pub use session::SessionError;
pub use start::{Settled, Snapshotting, StartError, StartSpec, base, cold, cold_from_base, restore, resume};

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mote_protocol::{AgentMessage, FailureKind, HostMessage, InvokeSpec, ResultKind};

use crate::logs::{Tail, Writer};
use crate::pool::Lease;
use monitor::Monitor;
use run_dir::RunDir;
use session::Session;

/// What monitors are processes of: this very program.
const PROGRAM: &str = "/proc/self/exe";

/// A live microVM whose runtime waits for an event. Dropping it kills the monitor and removes its files; the
/// memory lease goes last.
#[derive(Debug)]
pub struct Sandbox {
    /// Name of this sandbox: its folder, the end of its host name.
    id: Arc<str>,
    monitor: Monitor,
    session: Session,
    log: Writer,
    /// The runtime has not yet said that it took its new identity.
    resuming: bool,
    dir: RunDir,
    lease: Lease,
}

/// How a call ended.
#[derive(Debug)]
pub enum Ended {
    /// The function answered; the sandbox can take the next call.
    Answered {
        /// Response or error.
        kind: ResultKind,
        /// `Content-Type` given by the runtime.
        content_type: Option<String>,
        /// The result, or the error object.
        payload: Vec<u8>,
    },
    /// The runtime died; the body is an error object. The sandbox is of no further use.
    Failed(Vec<u8>),
    /// No answer within the function's time. The sandbox is of no further use.
    TimedOut,
    /// The sandbox itself broke.
    Broken(SessionError),
    /// The runtime did not ask for its event: the function has seen nothing of this call.
    Lost(SessionError),
}

/// A finished call with its figures.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub ended: Ended,
    /// From `Resume` to the runtime asking for its event, when this call was the first after one.
    pub resume: Option<Duration>,
    /// Time in the function, as the agent measured it, else as seen from here.
    pub duration: Duration,
    /// Most memory the microVM used, MiB.
    pub peak_memory_mb: u64,
}

impl Sandbox {
    /// Hands over one event and waits for the answer, at most `timeout` from when the runtime can take it.
    /// Output goes to the function's log and to `tail`.
    pub async fn invoke(
        &mut self,
        invoke: InvokeSpec,
        event: &[u8],
        timeout: Duration,
        resume_bound: Duration,
        tail: &mut Tail,
    ) -> Outcome {
        let begun = Instant::now();
        let mut outcome =
            Outcome { ended: Ended::TimedOut, resume: None, duration: Duration::ZERO, peak_memory_mb: 0 };
        let request_id = invoke.request_id.clone();
        if let Err(error) = self.session.send(&HostMessage::Invoke { invoke }, event).await {
            outcome.ended = Ended::Lost(error);
            return outcome;
        }
        // Resuming is the platform's time, not the function's.
        let mut deadline = begun + if self.resuming { resume_bound } else { timeout };
        let mut started = begun;
        outcome.ended = loop {
            let received = tokio::time::timeout_at(deadline.into(), self.session.receive()).await;
            let frame = match received {
                Ok(Ok(Some(frame))) => frame,
                Err(_) if self.resuming => {
                    break Ended::Lost(SessionError::Silent { seconds: resume_bound.as_secs() });
                }
                Err(_) => break Ended::TimedOut,
                Ok(ended) => {
                    let error = ended.err().unwrap_or(SessionError::Closed);
                    break if self.resuming { Ended::Lost(error) } else { Ended::Broken(error) };
                }
            };
            match frame.message {
                AgentMessage::Log { .. } => {
                    self.log.append(&frame.body);
                    tail.append(&frame.body);
                }
                AgentMessage::Resumed { .. } => {
                    self.resuming = false;
                    started = Instant::now();
                    outcome.resume = Some(started - begun);
                    deadline = started + timeout;
                }
                AgentMessage::Result { request_id: id, kind, content_type, duration_us, peak_memory_kb }
                    if id == request_id =>
                {
                    outcome.duration = Duration::from_micros(duration_us);
                    outcome.peak_memory_mb = peak_memory_kb.div_ceil(1024);
                    break Ended::Answered { kind, content_type, payload: frame.body };
                }
                AgentMessage::Failed {
                    kind: FailureKind::Init | FailureKind::Exit | FailureKind::Agent,
                    peak_memory_kb,
                } => {
                    outcome.peak_memory_mb = peak_memory_kb.div_ceil(1024);
                    break Ended::Failed(frame.body);
                }
                // An answer to another call, or a second `Ready`: the guest is confused or hostile.
                AgentMessage::Result { .. } | AgentMessage::Ready { .. } => {
                    break Ended::Broken(SessionError::Closed);
                }
            }
        };
        if outcome.duration.is_zero() {
            outcome.duration = started.elapsed();
        }
        outcome
    }

    /// Waits while idle, keeping the log; returns when the sandbox is of no further use. Safe to cancel.
    pub async fn idle(&mut self) {
        while let Ok(Some(frame)) = self.session.receive().await {
            match frame.message {
                AgentMessage::Log { .. } => self.log.append(&frame.body),
                AgentMessage::Resumed { .. } => self.resuming = false,
                _ => return,
            }
        }
    }

    /// What this sandbox has booked.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Its name: the end of its host name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Process id of the monitor, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.monitor.pid()
    }

    /// Page faults and reads of the monitor so far.
    pub fn paging(&self) -> Option<Paging> {
        self.monitor.pid().and_then(Paging::of)
    }

    /// Bytes of memory that only this sandbox has, guest and monitor together: what its end would give back. Without a
    /// control group the kernel has to look at every page for that.
    pub fn private_memory(&self) -> Option<u64> {
        self.monitor.anonymous().or_else(|| self.monitor.pid().and_then(paging::private_dirty))
    }

    /// Whether it goes before those with a call, should the kernel have to kill something for memory.
    pub fn set_idle(&self, idle: bool) {
        self.monitor.set_idle(idle);
    }

    /// Writes which pages the guest has touched into `dir`, if it was restored to record that.
    ///
    /// # Errors
    /// As the monitor says.
    pub async fn touched(&mut self, dir: &Path) -> Result<(), MonitorError> {
        self.monitor.touched(dir).await
    }

    /// Has the guest give back what it has free but for `leave_mb` MiB, and says how many bytes the host has back after
    /// at most `within`. Safe to give up at any time. The guest can take calls as before; it is slower at using memory
    /// it gave back until [`deflate`](Self::deflate).
    ///
    /// # Errors
    /// As the monitor says.
    pub async fn reclaim(&mut self, leave_mb: u32, within: Duration) -> Result<u64, MonitorError> {
        self.monitor.reclaim(leave_mb, within).await
    }

    /// Lets the guest have all its memory again. Returns at once; the guest takes it as it needs it.
    ///
    /// # Errors
    /// As the monitor says.
    pub async fn deflate(&mut self) -> Result<(), MonitorError> {
        self.monitor.deflate().await
    }

    /// Brings the microVM to rest for a snapshot, with free memory cleared first for at most `scrub_ms`.
    ///
    /// # Errors
    /// When it does not come to rest; it is gone then.
    pub async fn settle(mut self, scrub_ms: Option<u32>) -> Result<Settled, StartError> {
        if let Some(within_ms) = scrub_ms {
            let scrub = HostMessage::Scrub { within_ms };
            self.session.send(&scrub, &[]).await.map_err(StartError::Session)?;
        }
        let bound = Duration::from_millis(u64::from(scrub_ms.unwrap_or(0)));
        let Self { id, monitor, session, log, dir, lease, .. } = self;
        start::quiesce(session, bound, &mut |bytes| log.append(bytes)).await?;
        Ok(Settled { id, monitor, log, dir, lease })
    }

    /// What monitor and guest said last, for people who want to know why the sandbox broke.
    pub async fn last_words(&mut self) -> String {
        start::last_words(&mut self.monitor, &self.dir).await
    }

    /// Ends the microVM and waits until nothing is left of it.
    pub async fn destroy(mut self) {
        self.monitor.kill().await;
    }
}
