//! Monitors that hostd starts before it knows what for: what they become, and what is left of them.

#![cfg(test)]
#![allow(dead_code, reason = "hostd uses more of these modules")]

#[path = "../src/sandbox/blank.rs"]
mod blank;
#[path = "../src/sandbox/cgroup.rs"]
mod cgroup;
#[path = "../src/sandbox/monitor.rs"]
mod monitor;
#[path = "../src/sandbox/run_dir.rs"]
mod run_dir;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use blank::Blank;
use cgroup::Groups;
use monitor::{EXIT_INCOMPATIBLE, Monitor, MonitorError, QUEUE_FD};
use mote_micro::{Program, have_kvm, kernel};
use run_dir::RunDir;

/// What monitors are processes of.
const PROGRAM: &str = env!("CARGO_BIN_EXE_hostd");

const MEMORY_MB: u32 = 64;

/// Bound on what happens behind everyone's back.
const SOON: Duration = Duration::from_secs(10);

fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

fn link() -> String {
    format!("fd:{QUEUE_FD},v4=10.64.0.2,v6=fd6d::2")
}

/// Monitors this process has started and not reaped.
fn monitors() -> usize {
    let ours = std::fs::read_dir("/proc/self/task").unwrap();
    let children =
        ours.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("children")).ok());
    children
        .flat_map(|pids| pids.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .filter(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm == "hostd\n")
        })
        .count()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Waits until nothing is left of monitors in folder `run` and group `root`.
