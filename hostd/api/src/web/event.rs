//! An HTTP request as an event.

use std::collections::BTreeMap;

use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, COOKIE, HOST, USER_AGENT};
use axum::http::request::Parts;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use crate::time;

/// What an event holds beside the request itself.
#[derive(Debug)]
pub struct Context<'a> {
    /// The function's name.
    pub function: &'a str,
    /// The machine's account id.
    pub account: &'a str,
    /// Id of the call.
    pub request_id: &'a str,
    /// Address of the client.
    pub source_ip: &'a str,
    /// Now, milliseconds since 1970.
    pub unix_ms: u64,
}

/// The event, as JSON text; its fields are listed in [`crate::web`].
pub fn build(parts: &Parts, raw_path: &str, body: &BodyText<'_>, context: &Context<'_>) -> Vec<u8> {
    let query = parts.uri.query().unwrap_or_default();
    let host = parts.headers.get(HOST).map(|value| lossy(value.as_bytes())).unwrap_or_default();
    let user_agent = parts.headers.get(USER_AGENT).map(|value| lossy(value.as_bytes())).unwrap_or_default();
    let mut event = Map::new();
    event.insert("version".to_owned(), json!("2.0"));
    event.insert("routeKey".to_owned(), json!("$default"));
    event.insert("rawPath".to_owned(), json!(raw_path));
    event.insert("rawQueryString".to_owned(), json!(query));
    let cookies = cookies(&parts.headers);
    if !cookies.is_empty() {
        event.insert("cookies".to_owned(), json!(cookies));
    }
    event.insert("headers".to_owned(), json!(headers(&parts.headers)));
    let parameters = joined(
        form_urlencoded::parse(query.as_bytes()).map(|(name, value)| (name.into_owned(), value.into_owned())),
    );
    if !parameters.is_empty() {
        event.insert("queryStringParameters".to_owned(), json!(parameters));
    }
    event.insert(
        "requestContext".to_owned(),
        json!({
            "accountId": context.account,
            "apiId": context.function,
            "domainName": host,
            "domainPrefix": host.split(['.', ':']).next().unwrap_or_default(),
            "http": {
                "method": parts.method.as_str(),
                "path": raw_path,
                "protocol": format!("{:?}", parts.version),
                "sourceIp": context.source_ip,
                "userAgent": user_agent,
            },
            "requestId": context.request_id,
            "routeKey": "$default",
            "stage": "$default",
            "time": time::common_log(context.unix_ms),
            "timeEpoch": context.unix_ms,
        }),
    );
    event.insert("isBase64Encoded".to_owned(), json!(body.text.is_none()));
    match body.text {
        Some("") => {}
        Some(text) => {
            event.insert("body".to_owned(), json!(text));
        }
        None => {
            event.insert("body".to_owned(), json!(STANDARD.encode(body.bytes)));
        }
    }
    Value::Object(event).to_string().into_bytes()
}

/// How a body stands in an event.
#[derive(Debug)]
pub struct BodyText<'a> {
    bytes: &'a [u8],
    /// As it is; `None` when it has to be base64.
    text: Option<&'a str>,
    /// Bytes it takes in the event's JSON. Known before the event is made: escapes can make six of one.
    pub size: usize,
}

/// Decides how a body stands in the event of a request with these headers.
pub fn body_text<'a>(headers: &HeaderMap, bytes: &'a [u8]) -> BodyText<'a> {
    let text = if bytes.is_empty() || is_textual(headers) { std::str::from_utf8(bytes).ok() } else { None };
    let size = match text {
        Some(text) => text.bytes().map(json_size).sum(),
        None => bytes.len().div_ceil(3) * 4,
    };
    BodyText { bytes, text, size }
}

/// Bytes that one byte takes in a JSON string.
fn json_size(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 2,
        0..32 => 6,
        _ => 1,
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    let rest = headers.iter().filter(|(name, _)| *name != COOKIE);
    joined(rest.map(|(name, value)| (name.as_str().to_owned(), lossy(value.as_bytes()))))
}

fn cookies(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(COOKIE).iter().map(|value| lossy(value.as_bytes()));
    let split =
        values.flat_map(|value| value.split(';').map(|part| part.trim().to_owned()).collect::<Vec<_>>());
    split.filter(|cookie| !cookie.is_empty()).collect()
}

fn joined(pairs: impl Iterator<Item = (String, String)>) -> BTreeMap<String, String> {
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in pairs {
        match fields.get_mut(&name) {
            Some(values) => {
                values.push(',');
                values.push_str(&value);
            }
            None => {
                fields.insert(name, value);
            }
        }
    }
    fields
}

/// Content types that are text by name; `application/x-www-form-urlencoded` is, though API Gateway encodes it.
const TEXTUAL: &[&str] = &[
    "application/json",
    "application/javascript",
    "application/xml",
    "application/x-www-form-urlencoded",
    "application/x-ndjson",
    "application/graphql",
    "application/yaml",
];

