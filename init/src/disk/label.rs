//! Finds partitions by their GPT label, waiting for disks that are slow to appear.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::sys::uevent::{Announcements, value};

/// Label of the partition with the system image.
pub const SYSTEM: &str = "mote-system";

/// Label of the partition with the data.
pub const DATA: &str = "mote-data";

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Device node.
    pub device: PathBuf,
    /// The kernel refuses writes to it.
    pub read_only: bool,
    /// How many other partitions have the same label; this is the one the kernel lists first.
    pub rivals: usize,
}

/// Looks for a partition below `/sys/class/block`.
pub fn find(sys: &Path, label: &str) -> Option<Partition> {
    let mut found: Vec<(String, PathBuf)> = fs::read_dir(sys)
        .ok()?
        .filter_map(|entry| {
            let folder = entry.ok()?.path();
            let text = fs::read_to_string(folder.join("uevent")).ok()?;
            let named =
                value(&text, "PARTNAME") == Some(label) && value(&text, "DEVTYPE") == Some("partition");
            let name = value(&text, "DEVNAME").filter(|name| is_device_name(name));
            named.then(|| Some((name?.to_owned(), folder))).flatten()
        })
        .collect();
    found.sort();
    let rivals = found.len().saturating_sub(1);
    let (name, folder) = found.into_iter().next()?;
    let read_only = fs::read_to_string(folder.join("ro")).is_ok_and(|text| text.trim() == "1");
    Some(Partition { device: Path::new("/dev").join(name), read_only, rivals })
}

/// Looks until there is one, at most `bound`. Listening starts before looking: nothing is missed.
pub async fn wait_for(label: &str, bound: Duration) -> Option<Partition> {
    let end = Instant::now() + bound;
    let sys = Path::new("/sys/class/block");
    let mut announcements = Announcements::listen().ok();
    loop {
        if let Some(partition) = find(sys, label) {
            return Some(partition);
        }
        let heard = match &mut announcements {
            Some(announcements) => {
                timeout_at(end, announcements.next()).await.is_ok_and(|heard| heard.is_ok())
            }
            None => false,
        };
        if !heard {
            tokio::time::sleep_until(end.min(Instant::now() + Duration::from_millis(200))).await;
        }
        if Instant::now() >= end {
            return find(sys, label);
        }
    }
}

fn is_device_name(name: &str) -> bool {
    !name.is_empty() && !name.contains("..") && name.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(sys: &Path, name: &str, uevent: &str, ro: &str) {
        let folder = sys.join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("uevent"), uevent).unwrap();
        fs::write(folder.join("ro"), ro).unwrap();
    }

    #[test]
    fn found_by_label_and_nothing_else() {
        let sys = tempfile::tempdir().unwrap();
        block(sys.path(), "vda", "DEVNAME=vda\nDEVTYPE=disk\n", "0\n");
        block(sys.path(), "vda1", "DEVNAME=vda1\nDEVTYPE=partition\nPARTNAME=mote-system\n", "1\n");
        block(sys.path(), "vdb1", "DEVNAME=vdb1\nDEVTYPE=partition\nPARTNAME=mote-data\n", "0\n");
        block(sys.path(), "vdc1", "DEVNAME=vdc1\nDEVTYPE=partition\nPARTNAME=mote-data-old\n", "0\n");
        let system = find(sys.path(), SYSTEM).unwrap();
        assert_eq!(system, Partition { device: "/dev/vda1".into(), read_only: true, rivals: 0 });
        assert_eq!(find(sys.path(), DATA).unwrap().device, Path::new("/dev/vdb1"));
        assert_eq!(find(sys.path(), "mote"), None);
    }

    #[test]
    fn doubles_are_counted_and_odd_names_ignored() {
        let sys = tempfile::tempdir().unwrap();
        let text = |name: &str| format!("DEVNAME={name}\nDEVTYPE=partition\nPARTNAME=mote-data\n");
        block(sys.path(), "b", &text("sdb1"), "0");
        block(sys.path(), "a", &text("sda1"), "0");
        block(sys.path(), "c", &text("../mem"), "0");
        let found = find(sys.path(), DATA).unwrap();
        assert_eq!((found.device, found.rivals), (PathBuf::from("/dev/sda1"), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_what_never_comes_ends() {
        assert_eq!(wait_for("no-such-label", Duration::from_secs(3)).await, None);
    }
}
