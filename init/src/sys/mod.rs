//! The kernel's interfaces, one concern per file.

pub mod button;
pub mod cgroup;
pub mod entropy;
pub mod mountinfo;
pub mod mounts;
pub mod sysctl;
pub mod uevent;
