//! The configuration partition: read-only, and only on a disk that has slots.

use std::time::Duration;

use mote_layout::{Layout, LayoutError, Role};
use rustix::mount::MountFlags;

use super::label;
use crate::sys::mounts::{MountError, mount_device};

/// Where it is mounted.
pub const TARGET: &str = "/config";

const FLAGS: MountFlags =
    MountFlags::RDONLY.union(MountFlags::NODEV).union(MountFlags::NOSUID).union(MountFlags::NOEXEC);

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// Nobody knows its label.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// No disk with it has appeared.
    #[error("No partition is labelled {label} after {} s", waited.as_secs())]
    Absent {
        /// The label.
        label: String,
        /// How long was waited.
        waited: Duration,
    },
    /// It is not what it should be.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The thread that mounts it died.
    #[error("The mount was interrupted")]
    Interrupted,
}

/// Finds it and mounts it.
pub async fn mount(wait: Duration) -> Result<(), ConfigurationError> {
    let label = Layout::built_in()?.partition(Role::Config)?.label.clone();
    let Some(partition) = label::wait_for(&label, wait).await else {
        return Err(ConfigurationError::Absent { label, waited: wait });
    };
    let mounting =
        tokio::task::spawn_blocking(move || mount_device(&partition.device, TARGET, "vfat", FLAGS, "utf8"));
    Ok(mounting.await.map_err(|_| ConfigurationError::Interrupted)??)
}
