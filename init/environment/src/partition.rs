//! Partitions by their GPT labels, as the kernel lists them.

use std::fs;
use std::path::{Path, PathBuf};

use mote_layout::Role;
use mote_update::slots::Slot;

/// Where the kernel lists them.
pub const SYS: &str = "/sys/class/block";

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

/// The role of a slot's partition.
pub fn role(slot: Slot) -> Role {
    match slot {
        Slot::A => Role::SystemA,
        Slot::B => Role::SystemB,
    }
}

/// Looks for a partition below [`SYS`], or what stands for it in a test.
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

/// The value of `KEY` in a text of `KEY=value` lines (`/sys/class/block/*/uevent`).
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
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
        let system = find(sys.path(), "mote-system").unwrap();
        assert_eq!(system, Partition { device: "/dev/vda1".into(), read_only: true, rivals: 0 });
        assert_eq!(find(sys.path(), "mote-data").unwrap().device, Path::new("/dev/vdb1"));
        assert_eq!(find(sys.path(), "mote"), None);
    }

    #[test]
    fn doubles_are_counted_and_odd_names_ignored() {
        let sys = tempfile::tempdir().unwrap();
        let text = |name: &str| format!("DEVNAME={name}\nDEVTYPE=partition\nPARTNAME=mote-data\n");
        block(sys.path(), "b", &text("sdb1"), "0");
        block(sys.path(), "a", &text("sda1"), "0");
        block(sys.path(), "c", &text("../mem"), "0");
        let found = find(sys.path(), "mote-data").unwrap();
        assert_eq!((found.device, found.rivals), (PathBuf::from("/dev/sda1"), 1));
    }

    #[test]
    fn values_are_found_by_their_whole_key() {
        let text = "MAJOR=254\nDEVNAME=vdb1\nDEVTYPE=partition\nPARTN=1\nPARTNAME=mote-data\n";
        assert_eq!(value(text, "PARTNAME"), Some("mote-data"));
        assert_eq!(value(text, "PART"), None);
        assert_eq!(value(text, "DEVNAME"), Some("vdb1"));
        assert_eq!(value("PARTNAME=\n", "PARTNAME"), Some(""));
    }
}
