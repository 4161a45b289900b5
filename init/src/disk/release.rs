//! What the mounted system says of itself: its file `version`.

use std::path::Path;

use mote_update::version::Version;

use super::system::TARGET;

/// Version of this program, for a system that does not say its own.
const OURS: &str = env!("CARGO_PKG_VERSION");

/// Versions of a system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    /// Its own.
    pub version: Version,
    /// Older than this one, none is installed once this system is good.
    pub oldest: Version,
}

/// Of the mounted system; where none is mounted, or it does not say, of this program.
pub fn mounted() -> Release {
    read(&Path::new(TARGET).join("version"))
}

fn read(path: &Path) -> Release {
    let table: toml::Table =
        std::fs::read_to_string(path).ok().and_then(|text| text.parse().ok()).unwrap_or_default();
    let version = |key: &str| table.get(key)?.as_str()?.parse::<Version>().ok();
    Release {
        version: version("version").or_else(|| OURS.parse().ok()).unwrap_or(Version::ZERO),
        oldest: version("oldest").unwrap_or(Version::ZERO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_ours() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("version");
        let ours = Release { version: OURS.parse().unwrap(), oldest: Version::ZERO };
        assert_eq!(read(&path), ours);
        for text in ["", "version = 7", "version = \"1.2\"\noldest = \"x\"", "version"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read(&path), ours, "{text}");
        }
        std::fs::write(&path, "version = \"1.2.3\"\nbuild = \"b\"\noldest = \"1.1.0\"\n").unwrap();
        assert_eq!(read(&path), Release { version: Version::new(1, 2, 3), oldest: Version::new(1, 1, 0) });
    }
}
