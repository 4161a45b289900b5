//! The ways to a sandbox: a cold start, from nothing or from a base (with a snapshot made on the way), and a restore.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mote_api::RestoreMode;
use mote_protocol::{AGENT_PORT, AgentMessage, FunctionSpec, HOST_PORT, HostMessage, Identity};
use tokio::net::UnixListener;

use super::Sandbox;
use super::monitor::{EXIT_INCOMPATIBLE, Monitor, MonitorError, QUEUE_FD};
use super::run_dir::RunDir;
use super::session::{Session, SessionError};
use crate::logs::{FunctionLog, Tail, Writer};
use crate::network::Place;
use crate::phases::Phases;
use crate::pool::Lease;

/// Bound on the agent settling everything before a snapshot, and on a connection to it.
const AGENT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a broken sandbox's monitor is waited for, to hear why it ended.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Command line of every guest: runtime image as root, agent as init; a panic or reboot ends the monitor.
const GUEST_CMDLINE: &str = "root=/dev/vda ro init=/mote/agent";

/// A network device that is nowhere. What is restored from its snapshot may be given any smaller MTU.
const DETACHED: &str = "detached,mtu=65535";

/// Size of the drive with the function's code as guests see it; images are smaller, see `package.max_unpacked_mb`.
pub const CODE_DRIVE_MIB: u64 = 1024;

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

/// Boots a microVM up to its snapshot point: runtime initialised, nothing open, nothing running.
///
/// # Errors
/// When the guest does not come up or the function does not initialise.
pub async fn cold(
    spec: &StartSpec,
    log: Arc<FunctionLog>,
    lease: Lease,
    phases: &mut Phases,
    tail: &mut Tail,
) -> Result<Settled, StartError> {
    let (id, log, dir) = begin(spec, log)?;
    let place = lease.place();
    let (monitor, session) = boot(spec, spec.code.clone(), place, &dir, phases).await?;
    initialise(spec, session, identity(&id, place), &log, phases, tail).await?;
    Ok(Settled { id, monitor, log, dir, lease })
}

/// Brings a microVM up to a function's snapshot point from a base: kernel, agent and interpreter are up already.
///
/// # Errors
/// As for a boot; [`StartError::Incompatible`] when the base cannot be restored.
pub async fn cold_from_base(
    spec: &StartSpec,
    base: &Path,
    log: Arc<FunctionLog>,
    lease: Lease,
    phases: &mut Phases,
    tail: &mut Tail,
) -> Result<Settled, StartError> {
    let (id, log, dir) = begin(spec, log)?;
    let restoring = Restoring { snapshot: base, base: Some(base), mode: RestoreMode::Lazy, record: false };
    let (monitor, session, identity) = bring_back(spec, restoring, lease.place(), &id, &dir, phases).await?;
    initialise(spec, session, identity, &log, phases, tail).await?;
    Ok(Settled { id, monitor, log, dir, lease })
}

