//! Snapshots between the sandbox that makes one and the store that keeps it.

use std::sync::Arc;

use mote_api::RestoreMode;
use mote_snapshot::{MEMORY_FILE, cache};
use mote_store::{FunctionRecord, NewSnapshot, SnapshotRecord, SnapshotState, StagedDir, Store};

use crate::phases::Phases;
use crate::pool::{Build, Key, Snapshot};
use crate::record::Watch;
use crate::service::{Service, blocking};
use crate::text::chain;

/// Share of the guest's memory a snapshot usually needs on disk: room asked for before one is written.
const USUAL_SHARE: u64 = 2;

/// The snapshot of a function if it can be restored as the function is now.
pub fn usable(service: &Service, record: &FunctionRecord, fingerprint: &str) -> Option<Snapshot> {
    let snapshot = match service.store.snapshot(&record.name) {
        Ok(snapshot) => snapshot?,
        Err(error) => {
            tracing::warn!(function = %record.name, error = %chain(&error), "Cannot read a snapshot's record");
            return None;
        }
    };
    let fits = snapshot.state == SnapshotState::Sound
        && snapshot.fingerprint == fingerprint
        && snapshot.code_image == record.code.image;
    fits.then(|| handle(service, snapshot))
}

/// A snapshot of the store, ready for use.
pub fn handle(service: &Service, record: SnapshotRecord) -> Snapshot {
    Snapshot { dir: service.store.snapshot_path(&record), record }
}

/// A folder for a new snapshot, room made by evicting older ones if need be. `None`: go on without a snapshot.
pub async fn stage(service: &Arc<Service>, function: &FunctionRecord) -> Option<StagedDir> {
    let bytes = (u64::from(function.config.memory_mb) << 20) / USUAL_SHARE;
    let (shared, name) = (Arc::clone(service), function.name.clone());
    match blocking(move || shared.stage(bytes, &name, Store::stage_dir)).await {
        Ok(staged) => Some(staged),
        Err(error) => {
            tracing::warn!(function = %function.name, error = %chain(&error), "No room for a snapshot");
            None
        }
    }
}

/// Makes a written snapshot durable and restorable, behind the call that made it.
pub fn commit(
    service: &Arc<Service>,
    function: &FunctionRecord,
    fingerprint: &str,
    memory_checksum: String,
    staged: StagedDir,
    build: Build,
    record: bool,
) {
    let new = NewSnapshot {
        function: function.name.clone(),
        code_image: function.code.image.clone(),
        fingerprint: fingerprint.to_owned(),
        memory_checksum,
        ..NewSnapshot::default()
    };
    let service = Arc::clone(service);
    tokio::spawn(async move {
        let store = service.store.clone();
        match blocking(move || store.put_snapshot(new, staged)).await {
            Ok(stored) => {
                tracing::info!(function = %stored.function, bytes = stored.stored_bytes, "Snapshot stored");
                service.store.mark_verified(&stored);
                let name = stored.function.clone();
                if !build.done(handle(&service, stored), record) {
                    tracing::info!(function = %name, "Snapshot is of a function since changed");
                }
            }
            Err(error) => tracing::warn!(error = %chain(&error), "Snapshot could not be stored"),
        }
    });
}

/// Verifies a snapshot's checksums at its first use after boot.
///
/// # Errors
/// What is wrong with it.
pub async fn verify_once(
    service: &Arc<Service>,
    snapshot: &Arc<Snapshot>,
    phases: &mut Phases,
) -> Result<(), String> {
    if service.store.is_verified(&snapshot.record) {
        return Ok(());
    }
    let verified = Arc::clone(snapshot);
    let result =
        blocking(move || mote_monitor::snapshot::verify_memory(&verified.dir).map_err(|error| chain(&error)));
    result.await?;
    service.store.mark_verified(&snapshot.record);
    phases.lap("verify");
    Ok(())
}

/// Begins to record a call on a snapshot. `None`: it goes on unrecorded.
pub async fn watch(snapshot: &Arc<Snapshot>) -> Option<Watch> {
    let (watched, name) = (Arc::clone(snapshot), &snapshot.record.function);
    match blocking(move || Watch::start(&watched.dir)).await {
        Ok(watch) => Some(watch),
        Err(error) => {
            tracing::warn!(function = %name, error = %chain(&error), "Call not recorded");
            None
        }
    }
}

/// What is done for a mode before the monitor starts.
pub async fn prepare(
    service: &Arc<Service>,
    snapshot: &Arc<Snapshot>,
    mode: RestoreMode,
    phases: &mut Phases,
) {
    match mode {
        RestoreMode::Faasnap => service.loaders.start(&snapshot.dir),
        RestoreMode::Cached => {
            let memory = snapshot.dir.join(MEMORY_FILE);
            if let Err(error) = blocking(move || cache::load_file(&memory)).await {
                tracing::warn!(%error, "Cannot load a memory file");
            }
            phases.lap("preload");
        }
        RestoreMode::Lazy | RestoreMode::Reap => {}
    }
}

/// Drops all files of a snapshot from the page cache; how many pages are still there.
///
/// # Errors
/// As the system calls.
pub async fn evict_cache(snapshot: &Arc<Snapshot>) -> std::io::Result<u64> {
    let evicted = Arc::clone(snapshot);
    blocking(move || {
        let files = evicted.record.files.keys().map(|name| evicted.dir.join(name));
        files.map(|path| cache::drop_file(&path)).sum()
    })
    .await
}

/// A snapshot is of no use: the next call makes another.
pub async fn give_up(service: &Arc<Service>, key: &Key, snapshot: &Arc<Snapshot>) {
    service.pool.forget_snapshot(key, Some(&snapshot.dir));
    let (store, snapshot) = (service.store.clone(), Arc::clone(snapshot));
    let marked = blocking(move || store.mark_rebuild(&snapshot.record.function, &snapshot.record.dir));
    if let Err(error) = marked.await {
        tracing::warn!(error = %chain(&error), "Cannot mark a snapshot for rebuild");
    }
}
