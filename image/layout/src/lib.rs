//! The partitions of Mote's disk: `config/layout.toml`, checked, with offsets.
//!
//! One table for whoever makes the disk, finds its partitions, or describes them. GUIDs of partitions follow from
//! their labels: every image has the same, and a table needs none of them written down.

mod parse;

use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use thiserror::Error;
use uuid::Uuid;

/// The built-in table.
const TABLE: &str = include_str!("../../../config/layout.toml");

/// Bytes of a sector, the unit of partition tables: disks with other logical sectors are not supported.
pub const SECTOR: u64 = 512;

/// Partitions begin and end at multiples of this, in bytes: no flash or RAID has larger blocks worth caring about.
pub const ALIGN: u64 = 1 << 20;

/// Bytes of the boot loader's environment block.
pub const ENVIRONMENT: u64 = 1024;

/// Where in the EFI system partition the block is: what `image disk` writes there first, so that whoever changes the block
/// need not know FAT.
const ENVIRONMENT_AT: u64 = 2028 * SECTOR;

/// What a partition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The boot loader's second part, on a machine with a BIOS.
    BiosBoot,
    /// The EFI system partition, and the boot loader's configuration.
    Esp,
    /// This machine's configuration.
    Config,
    /// The first system slot.
    SystemA,
    /// The second system slot.
    SystemB,
    /// All that is to stay.
    Data,
}

impl Role {
    /// Every role; a table has each once.
    pub const ALL: [Self; 6] =
        [Self::BiosBoot, Self::Esp, Self::Config, Self::SystemA, Self::SystemB, Self::Data];

    /// Whether this is a system slot.
    #[must_use]
    pub fn is_slot(self) -> bool {
        matches!(self, Self::SystemA | Self::SystemB)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BiosBoot => "bios-boot",
            Self::Esp => "esp",
            Self::Config => "config",
            Self::SystemA => "system-a",
            Self::SystemB => "system-b",
            Self::Data => "data",
        })
    }
}

/// What is wrong with a table, or with a disk for it.
#[derive(Debug, Error)]
pub enum LayoutError {
    /// It is no TOML, or not of this form.
    #[error("The table of partitions does not parse")]
    Syntax(#[from] toml::de::Error),
    /// A role is missing or there twice.
    #[error("The table of partitions wants role {0} once")]
    Role(Role),
    /// A label that not everything finds.
    #[error("Label {0:?} is not 1 to 36 of a-z, 0-9 and -, or is there twice")]
    Label(String),
    /// A size of nothing, or more than any disk has.
    #[error("Partition {0} is empty or larger than {max} MiB", max = parse::LARGEST_MIB)]
    Size(Role),
    /// What is behind the data partition would be in its way.
    #[error("The data partition is not the last")]
    DataNotLast,
    /// An update could not be written to either slot.
    #[error("The system slots differ in size")]
    SlotsDiffer,
    /// The boot area leaves a slot nothing.
    #[error("A boot area of {0} MiB is not between 1 MiB and the size of a slot")]
    BootArea(u64),
    /// The image does not fit.
    #[error("Partitions and tables take {needed} bytes, the smallest disk has {smallest}")]
    TooLarge {
        /// What they take.
        needed: u64,
        /// What there is.
        smallest: u64,
    },
    /// A disk on which the partitions cannot be.
    #[error("A disk of {disk} bytes is too small: the least is {needed}")]
    DiskTooSmall {
        /// The disk.
        disk: u64,
        /// What it would need.
        needed: u64,
    },
}

/// A partition, as it is in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// What it is for.
    pub role: Role,
    /// Its number in the table, from 1.
    pub number: u32,
    /// Its name in the table, by which it is found.
    pub label: String,
    /// What kind of partition it is.
    pub kind: Uuid,
    /// Its own identity.
    pub guid: Uuid,
    /// Where it begins, in bytes.
    pub start: u64,
    /// Its size in bytes; the data partition grows.
    pub size: u64,
}

impl Partition {
    /// Where it ends, in bytes.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start + self.size
    }

    /// Its first sector.
    #[must_use]
    pub fn first_sector(&self) -> u64 {
        self.start / SECTOR
    }

    /// Its last sector.
    #[must_use]
    pub fn last_sector(&self) -> u64 {
        self.end() / SECTOR - 1
    }
}

/// A checked table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    partitions: Vec<Partition>,
    boot_area: u64,
    smallest_disk: u64,
}

impl Layout {
    /// The table of this version of Mote.
    ///
    /// # Errors
    /// Never with a table that passed this crate's tests.
    pub fn built_in() -> Result<Self, LayoutError> {
        Self::parse(TABLE)
    }

    /// All partitions, in their order on the disk, each once.
    #[must_use]
    pub fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    /// The partition with a role.
    ///
    /// # Errors
    /// Never: a table without is not parsed.
    pub fn partition(&self, role: Role) -> Result<&Partition, LayoutError> {
        self.partitions.iter().find(|partition| partition.role == role).ok_or(LayoutError::Role(role))
    }

