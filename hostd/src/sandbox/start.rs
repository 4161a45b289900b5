//! The two ways to a sandbox: a cold boot (with a snapshot made on the way) and a restore.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mote_api::RestoreMode;
use mote_protocol::{AGENT_PORT, AgentMessage, FunctionSpec, HOST_PORT, HostMessage, Identity};
use tokio::net::UnixListener;

use super::Sandbox;
use super::monitor::{EXIT_INCOMPATIBLE, Monitor, MonitorError};
use super::run_dir::RunDir;
use super::session::{Session, SessionError};
use crate::logs::{FunctionLog, Tail, Writer};
use crate::phases::Phases;
use crate::pool::Lease;

/// Bound on the agent settling everything before a snapshot, and on a connection to it.
const AGENT_TIMEOUT: Duration = Duration::from_secs(10);

/// Command line of every guest: runtime image as root, agent as init; a panic or reboot ends the monitor.
const GUEST_CMDLINE: &str = "root=/dev/vda ro init=/mote/agent";

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
    let id = new_id();
    let log = Writer::new(log, Arc::clone(&id));
    let dir = RunDir::create(&spec.run, &id).map_err(StartError::Folder)?;
    let listener = UnixListener::bind(dir.vsock_port(HOST_PORT)).map_err(StartError::Folder)?;
    let mut monitor =
        Monitor::spawn(&boot_arguments(spec, &dir), dir.complaints()).map_err(StartError::Monitor)?;

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
    let mut session = Session::accepted(stream);
    phases.lap("boot");

    let start = HostMessage::Start { function: spec.function.clone(), identity: identity(&id) };
    session.send(&start, &[]).await.map_err(StartError::Session)?;
    let initialised = wait_ready(&mut session, &log, tail);
    let ready = tokio::time::timeout(spec.init_timeout, initialised).await;
    ready.unwrap_or(Err(StartError::InitTimeout { seconds: spec.init_timeout.as_secs() }))?;
    phases.lap("init");

    quiesce(session, &log, Duration::ZERO).await?;
    Ok(Settled { id, monitor, log, dir, lease })
}

/// Has the agent settle everything and close the session, which may take `longer` than usual.
pub(super) async fn quiesce(mut session: Session, log: &Writer, longer: Duration) -> Result<(), StartError> {
    session.send(&HostMessage::Quiesce, &[]).await.map_err(StartError::Session)?;
    let closed = async {
        while let Some(frame) = session.receive().await? {
            if let AgentMessage::Log { .. } = frame.message {
                log.append(&frame.body);
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

async fn wait_ready(session: &mut Session, log: &Writer, tail: &mut Tail) -> Result<(), StartError> {
    loop {
        let frame = session.receive().await.map_err(StartError::Session)?;
        let frame = frame.ok_or(StartError::Session(SessionError::Closed))?;
        match frame.message {
            AgentMessage::Log { .. } => {
                log.append(&frame.body);
                tail.append(&frame.body);
            }
            AgentMessage::Ready { .. } => return Ok(()),
            AgentMessage::Failed { .. } => return Err(StartError::Init { body: frame.body }),
            AgentMessage::Resumed { .. } | AgentMessage::Result { .. } => {
                return Err(StartError::Session(SessionError::Closed));
            }
        }
    }
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
    let Settled { id, mut monitor, log, dir, lease } = settled;
    let mut written = Ok(String::new());
    if let Snapshotting::Into(folder) = snapshot {
        monitor.pause().await.map_err(StartError::Monitor)?;
        written = monitor.snapshot(folder, spec.restore_timeout).await;
        monitor.resume().await.map_err(StartError::Monitor)?;
        phases.lap("snapshot");
    }
    let session = open_session(&id, &dir, AGENT_TIMEOUT).await?;
    Ok((Sandbox { id, monitor, session, log, resuming: true, dir, lease }, written))
}

/// What to restore, and how.
#[derive(Debug, Clone, Copy)]
pub struct Restoring<'a> {
    /// Folder of the snapshot.
    pub snapshot: &'a Path,
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
    lease: Lease,
    phases: &mut Phases,
) -> Result<Sandbox, StartError> {
    let id = new_id();
    let log = Writer::new(log, Arc::clone(&id));
    let dir = RunDir::create(&spec.run, &id).map_err(StartError::Folder)?;
    let arguments = restore_arguments(spec, restoring, &dir);
    let mut monitor = Monitor::spawn(&arguments, dir.complaints()).map_err(StartError::Monitor)?;
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
    let session = open_session(&id, &dir, spec.restore_timeout).await?;
    phases.lap("connect");
    Ok(Sandbox { id, monitor, session, log, resuming: true, dir, lease })
}

async fn open_session(id: &str, dir: &RunDir, bound: Duration) -> Result<Session, StartError> {
    let vsock = dir.vsock();
    let open = async {
        let mut session = Session::connect(&vsock, AGENT_PORT).await?;
        session.send(&HostMessage::Resume { identity: identity(id) }, &[]).await?;
        Ok(session)
    };
    tokio::time::timeout(bound, open)
        .await
        .unwrap_or(Err(SessionError::Refused { port: AGENT_PORT }))
        .map_err(StartError::Session)
}

fn boot_arguments(spec: &StartSpec, dir: &RunDir) -> Vec<OsString> {
    let mut drive = spec.code.clone().into_os_string();
    drive.push(":ro");
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
    if restoring.record {
        arguments.push("--record".into());
    }
    arguments
}

fn new_id() -> Arc<str> {
    let uuid = uuid::Uuid::new_v4().simple().to_string();
    Arc::from(uuid.get(..12).unwrap_or(&uuid))
}

fn identity(id: &str) -> Identity {
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
    }
}
