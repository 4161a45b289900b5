//! What the kernel counts: page faults, memory, bytes read.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{major, minor, statfs};

use crate::Outcome;

/// File systems whose files are nowhere but in memory, by the magic number statfs gives.
const MEMORY_FILE_SYSTEMS: [(i64, &str); 2] = [(0x0102_1994, "tmpfs"), (0x8584_58f6, "ramfs")];

/// Page faults of a process so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Served without the disk.
    pub minor: u64,
    /// That waited for the disk.
    pub major: u64,
}

/// Page faults of a process and its threads.
pub fn faults(pid: u32) -> Outcome<Faults> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_faults(&stat).ok_or_else(|| format!("Cannot understand /proc/{pid}/stat").into())
}

/// The name in the second field may hold anything; of what follows, faults are the 8th and the 10th.
fn parse_faults(stat: &str) -> Option<Faults> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(7);
    let minor = fields.next()?.parse().ok()?;
    let major = fields.nth(1)?.parse().ok()?;
    Some(Faults { minor, major })
}

/// Pages of a process that are in memory.
pub fn resident(pid: u32) -> Outcome<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let field = statm.split_whitespace().nth(1).and_then(|field| field.parse().ok());
    field.ok_or_else(|| format!("Cannot understand /proc/{pid}/statm").into())
}

/// Bytes read from disks on behalf of a process; `self` is this one.
pub fn read_bytes(process: &str) -> Outcome<u64> {
    let io = std::fs::read_to_string(format!("/proc/{process}/io"))?;
    let value = io.lines().find_map(|line| line.strip_prefix("read_bytes: ")?.trim().parse().ok());
    value.ok_or_else(|| format!("Cannot understand /proc/{process}/io").into())
}

/// What the kernel says about the disk `path` lies on. None where files do not lie on one disk.
fn disk(path: &Path, file: &str) -> Option<String> {
    let device = std::fs::metadata(path).ok()?.dev();
    std::fs::read_to_string(format!("/sys/dev/block/{}:{}/{file}", major(device), minor(device))).ok()
}

/// Bytes read so far, by anybody, from the disk `path` lies on.
pub fn disk_read_bytes(path: &Path) -> Option<u64> {
    let sectors: u64 = disk(path, "stat")?.split_whitespace().nth(2)?.parse().ok()?;
    Some(sectors * 512)
}

/// How much around a page fault the kernel reads from the disk `path` lies on, KiB.
pub fn read_ahead_kib(path: &Path) -> Option<u64> {
    // A partition has no queue of its own.
    let text = disk(path, "queue/read_ahead_kb").or_else(|| disk(path, "../queue/read_ahead_kb"))?;
    text.trim().parse().ok()
}

/// Refuses folders whose files cannot be dropped from memory.
pub fn check_on_disk(dir: &Path) -> Outcome<()> {
    let magic = statfs(dir)?.f_type;
    match MEMORY_FILE_SYSTEMS.iter().find(|(number, _)| *number == magic) {
        None => Ok(()),
        Some((_, name)) => Err(format!(
            "{} is on {name}: files there are never read from a disk; name another folder with --dir",
            dir.display()
        )
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 700 8 9 10 11\n";
        assert_eq!(parse_faults(stat), Some(Faults { minor: 700, major: 9 }));
        assert_eq!(parse_faults("7 (x) S 1"), None);
        assert!(faults(std::process::id()).unwrap().minor > 0);
        assert!(resident(std::process::id()).unwrap() > 0);
        assert!(read_bytes("self").is_ok());
        assert!(check_on_disk(Path::new("/dev/shm")).is_err() || !Path::new("/dev/shm").exists());
    }
}
