//! Where a microVM is going to be: its name and folder, and the monitor that runs it, new or waiting there already.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mote_api::RestoreMode;

use super::blank::{Blank, new_id};
use super::cgroup::Groups;
use super::monitor::{Monitor, MonitorError, QUEUE_FD, Waiting};
use super::run_dir::RunDir;
use super::start::{StartError, StartSpec};
use crate::network::Place;

/// Command line of every guest: runtime image as root, agent as init; a panic or reboot ends the monitor.
const GUEST_CMDLINE: &str = "root=/dev/vda ro init=/mote/agent";

/// A network device that is nowhere. What is restored from its snapshot may be given any smaller MTU.
const DETACHED: &str = "detached,mtu=65535";

/// Size of the drive with the function's code as guests see it; images are smaller, see `package.max_unpacked_mb`.
pub const CODE_DRIVE_MIB: u64 = 1024;

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

/// A place for a microVM.
#[derive(Debug)]
pub(super) struct Seat {
    /// Name of the sandbox.
    pub(super) id: Arc<str>,
    /// A monitor that waits to be told what to be.
    waiting: Option<Waiting>,
    // Behind the process that uses it.
    /// Folder of the sandbox.
    pub(super) dir: RunDir,
}

impl Seat {
    /// That of `blank`, if there is one that can become what `spec` says; else a new one.
    pub(super) fn take(spec: &StartSpec, blank: Option<Blank>) -> Result<Self, StartError> {
        if let Some(mut blank) = blank
            && blank.fits(spec.vcpus)
        {
            let Blank { id, waiting, dir, .. } = blank;
            return Ok(Self { id, waiting: Some(waiting), dir });
        }
        let id = new_id();
        let dir = RunDir::create(&spec.run, &id).map_err(StartError::Folder)?;
        Ok(Self { id, waiting: None, dir })
    }

    /// Has a monitor become what `arguments` say, with its network device at `place`, or at none.
    pub(super) async fn start(
        &mut self,
        spec: &StartSpec,
        mut arguments: Vec<OsString>,
        place: Option<&Place>,
    ) -> Result<Monitor, StartError> {
        let net = place.map_or_else(|| DETACHED.to_owned(), |place| place.argument(QUEUE_FD));
        arguments.extend(["--net".into(), net.into()]);
        let queue = place.map(Place::queue).transpose();
        let queue = queue.map_err(|error| StartError::Monitor(MonitorError::Spawn(error)))?;
        let memory_mb = spec.function.memory_mb;
        let started = match self.waiting.take() {
            Some(waiting) => waiting.start(arguments, queue, memory_mb).await,
            None => {
                let mut group = Groups::of_machine().make(&self.id);
                if let Some(group) = &mut group {
                    group.limit(memory_mb);
                }
                Monitor::spawn(&arguments, queue, self.dir.complaints(), group)
            }
        };
        started.map_err(StartError::Monitor)
    }
}

pub(super) fn boot_arguments(spec: &StartSpec, code: PathBuf, dir: &RunDir) -> Vec<OsString> {
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

pub(super) fn restore_arguments(spec: &StartSpec, restoring: Restoring<'_>, dir: &RunDir) -> Vec<OsString> {
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
