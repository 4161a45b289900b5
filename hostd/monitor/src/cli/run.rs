//! From arguments to a running microVM and back to an exit code.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use mote_virtio::NetConfig;

use super::EXIT_INCOMPATIBLE;
use super::args::{Boot, Common, Endpoint, Restore};
use super::blank::RequestError;
use super::net::NetArgument;
use crate::control::{Event, Server, ServerError};
use crate::event_loop::{self, LoopError};
use crate::machine::{Bare, BootConfig, Machine, RestoreConfig, SerialTarget, StartError, VsockEnds};
use crate::memory::restore::RestoreOptions;
use crate::meter::Meter;
use crate::signals::Signals;
use crate::vm::ExitSignal;

/// Why there is, or is no longer, a microVM.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    #[error("Descriptor {fd} cannot be used")]
    Descriptor {
        fd: RawFd,
        #[source]
        source: io::Error,
    },
    #[error("Descriptor {0} cannot be two of vsock, control socket and network")]
    Twice(RawFd),
    #[error("--vsock fd:{0} needs --vsock-path for the connections the guest makes")]
    NoVsockPath(RawFd),
    #[error("Cannot go into control group {path}")]
    Group {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("Cannot collect signals")]
    Signals(#[source] io::Error),
    #[error("Cannot create an event")]
    Event(#[source] io::Error),
    #[error("Cannot offer a control socket")]
    Control(#[from] ServerError),
    #[error("Cannot start the microVM")]
    Start(#[from] StartError),
    #[error("Cannot run the microVM")]
    Loop(#[from] LoopError),
}

/// What a monitor has whatever it runs: who tells it what to do, and when to end.
pub(super) struct Post {
    pub(super) server: Option<Server>,
    pub(super) signals: Signals,
    exit: Arc<ExitSignal>,
    stdin_is_control: bool,
}

/// What a blank has prepared.
pub(super) struct Ready {
    pub(super) post: Post,
    pub(super) bare: Bare,
}

/// Where the microVM meets the outside.
struct Ends {
    vsock: Option<VsockEnds>,
    net: Option<NetConfig>,
    serial: SerialTarget,
}

impl Post {
    /// Moves into `group` and opens the control socket.
    pub(super) fn open(group: Option<&Path>, control: Option<Endpoint>) -> Result<Self, RunError> {
        if let Some(group) = group {
            let path = group.join("cgroup.procs");
            // Zero is who writes it.
            std::fs::write(&path, "0").map_err(|source| RunError::Group { path, source })?;
        }
        let signals = Signals::collect().map_err(RunError::Signals)?;
        let exit = Arc::new(ExitSignal::new().map_err(RunError::Event)?);
        let stdin_is_control = control == Some(Endpoint::Descriptor(0));
        let server = match control {
            None => None,
            Some(Endpoint::Path(path)) => Some(Server::listen(path)?),
            Some(Endpoint::Descriptor(fd)) => {
                signals.tell_when_parent_dies().map_err(RunError::Signals)?;
                Some(Server::inherited(UnixStream::from(inherit(fd)?))?)
            }
        };
        Ok(Self { server, signals, exit, stdin_is_control })
    }
}

/// Takes an inherited descriptor over; it is not passed on further.
fn inherit(fd: RawFd) -> Result<OwnedFd, RunError> {
    let failed = |source| RunError::Descriptor { fd, source };
    // SAFETY: asks about a number, touches no memory.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    // SAFETY: open, as was just seen, and given to us on the command line to own; nothing else in this process knows
    // it, and `prepare` made sure that it is not taken over twice.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    if fd <= 2 {
        // A standard stream's number must not become free: the next file opened would get our messages. So the
        // socket moves, and the number is given to /dev/null.
        let moved = owned.try_clone().map_err(failed)?;
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").map_err(failed)?;
        let mut owned = owned;
        rustix::io::dup2(null, &mut owned).map_err(|error| failed(error.into()))?;
        std::mem::forget(owned);
        return Ok(moved);
    }
    Ok(owned)
}

/// A descriptor that is to be taken over for two purposes.
fn twice(common: &Common) -> Option<RawFd> {
    let endpoint = |endpoint: &Option<Endpoint>| match endpoint {
        Some(Endpoint::Descriptor(fd)) => Some(*fd),
        _ => None,
    };
    let net = common.net.as_ref().and_then(NetArgument::descriptor);
    let mut seen = Vec::new();
    [endpoint(&common.vsock), endpoint(&common.control), net].into_iter().flatten().find(|fd| {
        let known = seen.contains(fd);
        seen.push(*fd);
        known
    })
}

fn ends(common: Common) -> Result<Ends, RunError> {
    let vsock = match (common.vsock, common.vsock_path) {
        (None, _) => None,
        (Some(Endpoint::Path(path)), _) => Some(VsockEnds { listener: None, path }),
        (Some(Endpoint::Descriptor(fd)), Some(path)) => {
            Some(VsockEnds { listener: Some(inherit(fd)?), path })
        }
        (Some(Endpoint::Descriptor(fd)), None) => return Err(RunError::NoVsockPath(fd)),
    };
    let net = match common.net {
        None => None,
        Some(net) => Some(net.with(inherit)?),
    };
    let serial = match common.serial {
        None => SerialTarget::Nowhere,
        Some(path) if path.as_os_str() == "-" => SerialTarget::Terminal,
        Some(path) => SerialTarget::File(path),
    };
    Ok(Ends { vsock, net, serial })
}

/// `mote-monitor boot`.
pub(super) fn boot(arguments: Boot, ready: Option<Ready>, meter: Meter) -> ExitCode {
    let drives = arguments.rootfs.into_iter().chain(arguments.drives).map(|drive| drive.0).collect();
    let (kernel, memory_mib, vcpus) = (arguments.kernel, arguments.mem, arguments.vcpus);
    let (cmdline, cid) = (arguments.cmdline, arguments.cid);
    start(arguments.common, ready, meter, |Ends { vsock, net, serial }, bare, exit, meter| {
        let config = BootConfig { kernel, drives, memory_mib, vcpus, cmdline, cid, vsock, net, serial };
        Machine::boot(config, bare, exit, meter)
    })
}

/// `mote-monitor restore`.
pub(super) fn restore(arguments: Restore, ready: Option<Ready>, meter: Meter) -> ExitCode {
    let drives = arguments.drives.into_iter().map(|drive| (drive.0, drive.1)).collect();
    let (dir, base) = (arguments.snapshot, arguments.base);
    let options = RestoreOptions {
        mode: arguments.mode,
        record: arguments.record,
        populate: !arguments.no_populate,
        large_pages: !arguments.no_large_pages,
    };
    start(arguments.common, ready, meter, |Ends { vsock, net, serial }, bare, exit, meter| {
        let config = RestoreConfig { dir, options, base, drives, vsock, net, serial };
        Machine::restore(config, bare, exit, meter)
    })
}

fn start(
    mut common: Common,
    ready: Option<Ready>,
    mut meter: Meter,
    make: impl FnOnce(Ends, Option<Bare>, &Arc<ExitSignal>, &mut Meter) -> Result<Machine, StartError>,
) -> ExitCode {
    meter.phase("arguments");
    if let Some(fd) = twice(&common) {
        return failed(&RunError::Twice(fd), None);
    }
    let (post, bare) = match ready {
        Some(Ready { post, bare }) => (post, Some(bare)),
        None => match Post::open(common.cgroup.as_deref(), common.control.take()) {
            Ok(post) => (post, None),
            Err(error) => return failed(&error, None),
        },
    };
    let timings = common.timings;
    let ends = match ends(common) {
        Ok(ends) => ends,
        Err(error) => return failed(&error, post.server),
    };
    // What is typed goes to the guest, unless standard input is the control socket.
    let terminal = ends.serial == SerialTarget::Terminal && !post.stdin_is_control;
    meter.phase("sockets and signals");
    let machine = match make(ends, bare, &post.exit, &mut meter) {
        Ok(machine) => machine,
        Err(error) => return failed(&RunError::Start(error), post.server),
    };
    if timings {
        eprint!("{}", meter.table());
    }
    match event_loop::run(machine, post.server, post.signals, &post.exit, terminal, &meter) {
        Ok((reason, mut server)) => {
            if let Some(server) = &mut server {
                server.announce(&Event::Exited { reason: reason.to_string() });
            }
            if reason.is_orderly() {
                ExitCode::SUCCESS
            } else {
                eprintln!("mote-monitor: {reason}");
                ExitCode::FAILURE
            }
        }
        Err(error) => failed(&RunError::Loop(error), None),
    }
}

/// Says what went wrong, to the owner as well.
pub(super) fn failed(error: &RunError, server: Option<Server>) -> ExitCode {
    let reason = crate::error_chain(error);
    eprintln!("mote-monitor: {reason}");
    if let Some(mut server) = server {
        server.announce(&Event::Exited { reason });
    }
    match error {
        RunError::Start(start) if start.is_incompatible() => ExitCode::from(EXIT_INCOMPATIBLE),
        _ => ExitCode::FAILURE,
    }
}
