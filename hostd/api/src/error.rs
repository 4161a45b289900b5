//! Everything that can be answered instead of a result, with the status and the type name Lambda's clients know.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Header that names the error; SDKs choose the exception's class by it.
pub const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

/// Longest message sent. Messages quote what came in, which may be long.
const MESSAGE_LIMIT: usize = 2 * 1024;

/// An answer that is an error. Messages say what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// 404 `ResourceNotFoundException`: no such function or version.
    #[error("{0}")]
    ResourceNotFound(String),
    /// 404 `ProvisionedConcurrencyConfigNotFoundException`: no sandboxes of the function are always to be there.
    #[error("No provisioned concurrency is configured for function {0}")]
    NotProvisioned(String),
    /// 409 `ResourceConflictException`: it exists already or is being changed.
    #[error("{0}")]
    ResourceConflict(String),
    /// 412 `PreconditionFailedException`: the function has another `RevisionId`.
    #[error("{0}")]
    PreconditionFailed(String),
    /// 400 `InvalidParameterValueException`: a field, header, archive or name is not acceptable.
    #[error("{0}")]
    InvalidParameterValue(String),
    /// 400 `InvalidRequestContentException`: a body is not the JSON it should be.
    #[error("{0}")]
    InvalidRequestContent(String),
    /// 413 `RequestTooLargeException`: a body is over its limit.
    #[error("{0}")]
    RequestTooLarge(String),
    /// 408 `RequestTimeoutException`: a body did not arrive in time.
    #[error("{0}")]
    RequestTimeout(String),
    /// 429 `TooManyRequestsException` with `Retry-After` (whole seconds, at least one).
    #[error("{message}")]
    TooManyRequests {
        /// What ran out.
        message: String,
        /// When to try again.
        retry_after: Duration,
        /// What to tell the SDK.
        reason: ThrottleReason,
    },
    /// 502 `InvalidRuntimeException`: the function's runtime cannot be used.
    #[error("{0}")]
    InvalidRuntime(String),
    /// 502 `BadGatewayException`: a function's answer to a plain HTTP call is no HTTP answer.
    #[error("{0}")]
    BadGateway(String),
    /// 507 `CodeStorageExceededException`: no room on the data disk.
    #[error("{0}")]
    CodeStorageExceeded(String),
    /// 500 `ServiceException`: our fault.
    #[error("{0}")]
    Service(String),
    /// 503 `ServiceException` with `Retry-After`: not now, for this reason.
    #[error("{message}")]
    Unavailable {
        /// Why not.
        message: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// 403 `AccessDeniedException`: the one who asks may not.
    #[error("{0}")]
    AccessDenied(String),
    /// 404 `UnknownOperationException`: no such path.
    #[error("{0}")]
    UnknownPath(String),
    /// 405 `MethodNotAllowedException`: the path is there, the method is not.
    #[error("{0}")]
    MethodNotAllowed(String),
}

/// What ran out, in the SDK's words (`Reason`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThrottleReason {
    /// No more sandboxes can run now.
    ConcurrentInvocationLimitExceeded,
    /// No more calls of this function can run now, by its reserved concurrency.
    ReservedFunctionConcurrentInvocationLimitExceeded,
    /// The machine takes no more requests of this caller now.
    CallerRateLimitExceeded,
}

impl ThrottleReason {
    fn name(self) -> &'static str {
        match self {
            Self::ConcurrentInvocationLimitExceeded => "ConcurrentInvocationLimitExceeded",
            Self::ReservedFunctionConcurrentInvocationLimitExceeded => {
                "ReservedFunctionConcurrentInvocationLimitExceeded"
            }
            Self::CallerRateLimitExceeded => "CallerRateLimitExceeded",
        }
    }
}

/// Under which key of the body Lambda's model has the message of a type.
enum Key {
    Lower,
    Upper,
}

impl ApiError {
    /// No function of this name; `arn` as in [`crate::Identity::function_arn`].
    pub fn function_not_found(arn: &str) -> Self {
        Self::ResourceNotFound(format!("Function not found: {arn}"))
    }

    /// A function of this name is there already.
    pub fn function_exists(name: &str) -> Self {
        Self::ResourceConflict(format!("Function already exist: {name}"))
    }

    /// Another change of this function has not ended.
    pub fn update_in_progress(arn: &str) -> Self {
        Self::ResourceConflict(format!(
            "The operation cannot be performed at this time. An update is in progress for resource: {arn}"
        ))
    }

    /// No sandbox to be had now.
    pub fn no_capacity(message: impl Into<String>, retry_after: Duration) -> Self {
        let reason = ThrottleReason::ConcurrentInvocationLimitExceeded;
        Self::TooManyRequests { message: message.into(), retry_after, reason }
    }

