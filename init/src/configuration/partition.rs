//! `mote.toml` on the configuration partition, which is a FAT file system so that any computer can write it. It is mounted
//! read-only for a moment: what is not mounted cannot be damaged by a power cut.

use std::path::{Path, PathBuf};
use std::time::Duration;

use mote_config::{Layer, Source};
use rustix::mount::{MountFlags, UnmountFlags, unmount};
use tokio::sync::watch;

use crate::disk::label;
use crate::sys::mounts::{MountError, mount_device};

/// Label of the partition.
pub const LABEL: &str = "mote-config";

/// The file on it.
const FILE: &str = "mote.toml";

/// Where it is mounted meanwhile.
const TARGET: &str = "/run/mote/partition";

/// Why nothing is known of the partition's file.
#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    /// It cannot be mounted.
    #[error("The configuration partition is not usable")]
    Mount(#[source] MountError),
    /// The file cannot be read.
    #[error("Cannot read {FILE} on {}", .device.display())]
    Read {
        /// The partition.
        device: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The thread that reads died.
    #[error("Reading the configuration partition was interrupted")]
    Interrupted,
}

/// Looks for the partition until it is there, the system's disk is (both are on one disk, and the kernel announces this
/// one first), or the time is over; then reads its file. None if there is no partition or no file.
///
/// # Errors
/// When there is one that cannot be read.
pub async fn find(
    mut system_seen: watch::Receiver<bool>,
    wait: Duration,
) -> Result<Option<Source>, PartitionError> {
    let found = tokio::select! {
        found = label::wait_for(LABEL, wait) => found,
        _ = system_seen.wait_for(|seen| *seen) => label::find(Path::new("/sys/class/block"), LABEL),
    };
    let Some(partition) = found else { return Ok(None) };
    let reading = tokio::task::spawn_blocking(move || read(partition.device));
    reading.await.map_err(|_| PartitionError::Interrupted)?
}

fn read(device: PathBuf) -> Result<Option<Source>, PartitionError> {
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    mount_device(&device, TARGET, "vfat", flags, "").map_err(PartitionError::Mount)?;
    let source = super::read(&Path::new(TARGET).join(FILE), Layer::Partition, &format!("{LABEL}/{FILE}"));
    // Busy: whatever it is, it is not written to.
    let _ = unmount(TARGET, UnmountFlags::DETACH);
    source.map_err(|source| PartitionError::Read { device, source })
}
