//! Serving one call: find a sandbox, hand over the event, account for every phase.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mote_api::{FunctionError, Identity, RestoreMode, ServedBy};
use mote_protocol::{InvokeSpec, ResultKind};
use mote_store::{FunctionRecord, PagingRecord, SnapshotKind};
use tokio::sync::oneshot;

use crate::bases;
use crate::function;
use crate::logs::{FunctionLog, Tail};
use crate::phases::Phases;
use crate::pool::{Build, Grant, Key, Lease, Recording, Refusal, Snapshot, Want};
use crate::record::{self, Recorded};
use crate::sandbox::{self, Ended, Paging, Restoring, Sandbox, Snapshotting, StartError, StartSpec};
use crate::service::Service;
use crate::snapshots::{self, Written};
use crate::text::{chain, unix_ms};

/// How often a call starts over because its function was changed or its snapshot turned out to be of no use.
const ATTEMPTS: usize = 4;

/// A call that was admitted by the front door.
#[derive(Debug, Clone)]
pub struct Call {
    /// The function as looked up.
    pub function: FunctionRecord,
    /// The event.
    pub event: Bytes,
    /// Its `Content-Type`.
    pub content_type: String,
    /// Decoded client context.
    pub client_context: Option<String>,
    /// ARN it was called under.
    pub arn: String,
    /// Request id, a UUID.
    pub request_id: String,
    /// How to serve it.
    pub want: Want,
    /// How to restore it; `None`: as the function has it.
    pub mode: Option<RestoreMode>,
    /// If its snapshot is made by this call, record the next one on it whatever the configuration says.
    pub record: bool,
    /// Start it without a base: it did not come up from one.
    pub unlayered: bool,
}

impl Call {
    /// A call nobody waits for, to be recorded.
    pub fn warm_up(function: FunctionRecord, event: Bytes) -> Self {
        let arn = Identity::default().function_arn(&function.name);
        Self {
            function,
            event,
            content_type: "application/json".to_owned(),
            client_context: None,
            arn,
            request_id: uuid::Uuid::new_v4().to_string(),
            want: Want::Restore,
            mode: None,
            record: false,
            unlayered: false,
        }
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(u64::from(self.function.config.timeout_s))
    }
}

/// A call's answer. A function that failed is an answer too.
#[derive(Debug)]
pub struct Served {
    /// Which way.
    pub by: ServedBy,
    /// Result or error object.
    pub payload: Vec<u8>,
    /// `Content-Type` of the result, if the runtime gave one.
    pub content_type: Option<String>,
    /// The payload is an error object.
    pub failure: Option<FunctionError>,
    /// End of the log.
    pub tail: Vec<u8>,
    /// Where the time went.
    pub phases: Phases,
    /// Time the function is billed, if it ran.
    pub billed: Option<Duration>,
    /// What bringing memory back cost, if it was restored.
    pub paging: Option<Paging>,
    /// Ends when the recording of this call has, if it is recorded: with what was made.
    pub recorded: Option<oneshot::Receiver<PagingRecord>>,
}

