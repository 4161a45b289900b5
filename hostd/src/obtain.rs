//! A sandbox for a call: an idle one, a restored one, a started one; and what is tried when one is lost on the way.

use std::sync::Arc;

use mote_api::{RestoreMode, ServedBy};
use mote_snapshot::WORKING_FILE;

use crate::bases;
use crate::function;
use crate::logs::{FunctionLog, Tail};
use crate::network::JoinError;
use crate::phases::Phases;
use crate::pool::{Build, Grant, Key, Lease, Recording, Refusal, Snapshot};
use crate::record::Recorded;
use crate::sandbox::{self, Restoring, Sandbox, Snapshotting, StartError, StartSpec};
use crate::serve::{Call, ServeError, error_object};
use crate::service::Service;
use crate::snapshots::{self, Written};
use crate::text::chain;

/// How often a call starts over because its function was changed or its snapshot turned out to be of no use.
pub const ATTEMPTS: usize = 4;

/// Where a sandbox came from.
pub enum Origin {
    /// It was idle.
    Warm,
    /// It was started.
    Cold,
    /// It was restored from this snapshot, perhaps to record the call.
    Restored(Arc<Snapshot>, Option<Recorded>),
}

impl Origin {
    /// As callers are told.
    pub fn by(&self) -> ServedBy {
        match self {
            Self::Warm => ServedBy::Warm,
            Self::Cold => ServedBy::Cold,
            Self::Restored(..) => ServedBy::Restore,
        }
    }
}

/// A sandbox ready for the event, or the function's own failure to initialise.
pub enum Ready {
    /// A sandbox.
    Sandbox(Box<Sandbox>, Origin),
    /// The error object.
    InitFailed(Vec<u8>, ServedBy),
}

