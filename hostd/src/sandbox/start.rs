//! The ways to a sandbox: a cold start, from nothing or from a base (with a snapshot made on the way), and a restore.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mote_api::RestoreMode;
use mote_protocol::{AGENT_PORT, AgentMessage, FunctionSpec, HOST_PORT, HostMessage, Identity};
use tokio::net::UnixListener;

use super::Sandbox;
use super::blank::Blank;
use super::monitor::{EXIT_INCOMPATIBLE, Monitor, MonitorError};
use super::run_dir::RunDir;
use super::seat::{Restoring, Seat, boot_arguments, restore_arguments};
use super::session::{Session, SessionError};
use crate::logs::{FunctionLog, Tail, Writer};
use crate::network::Place;
use crate::phases::Phases;
use crate::pool::Lease;

/// Bound on the agent settling everything before a snapshot, and on a connection to it.
const AGENT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a broken sandbox's monitor is waited for, to hear why it ended.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Everything needed to start one function's sandbox.
#[derive(Debug, Clone)]
pub struct StartSpec {
    /// What the agent is told.
    pub function: FunctionSpec,
    /// Guest kernel.
    pub kernel: PathBuf,
    /// Runtime image: the guest's root file system.
    pub rootfs: PathBuf,
    /// Code image.
    pub code: PathBuf,
    /// Virtual CPUs.
    pub vcpus: u8,
    /// Appended to the guest kernel's command line.
    pub cmdline: String,
    /// Folder of the volatile folders.
    pub run: PathBuf,
    /// Kernel start until the agent reports.
    pub boot_timeout: Duration,
    /// Initialisation of the function.
    pub init_timeout: Duration,
    /// Restore until the session is open, and bound of a snapshot.
    pub restore_timeout: Duration,
}

