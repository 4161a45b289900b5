//! A sandbox for a call: asked of the pool until there is one, or a reason why not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mote_api::ServedBy;
use mote_store::FunctionRecord;
use tokio::sync::oneshot;

use crate::bring_up::StartFailure;
use crate::function;
use crate::logs::Tail;
use crate::phases::Phases;
use crate::pool::{Ask, Birth, Granted, Key, Refusal};
use crate::sandbox::Sandbox;
use crate::serve::{Call, ServeError, error_object};
use crate::service::Service;

/// How often a call starts over because its function was changed.
pub const ATTEMPTS: usize = 4;

/// A sandbox ready for the event, or the function's own failure to initialise.
pub enum Ready {
    /// A sandbox, how it came to be if this is its first call, and in which way the call is served.
    Sandbox(Box<Sandbox>, Option<Birth>, ServedBy),
    /// The error object.
    InitFailed(Vec<u8>),
}

/// Finds or makes a sandbox for a call, and the name its function has in the pool now.
///
/// # Errors
/// When there is none to be had.
pub async fn obtain(
    service: &Arc<Service>,
    call: &mut Call,
    caller: &mut oneshot::Receiver<()>,
    phases: &mut Phases,
    tail: &mut Tail,
) -> Result<(Ready, Key), ServeError> {
    let arrived = Instant::now();
    for _ in 0..ATTEMPTS {
        let fingerprint = service.fingerprint(&call.function);
        let key = function::key(&call.function, &fingerprint);
        let ask = Ask {
            want: call.want,
            mode: call.mode,
            record_next: call.record,
            reserved: call.reserved,
            deadline: arrived + patience(service, &key),
        };
        match service.pool.acquire(&key, ask, caller).await {
            Ok(Granted { sandbox, birth, waited }) => {
                let by = match &birth {
                    Some(birth) if waited => {
                        phases.lap_over("wait", &birth.laps);
                        tail.append(&birth.tail);
                        birth.by()
                    }
                    _ => {
                        phases.lap("wait");
                        ServedBy::Warm
                    }
                };
                return Ok((Ready::Sandbox(sandbox, birth, by), key));
            }
            Err(Refusal::Gone) => call.function = changed(service, &call.function).await?,
            Err(Refusal::Failed(failure)) => {
                return match init_failure(&failure, &call.request_id) {
                    Some(body) => {
                        phases.lap("failed-init");
                        Ok((Ready::InitFailed(body), key))
                    }
                    None => Err(ServeError::Refused(Refusal::Failed(failure))),
                };
            }
            Err(refusal) => return Err(ServeError::Refused(refusal)),
        }
    }
    Err(ServeError::Unsettled)
}

async fn changed(service: &Arc<Service>, function: &FunctionRecord) -> Result<FunctionRecord, ServeError> {
    service.look_up(&function.name).await.ok_or(ServeError::Deleted)
}

/// How long a call waits for its turn. The time the function's first boot may take is not counted.
fn patience(service: &Service, key: &Key) -> Duration {
    let config = &service.config.sandbox;
    let start = match service.pool.snapshot(key) {
        Some(_) => Duration::ZERO,
        None => config.boot_timeout() + config.init_timeout(),
    };
    config.queue_timeout() + start
}

/// The error object of a failure that is the function's own; `None` for the platform's.
fn init_failure(failure: &StartFailure, request_id: &str) -> Option<Vec<u8>> {
    match failure {
        StartFailure::Init(body) => Some(body.clone()),
        StartFailure::InitTimeout { .. } => {
            Some(error_object("Sandbox.Timedout", &format!("RequestId: {request_id} Error: {failure}")))
        }
        _ => None,
    }
}
