//! Configuration: the built-in `mote.toml`, then the options of the kernel command line.

mod lines;
mod network;

use std::arch::x86_64::__cpuid;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mote_api::RestoreMode;
use mote_snapshot::regions::WRITTEN_GAP;
use mote_store::SnapshotKind;
use serde::Deserialize;

pub use network::{Layout, Network, TenantConfig};

/// Everything an operator can set. The defaults and the meaning of every key stand in `config/mote.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The front door.
    pub api: Api,
    /// The microVMs.
    pub sandbox: Sandbox,
    /// Who is served where, and what stays.
    pub scheduling: mote_sched::Settings,
    /// How snapshots are taken and restored.
    pub snapshot: Snapshot,
    /// Tenants and their networks.
    pub network: Network,
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
    reclaim_s: u64,
    /// Monitors kept ready for microVMs that come.
    pub blanks: u32,
    /// MicroVMs at once.
    pub max_sandboxes: usize,
    /// Host memory kept from microVMs, MiB.
    pub memory_reserve_mb: u64,
    queue_s: u64,
    /// Appended to the guest kernel's command line.
    pub guest_cmdline: String,
}

/// `[snapshot]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// What is restored.
    pub kind: SnapshotKind,
    /// How memory is brought back.
    pub mode: RestoreMode,
    /// Which pages of the loading set a sandbox is given as its own.
    pub own_pages: OwnPages,
    /// Whether functions start from a base, and their snapshots hold what differs from it.
    pub layered: bool,
    scrub_ms: u64,
}

/// Which pages of the loading set a sandbox is given as its own before it touches them; the others are those of the page
/// cache, until it writes to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OwnPages {
    /// All: a page that is there, and may be written to, is the guest's without a fault.
    All,
    /// Those the recorded call wrote to: less is copied, and more is shared.
    Written,
    /// Written ones on an emulated processor, where copying a page costs more than a fault; all on others.
    Auto,
}

impl OwnPages {
    /// As [`BuildOptions::written_gap`](mote_snapshot::BuildOptions::written_gap) takes it.
    pub fn written_gap(self) -> u64 {
        match self {
            Self::Written => WRITTEN_GAP,
            Self::Auto if emulated() => WRITTEN_GAP,
            Self::All | Self::Auto => u64::MAX,
        }
    }
}

/// Whether the processor is QEMU's emulated one, as it says itself.
fn emulated() -> bool {
    let leaf = __cpuid(0x4000_0000);
    [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes).concat() == b"TCGTCGTCGTCG"
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
    /// Where the machine's own log is sent; empty: nowhere.
    pub remote: String,
    /// Certificates in PEM form the receiver is known by; empty: the usual ones.
    pub remote_ca: String,
}

impl Paths {
    /// Folder of the sandboxes' own folders.
    pub fn sandboxes(&self) -> PathBuf {
        self.run.join("sandboxes")
    }
}

impl Snapshot {
    /// How long clearing free memory may take before a warm snapshot; `None`: it is not cleared.
    pub fn scrub_ms(&self) -> Option<u32> {
        u32::try_from(self.scrub_ms).ok().filter(|ms| *ms > 0)
    }
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
    idle_timeout = idle_timeout_s: "How long a sandbox stays without calls, if its function's history says nothing.",
    reclaim_after = reclaim_s: "How long a sandbox is without calls when it gives back memory.",
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
    /// Options of the kernel command line: all that are wrong.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Options(Vec<OptionError>),
}

/// What is wrong with an option of the kernel command line.
#[derive(Debug, thiserror::Error)]
pub enum OptionError {
    /// It names no key.
    #[error("mote.{0} names no configuration key")]
    Unknown(String),
    /// The key takes a list.
    #[error("mote.{0}={1} is not a list as in TOML, like [{{node=1,address='192.0.2.7'}}]")]
    NoList(String, String),
    /// The key takes numbers.
    #[error("mote.{0}={1} is not a number as in the built-in configuration (whole, or with a point)")]
    NoNumber(String, String),
    /// The key takes yes or no.
    #[error("mote.{0}={1} is neither true nor false")]
    NoChoice(String, String),
    /// The key does not take this value.
    #[error("mote.{key}={value}: {message}")]
    Value {
        /// The key.
        key: String,
        /// What it was to be.
        value: String,
        /// What the parser says.
        message: String,
    },
}

impl Config {
    /// Policies and bounds, as the scheduler takes them.
    pub fn scheduling(&self) -> mote_sched::Config {
        self.scheduling.config(self.sandbox.idle_timeout())
    }

    /// Reads the file and lays the options (dotted key, text) over it.
    ///
    /// # Errors
    /// On the first thing that is wrong with the file, or on all that are with the options.
    pub fn load<'a>(
        path: &Path,
        options: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let origin = path.display().to_string();
        // Parsed as a whole first, so that an error in the file carries its line.
        let mut config: Self = parse(&origin, &text)?;
        let mut tree: toml::Table = parse(&origin, &text)?;
        let mut mistakes = Vec::new();
        for (key, value) in options {
            match set(&mut tree, key, value) {
                Ok(changed) => config = changed.unwrap_or(config),
                Err(mistake) => mistakes.push(mistake),
            }
        }
        if mistakes.is_empty() { Ok(config) } else { Err(ConfigError::Options(mistakes)) }
    }
}

