//! Disks: found by partition label, the system's verified and mounted, the data's kept sound.
//!
//! A machine has either two disks, `mote-system` and `mote-data`, and whoever started the kernel answers for the first;
//! or one with the partitions of `config/layout.toml`, whose boot loader names the slot that runs ([`slot`]).

pub mod blank;
pub mod configuration;
pub mod data;
pub mod ext4;
pub mod grow;
pub mod health;
pub mod label;
pub mod release;
pub mod slot;
pub mod system;
pub mod tools;
pub mod verity;
