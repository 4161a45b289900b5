//! Disks: found by partition label, the system's mounted, the data's kept sound.

pub mod blank;
pub mod data;
pub mod ext4;
pub mod label;
pub mod system;
pub mod tools;
