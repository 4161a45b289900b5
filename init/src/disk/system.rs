//! The read-only system image.

use std::time::Duration;

use rustix::mount::MountFlags;

use super::label::{self, Partition};
use crate::sys::mounts::{MountError, mount_device};

/// Where it is mounted.
pub const TARGET: &str = "/system";

/// Why there is no system.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    /// No disk with it has appeared.
    #[error("No partition is labelled {label} after {} s", waited.as_secs())]
    Absent {
        /// The label.
        label: &'static str,
        /// How long was waited.
        waited: Duration,
    },
    /// There is one, but it cannot be mounted.
    #[error("The system image is not usable")]
    Mount(#[source] MountError),
    /// The thread that mounts it died.
    #[error("The mount was interrupted")]
    Interrupted,
}

/// Finds it and mounts it.
pub async fn mount(wait: Duration) -> Result<Partition, SystemError> {
    let found = label::wait_for(label::SYSTEM, wait).await;
    let partition = found.ok_or(SystemError::Absent { label: label::SYSTEM, waited: wait })?;
    let device = partition.device.clone();
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID;
    let mounting = tokio::task::spawn_blocking(move || mount_device(&device, TARGET, "erofs", flags, ""));
    match mounting.await {
        Ok(Ok(())) => Ok(partition),
        Ok(Err(error)) => Err(SystemError::Mount(error)),
        Err(_) => Err(SystemError::Interrupted),
    }
}
