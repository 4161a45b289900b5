//! What a monitor costs before its guest runs: the CPU time its own event reports, for each kernel format.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use mote_image::cache::Cache;
use mote_image::kernel;
use mote_image::project::Project;
use mote_monitor::control::Event;

use crate::figures::{Mode, Report, quantile};
use crate::{Outcome, program};

/// Bound on one start.
const START_LIMIT: Duration = Duration::from_secs(20);

/// What to measure with.
#[derive(Debug, Args)]
pub struct Options {
    /// The monitor [default: mote-monitor beside this program].
    #[arg(long)]
    monitor: Option<PathBuf>,
    /// Guest kernel as ELF [default: the image's, built if need be].
    #[arg(long)]
    vmlinux: Option<PathBuf>,
    /// Guest kernel as bzImage; without it only ELF is measured.
    #[arg(long)]
    bzimage: Option<PathBuf>,
    /// Guest memory, MiB.
    #[arg(long, default_value_t = 128)]
    mem: u32,
}

/// Runs the comparison.
pub fn run(options: &Options, runs: u32) -> Outcome<Report> {
    let monitor = program::monitor(options.monitor.as_deref())?;
    let vmlinux = match &options.vmlinux {
        Some(path) => path.clone(),
        None => guest_kernel()?,
    };
    let mut kernels = vec![("elf", vmlinux.as_path())];
    kernels.extend(options.bzimage.as_deref().map(|path| ("bzimage", path)));
    let folder = tempfile::tempdir()?;
    let rootfs = folder.path().join("rootfs");
    std::fs::write(&rootfs, vec![0u8; 1 << 20])?;

    let mut samples: Vec<[Vec<f64>; 3]> = kernels.iter().map(|_| Default::default()).collect();
    for round in 0..=runs {
        for ((_, kernel), samples) in kernels.iter().zip(&mut samples) {
            let figures = one(&monitor, kernel, &rootfs, folder.path(), options.mem)?;
            if round > 0 {
                samples.iter_mut().zip(figures).for_each(|(series, figure)| series.push(figure));
            }
        }
    }
    let mut report = Report::new("monitor", runs);
    for ((name, _), [cpu, kvm, wall]) in kernels.iter().zip(&samples) {
        let own: Vec<f64> = cpu.iter().zip(kvm).map(|(cpu, kvm)| cpu - kvm).collect();
        let mut mode = Mode::of(&own);
        mode.counts.insert("with_kvm_calls_ms".to_owned(), quantile(cpu, 0.5));
        mode.counts.insert("wall_ms".to_owned(), quantile(wall, 0.5));
        report.modes.insert((*name).to_owned(), mode);
    }
    report.ratio("bzimage", "elf");
    Ok(report)
}

fn guest_kernel() -> Outcome<PathBuf> {
    let project = Project::find(Path::new("."))?;
    let paths = kernel::ensure(&Cache::open()?, &project, &[kernel::GUEST])?;
    paths.into_values().next().ok_or_else(|| "There is no guest kernel".into())
}

/// Starts a monitor, reads its first event and ends it: CPU, KVM's part of it and wall time in milliseconds.
fn one(monitor: &Path, kernel: &Path, rootfs: &Path, folder: &Path, mem: u32) -> Outcome<[f64; 3]> {
    let control = folder.join("control");
    let child = Command::new(monitor)
        .arg("boot")
        .arg("--kernel")
        .arg(kernel)
        .arg("--rootfs")
        .arg(rootfs)
        .args(["--mem", &mem.to_string(), "--vcpus", "1"])
        .arg("--vsock")
        .arg(folder.join("vsock"))
        .arg("--control")
        .arg(&control)
        .arg("--serial")
        .arg(folder.join("serial"))
        .stdin(Stdio::null())
        .spawn()?;
    let mut child = Reaped(child);
    let deadline = Instant::now() + START_LIMIT;
    let stream = loop {
        match UnixStream::connect(&control) {
            Ok(stream) => break stream,
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
        if let Some(status) = child.0.try_wait()? {
            return Err(format!("{} ended early: {status}", monitor.display()).into());
        }
    };
    stream.set_read_timeout(Some(START_LIMIT))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    drop(child);
    for name in ["control", "vsock", "serial"] {
        let _ = std::fs::remove_file(folder.join(name));
    }
    match serde_json::from_str(&line)? {
        Event::Running { setup_cpu_us, setup_kvm_us, setup_wall_us } => {
            Ok([setup_cpu_us, setup_kvm_us, setup_wall_us].map(milliseconds))
        }
        Event::Blank { .. } => Err("It is a blank".into()),
        Event::Exited { reason } => Err(format!("The monitor ended: {reason}").into()),
    }
}

fn milliseconds(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64() * 1000.0
}

/// A process that does not outlive its owner.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