/// Finds or makes a sandbox for a call, and the name its function has in the pool now.
///
/// # Errors
/// When there is none to be had.
pub async fn obtain(
    service: &Arc<Service>,
    call: &mut Call,
    log: &Arc<FunctionLog>,
    phases: &mut Phases,
    tail: &mut Tail,
) -> Result<(Ready, Key), ServeError> {
    let patience = service.config.sandbox.queue_timeout();
    let mut booted_in_vain = false;
    let mut lost = 0;
    for _ in 0..ATTEMPTS {
        let fingerprint = service.fingerprint(&call.function);
        let key = function::key(&call.function, &fingerprint);
        let guest_mb = call.function.config.memory_mb;
        let grant = match service.pool.acquire(&key, guest_mb, call.want, patience).await {
            Ok(grant) => grant,
            Err(Refusal::Gone) => {
                let name = call.function.name.clone();
                call.function = service.look_up(&name).await.ok_or(ServeError::Deleted)?;
                continue;
            }
            Err(Refusal::Failed(body)) => {
                return Ok((Ready::InitFailed(body.as_bytes().to_vec(), ServedBy::Cold), key));
            }
            Err(refusal) => return Err(ServeError::Refused(refusal)),
        };
        phases.lap("wait");
        let grant = place(service, call, grant).await.map_err(ServeError::Network)?;
        let spec = function::start_spec(&call.function, &service.config, &service.store);
        match grant {
            Grant::Warm(sandbox) => return Ok((Ready::Sandbox(sandbox, Origin::Warm), key)),
            Grant::Restore(lease, snapshot, recording) => {
                let mode = call.mode.unwrap_or_else(|| service.settings(&call.function).mode);
                let from = Arc::clone(&snapshot);
                let recording = recording.or_else(|| call.recording.take());
                match restore(service, &spec, &key, snapshot, mode, recording, log, lease, phases).await {
                    Ok(Some(ready)) => return Ok((ready, key)),
                    Ok(None) => {}
                    Err(ServeError::Start(error)) if lost < 2 => {
                        tracing::warn!(function = %call.function.name, error = %chain(&error), "Restoring again");
                        phases.lap("failed-restore");
                        lost += 1;
                        // Not by chance, then.
                        if lost == 2 {
                            snapshots::give_up(service, &key, &from).await;
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
            Grant::Cold(lease, build) => {
                match boot(service, call, &spec, &fingerprint, log, lease, build, phases, tail).await {
                    // Nothing of the function has run yet: a guest kernel that died is worth a second one.
                    Err(ServeError::Start(
                        error @ (StartError::BootFailed { .. } | StartError::Lost { .. }),
                    )) if !booted_in_vain => {
                        tracing::warn!(function = %call.function.name, error = %chain(&error), "Booting again");
                        booted_in_vain = true;
                        phases.lap("failed-boot");
                    }
                    Err(ServeError::Base(error)) => {
                        tracing::warn!(function = %call.function.name, error = %chain(&error), "Booting without a base");
                        call.unlayered = true;
                        phases.lap("failed-base");
                    }
                    ready => return ready.map(|ready| (ready, key)),
                }
            }
        }
    }
    Err(ServeError::Unsettled)
}

/// A new sandbox is to have a place in its tenant's network, an idle one's if there is no other.
async fn place(service: &Arc<Service>, call: &Call, mut grant: Grant) -> Result<Grant, JoinError> {
    let (Grant::Restore(lease, ..) | Grant::Cold(lease, _)) = &mut grant else { return Ok(grant) };
    let tenant = service.settings(&call.function).tenant;
    let mut attempts = ATTEMPTS;
    let place = loop {
        match service.networks.join(&tenant).await {
            Ok(place) => break place,
            Err(error @ JoinError::Unknown { .. }) => return Err(error),
            Err(error) => {
                attempts -= 1;
                if attempts == 0 || !service.pool.make_room(&tenant).await {
                    return Err(error);
                }
                if matches!(error, JoinError::Full { .. }) {
                    tokio::time::sleep(service.networks.quarantine()).await;
                }
            }
        }
    };
    if let Some(place) = place {
        lease.occupy(place);
    }
    Ok(grant)
}

/// `None` when the snapshot is of no use and was given up: the caller starts over.
#[expect(clippy::too_many_arguments, reason = "one step of a sequence, not an interface")]
async fn restore(
    service: &Arc<Service>,
    spec: &StartSpec,
    key: &Key,
    snapshot: Arc<Snapshot>,
    mode: RestoreMode,
    recording: Option<Recording>,
    log: &Arc<FunctionLog>,
    lease: Lease,
    phases: &mut Phases,
) -> Result<Option<Ready>, ServeError> {
    let snapshot = &snapshot;
    if let Err(problem) = snapshots::verify_once(service, snapshot, phases).await {
        tracing::warn!(function = %spec.function.name, problem, "Snapshot is damaged: rebuilding it");
        snapshots::give_up(service, key, snapshot).await;
        return Ok(None);
    }
    let watch = match recording {
        Some(recording) => snapshots::watch(snapshot).await.map(|watch| (watch, recording)),
        None => None,
    };
    // Without a recorded call there is nothing to restore by but the memory file itself.
    let recorded = match mode {
        RestoreMode::Reap => snapshot.record.files.contains_key(WORKING_FILE),
        _ => snapshot.record.paging.is_some(),
    };
    let mode = if recorded { mode } else { RestoreMode::Lazy };
    snapshots::prepare(service, snapshot, mode, phases).await;
    let base = snapshot.base.as_ref().map(|base| base.dir.as_path());
    let restoring = Restoring { snapshot: &snapshot.dir, base, mode, record: watch.is_some() };
    match sandbox::restore(spec, restoring, Arc::clone(log), lease, phases).await {
        Ok(sandbox) => {
            service.store.touch_snapshot(&snapshot.record);
            let tape = watch.map(|(watch, recording)| {
                watch.of(sandbox.pid());
                Recorded { snapshot: Arc::clone(snapshot), watch, recording }
            });
            Ok(Some(Ready::Sandbox(Box::new(sandbox), Origin::Restored(Arc::clone(snapshot), tape))))
        }
        Err(error @ StartError::Incompatible(_)) => {
            tracing::warn!(function = %spec.function.name, error = %chain(&error), "Snapshot does not fit: rebuilding it");
            snapshots::give_up(service, key, snapshot).await;
            Ok(None)
        }
        Err(error) => Err(ServeError::Start(error)),
    }
}

#[expect(clippy::too_many_arguments, reason = "one step of a sequence, not an interface")]
async fn boot(
    service: &Arc<Service>,
    call: &Call,
    spec: &StartSpec,
    fingerprint: &str,
    log: &Arc<FunctionLog>,
    lease: Lease,
    build: Option<Build>,
    phases: &mut Phases,
    tail: &mut Tail,
) -> Result<Ready, ServeError> {
    let base = match call.unlayered {
        true => None,
        false => bases::obtain(service, &call.function, spec, phases).await.map_err(ServeError::Start)?,
    };
    let cold = match &base {
        Some(base) => sandbox::cold_from_base(spec, &base.dir, Arc::clone(log), lease, phases, tail).await,
        None => sandbox::cold(spec, Arc::clone(log), lease, phases, tail).await,
    };
    let cold = match cold {
        Ok(cold) => cold,
        Err(error) => {
            let Some(body) = init_failure(&error, &call.request_id) else {
                if let (StartError::Incompatible(_), Some(base)) = (&error, &base) {
                    bases::give_up(service, &base.reference).await;
                }
                return Err(if base.is_some() { ServeError::Base(error) } else { ServeError::Start(error) });
            };
            if let Some(build) = build {
                build.failed(Arc::from(String::from_utf8_lossy(&body).into_owned()));
            }
            return Ok(Ready::InitFailed(body, ServedBy::Cold));
        }
    };
    let staged = match &build {
        Some(_) => snapshots::stage(service, &call.function).await,
        None => None,
    };
    let into = staged.as_ref().map_or(Snapshotting::No, |staged| Snapshotting::Into(staged.path()));
    let (sandbox, written) = sandbox::resume(cold, spec, into, phases).await.map_err(ServeError::Start)?;
    if let (Some(build), Some(staged)) = (build, staged) {
        match written {
            Ok(memory_checksum) => {
                let record = call.record || service.settings(&call.function).records;
                let written = Written { memory_checksum, base: base.map(|base| base.reference) };
                snapshots::commit(service, &call.function, fingerprint, written, staged, build, record);
            }
            Err(error) => {
                tracing::warn!(function = %call.function.name, error = %chain(&error), "No snapshot could be written");
            }
        }
    }
    Ok(Ready::Sandbox(Box::new(sandbox), Origin::Cold))
}

/// The error object of a failure that is the function's own; `None` for the platform's.
fn init_failure(error: &StartError, request_id: &str) -> Option<Vec<u8>> {
    match error {
        StartError::Init { body } => Some(body.clone()),
        StartError::InitTimeout { .. } => {
            Some(error_object("Sandbox.Timedout", &format!("RequestId: {request_id} Error: {error}")))
        }
        _ => None,
    }
}
