//! What init found out before it started this service: `/run/mote/boot.toml`.

use std::path::Path;

use serde::Deserialize;

/// Facts of this boot. Everything has a default: hostd also runs without init, for debugging.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct BootFacts {
    /// A UUID of this boot.
    pub boot_id: String,
    /// The appliance's address, empty while there is none.
    pub address: String,
    /// What is to be said of interfaces without an address.
    pub network_problem: String,
    /// The slot that the system is in, `a` or `b`; empty on a machine without slots.
    pub slot: String,
    /// The data disk.
    pub data: DataDisk,
    /// How the clock was set.
    pub clock: String,
    /// What went wrong before this service started, one sentence each.
    pub problems: Vec<String>,
    /// Whether it is believed to be right.
    pub clock_ok: bool,
    /// What is to be said of it.
    pub clock_problem: String,
}

/// The data disk as init left it.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct DataDisk {
    /// `ok`, `absent`, `readonly` or `failed`.
    pub state: String,
    /// Formatted in this boot.
    pub formatted: bool,
    /// Checked in this boot, after an unclean stop.
    pub checked: bool,
    /// What to tell the operator.
    pub detail: String,
    /// The device that takes an order to wipe it; empty: none does.
    pub orders: String,
}

impl Default for DataDisk {
    fn default() -> Self {
        Self {
            state: "ok".to_owned(),
            formatted: false,
            checked: false,
            detail: String::new(),
            orders: String::new(),
        }
    }
}

impl BootFacts {
    /// Reads the file; an absent or odd file gives the defaults and the reason.
    pub fn read(path: &Path) -> (Self, Option<String>) {
        match std::fs::read_to_string(path) {
            Err(error) => (Self::default(), Some(format!("Cannot read {}: {error}", path.display()))),
            Ok(text) => match toml::from_str(&text) {
                Ok(facts) => (facts, None),
                Err(error) => (Self::default(), Some(format!("{}: {error}", path.display()))),
            },
        }
    }
}
