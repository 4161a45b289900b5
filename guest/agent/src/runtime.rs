//! `/mote/runtime.toml`: how the runtime in this image is started.

use std::path::{Path, PathBuf};

use crate::environment::Environment;

use serde::Deserialize;

/// What a runtime image says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuntimeFile {
    /// Program and its first arguments; the handler is appended.
    pub exec: Vec<String>,
    /// Environment the runtime needs; stronger than the agent's defaults, weaker than the function's own.
    #[serde(default)]
    pub env: Environment,
    /// The runtime asks `restore/next` when it is started for a snapshot.
    #[serde(default)]
    pub snapshot: bool,
    /// How it is started before its function is known, if it can be: without a handler; it then asks for
    /// `mote/function`.
    #[serde(default)]
    pub prewarm: Option<Prewarm>,
}

/// Which functions a runtime that was started before them cannot become.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prewarm {
    /// Environment variables that count when a process starts, or when what it has loaded by then is loaded: names,
    /// or a name's beginning and `*`. A function that has other values of these needs a new process.
    #[serde(default)]
    pub fixed: Vec<String>,
    /// Files and folders beside the function's code that count when a process starts. A function that has one of
    /// these needs a new process.
    #[serde(default)]
    pub unless_code_has: Vec<String>,
}

impl Prewarm {
    /// Whether a process that was started with one environment may be given the other.
    #[must_use]
    pub fn allows(&self, started: &Environment, wanted: &Environment) -> bool {
        let fixed = |name: &str| {
            self.fixed.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(beginning) => name.starts_with(beginning),
                None => name == pattern,
            })
        };
        let mut names = started.keys().chain(wanted.keys());
        names.all(|name| !fixed(name) || started.get(name) == wanted.get(name))
    }

    /// Whether a process that was started before this folder was there may run the code in it.
    #[must_use]
    pub fn runs(&self, code: &Path) -> bool {
        // What cannot be looked at is not there for the function either.
        !self.unless_code_has.iter().any(|name| code.join(name).exists())
    }
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
    use proptest::prelude::*;
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
        assert_eq!(file.prewarm, None);
        let prewarm = load("exec = [\"x\"]\n[prewarm]\nfixed = [\"A*\"]\n").unwrap().prewarm.unwrap();
        assert_eq!(prewarm, Prewarm { fixed: vec!["A*".into()], unless_code_has: vec![] });
    }

    fn python() -> Prewarm {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../image/runtimes/python3.11/runtime.toml");
        RuntimeFile::load(&here).unwrap().prewarm.unwrap()
    }

    #[test]
    fn what_counts_at_the_start_of_a_process_is_compared() {
        let environment = |pairs: &[(&str, &str)]| -> Environment {
            pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
        };
        let started = environment(&[("LANG", "C.UTF-8"), ("PYTHONPATH", "/var/runtime"), ("TZ", ":UTC")]);
        let with = |name: &str, value: &str| {
            let mut wanted = started.clone();
            wanted.insert(name.into(), value.into());
            python().allows(&started, &wanted)
        };
        for (name, value) in
            [("TZ", "Asia/Tokyo"), ("STAGE", "x"), ("LANG", "C.UTF-8"), ("LANGU", "x"), ("MY_LC_ALL", "x")]
        {
            assert!(with(name, value), "{name}");
        }
        for name in [
            "LANG",
            "LC_ALL",
            "LD_PRELOAD",
            "LD_LIBRARY_PATH",
            "MALLOC_ARENA_MAX",
            "GLIBC_TUNABLES",
            "PYTHONPATH",
            "PYTHONHASHSEED",
            "AWS_LAMBDA_LOG_FORMAT",
            "OPENSSL_CONF",
        ] {
            assert!(!with(name, "other"), "{name}");
        }
        assert!(!python().allows(&started, &environment(&[("LANG", "C.UTF-8")])));
    }

    #[test]
    fn libraries_beside_the_code_are_found_by_a_new_process_only() {
        let code = tempfile::tempdir().unwrap();
        std::fs::write(code.path().join("library.py"), "").unwrap();
        assert!(python().runs(code.path()) && python().runs(Path::new("/nonexistent")));
        std::fs::create_dir(code.path().join("lib")).unwrap();
        assert!(!python().runs(code.path()));
    }

    proptest! {
        #[test]
        fn no_variable_counts_unless_it_is_named(
            started in any::<Environment>(), wanted in any::<Environment>(), name in "[A-Z]{1,3}",
        ) {
            let none = Prewarm { fixed: vec![], unless_code_has: vec![] };
            prop_assert!(none.allows(&started, &wanted));
            let only = Prewarm { fixed: vec![name.clone()], unless_code_has: vec![] };
            prop_assert_eq!(only.allows(&started, &wanted), started.get(&name) == wanted.get(&name));
            let all = Prewarm { fixed: vec!["*".into()], unless_code_has: vec![] };
            prop_assert_eq!(all.allows(&started, &wanted), started == wanted);
        }
    }

    #[test]
    fn says_what_is_wrong() {
        assert!(matches!(load("exec = []"), Err(RuntimeFileError::Empty(_))));
        assert!(matches!(load("exe = [\"/bin/x\"]"), Err(RuntimeFileError::Parse(..))));
        let missing = RuntimeFile::load(Path::new("/nonexistent/runtime.toml")).unwrap_err();
        assert_eq!(missing.to_string(), "Cannot read /nonexistent/runtime.toml");
    }
}
