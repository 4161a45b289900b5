//! A control group per monitor: how much memory, how many threads, which share of the CPUs it may have.
//!
//! init makes the tree; where there is none, or without a controller, monitors do without.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// Where init has the groups made.
const ROOT: &str = "/sys/fs/cgroup/sandboxes";

const MIB: u64 = 1 << 20;

/// What a monitor may use beside its guest's memory, in MiB: itself, the kernel's structures for it, and pages of disk
/// images, which go when they are in the way.
const OVERHEAD_MB: u64 = 64;

/// Of the guest's memory, the part that page tables may take in the end, and the second half of them in KVM.
const TABLES_SHARE: u64 = 32;

/// Threads of a monitor: its own, one per vCPU (32 at most), those that bring memory back.
const THREADS: u64 = 64;

/// Memory that is worth a unit of CPU weight, in MiB: the largest function is not cut off.
const MB_PER_WEIGHT: u64 = 2;

/// What the kernel takes as weights.
const WEIGHTS: std::ops::RangeInclusive<u64> = 1..=10_000;

/// How long a group is waited for whose process is about to end, and how often it is looked at.
const REMOVAL: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(10);

/// A file of a group, and what is written to it.
type Setting = (&'static str, String);

/// Most memory of a monitor whose guest has `memory_mb`, in MiB.
fn limit_mb(memory_mb: u32) -> u64 {
    let memory = u64::from(memory_mb);
    memory + memory.div_ceil(TABLES_SHARE) + OVERHEAD_MB
}

/// The share of the CPUs of a guest with `memory_mb`: in proportion, as on Lambda.
fn cpu_weight(memory_mb: u32) -> u64 {
    (u64::from(memory_mb) / MB_PER_WEIGHT).clamp(*WEIGHTS.start(), *WEIGHTS.end())
}

/// What holds for every monitor; first of all the memory of one that has no guest yet.
fn common() -> [Setting; 4] {
    [
        ("memory.max", (OVERHEAD_MB * MIB).to_string()),
        ("memory.swap.max", "0".to_owned()),
        ("memory.oom.group", "1".to_owned()),
        ("pids.max", THREADS.to_string()),
    ]
}

/// What depends on the guest.
fn for_guest(memory_mb: u32) -> [Setting; 2] {
    [
        ("memory.max", (limit_mb(memory_mb) * MIB).to_string()),
        ("cpu.weight", cpu_weight(memory_mb).to_string()),
    ]
}

/// The number behind `name` in a file of `NAME NUMBER` lines.
fn entry(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Where groups are made.
#[derive(Debug)]
pub struct Groups {
    root: Option<PathBuf>,
}

impl Groups {
    /// Those of this machine. Says in the log, the first time, if there are none.
    pub fn of_machine() -> &'static Self {
        static GROUPS: OnceLock<Groups> = OnceLock::new();
        GROUPS.get_or_init(|| {
            let groups = Self::at(Path::new(ROOT));
            if groups.root.is_none() {
                tracing::warn!("There is no {ROOT}: microVMs run without limits of their own");
            }
            groups
        })
    }

    /// Those below `root`, if that is a group.
    pub fn at(root: &Path) -> Self {
        Self { root: root.join("cgroup.procs").exists().then(|| root.to_owned()) }
    }

    /// Makes a group for a monitor that is to be started in it. `None`: it has to do without.
    pub fn make(&self, id: &str) -> Option<Group> {
        let path = self.root.as_ref()?.join(id);
        if let Err(error) = std::fs::create_dir(&path) {
            tracing::warn!(path = %path.display(), %error, "A microVM runs without limits of its own");
            return None;
        }
        let group = Group { path, memory_mb: 0, limit_mb: OVERHEAD_MB };
        group.set(&common());
        Some(group)
    }

    /// Removes what a hostd that crashed has left, with what is in it.
    pub async fn clear(&self) {
        let Some(root) = &self.root else { return };
        for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove(entry.path()).await;
            }
        }
    }
}

/// The group of one monitor; it goes with its owner, as soon as the process is gone.
#[derive(Debug)]
pub struct Group {
    /// Empty once it is removed.
    path: PathBuf,
    /// Of the guest.
    memory_mb: u32,
    limit_mb: u64,
}

impl Group {
    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sets what a guest with `memory_mb` may use.
    pub fn limit(&mut self, memory_mb: u32) {
        self.memory_mb = memory_mb;
        self.limit_mb = limit_mb(memory_mb);
        self.set(&for_guest(memory_mb));
    }

    /// The guest's memory is about to be written to a file. What is in the page cache counts, too, and a limit has the
    /// kernel make the writer wait for the disk: no limit meanwhile.
    pub fn lift(&self) {
        self.set(&[("memory.max", "max".to_owned())]);
    }

    /// It was written: from now on there is a limit with room for that. A group that has more than this keeps none,
    /// for the kernel would look for something to kill.
    pub fn lower(&mut self) {
        self.limit_mb = 2 * limit_mb(self.memory_mb);
        let limit = self.limit_mb * MIB;
        if self.number("memory.current").is_some_and(|current| current < limit) {
            self.set(&[("memory.max", limit.to_string())]);
        }
    }

    /// The limit in MiB, if the kernel has killed what is in here because of it.
    pub fn killed(&self) -> Option<u64> {
        let events = std::fs::read_to_string(self.path.join("memory.events")).ok()?;
        (entry(&events, "oom_kill")? > 0).then_some(self.limit_mb)
    }

