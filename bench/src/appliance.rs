//! A booted appliance to measure: QEMU with a blank data disk, ended with its owner.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mote_image::disk;
use mote_image::project::Project;
use mote_image::qemu::accel::Accelerator;
use mote_image::qemu::qmp::{self, QmpError, Reads};
use mote_image::qemu::throttle::Throttle;
use mote_image::qemu::{DATA_DISK, Machine, Serial, ready};

use crate::Outcome;

/// Bound on the boot.
const READY_LIMIT: Duration = Duration::from_secs(180);
/// Sparse: it takes as much as is written.
const DATA_BYTES: u64 = 16 << 30;

/// What to boot.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Memory, MiB.
    pub memory_mib: u32,
    /// How slow reading the data disk is.
    pub data_throttle: Option<Throttle>,
    /// Words at the end of the kernel command line: `mote.SECTION.KEY=VALUE` overrides config/mote.toml.
    pub append: Vec<String>,
}

impl Default for Setup {
    fn default() -> Self {
        Self { memory_mib: 3072, data_throttle: None, append: Vec::new() }
    }
}

/// A running appliance.
#[derive(Debug)]
pub struct Appliance {
    qemu: Child,
    /// Address of its front door.
    pub url: String,
    /// How QEMU runs it, for the report.
    pub how: String,
    qmp: PathBuf,
    _folder: tempfile::TempDir,
}

impl Appliance {
    /// Boots what `make image` left in dist/ and waits until it is ready.
    pub fn boot(setup: Setup) -> Outcome<Self> {
        let project = Project::find(Path::new("."))?;
        let image = project.image()?;
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("data.img");
        let qmp = folder.path().join("qmp");
        disk::blank_data(&data, DATA_BYTES, "bench")?;
        // Bound for a moment to learn a free port.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let (accelerator, how) = Accelerator::choose();
        let machine = Machine {
            accelerator,
            memory_mib: setup.memory_mib,
            cpus: 2,
            kernel: project.kernel(),
            initramfs: project.initramfs(),
            cmdline: image.cmdline,
            append: setup.append,
            system: project.system_disk(),
            data: Some(data),
            boot_disk: None,
            data_throttle: setup.data_throttle,
            port,
            serial: Serial::File(folder.path().join("console.log")),
            qmp: Some(qmp.clone()),
            no_reboot: true,
        };
        let command = machine.command();
        let (program, arguments) = command.split_first().ok_or("QEMU's command is empty")?;
        let qemu = Command::new(program).args(arguments).stdin(Stdio::null()).spawn()?;
        let mut appliance = Self { qemu, url: machine.url(), how, qmp, _folder: folder };
        let deadline = Instant::now() + READY_LIMIT;
        while ready::probe(port) != Some(true) {
            if let Some(status) = appliance.qemu.try_wait()? {
                return Err(format!("QEMU ended while booting: {status}").into());
            }
            if Instant::now() > deadline {
                return Err(format!("The appliance was not ready within {} s", READY_LIMIT.as_secs()).into());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(appliance)
    }

    /// What was read from the data disk up to now.
    pub fn reads(&self) -> Result<Reads, QmpError> {
        qmp::reads(&self.qmp, DATA_DISK)
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