async fn nothing_left(run: &Path, root: Option<&Path>) {
    let end = Instant::now() + SOON;
    let folders = |path: &Path| {
        std::fs::read_dir(path).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count()
    };
    loop {
        let left = (monitors(), folders(run), root.map_or(0, folders));
        if left == (0, 0, 0) {
            return;
        }
        assert!(Instant::now() < end, "{left:?} monitors, folders and groups are left");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A group below one of this machine that can be written to; removed at the end.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str) -> Option<Self> {
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let mount = mounts.find(|fields| fields.get(2) == Some(&"cgroup2"))?;
        let path = Path::new(mount.get(1)?).join(format!("mote-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).ok()?;
        for name in ["memory", "pids", "cpu"] {
            // What the machine does not pass down is not limited.
            let _ = std::fs::write(path.join("cgroup.subtree_control"), format!("+{name}"));
        }
        Some(Self(path))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

struct Place {
    folder: tempfile::TempDir,
    tree: Option<Tree>,
    groups: Groups,
}

impl Place {
    fn new(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("run")).unwrap();
        std::fs::write(folder.path().join("kernel"), kernel(Program::Loop)).unwrap();
        let tree = Tree::new(name);
        if tree.is_none() {
            println!("skipped: control groups, for there is no cgroup2 that can be written to");
        }
        let groups = Groups::at(tree.as_ref().map_or(Path::new("/none"), |tree| &tree.0));
        Self { folder, tree, groups }
    }

    fn run(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    fn boot(&self) -> String {
        format!("boot --kernel {} --mem {MEMORY_MB}", self.folder.path().join("kernel").display())
    }

    async fn blank(&self, vcpus: u8) -> Blank {
        Blank::prepare_in(&self.groups, &self.run(), vcpus).await.unwrap()
    }

    async fn nothing_left(&self) {
        nothing_left(&self.run(), self.tree.as_ref().map(|tree| tree.0.as_path())).await;
    }
}

async fn start(blank: Blank, line: &str, queue: Option<OwnedFd>) -> (Result<Monitor, MonitorError>, RunDir) {
    let Blank { waiting, dir, .. } = blank;
    (waiting.start(words(line), queue, MEMORY_MB).await, dir)
}

fn sleeper(group: &Path) -> Child {
    let child = Command::new("sleep").arg("600").spawn().unwrap();
    std::fs::write(group.join("cgroup.procs"), child.id().to_string()).unwrap();
    child
}

#[tokio::test]
async fn groups_go_with_what_is_in_them() {
    let Some(tree) = Tree::new("groups") else {
        println!("skipped: there is no cgroup2 that can be written to");
        return;
    };
    let groups = Groups::at(&tree.0);
    for way in ["removed", "dropped", "left over"] {
        let mut group = groups.make(way).unwrap();
        group.limit(MEMORY_MB);
        assert_eq!(group.killed(), None);
        let path = group.path().to_owned();
        let mut child = sleeper(&path);
        match way {
            "removed" => group.remove().await,
            "dropped" => drop(group),
            _ => {
                std::mem::forget(group);
                groups.clear().await;
            }
        }
        let end = Instant::now() + SOON;
        while way == "dropped" && path.exists() && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(!path.exists(), "{way}");
        assert!(!child.wait().unwrap().success());
    }
}

#[tokio::test]
async fn blanks_become_microvms_and_leave_nothing() {
    if !have_kvm() {
        return;
    }
    let place = Place::new("become");
    let snapshot = place.folder.path().join("snapshot");
    let blank = place.blank(1).await;
    let (pid, group) = (blank.pid().unwrap(), std::fs::read_to_string("/proc/self/cgroup").unwrap());
    if let Some(tree) = &place.tree {
        let name = format!("{}/{}\n", tree.0.file_name().unwrap().to_str().unwrap(), blank.id());
        let its = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert!(its.ends_with(&name) && its != group, "it is in {its}");
    }
    let (monitor, dir) = start(blank, &format!("{} --net detached", place.boot()), None).await;
    let mut monitor = monitor.unwrap();
    monitor.running().await.unwrap();
    assert_eq!(monitor.pid(), Some(pid));
    monitor.pause().await.unwrap();
    monitor.snapshot(&snapshot, SOON).await.unwrap();
    monitor.resume().await.unwrap();
    monitor.kill().await;
    drop((monitor, dir));
    place.nothing_left().await;

    let restore = format!("restore --snapshot {} --net {}", snapshot.display(), link());
    let before = descriptors();
    for round in 0..40 {
        let blank = place.blank(1).await;
        if round % 2 == 0 {
            // Not used: dropped, or put away.
            if round % 4 == 0 {
                blank.destroy().await;
            }
            continue;
        }
        let (queue, outside) = UnixDatagram::pair().unwrap();
        let (monitor, dir) = start(blank, &restore, Some(queue.into())).await;
        let mut monitor = monitor.unwrap();
        monitor.running().await.unwrap();
        outside.send(&[0; 60]).unwrap();
        if round % 4 == 1 {
            monitor.kill().await;
            assert!(outside.send(&[0; 60]).is_err(), "somebody still holds the queue");
        }
        drop((monitor, dir));
    }
    place.nothing_left().await;
    // Other tests open some, too, but not as many.
    assert!(descriptors() < before + 20, "{} descriptors, {before} before", descriptors());
}

#[tokio::test]
async fn what_goes_wrong_is_told() {
    if !have_kvm() {
        return;
    }
    let place = Place::new("wrong");
    // It died while it waited.
    let mut blank = place.blank(1).await;
    assert!(blank.fits(1) && !blank.fits(2));
    let waited = tokio::time::timeout(Duration::from_millis(50), blank.idle()).await;
    assert!(waited.is_err(), "it died by itself");
    assert!(blank.fits(1));
    let pid = rustix::process::Pid::from_raw(i32::try_from(blank.pid().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    tokio::time::timeout(SOON, blank.idle()).await.unwrap();
    assert!(!blank.fits(1), "what is dead is used");
    let (dead, dir) = start(blank, &place.boot(), None).await;
    assert!(matches!(dead, Err(MonitorError::Ended { .. })), "{dead:?}");
    drop(dir);

    for (line, code, why) in [
        (place.boot() + " --vcpus 2", 1, "needs 2 vCPUs, 1 were prepared"),
        ("restore --snapshot /none".to_owned(), EXIT_INCOMPATIBLE, "/none"),
        (place.boot() + " --net " + &link(), 1, "descriptor 1"),
    ] {
        let (monitor, _dir) = start(place.blank(1).await, &line, None).await;
        match monitor.unwrap().running().await {
            Err(MonitorError::Ended { code: Some(found), said, .. }) => {
                assert_eq!(found, code, "{said}");
                assert!(said.contains(why), "{said}");
            }
            other => panic!("{other:?}"),
        }
    }
    place.nothing_left().await;
}

/// A monitor that needs more than its group may have is killed, alone, and that is what is said of it.
#[tokio::test]
async fn a_monitor_over_its_limit_is_killed_alone() {
    if !have_kvm() {
        return;
    }
    let place = Place::new("limit");
    let Some(tree) = &place.tree else { return };
    let limited = std::fs::read_to_string(tree.0.join("cgroup.controllers")).unwrap();
    if !limited.contains("memory") {
        println!("skipped: there is no memory controller");
        return;
    }
    let blank = place.blank(1).await;
    let group = tree.0.join(blank.id());
    let (monitor, _dir) = start(blank, &place.boot(), None).await;
    let mut monitor = monitor.unwrap();
    monitor.running().await.unwrap();
    assert!(monitor.anonymous().is_some_and(|bytes| bytes > 0));
    std::fs::write(group.join("memory.max"), "0").unwrap();
    let died = tokio::time::timeout(SOON, monitor.exited()).await.unwrap();
    assert!(
        matches!(died, MonitorError::OutOfMemory { limit_mb } if limit_mb > u64::from(MEMORY_MB)),
        "{died:?}"
    );
    drop(monitor);
    place.nothing_left().await;
}
