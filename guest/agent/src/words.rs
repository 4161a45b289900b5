//! Error objects and their words, as a user of Lambda knows them.

use std::process::ExitStatus;

use mote_protocol::MAX_BODY;
use serde::Serialize;

/// What the host passes on to the caller when the function has none of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorObject {
    /// Class of the error, `Runtime.ExitError`.
    pub error_type: String,
    /// What happened.
    pub error_message: String,
}

impl ErrorObject {
    /// An error object.
    pub fn new(error_type: impl Into<String>, error_message: impl Into<String>) -> Self {
        Self { error_type: error_type.into(), error_message: error_message.into() }
    }

    /// As JSON.
    #[must_use]
    pub fn json(&self) -> Vec<u8> {
        // Two strings always serialise.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The runtime process ended. Without a call under way the words start at `Error:`; the host, which knows
    /// the call that waits for this sandbox, puts its id before them.
    #[must_use]
    pub fn exit(request_id: Option<&str>, status: ExitStatus) -> Self {
        Self::new("Runtime.ExitError", of_call(request_id, &exit_reason(status)))
    }

    /// The kernel killed the runtime, because the machine's memory was used up. Begins as [`Self::exit`] does.
    #[must_use]
    pub fn out_of_memory(request_id: Option<&str>, memory_mb: u32) -> Self {
        let reason = format!(
            "Out of memory: the function and the files it wrote took all of its {memory_mb} MB; raise its MemorySize"
        );
        Self::new("Runtime.OutOfMemory", of_call(request_id, &reason))
    }

    /// A response over the limit, for the caller.
    #[must_use]
    pub fn response_too_large() -> Self {
        let message =
            format!("Response payload size exceeded maximum allowed payload size ({MAX_BODY} bytes).");
        Self::new("Function.ResponseSizeTooLarge", message)
    }

    /// A response over the limit, for the runtime.
    #[must_use]
    pub fn request_too_large() -> Self {
        let message = format!("Exceeded maximum allowed payload size ({MAX_BODY} bytes).");
        Self::new("RequestEntityTooLarge", message)
    }
}

fn of_call(request_id: Option<&str>, reason: &str) -> String {
    match request_id {
        Some(id) => format!("RequestId: {id} Error: {reason}"),
        None => format!("Error: {reason}"),
    }
}

/// A runtime's error report as the caller may see it: a JSON object stays as it is, anything else becomes the
/// message of one.
#[must_use]
pub fn error_report(body: Vec<u8>, header_type: Option<&str>) -> Vec<u8> {
    if matches!(serde_json::from_slice(&body), Ok(serde_json::Value::Object(_))) {
        return body;
    }
    ErrorObject::new(header_type.unwrap_or("Runtime.Unknown"), String::from_utf8_lossy(&body)).json()
}

/// An error and everything it came from, on one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        words.push_str(": ");
        words.push_str(&cause.to_string());
        source = cause.source();
    }
    words
}

fn exit_reason(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(0), _) => "Runtime exited without providing a reason".to_owned(),
        (Some(code), _) => format!("Runtime exited with error: exit status {code}"),
        (None, Some(signal)) => format!("Runtime exited with error: signal: {}", signal_name(signal)),
        (None, None) => "Runtime exited with error: unknown".to_owned(),
    }
}

/// Linux signals by the words Lambda uses for them.
const SIGNALS: &[(i32, &str)] = &[
    (1, "hangup"),
    (2, "interrupt"),
    (3, "quit"),
    (4, "illegal instruction"),
    (5, "trace/breakpoint trap"),
    (6, "aborted"),
    (7, "bus error"),
    (8, "floating point exception"),
    (9, "killed"),
    (10, "user defined signal 1"),
    (11, "segmentation fault"),
    (12, "user defined signal 2"),
    (13, "broken pipe"),
    (14, "alarm clock"),
    (15, "terminated"),
];

fn signal_name(signal: i32) -> String {
    let known = SIGNALS.iter().find(|(number, _)| *number == signal);
    known.map_or_else(|| format!("signal {signal}"), |(_, name)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn exits_read_as_on_lambda() {
        let say = |raw| ErrorObject::exit(Some("7"), ExitStatus::from_raw(raw)).error_message;
        assert_eq!(say(3 << 8), "RequestId: 7 Error: Runtime exited with error: exit status 3");
        assert_eq!(say(9), "RequestId: 7 Error: Runtime exited with error: signal: killed");
        assert_eq!(
            say(11 | 0x80),
            "RequestId: 7 Error: Runtime exited with error: signal: segmentation fault"
        );
        assert_eq!(say(0), "RequestId: 7 Error: Runtime exited without providing a reason");
        assert_eq!(say(64), "RequestId: 7 Error: Runtime exited with error: signal: signal 64");
        let init = ErrorObject::exit(None, ExitStatus::from_raw(1 << 8)).error_message;
        assert_eq!(init, "Error: Runtime exited with error: exit status 1");
    }

    #[test]
    fn only_json_objects_pass_as_error_reports() {
        let own = br#"{"errorMessage":"x","errorType":"E","stackTrace":[]}"#.to_vec();
        assert_eq!(error_report(own.clone(), Some("Other")), own);
        let made: serde_json::Value =
            serde_json::from_slice(&error_report(b"boom".to_vec(), Some("E"))).unwrap();
        assert_eq!(made, serde_json::json!({"errorMessage": "boom", "errorType": "E"}));
        let made: serde_json::Value = serde_json::from_slice(&error_report(b"[1]".to_vec(), None)).unwrap();
        assert_eq!(made, serde_json::json!({"errorMessage": "[1]", "errorType": "Runtime.Unknown"}));
    }
}