    /// Bytes of memory that nothing on a disk stands for.
    pub fn anonymous(&self) -> Option<u64> {
        entry(&std::fs::read_to_string(self.path.join("memory.stat")).ok()?, "anon")
    }

    fn number(&self, name: &str) -> Option<u64> {
        std::fs::read_to_string(self.path.join(name)).ok()?.trim().parse().ok()
    }

    fn set(&self, settings: &[Setting]) {
        for (name, value) in settings {
            let path = self.path.join(name);
            // Not created: what is not there, this kernel does not have.
            let written = std::fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()));
            match written {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), value, %error, "Cannot limit a microVM");
                }
                _ => {}
            }
        }
    }

    /// Kills what is in it and waits until it is gone.
    pub async fn remove(mut self) {
        remove(self.path.clone()).await;
        // Dropped before that, it goes on being removed.
        self.path.clear();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        if path.as_os_str().is_empty() {
            return;
        }
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(remove(path))),
            // The next hostd finds it.
            Err(_) => drop(std::fs::remove_dir(path)),
        }
    }
}

/// Kills what is in a group and removes it once that is gone.
async fn remove(path: PathBuf) {
    // Fails where the kernel cannot do that: then the monitor's owner does.
    let _ = std::fs::write(path.join("cgroup.kill"), "1");
    let gone = async {
        loop {
            match std::fs::remove_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => tokio::time::sleep(STEP).await,
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.to_string()),
                _ => return Ok(()),
            }
        }
    };
    let waited = tokio::time::timeout(REMOVAL, gone).await;
    if let Err(error) = waited.unwrap_or_else(|_| Err(format!("still in use after {} s", REMOVAL.as_secs())))
    {
        tracing::warn!(path = %path.display(), error, "Cannot remove a microVM's group");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn figures_are_those_meant() {
        assert_eq!(limit_mb(128), 128 + 4 + 64);
        assert_eq!(limit_mb(10_240), 10_240 + 320 + 64);
        assert_eq!((cpu_weight(128), cpu_weight(256), cpu_weight(10_240)), (64, 128, 5120));
        assert_eq!((cpu_weight(0), cpu_weight(u32::MAX)), (1, 10_000));
        assert_eq!(for_guest(128)[0], ("memory.max", "205520896".to_owned()));
    }

    #[test]
    fn the_right_entry_is_read() {
        let events = "low 0\nhigh 0\nmax 7\noom 1\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(entry(events, "oom_kill"), Some(2));
        assert_eq!(entry(events, "oom"), Some(1));
        assert_eq!(entry("anon_thp 5\nanon 4096\nfile 3", "anon"), Some(4096));
        assert_eq!(entry("anon", "anon"), None);
        assert_eq!(entry("anon x", "anon"), None);
    }

    proptest! {
        #[test]
        fn more_memory_never_gets_less(small in 0u32.., more in 0u32..) {
            let large = small.saturating_add(more);
            prop_assert!(limit_mb(small) <= limit_mb(large) && limit_mb(small) > u64::from(small));
            prop_assert!(cpu_weight(small) <= cpu_weight(large) && WEIGHTS.contains(&cpu_weight(large)));
        }

        #[test]
        fn any_text_is_read(text in ".{0,80}", name in "[a-z_]{1,8}") {
            let _ = entry(&text, &name);
        }
    }

    /// A folder that looks like the tree, but is none.
    #[tokio::test]
    async fn settings_go_to_the_files_there_are() {
        let root = tempfile::tempdir().unwrap();
        assert!(Groups::at(root.path()).make("early").is_none());
        std::fs::write(root.path().join("cgroup.procs"), "").unwrap();
        let groups = Groups::at(root.path());
        let mut group = groups.make("a").unwrap();
        assert!(groups.make("a").is_none(), "two monitors in one group");
        let file = |name: &str| root.path().join("a").join(name);
        assert_eq!(std::fs::read_dir(group.path()).unwrap().count(), 0, "files are made");
        assert_eq!((group.anonymous(), group.killed()), (None, None));
        for name in ["memory.max", "cpu.weight"] {
            std::fs::write(file(name), "").unwrap();
        }
        let max = || std::fs::read_to_string(file("memory.max")).unwrap();
        group.limit(128);
        assert_eq!(max(), (196 * MIB).to_string());
        assert_eq!(std::fs::read_to_string(file("cpu.weight")).unwrap(), "64");
        std::fs::write(file("memory.events"), "oom_kill 0\n").unwrap();
        assert_eq!(group.killed(), None);
        std::fs::write(file("memory.events"), "oom_kill 1\n").unwrap();
        assert_eq!(group.killed(), Some(196));
        std::fs::write(file("memory.stat"), "anon 77\n").unwrap();
        assert_eq!(group.anonymous(), Some(77));
        // Files keep what was longer.
        std::fs::write(file("memory.max"), "").unwrap();
        group.lift();
        assert_eq!(max(), "max");
        std::fs::write(file("memory.current"), (500 * MIB).to_string()).unwrap();
        group.lower();
        assert_eq!(max(), "max");
        std::fs::write(file("memory.current"), (300 * MIB).to_string()).unwrap();
        group.lower();
        group.lower();
        assert_eq!(max(), (392 * MIB).to_string());
    }
}
