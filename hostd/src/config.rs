//! Configuration: the built-in `mote.toml`, then the options of the kernel command line.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

/// Everything an operator can set. The defaults and the meaning of every key stand in `config/mote.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The front door.
    pub api: Api,
    /// The microVMs.
    pub sandbox: Sandbox,
    /// Where things are.
    pub paths: Paths,
    /// The data disk.
    pub store: Store,
    /// Limits of a code package.
    pub package: Package,
    /// Logging.
    pub log: Log,
}

/// `[api]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Api {
    /// Address and port.
    pub listen: SocketAddr,
    /// Open connections at once.
    pub max_connections: usize,
    drain_s: u64,
}

/// `[sandbox]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sandbox {
    /// Virtual CPUs per microVM.
    pub vcpus: u8,
    boot_timeout_s: u64,
    init_timeout_s: u64,
    restore_timeout_s: u64,
    idle_timeout_s: u64,
    /// MicroVMs at once.
    pub max_sandboxes: usize,
    /// Host memory kept from microVMs, MiB.
    pub memory_reserve_mb: u64,
    queue_s: u64,
    /// Appended to the guest kernel's command line.
    pub guest_cmdline: String,
}

/// `[paths]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paths {
    /// Mount point of the data disk.
    pub data: PathBuf,
    /// Volatile files.
    pub run: PathBuf,
    /// The microVMs' kernel.
    pub guest_kernel: PathBuf,
    /// Folder of runtime images, `NAME.erofs`.
    pub runtimes: PathBuf,
}

/// `[store]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// Space kept free, MiB.
    pub reserve_mb: u64,
}

/// `[package]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// Unpacked size, MiB.
    pub max_unpacked_mb: u64,
    /// Files and folders.
    pub max_entries: u32,
}

/// `[log]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Filter in the syntax of `RUST_LOG`.
    pub level: String,
    /// Lines kept per function.
    pub function_lines: usize,
}

macro_rules! seconds {
    ($section:ident { $($method:ident = $field:ident: $doc:literal),+ $(,)? }) => {
        impl $section {
            $(#[doc = $doc]
            pub fn $method(&self) -> Duration {
                Duration::from_secs(self.$field)
            })+
        }
    };
}
seconds!(Api { drain = drain_s: "How long running calls may finish at a shutdown." });
seconds!(Sandbox {
    boot_timeout = boot_timeout_s: "Kernel start until the agent reports.",
    init_timeout = init_timeout_s: "Bound of a function's initialisation.",
    restore_timeout = restore_timeout_s: "Snapshot file to a runtime that asks for its event.",
    idle_timeout = idle_timeout_s: "How long a sandbox stays without calls.",
    queue_timeout = queue_s: "How long a call may wait for memory or a first snapshot.",
});

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("Cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        #[source]
        /// Why.
        source: std::io::Error,
    },
    /// The text is not a configuration; the message has line and column.
    #[error("{origin} is not a valid configuration: {message}")]
    Parse {
        /// File, or the kernel command line.
        origin: String,
        /// What the parser says.
        message: String,
    },
    /// An option names no key.
    #[error("Kernel option mote.{0} names no configuration key")]
    UnknownOption(String),
}

impl Config {
    /// Reads the file and lays the options (dotted key, text) over it.
    ///
    /// # Errors
    /// On the first thing that is wrong.
    pub fn load<'a>(
        path: &Path,
        options: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let origin = path.display().to_string();
        // Parsed as a whole first, so that an error in the file carries its line.
        let _: Self = parse(&origin, &text)?;
        let mut tree: toml::Table = parse(&origin, &text)?;
        for (key, value) in options {
            set(&mut tree, key, value)?;
        }
        tree.try_into().map_err(|error: toml::de::Error| ConfigError::Parse {
            origin: "Kernel command line".to_owned(),
            message: error.message().to_owned(),
        })
    }
}

fn parse<T: serde::de::DeserializeOwned>(origin: &str, text: &str) -> Result<T, ConfigError> {
    toml::from_str(text)
        .map_err(|error| ConfigError::Parse { origin: origin.to_owned(), message: error.to_string() })
}

/// Options of other readers of the command line (`mote.address`, for init) have no section and are passed over.
fn set(tree: &mut toml::Table, key: &str, text: &str) -> Result<(), ConfigError> {
    let Some((section, name)) = key.split_once('.') else { return Ok(()) };
    let unknown = || ConfigError::UnknownOption(key.to_owned());
    let slot = tree
        .get_mut(section)
        .and_then(toml::Value::as_table_mut)
        .and_then(|table| table.get_mut(name))
        .ok_or_else(unknown)?;
    *slot = match slot {
        toml::Value::Integer(_) => {
            text.parse().map(toml::Value::Integer).map_err(|_| ConfigError::Parse {
                origin: "Kernel command line".to_owned(),
                message: format!("mote.{key}={text} is not a whole number"),
            })?
        }
        _ => toml::Value::String(text.to_owned()),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/mote.toml");

    #[test]
    fn the_built_in_file_is_valid_and_options_override_it() {
        let config = Config::load(
            Path::new(DEFAULT),
            [
                ("sandbox.idle_timeout_s", "5"),
                ("sandbox.guest_cmdline", "init=/x"),
                ("address", "10.0.0.1/8"),
            ],
        )
        .unwrap();
        assert_eq!(config.sandbox.idle_timeout(), Duration::from_secs(5));
        assert_eq!(config.sandbox.guest_cmdline, "init=/x");
    }

    #[test]
    fn mistakes_are_named() {
        let path = Path::new(DEFAULT);
        let unknown = Config::load(path, [("sandbox.idel", "5")]).unwrap_err().to_string();
        assert!(unknown.contains("mote.sandbox.idel"), "{unknown}");
        let number = Config::load(path, [("sandbox.idle_timeout_s", "soon")]).unwrap_err().to_string();
        assert!(number.contains("mote.sandbox.idle_timeout_s=soon"), "{number}");

        let mut file = tempfile::NamedTempFile::new().unwrap();
        let text = std::fs::read_to_string(path).unwrap() + "colour = 1\n";
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        let unknown = Config::load(file.path(), []).unwrap_err().to_string();
        assert!(unknown.contains("line") && unknown.contains("colour"), "{unknown}");
    }
}
