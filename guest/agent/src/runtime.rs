//! `/mote/runtime.toml`: how the runtime in this image is started.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// What a runtime image says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuntimeFile {
    /// Program and its first arguments; the handler is appended.
    pub exec: Vec<String>,
    /// Environment the runtime needs; stronger than the agent's defaults, weaker than the function's own.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The runtime asks `restore/next` when it is started for a snapshot.
    #[serde(default)]
    pub snapshot: bool,
}

/// Why the runtime's start command is not known.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeFileError {
    /// The file cannot be read.
    #[error("Cannot read {0}")]
    Read(PathBuf, #[source] std::io::Error),
    /// The file is not what this agent understands.
    #[error("{0} is not a runtime description")]
    Parse(PathBuf, #[source] toml::de::Error),
    /// The start command is empty.
    #[error("{0} names no program in `exec`")]
    Empty(PathBuf),
}

impl RuntimeFile {
    /// Reads the file.
    ///
    /// # Errors
    /// When it is missing, not TOML of this form, or names no program.
    pub fn load(path: &Path) -> Result<Self, RuntimeFileError> {
        let text = std::fs::read_to_string(path).map_err(|e| RuntimeFileError::Read(path.into(), e))?;
        let file: Self = toml::from_str(&text).map_err(|e| RuntimeFileError::Parse(path.into(), e))?;
        if file.exec.is_empty() { Err(RuntimeFileError::Empty(path.into())) } else { Ok(file) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn load(text: &str) -> Result<RuntimeFile, RuntimeFileError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        RuntimeFile::load(file.path())
    }

    #[test]
    fn reads_a_description() {
        let file = load("exec = [\"/bin/x\", \"-m\", \"y\"]\nsnapshot = true\n[env]\nA = \"b\"\n").unwrap();
        assert_eq!(file.exec, ["/bin/x", "-m", "y"]);
        assert_eq!(file.env["A"], "b");
        assert!(file.snapshot);
        assert!(!load("exec = [\"/bin/x\"]").unwrap().snapshot);
    }

    #[test]
    fn says_what_is_wrong() {
        assert!(matches!(load("exec = []"), Err(RuntimeFileError::Empty(_))));
        assert!(matches!(load("exe = [\"/bin/x\"]"), Err(RuntimeFileError::Parse(..))));
        let missing = RuntimeFile::load(Path::new("/nonexistent/runtime.toml")).unwrap_err();
        assert_eq!(missing.to_string(), "Cannot read /nonexistent/runtime.toml");
    }
}
