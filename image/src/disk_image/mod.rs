//! The one disk image for machines with a BIOS or UEFI: GPT, boot loader, FAT partitions, a system in the first slot.
//!
//! Made without root, loop devices or mounts, and the same bytes from the same parts: [`fat`] makes the FAT
//! partitions in memory, [`slot`] the part of a slot that the boot loader reads, [`loader`] the boot loader,
//! [`parts`] says what goes where, and [`write`] puts it all into one sparse file. `docs/DISK.md` has the whole
//! picture.

pub mod fat;
pub mod loader;
pub mod parts;
pub mod slot;
mod write;

use std::io;
use std::path::PathBuf;

use mote_layout::{LayoutError, Role};
use mote_update::slots::StoreError;
use mote_update::version::VersionError;
use thiserror::Error;

use crate::cache::CacheError;
use crate::debian::DebianError;
use crate::files::FileError;
use crate::process::RunError;

pub(crate) use write::check;
pub use write::{Content, Piece, write};

/// Why there is no disk image.
#[derive(Debug, Error)]
pub enum DiskImageError {
    /// The table of partitions is wrong.
    #[error("config/layout.toml cannot be used")]
    Layout(#[from] LayoutError),
    /// The partition table was refused.
    #[error("Cannot partition disk image {path}")]
    Table {
        /// The image.
        path: PathBuf,
        /// Why.
        source: gptman::Error,
    },
    /// A partition, or its part, is too small for what it is to hold.
    #[error("Partition {role} has room for {room} bytes here, not for {size}; see config/layout.toml")]
    TooLarge {
        /// The partition.
        role: Role,
        /// Room in it.
        room: u64,
        /// What was to go there.
        size: u64,
    },
    /// A FAT volume cannot be made.
    #[error("Cannot make the FAT volume {label}")]
    Fat {
        /// Its label.
        label: String,
        /// Why.
        source: io::Error,
    },
    /// The kernel command line has what the boot loader would take for something else.
    #[error("The kernel command line has a character that GRUB gives a meaning: {0:?}")]
    Cmdline(char),
    /// A part of the boot loader is not what it should be.
    #[error("GRUB's {0} is not of the form this tool knows: see image/boot/packages.list")]
    Loader(&'static str),
    /// GRUB's environment block names versions.
    #[error("The image's version cannot be that of a slot")]
    Version(#[source] VersionError),
    /// The state of the slots does not fit into GRUB's environment block.
    #[error("Cannot make GRUB's environment block")]
    State(#[source] StoreError),
    /// The system disk has no system.
    #[error("{0} has no partition with a system: run `make image` again")]
    NoSystem(PathBuf),
    /// A program failed.
    #[error("Cannot make the boot loader")]
    Run(#[from] RunError),
    /// The Debian packages cannot be had.
    #[error(transparent)]
    Debian(#[from] DebianError),
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}
