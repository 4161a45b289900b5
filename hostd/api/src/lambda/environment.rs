//! A function's environment variables: which names are free and how much they may hold.

use std::collections::BTreeMap;

use super::document::{Document, Table, Use};
use crate::error::ApiError;

/// Names and values together, bytes.
const LIMIT: usize = 4 * 1024;

/// Set by the system for every function; a function that could replace them would not find its runtime.
const RESERVED: &[&str] = &[
    "_HANDLER",
    "_X_AMZN_TRACE_ID",
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_DEFAULT_REGION",
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_REGION",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "LAMBDA_RUNTIME_DIR",
    "LAMBDA_TASK_ROOT",
];

/// Fields of `Environment`.
pub const TABLE: &Table = &[("Variables", Use::Read)];

/// Reads and checks `Environment`.
pub fn read(environment: &Document<'_>) -> Result<BTreeMap<String, String>, ApiError> {
    let variables: BTreeMap<String, String> = environment.get("Variables")?.unwrap_or_default();
    // First, because `_HANDLER` and its like are no valid names either.
    let reserved: Vec<&str> = RESERVED.iter().copied().filter(|name| variables.contains_key(*name)).collect();
    if !reserved.is_empty() {
        return Err(invalid(format!(
            "Environment variables that the system sets cannot be configured: leave out {}",
            reserved.join(", ")
        )));
    }
    let size: usize = variables.iter().map(|(name, value)| name.len() + value.len()).sum();
    if size > LIMIT {
        return Err(invalid(format!("The environment variables have {size} bytes: at most {LIMIT} in all")));
    }
    for (name, value) in &variables {
        if !is_name(name) {
            return Err(invalid(format!(
                "Environment variable name '{}' is not valid: give a letter, then letters, digits and _ (two or more \
                 characters)",
                name.escape_debug()
            )));
        }
        if value.contains('\0') {
            return Err(invalid(format!("The value of environment variable '{name}' has a NUL character")));
        }
    }
    Ok(variables)
}

fn is_name(name: &str) -> bool {
    name.len() >= 2
        && name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn invalid(message: String) -> ApiError {
    ApiError::InvalidParameterValue(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read_json(variables: &serde_json::Value) -> Result<BTreeMap<String, String>, ApiError> {
        let body = json!({ "Variables": variables }).to_string();
        read(&Document::parse(body.as_bytes(), TABLE).unwrap())
    }

    #[test]
    fn names_sizes_and_reserved_ones() {
        let read = read_json(&json!({ "GREETING": "hi", "a1_": "" })).unwrap();
        assert_eq!(read["GREETING"], "hi");
        for (variables, says) in [
            (json!({ "A": "1" }), "'A' is not valid"),
            (json!({ "1A": "1" }), "not valid"),
            (json!({ "_A": "1" }), "not valid"),
            (json!({ "A=B": "1" }), "not valid"),
            (json!({ "": "1" }), "not valid"),
            (json!({ "A\n": "1" }), "not valid"),
            (json!({ "AB": "1\u{0}" }), "NUL"),
            (json!({ "AWS_REGION": "x", "_HANDLER": "y", "OK": "z" }), "leave out _HANDLER, AWS_REGION"),
            (json!({ "AB": 7 }), "'Variables'"),
            (json!([1]), "'Variables'"),
        ] {
            let error = read_json(&variables).unwrap_err();
            assert!(error.to_string().contains(says), "{variables}: {error}");
        }
    }

    #[test]
    fn the_limit_counts_names_and_values() {
        assert!(read_json(&json!({ "AB": "x".repeat(LIMIT - 2) })).is_ok());
        assert!(read_json(&json!({ "AB": "x".repeat(LIMIT - 1) })).is_err());
        assert!(read_json(&json!({ "AB": "ä".repeat(LIMIT / 2) })).is_err());
    }
}
