//! Between the API's words and the service's.

use std::collections::BTreeMap;
use std::time::Duration;

use mote_api::{
    ApiError, Function, FunctionState, InvokeReply, InvokeRequest, LATEST, Provisioned, StartPreference,
    UpdateState, Wishes,
};
use mote_store::FunctionRecord;
use uuid::Uuid;

use crate::bring_up::StartFailure;
use crate::network::JoinError;
use crate::pool::{Bound, Refusal, TenantBound, Want};
use crate::sandbox::{Paging, StartError};
use crate::serve::{Call, ServeError, Served};
use crate::service::Service;
use crate::text::chain;
use crate::{concurrency, function};

/// When a caller who found no room should try again.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(2);

/// When a caller of a function that is shut off should.
const FORBIDDEN_RETRY: Duration = Duration::from_secs(60);

pub(super) fn revision(text: Option<&str>) -> Result<Option<Uuid>, ApiError> {
    text.map(|text| {
        text.parse().map_err(|_| {
            ApiError::PreconditionFailed(format!("RevisionId '{text}' is not the function's; read it again"))
        })
    })
    .transpose()
}

pub(super) fn describe(record: FunctionRecord) -> Function {
    Function {
        name: record.name,
        runtime: record.config.runtime,
        handler: record.config.handler,
        role: record.config.role,
        description: record.config.description,
        timeout_s: record.config.timeout_s,
        memory_mb: record.config.memory_mb,
        storage_mb: record.config.storage_mb,
        environment: record.config.environment,
        architectures: record.config.architectures,
        tags: record.config.tags,
        reserved_concurrency: record.config.reserved_concurrency,
        code_size: record.code.zip_size,
        code_sha256: record.code.sha256_base64,
        last_modified_unix_ms: record.last_modified_unix_ms,
        revision_id: record.revision_id.to_string(),
        state: FunctionState::Active,
        last_update: UpdateState::Successful,
    }
}

/// How far the sandboxes of a function are of which so many are always to be there.
pub(super) fn provisioned(service: &Service, record: &FunctionRecord, requested: u32) -> Provisioned {
    let standing = service.pool.provisioned(&function::key(record, &service.fingerprint(record)));
    Provisioned {
        requested,
        // There may be more for a moment after there were to be more.
        allocated: standing.there.min(requested),
        available: standing.up.min(requested),
        state: concurrency::state(requested, &standing),
        last_modified_unix_ms: record.config.provisioned_unix_ms,
    }
}

pub(super) fn call(function: FunctionRecord, request: InvokeRequest, record: bool) -> Call {
    Call {
        function,
        event: request.payload,
        content_type: request.content_type,
        client_context: request.client_context,
        arn: request.arn,
        request_id: request.request_id,
        want: match request.start {
            StartPreference::Auto | StartPreference::Warm => Want::Auto,
            StartPreference::Restore => Want::Restore,
            StartPreference::Cold => Want::Cold,
        },
        mode: request.restore_mode,
        record,
        reserved: false,
    }
}

pub(super) fn paging(paging: Paging) -> Vec<(&'static str, u64)> {
    vec![("minor", paging.minor_faults), ("major", paging.major_faults)]
}

pub(super) fn reply(served: Served) -> InvokeReply {
    InvokeReply {
        payload: served.payload.into(),
        content_type: served.content_type,
        function_error: served.failure,
        executed_version: LATEST.to_owned(),
        log_tail: Some(served.tail.into()),
        served_by: served.by,
        phases: served.phases.into_laps(),
        billed: served.billed,
        paging: served.paging.map(paging).unwrap_or_default(),
    }
}

/// The function's own failure as a refusal: there is nothing to record then.
pub(super) fn answered(served: Served) -> Result<Served, ApiError> {
    if served.failure.is_none() {
        return Ok(served);
    }
    let payload = String::from_utf8_lossy(&served.payload).into_owned();
    Err(ApiError::InvalidParameterValue(format!("The function fails with this event: {payload}")))
}

/// A function is of a tenant there is.
pub(super) fn check_tenant(service: &Service, tags: &BTreeMap<String, String>) -> Result<(), ApiError> {
    let wishes = Wishes::of(tags).unwrap_or_default();
    service
        .networks
        .check(wishes.tenant())
        .map_err(|error| ApiError::InvalidParameterValue(error.to_string()))
}

pub(super) fn serve_error(error: &ServeError) -> ApiError {
    let message = chain(error);
    match error {
        ServeError::Refused(refusal) => refused(refusal, message),
        ServeError::Deleted => ApiError::ResourceNotFound(message),
        ServeError::Broken(_) | ServeError::Unsettled => ApiError::Service(message),
    }
}

pub(super) fn refused(refusal: &Refusal, message: String) -> ApiError {
    match refusal {
        Refusal::Expired { bound, retry_after, .. } | Refusal::Hopeless { bound, retry_after, .. } => {
            let retry_after = *retry_after;
            match bound {
                Bound::Tenant(TenantBound { places: true, .. }) => {
                    ApiError::Unavailable { message, retry_after }
                }
                Bound::Function(_) => ApiError::reserved_in_use(message, retry_after),
                Bound::Memory | Bound::Tenant(_) => ApiError::no_capacity(message, retry_after),
            }
        }
        Refusal::Full { retry_after, .. } => ApiError::no_capacity(message, *retry_after),
        Refusal::TooBig { .. } => ApiError::InvalidParameterValue(message),
        Refusal::Forbidden => ApiError::reserved_in_use(message, FORBIDDEN_RETRY),
        Refusal::Failed(failure) => match failure.as_ref() {
            StartFailure::Network(JoinError::Quota { .. }) => ApiError::no_capacity(message, RETRY_AFTER),
            StartFailure::Network(JoinError::Full { .. }) => {
                ApiError::Unavailable { message, retry_after: RETRY_AFTER }
            }
            StartFailure::Network(JoinError::Unknown { .. }) => ApiError::InvalidParameterValue(message),
            StartFailure::Start(StartError::BootFailed { .. } | StartError::BootTimeout { .. }) => {
                ApiError::InvalidRuntime(message)
            }
            _ => ApiError::Service(message),
        },
        Refusal::Gone | Refusal::HungUp => ApiError::Service(message),
    }
}

pub(super) fn replace<T>(slot: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *slot = value;
    }
}
