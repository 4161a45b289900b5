//! What hostd is told: `/run/mote/boot.toml`.

use std::path::Path;

use serde::Serialize;

use crate::disk::data::Report;
use crate::log;
use crate::text::replace_file;

/// Where it is written.
pub const PATH: &str = "/run/mote/boot.toml";

/// The facts of this boot, written anew whenever one changes.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Facts {
    /// The kernel's name for this boot.
    pub boot_id: String,
    /// Our address; empty while there is none.
    pub address: String,
    /// What is to be said of interfaces without an address; empty: nothing.
    pub network_problem: String,
    /// What the clock was set by.
    pub clock: String,
    /// Whether it is believed to be right: from a hardware clock that is sound, or from the network.
    pub clock_ok: bool,
    /// What is to be said of it; empty: nothing.
    pub clock_problem: String,
    /// What went wrong during boot, one sentence each.
    pub problems: Vec<String>,
    /// The slot that the system is in, `a` or `b`; empty on a machine without slots.
    pub slot: String,
    /// The data disk.
    pub data: Report,
}

impl Facts {
    /// Writes the file in one step.
    pub fn write(&self) {
        self.write_to(Path::new(PATH));
    }

    fn write_to(&self, path: &Path) {
        let written = match toml::to_string(self) {
            Ok(text) => replace_file(path, &text).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = written {
            log::line(&format!("Cannot write {}: {error}", path.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_the_agreed_shape() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("boot.toml");
        let facts = Facts {
            boot_id: "b".to_owned(),
            address: "10.0.2.15".to_owned(),
            problems: vec!["2 \"x\"".to_owned()],
            ..Facts::default()
        };
        facts.write_to(&path);
        let text = std::fs::read_to_string(&path).unwrap();
        let read: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(read["address"].as_str(), Some("10.0.2.15"));
        assert_eq!(read["data"]["state"].as_str(), Some("absent"));
        assert_eq!(read["data"]["formatted"].as_bool(), Some(false));
        assert_eq!(read["problems"][0].as_str(), Some("2 \"x\""));
    }
}