/// Why no sandbox came up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its folder or socket cannot be made.
    #[error("Cannot make the sandbox's folder")]
    Folder(#[source] std::io::Error),
    /// The monitor did not do its part.
    #[error("The microVM could not be started")]
    Monitor(#[source] MonitorError),
    /// The guest kernel or agent did not come up.
    #[error("The microVM did not come up within {seconds} s; its console ends with: {console}")]
    BootTimeout {
        /// The bound.
        seconds: u64,
        /// End of the serial log.
        console: String,
    },
    /// The guest stopped before its agent reported.
    #[error("The microVM stopped while booting; its console ends with: {console}")]
    BootFailed {
        /// End of the serial log.
        console: String,
        /// What the monitor says.
        #[source]
        source: MonitorError,
    },
    /// The function's initialisation did not end in time.
    #[error("Initialisation timed out after {seconds} s")]
    InitTimeout {
        /// The bound.
        seconds: u64,
    },
    /// The function's initialisation failed; the body is its error object.
    #[error("The function's initialisation failed")]
    Init {
        /// `errorMessage`, `errorType`, `stackTrace` as JSON.
        body: Vec<u8>,
    },
    /// The session broke.
    #[error("The guest agent could not be talked to")]
    Session(#[source] SessionError),
    /// The guest did not come back from its snapshot.
    #[error("The microVM did not come back ({said})")]
    Lost {
        /// What was last heard of it.
        said: String,
        /// What was noticed.
        #[source]
        source: SessionError,
    },
    /// The snapshot does not fit this machine or is damaged: rebuild it.
    #[error("The snapshot cannot be restored here")]
    Incompatible(#[source] MonitorError),
}

/// A microVM at rest: at its snapshot point, or between calls. Nothing is open.
#[derive(Debug)]
pub struct Settled {
    pub(super) id: Arc<str>,
    pub(super) monitor: Monitor,
    pub(super) log: Writer,
    pub(super) dir: RunDir,
    pub(super) lease: Lease,
}

/// Where a snapshot is to be written while the microVM stands still.
#[derive(Debug, Clone, Copy)]
pub enum Snapshotting<'a> {
    /// Into this folder.
    Into(&'a Path),
    /// Not at all.
    No,
}

/// Boots a microVM up to its snapshot point: runtime initialised, nothing open, nothing running. `blank` becomes it,
/// if it fits; so with all that follow.
///
/// # Errors
/// When the guest does not come up or the function does not initialise.
pub async fn cold(
    spec: &StartSpec,
    blank: Option<Blank>,
    log: Arc<FunctionLog>,
    lease: Lease,
    phases: &mut Phases,
    tail: &mut Tail,
) -> Result<Settled, StartError> {
    let mut seat = Seat::take(spec, blank)?;
    let log = Writer::new(log, Arc::clone(&seat.id));
    let place = lease.place();
    let (monitor, session) = boot(spec, spec.code.clone(), place, &mut seat, phases).await?;
    initialise(spec, session, identity(&seat.id, place), &log, phases, tail).await?;
    Ok(Settled { id: seat.id, monitor, log, dir: seat.dir, lease })
}

/// Brings a microVM up to a function's snapshot point from a base: kernel, agent and interpreter are up already.
///
/// # Errors
/// As for a boot; [`StartError::Incompatible`] when the base cannot be restored.
pub async fn cold_from_base(
    spec: &StartSpec,
    blank: Option<Blank>,
    base: &Path,
    log: Arc<FunctionLog>,
    lease: Lease,
    phases: &mut Phases,
    tail: &mut Tail,
) -> Result<Settled, StartError> {
    let mut seat = Seat::take(spec, blank)?;
    let log = Writer::new(log, Arc::clone(&seat.id));
    let restoring = Restoring { snapshot: base, base: Some(base), mode: RestoreMode::Lazy, record: false };
    let (monitor, session, identity) = bring_back(spec, restoring, lease.place(), &mut seat, phases).await?;
    initialise(spec, session, identity, &log, phases, tail).await?;
    Ok(Settled { id: seat.id, monitor, log, dir: seat.dir, lease })
}

/// Makes a base: boots a microVM without a function, has the agent start the runtime's interpreter, and writes the
/// snapshot into `into`. Returns the checksum of its memory; of the microVM nothing is left.
///
/// # Errors
/// When the guest does not come up, or its snapshot cannot be written.
pub async fn base(
    spec: &StartSpec,
    blank: Option<Blank>,
    into: &Path,
    phases: &mut Phases,
) -> Result<String, StartError> {
    let mut seat = Seat::take(spec, blank)?;
    // Nothing: the code is put there when the snapshot is restored.
    let code = seat.dir.empty_file().map_err(StartError::Folder)?;
    let (mut monitor, mut session) = boot(spec, code, None, &mut seat, phases).await?;
    let prewarm = HostMessage::Prewarm { runtime: spec.function.runtime.clone() };
    session.send(&prewarm, &[]).await.map_err(StartError::Session)?;
    wait_ready(&mut session, spec.init_timeout, &mut |_| {}).await?;
    quiesce(session, Duration::ZERO, &mut |_| {}).await?;
    phases.lap("base-init");
    monitor.pause().await.map_err(StartError::Monitor)?;
    let checksum = monitor.snapshot(into, spec.restore_timeout).await.map_err(StartError::Monitor)?;
    monitor.kill().await;
    phases.lap("base-snapshot");
    Ok(checksum)
}

/// Boots a kernel, `code` on the drive for the function's code, and waits for its agent.
async fn boot(
    spec: &StartSpec,
    code: PathBuf,
    place: Option<&Place>,
    seat: &mut Seat,
    phases: &mut Phases,
) -> Result<(Monitor, Session), StartError> {
    let listener = UnixListener::bind(seat.dir.vsock_port(HOST_PORT)).map_err(StartError::Folder)?;
    let mut monitor = seat.start(spec, boot_arguments(spec, code, &seat.dir), place).await?;
    let dir = &seat.dir;
    let boot_deadline = Instant::now() + spec.boot_timeout;
    let came_up = async {
        monitor.running().await.map_err(StartError::Monitor)?;
        phases.lap("spawn");
        tokio::select! {
            accepted = listener.accept() => accepted.map_err(StartError::Folder),
            source = monitor.exited() =>
                Err(StartError::BootFailed { console: dir.serial_tail(), source }),
        }
    };
    let (stream, _) = tokio::time::timeout_at(boot_deadline.into(), came_up).await.unwrap_or_else(|_| {
        let seconds = spec.boot_timeout.as_secs();
        Err(StartError::BootTimeout { seconds, console: dir.serial_tail() })
    })?;
    phases.lap("boot");
    Ok((monitor, Session::accepted(stream)))
}

/// Has the agent start the function, and settle once it waits for its first event.
async fn initialise(
    spec: &StartSpec,
    mut session: Session,
    identity: Identity,
    log: &Writer,
    phases: &mut Phases,
    tail: &mut Tail,
) -> Result<(), StartError> {
    let start = HostMessage::Start { function: spec.function.clone(), identity };
    session.send(&start, &[]).await.map_err(StartError::Session)?;
    let mut keep = |bytes: &[u8]| {
        log.append(bytes);
        tail.append(bytes);
    };
    wait_ready(&mut session, spec.init_timeout, &mut keep).await?;
    phases.lap("init");
    quiesce(session, Duration::ZERO, &mut |bytes| log.append(bytes)).await
}

/// Takes what the function prints.
pub(super) type Keep<'a> = &'a mut (dyn FnMut(&[u8]) + Send);

/// Has the agent settle everything and close the session, which may take `longer` than usual.
pub(super) async fn quiesce(
    mut session: Session,
    longer: Duration,
    keep: Keep<'_>,
) -> Result<(), StartError> {
    session.send(&HostMessage::Quiesce, &[]).await.map_err(StartError::Session)?;
    let closed = async {
        while let Some(frame) = session.receive().await? {
            if let AgentMessage::Log { .. } = frame.message {
                keep(&frame.body);
            }
        }
        Ok(())
    };
    match tokio::time::timeout(AGENT_TIMEOUT + longer, closed).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(StartError::Session(error)),
        Err(_) => Err(StartError::Session(SessionError::Closed)),
    }
}

/// Waits until the runtime, or the function, is initialised.
async fn wait_ready(session: &mut Session, bound: Duration, keep: Keep<'_>) -> Result<(), StartError> {
    let ready = async {
        loop {
            let frame = session.receive().await.map_err(StartError::Session)?;
            let frame = frame.ok_or(StartError::Session(SessionError::Closed))?;
            match frame.message {
                AgentMessage::Log { .. } => keep(&frame.body),
                AgentMessage::Ready { .. } => return Ok(()),
                AgentMessage::Failed { .. } => return Err(StartError::Init { body: frame.body }),
                // Of a base: it had nothing to wait for.
                AgentMessage::Resumed { .. } => {}
                AgentMessage::Result { .. } => return Err(StartError::Session(SessionError::Closed)),
            }
        }
    };
    let seconds = bound.as_secs();
    tokio::time::timeout(bound, ready).await.unwrap_or(Err(StartError::InitTimeout { seconds }))
}

/// Takes the snapshot, if one is wanted, and lets the microVM go on as a sandbox of its own identity.
/// A snapshot that could not be written is reported beside the sandbox: the call is served all the same.
///
/// # Errors
/// When the microVM does not go on.
pub async fn resume(
    settled: Settled,
    spec: &StartSpec,
    snapshot: Snapshotting<'_>,
    phases: &mut Phases,
) -> Result<(Sandbox, Result<String, MonitorError>), StartError> {
    let Settled { id, mut monitor, log, dir, mut lease } = settled;
    let mut written = Ok(String::new());
    if let Snapshotting::Into(folder) = snapshot {
        monitor.pause().await.map_err(StartError::Monitor)?;
        written = monitor.snapshot(folder, spec.restore_timeout).await;
        monitor.resume().await.map_err(StartError::Monitor)?;
        phases.lap("snapshot");
    }
    let who = (id.as_ref(), lease.place());
    let (session, _) = open_session(who, &dir, &mut monitor, AGENT_TIMEOUT).await?;
    lease.announce(&spec.function.name);
    Ok((Sandbox { id, monitor, session, log, resuming: true, dir, lease }, written))
}

/// Restores a snapshot into a new sandbox.
///
/// # Errors
/// [`StartError::Incompatible`] when the snapshot must be rebuilt; otherwise as for a boot.
pub async fn restore(
    spec: &StartSpec,
    blank: Option<Blank>,
    restoring: Restoring<'_>,
    log: Arc<FunctionLog>,
    mut lease: Lease,
    phases: &mut Phases,
) -> Result<Sandbox, StartError> {
    let mut seat = Seat::take(spec, blank)?;
    let log = Writer::new(log, Arc::clone(&seat.id));
    let (monitor, session, _) = bring_back(spec, restoring, lease.place(), &mut seat, phases).await?;
    lease.announce(&spec.function.name);
    Ok(Sandbox { id: seat.id, monitor, session, log, resuming: true, dir: seat.dir, lease })
}

/// Restores a microVM and tells its agent who it is now.
async fn bring_back(
    spec: &StartSpec,
    restoring: Restoring<'_>,
    place: Option<&Place>,
    seat: &mut Seat,
    phases: &mut Phases,
) -> Result<(Monitor, Session, Identity), StartError> {
    let mut monitor = seat.start(spec, restore_arguments(spec, restoring, &seat.dir), place).await?;
    match tokio::time::timeout(spec.restore_timeout, monitor.running()).await {
        Ok(Ok(())) => {}
        Ok(Err(error @ MonitorError::Ended { code: Some(EXIT_INCOMPATIBLE), .. })) => {
            return Err(StartError::Incompatible(error));
        }
        Ok(Err(error)) => return Err(StartError::Monitor(error)),
        Err(_) => {
            let seconds = spec.restore_timeout.as_secs();
            return Err(StartError::Monitor(MonitorError::Timeout { operation: "restore", seconds }));
        }
    }
    phases.lap("restore");
    let bound = spec.restore_timeout;
    let (session, identity) = open_session((&seat.id, place), &seat.dir, &mut monitor, bound).await?;
    phases.lap("connect");
    Ok((monitor, session, identity))
}

async fn open_session(
    (id, place): (&str, Option<&Place>),
    dir: &RunDir,
    monitor: &mut Monitor,
    bound: Duration,
) -> Result<(Session, Identity), StartError> {
    let vsock = dir.vsock();
    let open = async {
        let mut session = Session::connect(&vsock, AGENT_PORT).await?;
        // Now: it says what time it is, and a connection may take a while.
        let identity = identity(id, place);
        session.send(&HostMessage::Resume { identity: identity.clone() }, &[]).await?;
        Ok((session, identity))
    };
    let opened = tokio::time::timeout(bound, open).await;
    match opened.unwrap_or(Err(SessionError::Refused { port: AGENT_PORT })) {
        Ok(opened) => Ok(opened),
        Err(source) => Err(StartError::Lost { said: last_words(monitor, dir).await, source }),
    }
}

/// What monitor and guest said last, for people who want to know why a sandbox broke.
pub(super) async fn last_words(monitor: &mut Monitor, dir: &RunDir) -> String {
    let monitor = match tokio::time::timeout(LAST_WORDS, monitor.exited()).await {
        Ok(error) => error.to_string(),
        Err(_) => "the monitor still runs".to_owned(),
    };
    format!("{monitor}; its console ends with: {}", dir.serial_tail())
}

fn identity(id: &str, place: Option<&Place>) -> Identity {
    let mut entropy = [0u8; 32];
    // Never blocks once the appliance has booted; a short read leaves zeros, which the guest's CRNG only mixes in.
    let _ = rustix::rand::getrandom(&mut entropy, rustix::rand::GetRandomFlags::empty());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Identity {
        instance_id: uuid::Uuid::new_v4().to_string(),
        hostname: format!("mote-{id}"),
        time_unix_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
        entropy_hex: entropy.iter().fold(String::with_capacity(64), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        }),
        network: place.map(Place::spec),
    }
}
