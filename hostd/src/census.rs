//! What is alive on this machine, counted: the figures a leak would show in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

/// Counts of one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Census {
    /// Processes with an executable of their own: no kernel threads, no zombies.
    pub processes: usize,
    /// Ended processes nobody has reaped.
    pub zombies: usize,
    /// Open file descriptors of hostd.
    pub hostd_fds: usize,
    /// The same by what they are: the path of a file; `socket`, `pipe`, `anon_inode:[eventpoll]`.
    pub hostd_fds_by_kind: BTreeMap<String, usize>,
    /// Threads of hostd.
    pub hostd_threads: usize,
    /// Mounts in hostd's mount namespace.
    pub mounts: usize,
    /// Different network namespaces in use.
    pub network_namespaces: usize,
    /// Files and folders below the volatile folder.
    pub run_files: usize,
    /// Files and folders being prepared on the data disk.
    pub staged_files: usize,
    /// `MemTotal`, KiB.
    pub memory_total_kb: u64,
    /// `MemAvailable`, KiB.
    pub memory_available_kb: u64,
    /// Processes the kernel has killed for want of memory since it was started.
    pub oom_kills: u64,
}

impl Census {
    /// Counts.
    pub fn take(run: &Path, staged: &Path) -> Self {
        let hostd_fds_by_kind = descriptors();
        let mut census = Self {
            processes: 0,
            zombies: 0,
            hostd_fds: hostd_fds_by_kind.values().sum(),
            hostd_fds_by_kind,
            hostd_threads: entries("/proc/self/task".as_ref()),
            mounts: std::fs::read_to_string("/proc/self/mountinfo").map_or(0, |text| text.lines().count()),
            network_namespaces: 0,
            run_files: tree(run),
            staged_files: tree(staged),
            memory_total_kb: meminfo("MemTotal:"),
            memory_available_kb: meminfo("MemAvailable:"),
            oom_kills: figure("/proc/vmstat", "oom_kill "),
        };
        let mut namespaces = BTreeSet::new();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(stat) = std::fs::read_to_string(path.join("stat")) else { continue };
            // The state follows the name, which is in parentheses and may contain anything.
            let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
            if state == Some('Z') {
                census.zombies += 1;
            } else if std::fs::read_link(path.join("exe")).is_ok() {
                census.processes += 1;
                namespaces.extend(std::fs::read_link(path.join("ns/net")));
            }
        }
        census.network_namespaces = namespaces.len();
        census
    }
}

/// A line of `/proc/meminfo`, KiB.
pub fn meminfo(field: &str) -> u64 {
    figure("/proc/meminfo", field)
}

/// The figure after `field` in a file of the kernel's.
fn figure(path: &str, field: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok())
        .unwrap_or(0)
}

/// Open descriptors by kind, without the one that looks.
fn descriptors() -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for entry in std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        let target = target.to_string_lossy();
        if target.starts_with("/proc/") && target.ends_with("/fd") {
            continue;
        }
        // `socket:[123]`: the number would make every one a kind of its own.
        let kind = match target.split_once(":[") {
            Some((kind @ ("socket" | "pipe"), _)) => kind,
            _ => &target,
        };
        *kinds.entry(kind.to_owned()).or_default() += 1;
    }
    kinds
}

fn entries(path: &Path) -> usize {
    std::fs::read_dir(path).map_or(0, Iterator::count)
}

fn tree(path: &Path) -> usize {
    let mut count = 0;
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        count += 1;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            count += tree(&entry.path());
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_file_and_a_zombie_show() {
        let folder = tempfile::tempdir().unwrap();
        let before = Census::take(folder.path(), folder.path());
        assert!(before.processes > 0 && before.memory_total_kb > before.memory_available_kb);
        let path = folder.path().join("x");
        let _file = std::fs::File::create(&path).unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        let mut during = Census::take(folder.path(), folder.path());
        while during.zombies <= before.zombies && std::time::Instant::now() < deadline {
            during = Census::take(folder.path(), folder.path());
        }
        child.wait().unwrap();
        assert!(during.zombies > before.zombies);
        assert_eq!(during.hostd_fds_by_kind.get(path.to_str().unwrap()), Some(&1));
        assert_eq!(during.hostd_fds, during.hostd_fds_by_kind.values().sum::<usize>());
        assert_eq!(during.run_files, before.run_files + 1);
    }
}
