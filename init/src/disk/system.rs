//! The read-only system image.

use std::path::PathBuf;
use std::time::Duration;

use mote_environment::partition;
use mote_layout::{Layout, LayoutError};
use mote_update::slots::Slot;
use mote_update::verity::Verity;
use rustix::mount::MountFlags;

use super::label;
use super::verity::{self, VerityError};
use crate::sys::mounts::{MountError, mount_device};

/// Where it is mounted.
pub const TARGET: &str = "/system";

/// Name of the verified device.
const NAME: &str = "mote-system";

/// Where the system comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The disk of its own that came with the kernel.
    Disk,
    /// A slot, verified by what its command line says, if that says it.
    Slot(Slot, Option<Verity>),
}

/// Why there is no system.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    /// Nobody knows the slot's label.
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
    /// A slot that anybody may have changed.
    #[error("Slot {0} comes without mote.verity")]
    Unverified(Slot),
    /// It cannot be verified.
    #[error(transparent)]
    Verity(#[from] VerityError),
    /// There is one, but it cannot be mounted.
    #[error("The system image is not usable")]
    Mount(#[source] MountError),
    /// The thread that mounts it died.
    #[error("The mount was interrupted")]
    Interrupted,
}

/// Finds it and mounts it. Gives the device.
pub async fn mount(source: Source, wait: Duration) -> Result<PathBuf, SystemError> {
    let label = label_of(source)?;
    let Some(partition) = label::wait_for(&label, wait).await else {
        return Err(SystemError::Absent { label, waited: wait });
    };
    let mounting = tokio::task::spawn_blocking(move || {
        let device = match source {
            Source::Disk => partition.device,
            Source::Slot(_, Some(verity)) => verity::open(NAME, &partition.device, &verity)?,
            Source::Slot(slot, None) => return Err(SystemError::Unverified(slot)),
        };
        let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID;
        mount_device(&device, TARGET, "erofs", flags, "").map_err(SystemError::Mount)?;
        Ok(device)
    });
    mounting.await.map_err(|_| SystemError::Interrupted)?
}

fn label_of(source: Source) -> Result<String, LayoutError> {
    let role = match source {
        Source::Disk => return Ok(label::SYSTEM.to_owned()),
        Source::Slot(slot, _) => partition::role(slot),
    };
    Ok(Layout::built_in()?.partition(role)?.label.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_has_its_label() {
        let labels = [Source::Disk, Source::Slot(Slot::A, None), Source::Slot(Slot::B, None)].map(label_of);
        assert_eq!(labels.map(Result::unwrap), ["mote-system", "mote-system-a", "mote-system-b"]);
    }
}