/// Why a call got no answer from its function.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// No sandbox to be had.
    #[error(transparent)]
    Refused(Refusal),
    /// The sandbox did not come up, and not by the function's fault.
    #[error("The function's sandbox did not start")]
    Start(#[source] StartError),
    /// It did not come up from its base.
    #[error("The function's sandbox did not start from its base")]
    Base(#[source] StartError),
    /// The sandbox broke during the call.
    #[error("The function's sandbox broke during the call")]
    Broken(#[source] sandbox::SessionError),
    /// Deleted between look-up and start.
    #[error("The function was deleted meanwhile")]
    Deleted,
    /// Changed again and again, or no snapshot of it could be restored.
    #[error("The function could not be started in {ATTEMPTS} attempts; call again")]
    Unsettled,
}

/// Where a sandbox came from.
enum Origin {
    Warm,
    Cold,
    Restored(Arc<Snapshot>, Option<Recorded>),
}

impl Origin {
    fn by(&self) -> ServedBy {
        match self {
            Self::Warm => ServedBy::Warm,
            Self::Cold => ServedBy::Cold,
            Self::Restored(..) => ServedBy::Restore,
        }
    }
}

/// A sandbox ready for the event, or the function's own failure to initialise.
enum Ready {
    Sandbox(Box<Sandbox>, Origin),
    InitFailed(Vec<u8>, ServedBy),
}

/// Serves one call to its end. Runs in a task of its own: a caller who hangs up does not end it.
pub async fn serve(service: Arc<Service>, mut call: Call) -> Result<Served, ServeError> {
    let mut phases = Phases::start();
    let mut tail = Tail::default();
    let log = service.logs.of(&call.function.name);
    let request_id = call.request_id.clone();
    let start_line = format!("START RequestId: {request_id} Version: $LATEST\n");
    write(&log, &mut tail, &request_id, &start_line);

    let begun = Instant::now();
    let mut losses = 0;
    let (by, outcome, paging, recorded, init) = loop {
        let (ready, key) = obtain(&service, &mut call, &log, &mut phases, &mut tail).await?;
        let init = begun.elapsed();
        let (mut sandbox, origin) = match ready {
            Ready::InitFailed(body, by) => {
                let line = format!("END RequestId: {request_id}\n");
                write(&log, &mut tail, &request_id, &line);
                return Ok(account(&call, init_failed(body, by, tail, phases)));
            }
            Ready::Sandbox(sandbox, origin) => (sandbox, origin),
        };
        let timeout = call.timeout();
        let invoke = invoke_spec(&call, timeout);
        let bound = service.config.sandbox.restore_timeout();
        let outcome = sandbox.invoke(invoke, &call.event, timeout, bound, &mut tail).await;
        if let Ended::Lost(error) = outcome.ended {
            give_up(&call, *sandbox).await;
            phases.lap("failed-resume");
            losses += 1;
            match origin {
                _ if losses == 1 => continue,
                // Not by chance, then.
                Origin::Restored(snapshot, _) if losses == 2 => {
                    snapshots::give_up(&service, &key, &snapshot).await;
                    continue;
                }
                _ => return Err(ServeError::Broken(error)),
            }
        }
        match outcome.resume {
            Some(resume) => phases.lap_two(("resume", resume), "invoke"),
            None => phases.lap("invoke"),
        }
        let by = origin.by();
        let paging = (by == ServedBy::Restore).then(|| sandbox.paging()).flatten();
        let mut recorded = None;
        match (&outcome.ended, origin) {
            (Ended::Answered { kind: ResultKind::Response, .. }, Origin::Restored(_, Some(tape))) => {
                recorded = Some(keep_recording(&service, &call, key, *sandbox, tape).await);
            }
            // A failure is nothing to be warm from.
            (Ended::Answered { .. }, _) => service.pool.park(&key, *sandbox),
            (Ended::Failed(_), _) => sandbox.destroy().await,
            _ => give_up(&call, *sandbox).await,
        }
        break (by, outcome, paging, recorded, init);
    };

    let timeout = call.timeout();
    let memory_mb = call.function.config.memory_mb;
    let duration_ms = outcome.duration.as_secs_f64() * 1000.0;
    let (payload, content_type, failure) = match outcome.ended {
        Ended::Answered { kind: ResultKind::Response, content_type, payload } => {
            (payload, content_type, None)
        }
        Ended::Answered { kind: ResultKind::Error, content_type, payload } => {
            (payload, content_type, Some(FunctionError::Unhandled))
        }
        Ended::Failed(body) => (body, None, Some(FunctionError::Unhandled)),
        Ended::TimedOut => {
            let text = format!("Task timed out after {:.2} seconds", timeout.as_secs_f64());
            write(&log, &mut tail, &request_id, &format!("RequestId: {request_id} Error: {text}\n"));
            let body = error_object("Sandbox.Timedout", &format!("RequestId: {request_id} Error: {text}"));
            (body, None, Some(FunctionError::TimedOut))
        }
        Ended::Broken(error) | Ended::Lost(error) => return Err(ServeError::Broken(error)),
    };
    let init_text = if by == ServedBy::Warm {
        String::new()
    } else {
        format!("\t{} Duration: {:.2} ms", label(by), ms(init))
    };
    let report = format!(
        "END RequestId: {request_id}\nREPORT RequestId: {request_id}\tDuration: {duration_ms:.2} ms\tBilled Duration: \
         {} ms\tMemory Size: {memory_mb} MB\tMax Memory Used: {} MB{init_text}\n",
        duration_ms.ceil(),
        outcome.peak_memory_mb,
    );
    write(&log, &mut tail, &request_id, &report);
    let billed = Some(outcome.duration);
    let tail = tail.into_bytes();
    let served = Served { by, payload, content_type, failure, tail, phases, billed, paging, recorded };
    Ok(account(&call, served))
}

/// Ends a sandbox that broke, and says what was last heard of it.
async fn give_up(call: &Call, mut sandbox: Sandbox) {
    let said = sandbox.last_words().await;
    tracing::warn!(function = %call.function.name, request = %call.request_id, said, "Sandbox given up");
    sandbox.destroy().await;
}

fn init_failed(payload: Vec<u8>, by: ServedBy, tail: Tail, phases: Phases) -> Served {
    Served {
        by,
        payload,
        content_type: None,
        failure: Some(FunctionError::Unhandled),
        tail: tail.into_bytes(),
        phases,
        billed: None,
        paging: None,
        recorded: None,
    }
}

/// Ends the recording of a call that was answered, parks the sandbox, and makes the recorded snapshot behind the
/// answer.
async fn keep_recording(
    service: &Arc<Service>,
    call: &Call,
    key: Key,
    mut sandbox: Sandbox,
    tape: Recorded,
) -> oneshot::Receiver<PagingRecord> {
    let (tell, told) = oneshot::channel();
    let (service, function) = (Arc::clone(service), call.function.clone());
    let used = match record::end(&service, &function, &mut sandbox, tape).await {
        Ok(used) => used,
        Err(error) => {
            tracing::warn!(function = %function.name, error = %chain(&error), "Call not recorded");
            service.pool.park(&key, sandbox);
            return told;
        }
    };
    // A snapshot of the initialised function needs the sandbox no more; a warm one is taken of it.
    let sandbox = match service.settings(&function).kind {
        SnapshotKind::Init => {
            service.pool.park(&key, sandbox);
            None
        }
        SnapshotKind::Warm => Some(sandbox),
    };
    tokio::spawn(async move {
        let made = match sandbox {
            None => record::keep_init(&service, &function, used).await,
            Some(sandbox) => {
                let spec = function::start_spec(&function, &service.config, &service.store);
                let (sandbox, made) = record::keep_warm(&service, &function, &spec, sandbox, used).await;
                if let Some(sandbox) = sandbox {
                    service.pool.park(&key, sandbox);
                }
                made
            }
        };
        match made {
            // Nobody may be waiting.
            Ok(paging) => drop(tell.send(paging)),
            Err(error) => {
                tracing::warn!(function = %function.name, error = %chain(&error), "Call not recorded");
            }
        }
    });
    told
}

fn account(call: &Call, served: Served) -> Served {
    tracing::info!(
        function = %call.function.name,
        request = %call.request_id,
        served_by = served.by.name(),
        failure = ?served.failure,
        phases = %served.phases,
        "Call"
    );
    served
}

fn label(by: ServedBy) -> &'static str {
    if by == ServedBy::Restore { "Restore" } else { "Init" }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn write(log: &FunctionLog, tail: &mut Tail, request_id: &str, line: &str) {
    log.append(request_id, line.as_bytes());
    tail.append(line.as_bytes());
}

/// An error as the Lambda runtimes report theirs.
pub fn error_object(kind: &str, message: &str) -> Vec<u8> {
    serde_json::json!({ "errorType": kind, "errorMessage": message }).to_string().into_bytes()
}

fn invoke_spec(call: &Call, timeout: Duration) -> InvokeSpec {
    let root = uuid::Uuid::new_v4().simple().to_string();
    let (time, rest) = root.split_at(8);
    let parent = uuid::Uuid::new_v4().simple().to_string();
    InvokeSpec {
        request_id: call.request_id.clone(),
        deadline_unix_ms: unix_ms() + u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX / 2),
        function_arn: call.arn.clone(),
        trace_id: format!("Root=1-{time}-{rest};Parent={};Sampled=0", parent.get(..16).unwrap_or_default()),
        content_type: call.content_type.clone(),
        client_context: call.client_context.clone(),
    }
}

async fn obtain(
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
        let spec = function::start_spec(&call.function, &service.config, &service.store);
        match grant {
            Grant::Warm(sandbox) => return Ok((Ready::Sandbox(sandbox, Origin::Warm), key)),
            Grant::Restore(lease, snapshot, recording) => {
                let mode = call.mode.unwrap_or_else(|| service.settings(&call.function).mode);
                let from = Arc::clone(&snapshot);
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
    let mode = if snapshot.record.paging.is_some() { mode } else { RestoreMode::Lazy };
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
