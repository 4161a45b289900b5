//! What both ways of calling a function have in common: the event's limit and the headers that steer a call.

use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::app::header;
use crate::error::ApiError;
use crate::types::{RestoreMode, StartPreference};

/// Largest event, bytes; as on Lambda.
pub const EVENT_LIMIT: usize = 6 * 1024 * 1024;

/// Largest client context, bytes of base64; as on Lambda.
const CLIENT_CONTEXT_LIMIT: usize = 3583;

/// What runtimes get as the event's `Content-Type`: they parse the event only if it is exactly this, whatever the
/// caller sent.
pub const EVENT_TYPE: &str = "application/json";

/// The refusal of an event of `size` bytes.
pub fn event_too_large(size: u64) -> ApiError {
    ApiError::RequestTooLarge(format!(
        "{size} byte payload is too large for the RequestResponse invocation type (limit {EVENT_LIMIT} bytes)"
    ))
}

/// Checks that an event is JSON, without building it.
pub fn check_event(event: &[u8]) -> Result<(), ApiError> {
    let refuse = |why: String| {
        ApiError::InvalidRequestContent(format!("Could not parse request body into json: {why}"))
    };
    let text = std::str::from_utf8(event).map_err(|error| refuse(error.to_string()))?;
    serde_json::from_str::<IgnoredAny>(text).map(|_| ()).map_err(|error| refuse(error.to_string()))
}

/// A call's event out of its body: an empty one counts as `{}`, anything else has to be JSON.
pub fn event(body: &Bytes) -> Result<Bytes, ApiError> {
    let event = if body.is_empty() { Bytes::from_static(b"{}") } else { body.clone() };
    check_event(&event)?;
    Ok(event)
}

/// Reads `X-Mote-Start`.
pub fn start_preference(headers: &HeaderMap) -> Result<StartPreference, ApiError> {
    match header(headers, "x-mote-start") {
        None | Some("" | "auto") => Ok(StartPreference::Auto),
        Some("cold") => Ok(StartPreference::Cold),
        Some("restore") => Ok(StartPreference::Restore),
        Some("warm") => Ok(StartPreference::Warm),
        Some(other) => Err(ApiError::InvalidParameterValue(format!(
            "Header X-Mote-Start says '{other}': give auto, cold, restore or warm"
        ))),
    }
}

/// Reads `X-Mote-Restore-Mode`.
pub fn restore_mode(headers: &HeaderMap) -> Result<Option<RestoreMode>, ApiError> {
    let Some(wanted) = header(headers, "x-mote-restore-mode").filter(|wanted| !wanted.is_empty()) else {
        return Ok(None);
    };
    RestoreMode::ALL.into_iter().find(|mode| mode.name() == wanted).map(Some).ok_or_else(|| {
        let names = RestoreMode::ALL.map(RestoreMode::name).join(", ");
        ApiError::InvalidParameterValue(format!(
            "Header X-Mote-Restore-Mode says '{wanted}': give one of {names}"
        ))
    })
}

/// Reads `X-Amz-Client-Context`: base64 of a JSON object, which becomes one line of ASCII, as it travels in a header.
pub fn client_context(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let refuse = |why: &str| {
        ApiError::InvalidRequestContent(format!("Could not read header X-Amz-Client-Context: {why}"))
    };
    let Some(value) = headers.get("x-amz-client-context") else { return Ok(None) };
    if value.len() > CLIENT_CONTEXT_LIMIT {
        return Err(refuse(&format!(
            "it has {} bytes, at most {CLIENT_CONTEXT_LIMIT} are taken",
            value.len()
        )));
    }
    if value.is_empty() {
        return Ok(None);
    }
    let text = STANDARD.decode(value.as_bytes()).map_err(|_| refuse("it is not base64"))?;
    match serde_json::from_slice::<Value>(&text) {
        Ok(object @ Value::Object(_)) => Ok(Some(ascii(&object.to_string()))),
        Ok(_) => Err(refuse("it is not a JSON object")),
        Err(error) => Err(refuse(&error.to_string())),
    }
}

/// Escapes what is not ASCII in a JSON text; outside of strings there is nothing of the kind.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let mut units = [0; 2];
    for character in json.chars() {
        // DEL is ASCII but may not stand in a header.
        if character.is_ascii() && character != '\x7f' {
            text.push(character);
        } else {
            for unit in character.encode_utf16(&mut units) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    fn with(name: &'static str, value: &[u8]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_bytes(value).unwrap());
        headers
    }

    #[test]
    fn events_are_json_of_any_kind() {
        for event in ["{}", "null", " [1, \"ä\"] ", "7", "\"x\""] {
            check_event(event.as_bytes()).unwrap();
        }
        for event in [&b"{"[..], b" ", b"{} {}", b"hello", b"\"\xff\"", b"{'a':1}", b"\xef\xbb\xbf{}"] {
            let error = check_event(event).unwrap_err();
            assert!(error.to_string().starts_with("Could not parse request body into json: "), "{error}");
        }
        // Depth is the function's business; it must not be our stack's.
        check_event(&[&[b'['; 1_000_000][..], &[b']'; 1_000_000][..]].concat()).unwrap();
    }

    #[test]
    fn start_preferences() {
        assert_eq!(start_preference(&HeaderMap::new()).unwrap(), StartPreference::Auto);
        assert_eq!(start_preference(&with("x-mote-start", b"cold")).unwrap(), StartPreference::Cold);
        assert!(start_preference(&with("x-mote-start", b"hot")).is_err());
        assert_eq!(restore_mode(&with("x-mote-restore-mode", b"reap")).unwrap(), Some(RestoreMode::Reap));
        assert_eq!(restore_mode(&HeaderMap::new()).unwrap(), None);
        assert!(
            restore_mode(&with("x-mote-restore-mode", b"magic")).unwrap_err().to_string().contains("faasnap")
        );
    }

    #[test]
    fn client_contexts() {
        let of = |text: &str| client_context(&with("x-amz-client-context", STANDARD.encode(text).as_bytes()));
        assert_eq!(of("{\n \"a\": \"ä😀\u{7f}\" }").unwrap().unwrap(), r#"{"a":"\u00e4\ud83d\ude00\u007f"}"#);
        assert!(of("[]").is_err());
        assert!(of("{").is_err());
        assert!(of(&format!("{{\"a\":\"{}\"}}", "x".repeat(4000))).is_err());
        assert!(client_context(&with("x-amz-client-context", b"%%%")).is_err());
        assert_eq!(client_context(&HeaderMap::new()).unwrap(), None);
    }

    proptest! {
        #[test]
        fn any_event_is_judged(event in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(check_event(&event).is_ok(), serde_json::from_slice::<Value>(&event).is_ok());
        }

        #[test]
        fn any_context_is_one_line_of_ascii(text in "\\PC{0,100}") {
            let object = serde_json::json!({ "k": text });
            let read = client_context(&with("x-amz-client-context", STANDARD.encode(object.to_string()).as_bytes()));
            let line = read.unwrap().unwrap();
            prop_assert!(HeaderValue::from_str(&line).is_ok() && line.is_ascii());
            prop_assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), object);
        }
    }
}
