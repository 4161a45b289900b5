//! The parts of answers that several endpoints share.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::types::{InvokeReply, LOG_TAIL_BYTES};

/// Header with the id of the request.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");

const EXECUTED_VERSION: HeaderName = HeaderName::from_static("x-amz-executed-version");
const FUNCTION_ERROR: HeaderName = HeaderName::from_static("x-amz-function-error");
const LOG_RESULT: HeaderName = HeaderName::from_static("x-amz-log-result");
const SERVED_BY: HeaderName = HeaderName::from_static("x-mote-served-by");
const PHASES: HeaderName = HeaderName::from_static("x-mote-phases");
const PAGING: HeaderName = HeaderName::from_static("x-mote-paging");
const BILLED: HeaderName = HeaderName::from_static("x-mote-billed-ms");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// A JSON answer.
pub fn json(status: StatusCode, value: &Value) -> Response {
    let content_type = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    (status, [content_type], Body::from(value.to_string())).into_response()
}

/// A text for people.
pub fn text(status: StatusCode, text: String) -> Response {
    let content_type = (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    (status, [content_type], Body::from(text)).into_response()
}

/// Puts what is known of a call into its answer's headers. What cannot be a header is left out.
pub fn describe_call(headers: &mut HeaderMap, reply: &InvokeReply, log_tail: bool) {
    let mut put = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    put(EXECUTED_VERSION, &reply.executed_version);
    put(SERVED_BY, reply.served_by.name());
    if let Some(error) = reply.function_error {
        put(FUNCTION_ERROR, error.name());
    }
    if !reply.phases.is_empty() {
        let phases = phases(&reply.phases);
        put(PHASES, &phases);
        put(SERVER_TIMING, &phases);
    }
    if !reply.paging.is_empty() {
        let counts: Vec<String> =
            reply.paging.iter().map(|(name, count)| format!("{name}={count}")).collect();
        put(PAGING, &counts.join(", "));
    }
    if let Some(billed) = reply.billed {
        put(BILLED, &billed.as_millis().to_string());
    }
    if let (true, Some(tail)) = (log_tail, &reply.log_tail) {
        let start = tail.len().saturating_sub(LOG_TAIL_BYTES);
        put(LOG_RESULT, &STANDARD.encode(tail.get(start..).unwrap_or_default()));
    }
}

/// As `Server-Timing` wants it: `spawn;dur=1.2, restore;dur=30.004` in milliseconds.
fn phases(phases: &[(&'static str, Duration)]) -> String {
    let parts: Vec<String> =
        phases.iter().map(|(name, took)| format!("{name};dur={:.3}", took.as_secs_f64() * 1000.0)).collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{FunctionError, LATEST, ServedBy};
    use bytes::Bytes;

    #[test]
    fn a_call_shows_in_the_headers() {
        let mut log = vec![b'x'; 5000];
        log.extend_from_slice(b"end");
        let reply = InvokeReply {
            payload: Bytes::new(),
            content_type: None,
            function_error: Some(FunctionError::TimedOut),
            executed_version: LATEST.to_owned(),
            log_tail: Some(log.into()),
            served_by: ServedBy::Restore,
            phases: vec![("spawn", Duration::from_micros(1200)), ("restore", Duration::from_millis(30))],
            billed: Some(Duration::from_millis(7)),
            paging: vec![("minor", 12), ("major", 3)],
        };
        let mut headers = HeaderMap::new();
        describe_call(&mut headers, &reply, true);
        assert_eq!(headers["x-amz-executed-version"], "$LATEST");
        assert_eq!(headers["x-amz-function-error"], "Unhandled");
        assert_eq!(headers["x-mote-served-by"], "restore");
        assert_eq!(headers["x-mote-phases"], "spawn;dur=1.200, restore;dur=30.000");
        assert_eq!(headers["server-timing"], headers["x-mote-phases"]);
        assert_eq!(headers["x-mote-billed-ms"], "7");
        assert_eq!(headers["x-mote-paging"], "minor=12, major=3");
        let tail = STANDARD.decode(&headers["x-amz-log-result"]).unwrap();
        assert_eq!(tail.len(), LOG_TAIL_BYTES);
        assert!(tail.ends_with(b"xend"));
        let mut headers = HeaderMap::new();
        describe_call(&mut headers, &reply, false);
        assert!(!headers.contains_key("x-amz-log-result"));
    }
}