/// Makes a base: boots a microVM without a function, has the agent start the runtime's interpreter, and writes the
/// snapshot into `into`. Returns the checksum of its memory; of the microVM nothing is left.
///
/// # Errors
/// When the guest does not come up, or its snapshot cannot be written.
pub async fn base(spec: &StartSpec, into: &Path, phases: &mut Phases) -> Result<String, StartError> {
    let id = new_id();
    let dir = RunDir::create(&spec.run, &id).map_err(StartError::Folder)?;
    // Nothing: the code is put there when the snapshot is restored.
    let code = dir.empty_file().map_err(StartError::Folder)?;
    let (mut monitor, mut session) = boot(spec, code, None, &dir, phases).await?;
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

/// Name, log and folder of a new sandbox.
fn begin(spec: &StartSpec, log: Arc<FunctionLog>) -> Result<(Arc<str>, Writer, RunDir), StartError> {
    let id = new_id();
    let log = Writer::new(log, Arc::clone(&id));
    let dir = RunDir::create(&spec.run, &id).map_err(StartError::Folder)?;
    Ok((id, log, dir))
}

/// Boots a kernel, `code` on the drive for the function's code, and waits for its agent.
async fn boot(
    spec: &StartSpec,
    code: PathBuf,
    place: Option<&Place>,
    dir: &RunDir,
    phases: &mut Phases,
) -> Result<(Monitor, Session), StartError> {
    let listener = UnixListener::bind(dir.vsock_port(HOST_PORT)).map_err(StartError::Folder)?;
    let mut monitor = spawn(boot_arguments(spec, code, dir), place, dir)?;
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

/// What to restore, and how.
#[derive(Debug, Clone, Copy)]
pub struct Restoring<'a> {
    /// Folder of the snapshot.
    pub snapshot: &'a Path,
    /// Folder of what it is layered over; the snapshot's own if what is made of it is to be layered over it.
    pub base: Option<&'a Path>,
    /// How memory comes back.
    pub mode: RestoreMode,
    /// Have the monitor record which pages the guest touches.
    pub record: bool,
}

/// Restores a snapshot into a new sandbox.
///
/// # Errors
/// [`StartError::Incompatible`] when the snapshot must be rebuilt; otherwise as for a boot.
pub async fn restore(
    spec: &StartSpec,
    restoring: Restoring<'_>,
    log: Arc<FunctionLog>,
    mut lease: Lease,
    phases: &mut Phases,
) -> Result<Sandbox, StartError> {
    let (id, log, dir) = begin(spec, log)?;
    let (monitor, session, _) = bring_back(spec, restoring, lease.place(), &id, &dir, phases).await?;
    lease.announce(&spec.function.name);
    Ok(Sandbox { id, monitor, session, log, resuming: true, dir, lease })
}

/// Restores a microVM and tells its agent who it is now.
async fn bring_back(
    spec: &StartSpec,
    restoring: Restoring<'_>,
    place: Option<&Place>,
    id: &str,
    dir: &RunDir,
    phases: &mut Phases,
) -> Result<(Monitor, Session, Identity), StartError> {
    let mut monitor = spawn(restore_arguments(spec, restoring, dir), place, dir)?;
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
    let (session, identity) = open_session((id, place), dir, &mut monitor, bound).await?;
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

/// Starts a monitor, with its network device at the sandbox's place, or at none.
fn spawn(mut arguments: Vec<OsString>, place: Option<&Place>, dir: &RunDir) -> Result<Monitor, StartError> {
    let net = place.map_or_else(|| DETACHED.to_owned(), |place| place.argument(QUEUE_FD));
    arguments.extend(["--net".into(), net.into()]);
    let queue = place.map(Place::queue).transpose();
    let queue = queue.map_err(|error| StartError::Monitor(MonitorError::Spawn(error)))?;
    Monitor::spawn(&arguments, queue, dir.complaints()).map_err(StartError::Monitor)
}

fn boot_arguments(spec: &StartSpec, code: PathBuf, dir: &RunDir) -> Vec<OsString> {
    let mut drive = code.into_os_string();
    // Of one size whatever is on it: a guest does not take another size from a snapshot.
    drive.push(format!(":ro:{CODE_DRIVE_MIB}"));
    let mut rootfs = spec.rootfs.clone().into_os_string();
    rootfs.push(":ro");
    vec![
        "boot".into(),
        "--kernel".into(),
        spec.kernel.clone().into(),
        "--rootfs".into(),
        rootfs,
        "--drive".into(),
        drive,
        "--mem".into(),
        spec.function.memory_mb.to_string().into(),
        "--vcpus".into(),
        spec.vcpus.to_string().into(),
        "--vsock".into(),
        dir.vsock().into(),
        "--serial".into(),
        dir.serial().into(),
        "--cmdline".into(),
        format!("{GUEST_CMDLINE} {}", spec.cmdline).trim_end().into(),
    ]
}

fn restore_arguments(spec: &StartSpec, restoring: Restoring<'_>, dir: &RunDir) -> Vec<OsString> {
    let drive = |index: usize, path: &Path| {
        let mut argument = OsString::from(format!("{index}="));
        argument.push(path);
        argument
    };
    let mut arguments: Vec<OsString> = vec![
        "restore".into(),
        "--snapshot".into(),
        restoring.snapshot.into(),
        "--mode".into(),
        restoring.mode.name().into(),
        "--drive".into(),
        drive(0, &spec.rootfs),
        "--drive".into(),
        drive(1, &spec.code),
        "--vsock".into(),
        dir.vsock().into(),
        "--serial".into(),
        dir.serial().into(),
    ];
    if let Some(base) = restoring.base {
        arguments.extend(["--base".into(), base.into()]);
    }
    if restoring.record {
        arguments.push("--record".into());
    }
    arguments
}

fn new_id() -> Arc<str> {
    let uuid = uuid::Uuid::new_v4().simple().to_string();
    Arc::from(uuid.get(..12).unwrap_or(&uuid))
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
