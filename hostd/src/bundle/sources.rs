//! What is in a bundle besides what hostd says of itself: files, as a table, and the kernel's log.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Largest part, in bytes; of a file, its end.
pub const MOST_PART: usize = 2 << 20;

/// Files below `/`, under the names they have in the bundle.
pub const KERNEL: &[(&str, &str)] = &[
    ("kernel/version", "proc/version"),
    ("kernel/cmdline", "proc/cmdline"),
    ("kernel/uptime", "proc/uptime"),
    ("kernel/loadavg", "proc/loadavg"),
    ("kernel/meminfo", "proc/meminfo"),
    ("kernel/vmstat", "proc/vmstat"),
    ("kernel/cpuinfo", "proc/cpuinfo"),
    ("kernel/interrupts", "proc/interrupts"),
    ("kernel/modules", "proc/modules"),
    ("kernel/lockdown", "sys/kernel/security/lockdown"),
    ("kernel/consoles", "proc/consoles"),
    ("kernel/mounts", "proc/self/mountinfo"),
    ("kernel/partitions", "proc/partitions"),
    ("kernel/diskstats", "proc/diskstats"),
    ("kernel/net-dev", "proc/net/dev"),
    ("kernel/net-route", "proc/net/route"),
    ("kernel/net-sockstat", "proc/net/sockstat"),
    ("kernel/pressure-cpu", "proc/pressure/cpu"),
    ("kernel/pressure-io", "proc/pressure/io"),
    ("kernel/pressure-memory", "proc/pressure/memory"),
    ("kernel/cgroup-hostd-memory", "sys/fs/cgroup/hostd/memory.events"),
    ("kernel/cgroup-sandboxes-memory", "sys/fs/cgroup/sandboxes/memory.events"),
    ("kernel/dmi-product", "sys/class/dmi/id/product_name"),
    ("kernel/dmi-bios", "sys/class/dmi/id/bios_version"),
    ("network/resolv.conf", "etc/resolv.conf"),
    ("network/hosts", "etc/hosts"),
];

/// One part of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its path in the archive.
    pub name: String,
    /// What it says.
    pub text: String,
}

impl Part {
    /// A part.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: name.into(), text: text.into() }
    }
}

/// The files of the table that are there.
pub fn kernel(root: &Path) -> impl Iterator<Item = Part> + '_ {
    KERNEL.iter().filter_map(|(name, path)| file(name, &root.join(path)))
}

/// The end of a file, if it is there; if it cannot be read, why.
pub fn file(name: &str, path: &Path) -> Option<Part> {
    match read_end(path) {
        Ok(text) => Some(Part::new(name, text)),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => Some(Part::new(name, format!("Cannot read {}: {error}\n", path.display()))),
    }
}

fn read_end(path: &Path) -> std::io::Result<String> {
    // Files the kernel makes up have no length: read, and keep the end. Twice the bound is enough for all there are.
    let mut bytes = Vec::new();
    let most = u64::try_from(2 * MOST_PART).unwrap_or(u64::MAX);
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    let from = bytes.len().saturating_sub(MOST_PART);
    let mut end = bytes.get(from..).unwrap_or_default();
    if from > 0 {
        // From a whole line on: what is left of a secret that was cut would not be known for one.
        let line = end.iter().position(|byte| *byte == b'\n').map_or(end.len(), |at| at + 1);
        end = end.get(line..).unwrap_or_default();
    }
    Ok(String::from_utf8_lossy(end).into_owned())
}

/// The kernel's log, as far back as it goes.
pub fn kernel_log(device: PathBuf) -> Option<Part> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut log = File::options().read(true).custom_flags(flags).open(device).ok()?;
    let mut text = String::new();
    // A message for each read; longer ones do not exist.
    let mut message = [0_u8; 8192];
    while text.len() < MOST_PART {
        match log.read(&mut message) {
            Ok(0) => break,
            Ok(length) => {
                text.push_str(&String::from_utf8_lossy(message.get(..length).unwrap_or_default()));
            }
            // Messages were overwritten before we came to them.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            // No more for now.
            Err(_) => break,
        }
    }
    Some(Part::new("kernel/log", text))
}