    /// As many calls of the function run as are reserved for it, which is also the most it may have.
    pub fn reserved_in_use(message: impl Into<String>, retry_after: Duration) -> Self {
        let reason = ThrottleReason::ReservedFunctionConcurrentInvocationLimitExceeded;
        Self::TooManyRequests { message: message.into(), retry_after, reason }
    }

    /// HTTP status of this error.
    pub fn status(&self) -> StatusCode {
        self.shape().0
    }

    /// Type name, as in `x-amzn-errortype`.
    pub fn type_name(&self) -> &'static str {
        self.shape().1
    }

    fn shape(&self) -> (StatusCode, &'static str, Key) {
        use Key::{Lower, Upper};
        match self {
            Self::ResourceNotFound(_) => (StatusCode::NOT_FOUND, "ResourceNotFoundException", Upper),
            Self::NotProvisioned(_) => {
                (StatusCode::NOT_FOUND, "ProvisionedConcurrencyConfigNotFoundException", Lower)
            }
            Self::ResourceConflict(_) => (StatusCode::CONFLICT, "ResourceConflictException", Lower),
            Self::PreconditionFailed(_) => {
                (StatusCode::PRECONDITION_FAILED, "PreconditionFailedException", Lower)
            }
            Self::InvalidParameterValue(_) => {
                (StatusCode::BAD_REQUEST, "InvalidParameterValueException", Lower)
            }
            Self::InvalidRequestContent(_) => {
                (StatusCode::BAD_REQUEST, "InvalidRequestContentException", Lower)
            }
            Self::RequestTooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "RequestTooLargeException", Lower),
            Self::RequestTimeout(_) => (StatusCode::REQUEST_TIMEOUT, "RequestTimeoutException", Lower),
            Self::TooManyRequests { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "TooManyRequestsException", Lower)
            }
            Self::InvalidRuntime(_) => (StatusCode::BAD_GATEWAY, "InvalidRuntimeException", Upper),
            Self::BadGateway(_) => (StatusCode::BAD_GATEWAY, "BadGatewayException", Upper),
            Self::CodeStorageExceeded(_) => {
                (StatusCode::INSUFFICIENT_STORAGE, "CodeStorageExceededException", Lower)
            }
            Self::Service(_) => (StatusCode::INTERNAL_SERVER_ERROR, "ServiceException", Upper),
            Self::Unavailable { .. } => (StatusCode::SERVICE_UNAVAILABLE, "ServiceException", Upper),
            Self::AccessDenied(_) => (StatusCode::FORBIDDEN, "AccessDeniedException", Lower),
            Self::UnknownPath(_) => (StatusCode::NOT_FOUND, "UnknownOperationException", Lower),
            Self::MethodNotAllowed(_) => (StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowedException", Lower),
        }
    }

    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::TooManyRequests { retry_after, .. } | Self::Unavailable { retry_after, .. } => {
                Some(retry_after.as_secs().saturating_add(u64::from(retry_after.subsec_nanos() > 0)).max(1))
            }
            _ => None,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, name, key) = self.shape();
        let mut message = self.to_string();
        if message.len() > MESSAGE_LIMIT {
            message.truncate(message.floor_char_boundary(MESSAGE_LIMIT));
            message.push('…');
        }
        let fault = if status.is_server_error() { "Service" } else { "User" };
        let mut body = match key {
            Key::Lower => json!({ "Type": fault, "message": message }),
            Key::Upper => json!({ "Type": fault, "Message": message }),
        };
        if let (Self::TooManyRequests { reason, .. }, Some(fields)) = (&self, body.as_object_mut()) {
            fields.insert("Reason".to_owned(), json!(reason.name()));
        }
        let mut response = (status, body.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ERROR_TYPE, HeaderValue::from_static(name));
        if let Some(seconds) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_whole_seconds_and_at_least_one() {
        for (after, want) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (60_000, "60")] {
            let error = ApiError::no_capacity("no memory", Duration::from_millis(after));
            let response = error.into_response();
            assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(response.headers()[header::RETRY_AFTER], want);
        }
    }

    #[test]
    fn what_ran_out_is_told_in_the_body() {
        let after = Duration::from_secs(1);
        for (error, reason) in [
            (ApiError::no_capacity("x", after), "ConcurrentInvocationLimitExceeded"),
            (ApiError::reserved_in_use("x", after), "ReservedFunctionConcurrentInvocationLimitExceeded"),
        ] {
            let ApiError::TooManyRequests { reason: told, .. } = &error else { panic!("{error:?}") };
            assert_eq!(told.name(), reason);
            assert_eq!(error.status(), StatusCode::TOO_MANY_REQUESTS);
        }
        let error = ApiError::NotProvisioned("f".to_owned());
        assert_eq!(error.type_name(), "ProvisionedConcurrencyConfigNotFoundException");
        assert_eq!(error.status(), StatusCode::NOT_FOUND);
    }
}