fn is_textual(headers: &HeaderMap) -> bool {
    if headers.contains_key(CONTENT_ENCODING) {
        return false;
    }
    let Some(value) = headers.get(CONTENT_TYPE) else { return true };
    let essence = lossy(value.as_bytes()).split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.starts_with("text/")
        || essence.ends_with("+json")
        || essence.ends_with("+xml")
        || TEXTUAL.contains(&essence.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;
    use proptest::prelude::*;

    const CONTEXT: Context<'_> = Context {
        function: "hello",
        account: "000000000000",
        request_id: "id",
        source_ip: "10.0.0.1",
        unix_ms: 1,
    };

    fn event(request: Request<()>, path: &str, body: &[u8]) -> Value {
        let (parts, ()) = request.into_parts();
        serde_json::from_slice(&build(&parts, path, &body_text(&parts.headers, body), &CONTEXT)).unwrap()
    }

    #[test]
    fn a_request_becomes_an_event() {
        let request = Request::builder()
            .method("PATCH")
            .uri("/function/hello/a%20b?x=1&y=%C3%A4+b&x=2&flag")
            .header("Host", "box.example:8080")
            .header("User-Agent", "test")
            .header("X-Many", "1")
            .header("X-Many", "2")
            .header("Cookie", "a=1; b=2")
            .header("Content-Type", "text/plain; charset=utf-8")
            .body(())
            .unwrap();
        let event = event(request, "/a%20b", "grüß".as_bytes());
        assert_eq!(event["version"], "2.0");
        assert_eq!(event["rawPath"], "/a%20b");
        assert_eq!(event["rawQueryString"], "x=1&y=%C3%A4+b&x=2&flag");
        assert_eq!(event["queryStringParameters"], json!({ "x": "1,2", "y": "ä b", "flag": "" }));
        assert_eq!(event["headers"]["x-many"], "1,2");
        assert_eq!(event["headers"]["cookie"], Value::Null);
        assert_eq!(event["cookies"], json!(["a=1", "b=2"]));
        let http = &event["requestContext"]["http"];
        assert_eq!(
            *http,
            json!({ "method": "PATCH", "path": "/a%20b", "protocol": "HTTP/1.1", "sourceIp": "10.0.0.1", "userAgent": "test" })
        );
        assert_eq!(event["requestContext"]["domainPrefix"], "box");
        assert_eq!((&event["body"], &event["isBase64Encoded"]), (&json!("grüß"), &json!(false)));
    }

    #[test]
    fn bodies_that_are_not_text_are_base64() {
        let with = |content_type: &str, body: &[u8]| {
            let request = Request::builder().uri("/").header("Content-Type", content_type).body(()).unwrap();
            let event = event(request, "/", body);
            (event["body"].clone(), event["isBase64Encoded"].clone())
        };
        assert_eq!(with("application/json", b"{}"), (json!("{}"), json!(false)));
        assert_eq!(with("application/cloudevents+json", b"{}"), (json!("{}"), json!(false)));
        assert_eq!(with("image/png", b"abc"), (json!("YWJj"), json!(true)));
        assert_eq!(with("text/plain", b"\xff"), (json!("/w=="), json!(true)));
        assert_eq!(with("image/png", b""), (Value::Null, json!(false)));
    }

    proptest! {
        #[test]
        fn the_size_in_json_is_exact(text in "[\\x00-\\x7fäß😀]{1,60}", binary in any::<bool>()) {
            let mut headers = HeaderMap::new();
            if binary {
                headers.insert(CONTENT_TYPE, "image/png".parse().unwrap());
            }
            let body = body_text(&headers, text.as_bytes());
            let shown = if binary { STANDARD.encode(&text) } else { text.clone() };
            prop_assert_eq!(body.size, json!(shown).to_string().len() - 2);
        }

        #[test]
        fn any_request_is_a_json_event(
            name in "[a-z-]{1,10}", value in prop::collection::vec(any::<u8>(), 0..40),
            path in "\\PC{0,40}", body in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut request = Request::builder().uri("/x?%zz&=&%ff").body(()).unwrap();
            if let (Ok(name), Ok(value)) = (
                axum::http::HeaderName::from_bytes(name.as_bytes()),
                axum::http::HeaderValue::from_bytes(&value),
            ) {
                request.headers_mut().insert(name, value.clone());
                request.headers_mut().insert(COOKIE, value);
            }
            let event = event(request, &path, &body);
            prop_assert_eq!(&event["rawPath"], &json!(path));
            let back = match (&event["body"], event["isBase64Encoded"] == json!(true)) {
                (Value::String(text), true) => STANDARD.decode(text).unwrap(),
                (Value::String(text), false) => text.clone().into_bytes(),
                _ => Vec::new(),
            };
            prop_assert_eq!(back, body);
        }
    }
}
