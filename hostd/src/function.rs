//! From a function's record to what starts its sandboxes.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use mote_api::{RestoreMode, Wishes};
use mote_protocol::FunctionSpec;
use mote_store::{FunctionRecord, SnapshotKind, Store};
use sha2::{Digest, Sha256};

use crate::config::Config;
use crate::pool::Key;
use crate::sandbox::StartSpec;

/// Digest of everything a snapshot of this function depends on: another value, another snapshot. The time limit
/// and the description are not part of it.
pub fn fingerprint(record: &FunctionRecord, config: &Config, system: &str) -> String {
    let settings = Settings::of(record, config);
    digest(&serde_json::json!({
        "system": system,
        "code": record.code.image,
        "runtime": record.config.runtime,
        "handler": record.config.handler,
        "memory_mb": record.config.memory_mb,
        "storage_mb": record.config.storage_mb,
        "environment": record.config.environment,
        "vcpus": config.sandbox.vcpus,
        "cmdline": config.sandbox.guest_cmdline,
        "kind": settings.kind,
        "records": settings.records,
        "warm_up": settings.warm_up.as_deref(),
        "tenant": settings.tenant,
    }))
}

/// In which network a function runs, and how its snapshots are taken and restored.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name of its tenant.
    pub tenant: String,
    /// What they hold.
    pub kind: SnapshotKind,
    /// How memory comes back.
    pub mode: RestoreMode,
    /// Whether a call is recorded: only where snapshots are restored by what was recorded.
    pub records: bool,
    /// The event of the call that is recorded; else the first call is.
    pub warm_up: Option<Bytes>,
}

impl Settings {
    /// As the function's tags wish, else as the system is configured.
    pub fn of(record: &FunctionRecord, config: &Config) -> Self {
        // Checked when they were given; another version of the system may know others.
        let wishes = Wishes::of(&record.config.tags).unwrap_or_default();
        let kind = match wishes.warm {
            Some(true) => SnapshotKind::Warm,
            Some(false) => SnapshotKind::Init,
            None => config.snapshot.kind,
        };
        let mode = wishes.restore.unwrap_or(config.snapshot.mode);
        let records = kind == SnapshotKind::Warm || matches!(mode, RestoreMode::Faasnap | RestoreMode::Reap);
        let tenant = wishes.tenant().to_owned();
        Self { tenant, kind, mode, records, warm_up: wishes.warm_up.filter(|_| records) }
    }
}

/// Name of the base this function starts from, and a digest of everything that depends on.
pub fn base_name(record: &FunctionRecord, config: &Config, system: &str) -> (String, String) {
    let name = format!("{}-{}", record.config.runtime, record.config.memory_mb);
    let fingerprint = digest(&serde_json::json!({
        "system": system,
        "runtime": record.config.runtime,
        "memory_mb": record.config.memory_mb,
        "vcpus": config.sandbox.vcpus,
        "cmdline": config.sandbox.guest_cmdline,
    }));
    (name, fingerprint)
}

fn digest(of: &serde_json::Value) -> String {
    Sha256::digest(of.to_string()).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Name under which the pool knows this function as it is now.
pub fn key(record: &FunctionRecord, fingerprint: &str) -> Key {
    Arc::from(format!("{}@{}", record.name, fingerprint.get(..16).unwrap_or(fingerprint)))
}

/// Image of a runtime, if this system has it. The name comes from outside: it may hold no path.
pub fn runtime_image(config: &Config, runtime: &str) -> Option<PathBuf> {
    let plain = !runtime.is_empty()
        && !runtime.starts_with('.')
        && runtime.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
    let path = config.paths.runtimes.join(format!("{runtime}.erofs"));
    (plain && path.is_file()).then_some(path)
}

/// Names of the runtimes this system has.
pub fn runtimes(config: &Config) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(&config.paths.runtimes)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".erofs")?.to_owned()))
        .collect();
    names.sort();
    names
}

/// Everything a start needs. The runtime's image is only looked for by the monitor.
pub fn start_spec(record: &FunctionRecord, config: &Config, store: &Store) -> StartSpec {
    StartSpec {
        function: FunctionSpec {
            name: record.name.clone(),
            version: "$LATEST".to_owned(),
            handler: record.config.handler.clone(),
            runtime: record.config.runtime.clone(),
            memory_mb: record.config.memory_mb,
            storage_mb: record.config.storage_mb,
            environment: record.config.environment.clone(),
        },
        kernel: config.paths.guest_kernel.clone(),
        rootfs: config.paths.runtimes.join(format!("{}.erofs", record.config.runtime)),
        code: store.image_path(&record.code),
        vcpus: config.sandbox.vcpus,
        cmdline: config.sandbox.guest_cmdline.clone(),
        run: config.paths.sandboxes(),
        boot_timeout: config.sandbox.boot_timeout(),
        init_timeout: config.sandbox.init_timeout(),
        restore_timeout: config.sandbox.restore_timeout(),
    }
}

#[cfg(test)]
pub mod tests {
    use mote_store::{CodeRecord, FunctionConfig};

    use super::*;

    /// Some function, for tests.
    pub fn record() -> FunctionRecord {
        FunctionRecord {
            name: "f".to_owned(),
            config: FunctionConfig {
                runtime: "python3.11".to_owned(),
                handler: "app.handler".to_owned(),
                role: String::new(),
                description: String::new(),
                memory_mb: 128,
                timeout_s: 3,
                storage_mb: 512,
                environment: Default::default(),
                architectures: Vec::new(),
                package_type: "Zip".to_owned(),
                tags: Default::default(),
                reserved_concurrency: None,
                provisioned_concurrency: None,
                provisioned_unix_ms: 0,
            },
            code: CodeRecord {
                image: "i".to_owned(),
                sha256_base64: String::new(),
                zip_size: 1,
                image_size: 1,
                unpacked_size: 1,
            },
            revision_id: uuid::Uuid::nil(),
            last_modified_unix_ms: 0,
        }
    }

    #[test]
    fn a_snapshot_does_not_depend_on_how_many_there_are() {
        let config = Config::of(&mote_config::resolve(&[])).unwrap();
        let print = |change: fn(&mut FunctionConfig)| {
            let mut record = record();
            change(&mut record.config);
            fingerprint(&record, &config, "system")
        };
        let plain = print(|_| {});
        assert_eq!(print(|config| config.timeout_s = 9), plain);
        assert_eq!(print(|config| config.reserved_concurrency = Some(0)), plain);
        let provisioned = |config: &mut FunctionConfig| {
            config.provisioned_concurrency = Some(2);
            config.provisioned_unix_ms = 1;
        };
        assert_eq!(print(provisioned), plain);
        assert_ne!(print(|config| config.memory_mb = 256), plain);
    }
}
