//! Snapshots between the sandbox that makes one and the store that keeps it.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use mote_api::RestoreMode;
use mote_snapshot::{MEMORY_FILE, cache};
use mote_store::{BaseRef, FunctionRecord, NewSnapshot, SnapshotRecord, SnapshotState, StagedDir, Store};
use tokio::sync::oneshot;

use crate::bases::{self, Base};
use crate::phases::Phases;
use crate::pool::{Build, Key, Reservation, Snapshot};
use crate::record::Watch;
use crate::serve::{Call, serve};
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
        && snapshot.code_image == record.code.image
        && matches!(service.store.is_complete(&snapshot), Ok(true));
    fits.then(|| handle(service, snapshot))
}

/// A snapshot of the store, ready for use.
pub fn handle(service: &Service, record: SnapshotRecord) -> Snapshot {
    let base = record.base.clone().map(|reference| Base::of(&service.store, reference));
    Snapshot { dir: service.store.snapshot_path(&record), base, record }
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

/// What the monitor wrote.
#[derive(Debug)]
pub struct Written {
    /// Checksum of the memory.
    pub memory_checksum: String,
    /// What it is layered over.
    pub base: Option<BaseRef>,
}

/// Makes a written snapshot durable and restorable, behind the call that made it.
pub fn commit(
    service: &Arc<Service>,
    function: &FunctionRecord,
    written: Written,
    staged: StagedDir,
    build: Build,
    recording: bool,
) {
    let Written { memory_checksum, base } = written;
    let new = NewSnapshot {
        function: function.name.clone(),
        code_image: function.code.image.clone(),
        fingerprint: service.fingerprint(function),
        memory_checksum,
        base,
        ..NewSnapshot::default()
    };
    let (service, function) = (Arc::clone(service), function.clone());
    tokio::spawn(async move {
        let store = service.store.clone();
        match blocking(move || store.put_snapshot(new, staged)).await {
            Ok(stored) => {
                tracing::info!(function = %stored.function, bytes = stored.stored_bytes, "Snapshot stored");
                let snapshot = handle(&service, stored);
                let kept = match service.settings(&function).warm_up {
                    None => build.done(snapshot, recording),
                    Some(event) => match build.done_to_record(snapshot) {
                        Some(reservation) => {
                            warm_up(&service, function.clone(), event, reservation).await;
                            true
                        }
                        None => false,
                    },
                };
                if !kept {
                    tracing::info!(function = %function.name, "Snapshot is of a function since changed");
                }
            }
            Err(error) => tracing::warn!(error = %chain(&error), "Snapshot could not be stored"),
        }
    });
}

/// Makes the call that is recorded, as the function's owner wishes. Boxed: this is called by what a call spawns.
fn warm_up(
    service: &Arc<Service>,
    function: FunctionRecord,
    event: Bytes,
    reservation: Reservation,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let (service, name) = (Arc::clone(service), function.name.clone());
    Box::pin(async move {
        let call = Call::warm_up(function, event, &reservation);
        // Nobody waits, and nobody hangs up.
        let (_caller, listening) = oneshot::channel();
        match serve(service, call, listening).await {
            Ok(served) => tracing::info!(function = %name, failure = ?served.failure, "Warmed up"),
            Err(error) => tracing::warn!(function = %name, error = %chain(&error), "Not warmed up"),
        }
    })
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
    if let Some(base) = &snapshot.base
        && let Err(problem) = bases::verify_once(service, base, phases).await
    {
        bases::give_up(service, &base.reference).await;
        return Err(format!("its base: {problem}"));
    }
    verify_folder(service, &snapshot.record.dir, &snapshot.dir, "verify", phases).await
}

/// Verifies the checksums of the folder `dir` of the store, at `path`, unless that was done since it was opened; the
/// time it takes is the phase `lap`.
///
/// # Errors
/// What is wrong with it.
pub async fn verify_folder(
    service: &Arc<Service>,
    dir: &str,
    path: &Path,
    lap: &'static str,
    phases: &mut Phases,
) -> Result<(), String> {
    if service.store.is_verified(dir) {
        return Ok(());
    }
    let path = path.to_owned();
    blocking(move || mote_monitor::snapshot::verify_memory(&path).map_err(|error| chain(&error))).await?;
    service.store.mark_verified(dir);
    phases.lap(lap);
    Ok(())
}

/// Begins to record a call on a snapshot. `None`: it goes on unrecorded.
pub async fn watch(snapshot: &Arc<Snapshot>) -> Option<Watch> {
    let (watched, name) = (Arc::clone(snapshot), &snapshot.record.function);
    let start = move || Watch::start(&watched.dir, watched.base.as_ref().map(|base| base.dir.as_path()));
    match blocking(start).await {
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
            let base = snapshot.base.as_ref().map(|base| &base.dir);
            let memories: Vec<_> =
                base.into_iter().chain([&snapshot.dir]).map(|dir| dir.join(MEMORY_FILE)).collect();
            let loaded =
                blocking(move || memories.iter().try_for_each(|path| cache::load_file(path).map(drop)));
            if let Err(error) = loaded.await {
                tracing::warn!(%error, "Cannot load a memory file");
            }
            phases.lap("preload");
        }
        RestoreMode::Lazy | RestoreMode::Reap => {}
    }
}

/// Drops all files of a snapshot, and its base's memory, from the page cache; how many pages are still there.
///
/// # Errors
/// As the system calls.
pub async fn evict_cache(snapshot: &Arc<Snapshot>) -> std::io::Result<u64> {
    let evicted = Arc::clone(snapshot);
    blocking(move || {
        let files = evicted.record.files.keys().map(|name| evicted.dir.join(name));
        let base = evicted.base.iter().map(|base| base.dir.join(MEMORY_FILE));
        files.chain(base).map(|path| cache::drop_file(&path)).sum()
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
