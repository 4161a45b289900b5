//! Crashes are noted on the data disk; as long as there is none, in memory, so that they can be seen all the same.

pub mod pstore;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mote_crash::{Crash, Folder, Kind};

use crate::disk::data;
use crate::log;
use crate::text::chain;

/// Name of the folder on the data disk and in memory.
pub const NAME: &str = "crashes";

/// Time a record may take: a dying disk does not hold up what has to go on.
const BOUND: Duration = Duration::from_secs(10);

/// Notes crashes.
#[derive(Debug, Default)]
pub struct Recorder {
    boot_id: String,
    /// Once the data disk can be written to.
    disk: Mutex<Option<PathBuf>>,
}

impl Recorder {
    /// Notes crashes of this boot.
    pub fn new(boot_id: String) -> Self {
        Self { boot_id, disk: Mutex::default() }
    }

    /// From now on the data disk is there, and can be written to.
    pub fn disk_is_ready(&self) {
        *self.disk.lock().unwrap_or_else(PoisonError::into_inner) = Some(Path::new(data::TARGET).join(NAME));
    }

    /// Notes that something crashed now. Says so if that does not work.
    pub async fn note(&self, kind: Kind, reason: &str, text: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let crash = Crash::new(kind, u64::try_from(now).unwrap_or(u64::MAX), reason, text);
        self.write(crash).await;
    }

    /// Notes what the kernel has kept of its last words, and has it forget them once they are on the disk.
    pub async fn collect(&self) {
        let folder = Path::new(pstore::FOLDER);
        let read = tokio::task::spawn_blocking(move || pstore::assemble(&pstore::read(folder)));
        let dumps = tokio::time::timeout(BOUND, read).await;
        let dumps = dumps.ok().and_then(Result::ok).unwrap_or_default();
        for dump in dumps {
            log::line(&format!("the kernel crashed: {}", dump.crash.reason));
            if self.write(dump.crash).await {
                pstore::remove(folder, &dump.names);
            }
        }
    }

    /// Notes that a watchdog restarted the machine: whatever hung may have left no other word than the kernel's last.
    pub async fn watchdog_fired(&self, identity: &str) {
        let read = tokio::task::spawn_blocking(|| pstore::console(&pstore::read(Path::new(pstore::FOLDER))));
        let said = tokio::time::timeout(BOUND, read).await;
        let reason = format!("The watchdog ({identity}) has restarted the machine");
        log::line(&format!("crashes: {reason}"));
        self.note(Kind::Watchdog, &reason, &said.ok().and_then(Result::ok).unwrap_or_default()).await;
    }

    /// Whether the record is on the disk.
    async fn write(&self, mut crash: Crash) -> bool {
        crash.boot_id.clone_from(&self.boot_id);
        crash.version = version();
        let disk = self.disk.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let on_disk = disk.is_some();
        for folder in disk.into_iter().chain([Path::new(log::FOLDER).join(NAME)]) {
            let (target, record) = (Folder::new(&folder), crash.clone());
            let noted = tokio::task::spawn_blocking(move || target.note(&record));
            match tokio::time::timeout(BOUND, noted).await {
                Ok(Ok(Ok(_))) => return on_disk && folder.starts_with(data::TARGET),
                Ok(Ok(Err(error))) => log::line(&format!("crashes: {}", chain(&error))),
                _ => log::line(&format!("crashes: nothing noted in {} in time", folder.display())),
            }
        }
        false
    }
}

/// Of the system that is running.
fn version() -> String {
    let text = std::fs::read_to_string("/system/version").unwrap_or_default();
    let table: toml::Table = text.parse().unwrap_or_default();
    let version = table.get("version").and_then(toml::Value::as_str);
    version.unwrap_or(env!("CARGO_PKG_VERSION")).to_owned()
}
