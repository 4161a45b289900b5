//! The cgroup v2 tree: `/sys/fs/cgroup/{hostd,sandboxes}`, and killing what is in it.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Where the tree is mounted.
pub const ROOT: &str = "/sys/fs/cgroup";

/// The one service.
pub const HOSTD: &str = "hostd";

/// The parent of all sandboxes; hostd makes one folder below it for each.
pub const SANDBOXES: &str = "sandboxes";

/// Their shares of the CPUs when these are short: who asks hostd for something, if only to be refused, is answered.
const WEIGHTS: [(&str, u32); 2] = [(HOSTD, 1000), (SANDBOXES, 100)];

/// Memory of hostd's that the kernel leaves alone while others have some to give back, bytes: above all the pages of its program,
/// which would else be read again and again while memory is short.
const KEPT: u64 = 128 << 20;

/// Controllers passed down, as far as the kernel has them.
const CONTROLLERS: &[&str] = &["cpu", "cpuset", "io", "memory", "pids"];

/// A cgroup that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("Cannot make {path}")]
pub struct CgroupError {
    path: PathBuf,
    source: io::Error,
}

/// Makes the tree; returns the controllers in force.
pub fn make_tree(root: &Path) -> Result<Vec<&'static str>, CgroupError> {
    let at_root = enable(root);
    for (name, weight) in WEIGHTS {
        let path = root.join(name);
        match fs::create_dir(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(CgroupError { path, source }),
        }
        // Without the controller all are equal, which is no reason not to go on.
        let _ = fs::write(path.join("cpu.weight"), weight.to_string());
    }
    let _ = fs::write(root.join(HOSTD).join("memory.min"), KEPT.to_string());
    enable(&root.join(SANDBOXES));
    Ok(at_root)
}

/// Passes controllers on to a group's children, one by one: one that is refused (a real-time task holds
/// `cpu`, say) must not cost the others.
fn enable(group: &Path) -> Vec<&'static str> {
    let available = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    let control = group.join("cgroup.subtree_control");
    CONTROLLERS
        .iter()
        .copied()
        .filter(|name| available.split_ascii_whitespace().any(|word| word == *name))
        .filter(|name| fs::write(&control, format!("+{name}")).is_ok())
        .collect()
}

/// Kills everything in a group and below it, and waits until it is gone, at most `bound`. True when it
/// is empty then.
pub fn kill(group: &Path, bound: Duration) -> bool {
    // No such group: nothing in it.
    let _ = fs::write(group.join("cgroup.kill"), "1");
    wait_empty(group, bound)
}

fn wait_empty(group: &Path, bound: Duration) -> bool {
    let end = Instant::now() + bound;
    let Ok(events) = fs::File::open(group.join("cgroup.events")) else { return true };
    loop {
        let text = fs::read_to_string(group.join("cgroup.events")).unwrap_or_default();
        if !is_populated(&text) {
            return true;
        }
        let left = end.saturating_duration_since(Instant::now());
        // The kernel marks the file with PRI when it changes; a change between reading and waiting
        // would be missed, so the wait is cut into pieces.
        let piece = left.min(Duration::from_millis(100));
        let Ok(timeout) = Timespec::try_from(piece) else { return false };
        if left.is_zero() {
            return false;
        }
        let mut fds = [PollFd::from_borrowed_fd(events.as_fd(), PollFlags::PRI)];
        let _ = poll(&mut fds, Some(&timeout));
    }
}

fn is_populated(events: &str) -> bool {
    events.lines().any(|line| line.trim() == "populated 1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn populated_is_read() {
        assert!(is_populated("populated 1\nfrozen 0\n"));
        assert!(!is_populated("populated 0\nfrozen 0\n"));
        assert!(!is_populated(""));
    }

    #[test]
    fn a_tree_without_controllers_is_still_made() {
        let root = tempfile::tempdir().unwrap();
        assert!(make_tree(root.path()).unwrap().is_empty());
        make_tree(root.path()).unwrap();
        assert!(root.path().join(HOSTD).is_dir() && root.path().join(SANDBOXES).is_dir());
    }

    #[test]
    fn a_group_that_is_not_there_is_empty() {
        assert!(kill(Path::new("/nowhere/at/all"), Duration::ZERO));
    }
}
