//! Serving one call: find a sandbox, hand over the event, account for every phase.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mote_api::{FunctionError, Identity, RestoreMode, ServedBy};
use mote_protocol::{InvokeSpec, ResultKind};
use mote_store::{FunctionRecord, PagingRecord, SnapshotKind};
use tokio::sync::oneshot;

use crate::function;
use crate::logs::{FunctionLog, Tail};
use crate::obtain::{ATTEMPTS, Ready, obtain};
use crate::phases::Phases;
use crate::pool::{Birth, Origin, Refusal, Reservation, Want};
use crate::record::{self, Recorded};
use crate::sandbox::{self, Ended, Paging, Sandbox};
use crate::service::Service;
use crate::snapshots;
use crate::text::{chain, unix_ms};

/// A call that was admitted by the front door.
#[derive(Debug)]
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
    /// It is the call that recording is reserved for.
    pub reserved: bool,
}

impl Call {
    /// A call nobody waits for, to be recorded, which is reserved for it.
    pub fn warm_up(function: FunctionRecord, event: Bytes, _: &Reservation) -> Self {
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
            reserved: true,
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
    /// The sandbox broke during the call.
    #[error("The function's sandbox broke during the call")]
    Broken(#[source] sandbox::SessionError),
    /// Deleted between look-up and start.
    #[error("The function was deleted meanwhile")]
    Deleted,
    /// Changed again and again.
    #[error("The function was changed {ATTEMPTS} times while the call waited; call again")]
    Unsettled,
}

/// Serves one call to its end. Runs in a task of its own: a caller who hangs up, which ends `caller`, takes it back while
/// it waits for its turn, and does not end it afterwards.
pub async fn serve(
    service: Arc<Service>,
    mut call: Call,
    mut caller: oneshot::Receiver<()>,
) -> Result<Served, ServeError> {
    let mut phases = Phases::start();
    let mut tail = Tail::default();
    let log = service.logs.of(&call.function.name);
    let request_id = call.request_id.clone();
    let start_line = format!("START RequestId: {request_id} Version: $LATEST\n");

    let begun = Instant::now();
    let mut losses = 0;
    let (by, outcome, paging, recorded, init) = loop {
        let (ready, key) = obtain(&service, &mut call, &mut caller, &mut phases, &mut tail).await?;
        let init = begun.elapsed();
        let (mut sandbox, birth, by) = match ready {
            Ready::InitFailed(body) => {
                write(&log, &mut tail, &request_id, &start_line);
                write(&log, &mut tail, &request_id, &format!("END RequestId: {request_id}\n"));
                return Ok(account(&call, init_failed(body, ServedBy::Cold, tail, phases)));
            }
            Ready::Sandbox(sandbox, birth, by) => (sandbox, birth, by),
        };
        if losses == 0 {
            write(&log, &mut tail, &request_id, &start_line);
        }
        let timeout = call.timeout();
        let invoke = invoke_spec(&call, timeout);
        let bound = service.config.sandbox.restore_timeout();
        let outcome = sandbox.invoke(invoke, &call.event, timeout, bound, &mut tail).await;
        if let Ended::Lost(error) = outcome.ended {
            give_up(&call, *sandbox).await;
            phases.lap("failed-resume");
            losses += 1;
            match birth {
                _ if losses == 1 => continue,
                // Not by chance, then.
                Some(Birth { origin: Origin::Restored(snapshot, _), .. }) if losses == 2 => {
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
        let paging = (by == ServedBy::Restore).then(|| sandbox.paging()).flatten();
        let mut recorded = None;
        match (&outcome.ended, birth.map(|birth| birth.origin)) {
            (Ended::Answered { kind: ResultKind::Response, .. }, Some(Origin::Restored(_, Some(tape)))) => {
                recorded = Some(keep_recording(&service, &call, *sandbox, tape).await);
            }
            (Ended::Answered { .. }, _) => service.pool.park(*sandbox),
            // A failure is nothing to be warm from.
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
    mut sandbox: Sandbox,
    tape: Recorded,
) -> oneshot::Receiver<PagingRecord> {
    let (tell, told) = oneshot::channel();
    let (service, function) = (Arc::clone(service), call.function.clone());
    let working = call.record || service.settings(&function).mode == RestoreMode::Reap;
    let used = match record::end(&service, &function, &mut sandbox, tape, working).await {
        Ok(used) => used,
        Err(error) => {
            tracing::warn!(function = %function.name, error = %chain(&error), "Call not recorded");
            service.pool.park(sandbox);
            return told;
        }
    };
    // A snapshot of the initialised function needs the sandbox no more; a warm one is taken of it.
    let sandbox = match service.settings(&function).kind {
        SnapshotKind::Init => {
            service.pool.park(sandbox);
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
                    service.pool.park(sandbox);
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