    /// Identity of the disk.
    #[must_use]
    pub fn disk_guid(&self) -> Uuid {
        parse::guid("disk")
    }

    /// The least disk that an image has to fit on, in bytes.
    #[must_use]
    pub fn smallest_disk(&self) -> u64 {
        self.smallest_disk
    }

    /// Size of an image in bytes, with the backup table at its end.
    #[must_use]
    pub fn image_size(&self) -> u64 {
        self.partitions.last().map_or(ALIGN, Partition::end) + ALIGN
    }

    /// Where in a slot its file system may be, in bytes from the slot's begin.
    ///
    /// # Errors
    /// Never: a table without slots is not parsed.
    pub fn system_area(&self) -> Result<Range<u64>, LayoutError> {
        Ok(0..self.partition(Role::SystemA)?.size - self.boot_area)
    }

    /// Where in a slot kernel and initramfs are, in bytes from the slot's begin: at its end.
    ///
    /// # Errors
    /// Never: a table without slots is not parsed.
    pub fn boot_area(&self) -> Result<Range<u64>, LayoutError> {
        let size = self.partition(Role::SystemA)?.size;
        Ok(size - self.boot_area..size)
    }

    /// Where in the EFI system partition the boot loader's environment block is, in bytes from the partition's begin: its
    /// file `grub/grubenv`. Changing it there is one write to one place, and nothing else of the volume is touched.
    #[must_use]
    pub fn environment(&self) -> Range<u64> {
        ENVIRONMENT_AT..ENVIRONMENT_AT + ENVIRONMENT
    }

    /// Where the data partition ends, in bytes, when it has grown to a disk of `disk` bytes.
    ///
    /// # Errors
    /// [`LayoutError::DiskTooSmall`] when it would have to shrink.
    pub fn grown_end(&self, disk: u64) -> Result<u64, LayoutError> {
        let needed = self.image_size();
        if disk < needed {
            return Err(LayoutError::DiskTooSmall { disk, needed });
        }
        // The last MiB has the backup table.
        Ok((disk / ALIGN - 1) * ALIGN)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_built_in_table_is_sound() {
        let layout = Layout::built_in().unwrap();
        let labels: Vec<&str> = layout.partitions().iter().map(|p| p.label.as_str()).collect();
        assert_eq!(
            labels,
            ["mote-bios", "mote-esp", "mote-config", "mote-system-a", "mote-system-b", "mote-data"]
        );
        assert_eq!(layout.partitions()[0].start, ALIGN);
        assert_eq!(layout.image_size(), 1171 << 20);
        assert_eq!(layout.smallest_disk(), 2 << 30);
        assert_eq!(layout.system_area().unwrap(), 0..464 << 20);
        assert_eq!(layout.boot_area().unwrap(), 464 << 20..512 << 20);
        assert!(layout.environment().end < layout.partition(Role::Esp).unwrap().size);
        // Smaller, and it is no FAT32; larger than 16 bits of FAT entries, and it is no FAT16.
        assert!(layout.partition(Role::Esp).unwrap().size > 33 << 20);
        assert!(layout.partition(Role::Config).unwrap().size <= 16 << 20);
    }

    #[test]
    fn identities_stay_what_they_are() {
        // Boot loaders and running machines may find their partitions by these.
        let layout = Layout::built_in().unwrap();
        let again = Layout::built_in().unwrap();
        assert_eq!(layout, again);
        let mut seen = vec![layout.disk_guid()];
        for partition in layout.partitions() {
            assert_eq!(partition.guid.get_version_num(), 8, "{}", partition.label);
            assert!(!seen.contains(&partition.guid), "{}", partition.label);
            seen.push(partition.guid);
        }
    }

    #[test]
    fn data_grows_to_the_disk_and_never_shrinks() {
        let layout = Layout::built_in().unwrap();
        let image = layout.image_size();
        assert_eq!(layout.grown_end(image).unwrap(), layout.partitions()[5].end());
        assert_eq!(layout.grown_end((8 << 30) + 12_345).unwrap(), (8 << 30) - ALIGN);
        assert!(matches!(layout.grown_end(image - 1), Err(LayoutError::DiskTooSmall { .. })));
        assert!(matches!(layout.grown_end(0), Err(LayoutError::DiskTooSmall { .. })));
    }

    proptest! {
        #[test]
        fn a_grown_partition_leaves_room_for_the_backup_table(disk: u64) {
            let layout = Layout::built_in().unwrap();
            if let Ok(end) = layout.grown_end(disk) {
                prop_assert!(end % ALIGN == 0 && end >= layout.partitions()[5].end());
                // 33 sectors.
                prop_assert!(disk - end >= ALIGN && disk - end < 2 * ALIGN);
            }
        }
    }
}
