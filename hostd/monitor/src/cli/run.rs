//! From arguments to a running microVM and back to an exit code.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;

use mote_virtio::NetConfig;

use super::EXIT_INCOMPATIBLE;
use super::args::{Boot, Common, Endpoint, Restore};
use super::net::NetArgument;
use crate::control::{Event, Server, ServerError};
use crate::event_loop::{self, LoopError};
use crate::machine::{BootConfig, Machine, RestoreConfig, SerialTarget, StartError, VsockEnds};
use crate::memory::restore::RestoreOptions;
use crate::meter::Meter;
use crate::signals::Signals;
use crate::vm::ExitSignal;

/// Why there is, or is no longer, a microVM.
#[derive(Debug, thiserror::Error)]
enum RunError {
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

/// What both ways of starting have.
struct Frame {
    server: Option<Server>,
    signals: Signals,
    exit: Arc<ExitSignal>,
    vsock: Option<VsockEnds>,
    net: Option<NetConfig>,
    serial: SerialTarget,
    terminal: bool,
    timings: bool,
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

fn prepare(common: Common) -> Result<Frame, RunError> {
    let signals = Signals::collect().map_err(RunError::Signals)?;
    let exit = Arc::new(ExitSignal::new().map_err(RunError::Event)?);
    if let Some(fd) = twice(&common) {
        return Err(RunError::Twice(fd));
    }
    let stdin_is_control = common.control == Some(Endpoint::Descriptor(0));
    let server = match common.control {
        None => None,
        Some(Endpoint::Path(path)) => Some(Server::listen(path)?),
        Some(Endpoint::Descriptor(fd)) => {
            signals.tell_when_parent_dies().map_err(RunError::Signals)?;
            Some(Server::inherited(UnixStream::from(inherit(fd)?))?)
        }
    };
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
    // What is typed goes to the guest, unless standard input is the control socket.
    let terminal = serial == SerialTarget::Terminal && !stdin_is_control;
    Ok(Frame { server, signals, exit, vsock, net, serial, terminal, timings: common.timings })
}

/// `mote-monitor boot`.
pub(super) fn boot(arguments: Boot, meter: Meter) -> ExitCode {
    let drives = arguments.rootfs.into_iter().chain(arguments.drives).map(|drive| drive.0).collect();
    let (kernel, memory_mib, vcpus) = (arguments.kernel, arguments.mem, arguments.vcpus);
    let (cmdline, cid) = (arguments.cmdline, arguments.cid);
    start(arguments.common, meter, |vsock, net, serial, exit, meter| {
        let config = BootConfig { kernel, drives, memory_mib, vcpus, cmdline, cid, vsock, net, serial };
        Machine::boot(config, exit, meter)
    })
}

/// `mote-monitor restore`.
pub(super) fn restore(arguments: Restore, meter: Meter) -> ExitCode {
    let drives = arguments.drives.into_iter().map(|drive| (drive.0, drive.1)).collect();
    let (dir, base) = (arguments.snapshot, arguments.base);
    let options = RestoreOptions {
        mode: arguments.mode,
        record: arguments.record,
        populate: !arguments.no_populate,
        large_pages: !arguments.no_large_pages,
    };
    start(arguments.common, meter, |vsock, net, serial, exit, meter| {
        Machine::restore(RestoreConfig { dir, options, base, drives, vsock, net, serial }, exit, meter)
    })
}

fn start(
    common: Common,
    mut meter: Meter,
    make: impl FnOnce(
        Option<VsockEnds>,
        Option<NetConfig>,
        SerialTarget,
        &Arc<ExitSignal>,
        &mut Meter,
    ) -> Result<Machine, StartError>,
) -> ExitCode {
    meter.phase("arguments");
    let mut frame = match prepare(common) {
        Ok(frame) => frame,
        Err(error) => return failed(&error, None),
    };
    meter.phase("sockets and signals");
    let (vsock, net) = (frame.vsock.take(), frame.net.take());
    let machine = match make(vsock, net, frame.serial, &frame.exit, &mut meter) {
        Ok(machine) => machine,
        Err(error) => return failed(&RunError::Start(error), frame.server),
    };
    if frame.timings {
        eprint!("{}", meter.table());
    }
    match event_loop::run(machine, frame.server, frame.signals, &frame.exit, frame.terminal, &meter) {
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
fn failed(error: &RunError, server: Option<Server>) -> ExitCode {
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