fn parse<T: serde::de::DeserializeOwned>(origin: &str, text: &str) -> Result<T, ConfigError> {
    toml::from_str(text)
        .map_err(|error| ConfigError::Parse { origin: origin.to_owned(), message: error.to_string() })
}

/// Sets a key in `tree`, which stays as it was if the value does not fit; the configuration that is then. Options of
/// other readers of the command line (`mote.address`, for init) have no section and are passed over.
fn set(tree: &mut toml::Table, key: &str, text: &str) -> Result<Option<Config>, OptionError> {
    let Some((section, name)) = key.split_once('.') else { return Ok(None) };
    let mut changed = tree.clone();
    let slot = changed
        .get_mut(section)
        .and_then(toml::Value::as_table_mut)
        .and_then(|table| table.get_mut(name))
        .ok_or_else(|| OptionError::Unknown(key.to_owned()))?;
    *slot = match slot {
        toml::Value::Integer(_) => match text.parse() {
            Ok(number) => toml::Value::Integer(number),
            Err(_) => return Err(OptionError::NoNumber(key.to_owned(), text.to_owned())),
        },
        toml::Value::Float(_) => match text.parse() {
            Ok(number) => toml::Value::Float(number),
            Err(_) => return Err(OptionError::NoNumber(key.to_owned(), text.to_owned())),
        },
        toml::Value::Boolean(_) => match text.parse() {
            Ok(choice) => toml::Value::Boolean(choice),
            Err(_) => return Err(OptionError::NoChoice(key.to_owned(), text.to_owned())),
        },
        toml::Value::Array(_) => match parse::<toml::Table>(key, &format!("list = {text}")) {
            Ok(mut table) if table.get("list").is_some_and(toml::Value::is_array) => {
                table.remove("list").unwrap_or_else(|| slot.clone())
            }
            _ => return Err(OptionError::NoList(key.to_owned(), text.to_owned())),
        },
        _ => toml::Value::String(text.to_owned()),
    };
    let config = changed.clone().try_into().map_err(|error: toml::de::Error| OptionError::Value {
        key: key.to_owned(),
        value: text.to_owned(),
        message: error.message().to_owned(),
    })?;
    *tree = changed;
    Ok(Some(config))
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
                ("snapshot.layered", "false"),
                ("scheduling.lambda", "0.5"),
                ("scheduling.keep_alive", "fixed"),
                ("address", "10.0.0.1/8"),
                ("network.tenants", "[{name='blue',vni=7,egress='all'}]"),
            ],
        )
        .unwrap();
        let layout = config.network.layout("options", "").unwrap();
        assert_eq!(layout.tenants.keys().collect::<Vec<_>>(), ["blue"]);
        assert!((config.scheduling().fixed_s - 5.0).abs() < 1e-9);
        assert!((config.scheduling().histogram.fallback_s - 5.0).abs() < 1e-9);
        assert_eq!(config.sandbox.guest_cmdline, "init=/x");
        assert!(!config.snapshot.layered);
        assert_eq!(config.scheduling().keep_alive, mote_sched::policy::KeepAlive::Fixed);
    }

    #[test]
    fn mistakes_are_named() {
        let path = Path::new(DEFAULT);
        let unknown = Config::load(path, [("sandbox.idel", "5")]).unwrap_err().to_string();
        assert!(unknown.contains("mote.sandbox.idel"), "{unknown}");
        let all = [
            ("sandbox.idle_timeout_s", "soon"),
            ("sandbox.queue_s", "5"),
            ("colour.red", "1"),
            ("sandbox.vcpus", "-1"),
            ("snapshot.layered", "maybe"),
            ("scheduling.lambda", "quick"),
            ("scheduling.warm", "hot"),
            ("api.listen", "somewhere"),
            ("network.tenants", "blue"),
            ("network.peers", "[{node='x'}]"),
        ];
        let said = Config::load(path, all).unwrap_err().to_string();
        for word in [
            "mote.sandbox.idle_timeout_s=soon",
            "mote.colour.red",
            "mote.sandbox.vcpus=-1",
            "mote.snapshot.layered=maybe is neither",
            "mote.scheduling.lambda=quick is not a number",
            "mote.scheduling.warm=hot",
            "max-available",
            "somewhere",
            "mote.network.tenants=blue is not a list",
            "mote.network.peers=[{node='x'}]",
        ] {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert!(!said.contains("queue_s"), "{said}");

        let mut file = tempfile::NamedTempFile::new().unwrap();
        let text = std::fs::read_to_string(path).unwrap() + "colour = 1\n";
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        let unknown = Config::load(file.path(), []).unwrap_err().to_string();
        assert!(unknown.contains("line") && unknown.contains("colour"), "{unknown}");
    }
}
