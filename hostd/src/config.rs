//! What this service takes from the configuration. What `mote.toml` means, and which layers it has, is in `mote-config`;
//! init reads the same.

pub mod cli;
mod network;
mod sources;

use std::arch::x86_64::__cpuid;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use mote_api::RestoreMode;
use mote_config::{KEYS, Resolved};
use mote_snapshot::regions::WRITTEN_GAP;
use mote_store::SnapshotKind;
use serde::Deserialize;

pub use network::{Layout, Network, TenantConfig};
pub use sources::{Files, SetError};

use crate::bundle::Part;

/// Everything an operator can set for this service. The defaults and the meaning of every key stand in
/// `config/mote.toml`, what is for others in sections of their own.
#[derive(Debug, Clone, Deserialize)]
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

/// A configuration for people, what is wrong with layers that were left out above it.
pub fn shown(resolved: &Resolved, unread: Vec<String>) -> String {
    let problems = unread.into_iter().chain(resolved.problems());
    let problems: String = problems.map(|problem| format!("# {problem}\n")).collect();
    problems + &resolved.show(mote_config::schema::SCHEMA)
}

/// Keys and types disagree: a mistake of this program, which its tests would have found.
#[derive(Debug, thiserror::Error)]
#[error("The configuration has another form than this program reads")]
pub struct FormError(#[from] toml::de::Error);

impl Config {
    /// Policies and bounds, as the scheduler takes them.
    pub fn scheduling(&self) -> mote_sched::Config {
        self.scheduling.config(self.sandbox.idle_timeout())
    }

    /// Takes its part of the configuration.
    ///
    /// # Errors
    /// When keys and types disagree.
    pub fn of(resolved: &Resolved) -> Result<Self, FormError> {
        Ok(resolved.table().try_into()?)
    }
}

/// What a support bundle has of the configuration: a part of it, without secrets, and a document that is not to be in
/// it, of which everything under the names of secrets is secret.
pub fn for_bundle(files: &Files) -> (Vec<Part>, Vec<serde_json::Value>) {
    const NAME: &str = "config/mote.toml";
    match files.gather() {
        Ok((resolved, _)) => {
            let hidden = KEYS.iter().filter(|key| key.secret).filter_map(|key| resolved.get(key.path));
            let hidden: Vec<&toml::Value> = hidden.map(|setting| &setting.value).collect();
            let secrets = vec![serde_json::json!({ "secret": hidden }), serde_json::json!(resolved.table())];
            (vec![Part::new(NAME, resolved.show(mote_config::schema::SCHEMA))], secrets)
        }
        Err(error) => (vec![Part::new(NAME, crate::text::chain(&error))], Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mote_config::{KEYS, Kind, Layer, Source, resolve};
    use proptest::prelude::*;

    use super::*;

    fn with(options: &[(&str, &str)]) -> Resolved {
        let pair = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        resolve(&[Source::options(options.iter().map(pair).collect())])
    }

    #[test]
    fn options_override_the_built_in_file() {
        let resolved = with(&[
            ("sandbox.idle_timeout_s", "5"),
            ("sandbox.guest_cmdline", "init=/x"),
            ("snapshot.layered", "false"),
            ("scheduling.lambda", "0.5"),
            ("scheduling.keep_alive", "fixed"),
            ("address", "10.0.0.1/8"),
            ("network.tenants", "[{name='blue',vni=7,egress='all'}]"),
        ]);
        assert_eq!(resolved.problems(), Vec::<String>::new());
        let config = Config::of(&resolved).unwrap();
        let layout = config.network.layout().unwrap();
        assert_eq!(layout.tenants.keys().collect::<Vec<_>>(), ["blue"]);
        assert!((config.scheduling().fixed_s - 5.0).abs() < 1e-9);
        assert!((config.scheduling().histogram.fallback_s - 5.0).abs() < 1e-9);
        assert_eq!(config.sandbox.guest_cmdline, "init=/x");
        assert!(!config.snapshot.layered);
        assert_eq!(config.scheduling().keep_alive, mote_sched::policy::KeepAlive::Fixed);
    }

    #[test]
    fn the_types_take_every_choice_there_is_and_no_other() {
        for key in KEYS {
            let Kind::Choice(names) = key.kind else { continue };
            for name in names {
                let resolved = with(&[(key.path, name)]);
                assert_eq!(resolved.get(key.path).unwrap().layer, Layer::CommandLine, "{}", key.path);
                assert!(Config::of(&resolved).is_ok(), "{} = {name}", key.path);
            }
            let (section, name) = key.parts();
            if section == "machine" {
                continue;
            }
            let mut table = resolve(&[]).table();
            table[section][name] = "none-of-them".into();
            let error = table.try_into::<Config>().unwrap_err().to_string();
            for name in names {
                assert!(error.contains(&format!("`{name}`")), "{}: {error}", key.path);
            }
        }
    }

    /// Values at the bounds of each key.
    fn bounds(kind: &Kind) -> Vec<String> {
        match kind {
            Kind::Int { least, most } => vec![least.to_string(), most.to_string()],
            Kind::Number { least, most } => vec![format!("{least:?}"), format!("{most:?}")],
            _ => Vec::new(),
        }
    }

    #[test]
    fn the_types_take_what_is_within_bounds() {
        for key in KEYS {
            for value in bounds(&key.kind) {
                let resolved = with(&[(key.path, &value)]);
                assert!(Config::of(&resolved).is_ok(), "{} = {value}", key.path);
            }
            let Kind::Tables { fields, .. } = key.kind else { continue };
            if key.parts().0 == "machine" {
                continue;
            }
            let needed = |name: &str| match name {
                "name" => "name='a'".to_owned(),
                "address" => "address='192.0.2.9'".to_owned(),
                name => format!("{name}=7"),
            };
            for field in fields {
                for value in bounds(&field.kind) {
                    let others = fields.iter().filter(|other| other.needed && other.name != field.name);
                    let others: String = others.map(|other| format!(",{}", needed(other.name))).collect();
                    let text = format!("[{{{}={value}{others}}}]", field.name);
                    assert!(Config::of(&with(&[(key.path, &text)])).is_ok(), "{} = {text}", key.path);
                }
            }
        }
    }

    proptest! {
        /// What `mote-config` lets through, the networks can be made of.
        #[test]
        fn a_sound_network_has_a_layout(
            v4 in (any::<u32>(), 0u8..=32),
            v6 in (any::<u128>(), 0u8..=64),
            private: bool,
            prefix in 20i64..26,
            node in prop_oneof![0i64..8, 0i64..70_000],
            endpoints in 0i64..1100,
            mtu in 500i64..70_000,
            peers in proptest::collection::vec((0i64..8, 1u8..6), 0..3),
            tenants in proptest::collection::vec(("[a-c]", 0u32..4), 0..3),
        ) {
            let v4 = if private { (0x0a00_0000, 8 + v4.1 % 16) } else { v4 };
            let v6 = if private { (0xfd6d << 112, v6.1) } else { v6 };
            let peers: Vec<String> =
                peers.iter().map(|(node, last)| format!("{{node={node},address='192.0.2.{last}'}}")).collect();
            let tenants: Vec<String> =
                tenants.iter().map(|(name, vni)| format!("{{name='{name}',vni={vni}}}")).collect();
            let options = BTreeMap::from([
                ("v4", format!("{}/{}", std::net::Ipv4Addr::from(v4.0), v4.1)),
                ("v6", format!("{}/{}", std::net::Ipv6Addr::from(v6.0), v6.1)),
                ("node_prefix", prefix.to_string()),
                ("node", node.to_string()),
                ("endpoints", endpoints.to_string()),
                ("mtu", mtu.to_string()),
                ("peers", format!("[{}]", peers.join(","))),
                ("tenants", format!("[{}]", tenants.join(","))),
            ]);
            let options = options.into_iter().map(|(key, value)| (format!("network.{key}"), value)).collect();
            let resolved = resolve(&[Source::options(options)]);
            let layout = Config::of(&resolved).unwrap().network.layout();
            prop_assert!(layout.is_ok(), "{:?}", layout);
        }
    }
}
