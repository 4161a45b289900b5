//! Reads and checks a table.

use std::collections::BTreeSet;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};

use super::{ALIGN, Layout, LayoutError, Partition, Role};

/// Largest partition of a table, in MiB: a PiB. Sums of all stay far from overflowing.
pub const LARGEST_MIB: u64 = 1 << 30;

/// Most characters of a GPT name.
const LABEL_MAX: usize = 36;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    smallest_disk_mib: u64,
    boot_area_mib: u64,
    partition: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    role: Role,
    label: String,
    #[serde(rename = "type")]
    kind: Uuid,
    size_mib: u64,
}

impl Layout {
    /// Reads and checks a table.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, LayoutError> {
        let table: Table = toml::from_str(text)?;
        check_roles(&table.partition)?;
        check_labels(&table.partition)?;
        let mut start = ALIGN;
        let mut partitions = Vec::with_capacity(table.partition.len());
        for (number, entry) in (1..).zip(table.partition) {
            if entry.size_mib == 0 || entry.size_mib > LARGEST_MIB {
                return Err(LayoutError::Size(entry.role));
            }
            let size = entry.size_mib * ALIGN;
            let guid = guid(&entry.label);
            let Entry { role, label, kind, .. } = entry;
            partitions.push(Partition { role, number, label, kind, guid, start, size });
            start += size;
        }
        let layout = Self {
            partitions,
            boot_area: table.boot_area_mib.saturating_mul(ALIGN),
            smallest_disk: table.smallest_disk_mib.saturating_mul(ALIGN),
        };
        layout.check()?;
        Ok(layout)
    }

    fn check(&self) -> Result<(), LayoutError> {
        if self.partitions.last().is_none_or(|last| last.role != Role::Data) {
            return Err(LayoutError::DataNotLast);
        }
        let slot = self.partition(Role::SystemA)?.size;
        if slot != self.partition(Role::SystemB)?.size {
            return Err(LayoutError::SlotsDiffer);
        }
        if self.boot_area < ALIGN || self.boot_area >= slot {
            return Err(LayoutError::BootArea(self.boot_area / ALIGN));
        }
        let (needed, smallest) = (self.image_size(), self.smallest_disk);
        if needed > smallest {
            return Err(LayoutError::TooLarge { needed, smallest });
        }
        Ok(())
    }
}

fn check_roles(entries: &[Entry]) -> Result<(), LayoutError> {
    let wrong = |role: &Role| entries.iter().filter(|entry| entry.role == *role).count() != 1;
    Role::ALL.into_iter().find(wrong).map_or(Ok(()), |role| Err(LayoutError::Role(role)))
}

fn check_labels(entries: &[Entry]) -> Result<(), LayoutError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let mut seen = BTreeSet::new();
    for Entry { label, .. } in entries {
        let fits = (1..=LABEL_MAX).contains(&label.len()) && label.bytes().all(plain);
        if !fits || !seen.insert(label) {
            return Err(LayoutError::Label(label.clone()));
        }
    }
    Ok(())
}

/// A GUID made of a name, marked as such (version 8).
pub fn guid(name: &str) -> Uuid {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&Sha256::digest(format!("mote partition\0{name}"))[..16]);
    Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::SECTOR;
    use super::*;

    const KIND: &str = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";

    fn table(smallest: u64, boot: u64, entries: &[(Role, &str, u64)]) -> String {
        let mut text = format!("smallest_disk_mib = {smallest}\nboot_area_mib = {boot}\n");
        for (role, label, size) in entries {
            text += &format!(
                "[[partition]]\nrole = \"{role}\"\nlabel = \"{label}\"\ntype = \"{KIND}\"\nsize_mib = {size}\n"
            );
        }
        text
    }

    fn usual() -> Vec<(Role, &'static str, u64)> {
        Role::ALL.into_iter().zip(["a", "b", "c", "d", "e", "f"]).map(|(role, l)| (role, l, 4)).collect()
    }

    /// The usual table, changed.
    fn with(change: impl FnOnce(&mut Vec<(Role, &'static str, u64)>)) -> Result<Layout, LayoutError> {
        let mut entries = usual();
        change(&mut entries);
        Layout::parse(&table(100, 1, &entries))
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(with(|_| ()).is_ok());
        assert!(matches!(with(|e| e.truncate(5)), Err(LayoutError::Role(Role::Data))));
        assert!(matches!(with(|e| e[1].0 = Role::Data), Err(LayoutError::Role(Role::Esp))));
        assert!(matches!(with(|e| e.swap(4, 5)), Err(LayoutError::DataNotLast)));
        assert!(matches!(with(|e| e[2].2 = 0), Err(LayoutError::Size(Role::Config))));
        assert!(matches!(with(|e| e[2].2 = 1 << 31), Err(LayoutError::Size(Role::Config))));
        assert!(matches!(with(|e| e[3].2 = 5), Err(LayoutError::SlotsDiffer)));
        assert!(matches!(with(|e| e[5].2 = 80), Err(LayoutError::TooLarge { .. })));
        for bad in ["", "A", "a b", "\u{e4}", "b", "0123456789012345678901234567890123456"] {
            assert!(matches!(with(|e| e[0].1 = bad), Err(LayoutError::Label(_))), "{bad:?}");
        }
        for boot in [0, 4, 1 << 62] {
            assert!(matches!(Layout::parse(&table(100, boot, &usual())), Err(LayoutError::BootArea(_))));
        }
        let unknown = table(100, 1, &usual()) + "colour = \"red\"\n";
        assert!(matches!(Layout::parse(&unknown), Err(LayoutError::Syntax(_))));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text: String) {
            prop_assert!(Layout::parse(&text).is_err());
        }

        #[test]
        fn whatever_is_taken_is_in_order_aligned_apart_and_fits(
            order in Just(Role::ALL.to_vec()).prop_shuffle(),
            slot in 1..700_u64,
            sizes in prop::collection::vec(1..700_u64, 6),
            boot in 0..800_u64,
            smallest in 0..6000_u64,
        ) {
            let labels = ["a", "b", "c", "d", "e", "f"];
            let entries: Vec<_> = order.iter().zip(labels).zip(sizes).map(|((role, label), size)| {
                (*role, label, if role.is_slot() { slot } else { size })
            }).collect();
            let total = 2 + entries.iter().map(|entry| entry.2).sum::<u64>();
            let sound = order[5] == Role::Data && (1..slot).contains(&boot) && total <= smallest;
            let parsed = Layout::parse(&table(smallest, boot, &entries));
            prop_assert_eq!(parsed.is_ok(), sound);
            let Ok(layout) = parsed else { return Ok(()) };

            let mut end = ALIGN;
            for (partition, (role, label, size)) in layout.partitions().iter().zip(&entries) {
                prop_assert_eq!((partition.role, partition.label.as_str()), (*role, *label));
                prop_assert!(partition.start >= end, "overlap");
                prop_assert_eq!(partition.start % ALIGN, 0);
                prop_assert_eq!(partition.size, size * ALIGN);
                prop_assert_eq!(partition.last_sector() + 1 - partition.first_sector(), partition.size / SECTOR);
                end = partition.end();
            }
            prop_assert!(end + ALIGN <= layout.image_size() && layout.image_size() <= layout.smallest_disk());
            let (system, boot_area) = (layout.system_area().unwrap(), layout.boot_area().unwrap());
            prop_assert!(system.start == 0 && system.end > 0 && system.end == boot_area.start);
            prop_assert_eq!(boot_area.end, slot * ALIGN);
        }
    }
}
