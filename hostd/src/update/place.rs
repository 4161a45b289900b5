//! Where the slots are.

use std::path::{Path, PathBuf};

use mote_environment::partition::{self, Partition};
use mote_layout::{Layout, LayoutError, Role};
use mote_update::slots::Slot;

use crate::text::chain;

/// The partitions that an update has to do with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The slot that runs.
    pub running: Slot,
    /// The partition with the boot loader's block.
    pub environment: PathBuf,
    /// The partition of the other slot.
    pub other: PathBuf,
    /// Where in a slot its boot area begins, in bytes: the boot loader looks there.
    pub boot_area: u64,
}

/// Why it is not known where the slots are.
#[derive(Debug, thiserror::Error)]
enum PlaceError {
    #[error("The table of partitions is wrong")]
    Layout(#[from] LayoutError),
    #[error("The machine was not started from a slot of a disk")]
    NoSlot,
    #[error("No partition is labelled {0}")]
    Absent(String),
    #[error("More than one partition is labelled {0}: take out the other disk")]
    Rivals(String),
    #[error("The kernel refuses writes to partition {0}")]
    ReadOnly(String),
}

impl Place {
    /// Of a machine that was started from this slot, by what the kernel lists at `sys`.
    ///
    /// # Errors
    /// Why it has none, in a sentence.
    pub fn find(slot: &str, sys: &Path) -> Result<Self, String> {
        look(slot, sys).map_err(|error| chain(&error))
    }
}

fn look(slot: &str, sys: &Path) -> Result<Place, PlaceError> {
    let running = Slot::of(slot).ok_or(PlaceError::NoSlot)?;
    let layout = Layout::built_in()?;
    let device = |role| {
        let label = layout.partition(role)?.label.clone();
        match partition::find(sys, &label) {
            None => Err(PlaceError::Absent(label)),
            // An update must not go to a disk that only looks like the machine's own.
            Some(Partition { rivals: 1.., .. }) => Err(PlaceError::Rivals(label)),
            Some(Partition { read_only: true, .. }) => Err(PlaceError::ReadOnly(label)),
            Some(Partition { device, .. }) => Ok(device),
        }
    };
    Ok(Place {
        running,
        environment: device(Role::Esp)?,
        other: device(partition::role(running.other()))?,
        boot_area: layout.boot_area()?.start,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn partition(sys: &Path, name: &str, label: &str, read_only: bool) {
        let folder = sys.join(name);
        fs::create_dir(&folder).unwrap();
        let text = format!("DEVNAME={name}\nDEVTYPE=partition\nPARTNAME={label}\n");
        fs::write(folder.join("uevent"), text).unwrap();
        fs::write(folder.join("ro"), if read_only { "1\n" } else { "0\n" }).unwrap();
    }

    #[test]
    fn the_other_slot_is_the_one_that_does_not_run() {
        let sys = tempfile::tempdir().unwrap();
        for (name, label) in [("vda2", "mote-esp"), ("vda4", "mote-system-a"), ("vda5", "mote-system-b")] {
            partition(sys.path(), name, label, false);
        }
        let place = Place::find("a", sys.path()).unwrap();
        assert_eq!((place.running, place.other), (Slot::A, PathBuf::from("/dev/vda5")));
        assert_eq!(place.environment, Path::new("/dev/vda2"));
        assert_eq!(place.boot_area, 464 << 20);
        assert_eq!(Place::find("b", sys.path()).unwrap().other, Path::new("/dev/vda4"));
        for none in ["", "c", "A"] {
            assert!(Place::find(none, sys.path()).unwrap_err().contains("not started from a slot"), "{none}");
        }
    }

    #[test]
    fn what_is_missing_or_there_twice_is_named() {
        let sys = tempfile::tempdir().unwrap();
        let why = |words: &[&str]| {
            let said = Place::find("a", sys.path()).unwrap_err();
            assert!(words.iter().all(|word| said.contains(word)), "{said}");
        };
        why(&["mote-esp"]);
        partition(sys.path(), "vda2", "mote-esp", false);
        why(&["mote-system-b"]);
        partition(sys.path(), "vda5", "mote-system-b", true);
        why(&["refuses writes", "mote-system-b"]);
        partition(sys.path(), "sda5", "mote-system-b", false);
        why(&["More than one", "mote-system-b"]);
    }
}
