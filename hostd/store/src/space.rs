//! Room on the disk.

use std::sync::atomic::Ordering;

use rustix::fs::{StatVfsMountFlags, statvfs};

use crate::{Store, StoreError};

/// Room on the data disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Size of the file system.
    pub total: u64,
    /// Free for new files: the reserve and what is promised to staged files already taken off.
    pub free: u64,
}

impl Store {
    /// Room on the disk.
    pub fn space(&self) -> Result<Space, StoreError> {
        self.look().map(|(space, _)| space)
    }

    fn look(&self) -> Result<(Space, bool), StoreError> {
        let disk = statvfs(&self.0.root).map_err(|e| StoreError::io(&self.0.root, e))?;
        let taken = self.0.reserve.saturating_add(self.0.promised.load(Ordering::Relaxed));
        let space = Space {
            total: disk.f_frsize.saturating_mul(disk.f_blocks),
            free: disk.f_frsize.saturating_mul(disk.f_bavail).saturating_sub(taken),
        };
        Ok((space, disk.f_flag.contains(StatVfsMountFlags::RDONLY)))
    }

    /// Fails unless `bytes` bytes can be written.
    pub(crate) fn require(&self, bytes: u64) -> Result<(), StoreError> {
        match self.look()? {
            (_, true) => Err(StoreError::ReadOnly),
            (Space { free, .. }, _) if free < bytes => Err(StoreError::NoSpace { needed: bytes, free }),
            _ => Ok(()),
        }
    }

    /// Adds to an error what only the disk as a whole knows.
    pub(crate) fn told(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::NoSpace { needed, .. } => {
                StoreError::NoSpace { needed, free: self.space().map_or(0, |space| space.free) }
            }
            other => other,
        }
    }
}
