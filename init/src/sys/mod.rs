//! The kernel's interfaces, one concern per file.

pub mod adjust;
pub mod button;
pub mod cgroup;
pub mod entropy;
pub mod lockdown;
pub mod mountinfo;
pub mod mounts;
pub mod rtc;
pub mod sysctl;
pub mod uevent;
pub mod watchdog;
