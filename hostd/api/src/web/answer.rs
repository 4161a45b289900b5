//! A handler's answer as an HTTP response.

use std::borrow::Cow;
use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, SET_COOKIE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::ApiError;
use crate::types::{FunctionError, InvokeReply};

/// Most headers and cookies of an answer.
const HEADERS_LIMIT: usize = 100;

/// Most bytes of all of them; clients take hardly more.
const HEADER_BYTES_LIMIT: usize = 32 * 1024;

/// Headers that belong to the connection, not to the answer: a function that sets them is not listened to.
const CONNECTION_HEADERS: &[&str] = &[
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Builds the response; see the table in [`crate::web`].
pub fn build(reply: &InvokeReply) -> Result<Response, ApiError> {
    let status = match reply.function_error {
        None => StatusCode::OK,
        Some(FunctionError::TimedOut) => StatusCode::GATEWAY_TIMEOUT,
        Some(FunctionError::Handled | FunctionError::Unhandled) => StatusCode::BAD_GATEWAY,
    };
    if status == StatusCode::OK
        && let Ok(fields) = serde_json::from_slice::<BTreeMap<Cow<'_, str>, &RawValue>>(&reply.payload)
        && fields.contains_key("statusCode")
    {
        return Answer { fields }.response();
    }
    let mut response = Response::new(Body::from(reply.payload.clone()));
    *response.status_mut() = status;
    let content_type = reply.content_type.as_deref().and_then(|text| HeaderValue::from_str(text).ok());
    let content_type = content_type.unwrap_or(HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    Ok(response)
}

/// An object with a `statusCode`.
struct Answer<'a> {
    fields: BTreeMap<Cow<'a, str>, &'a RawValue>,
}

impl Answer<'_> {
    fn response(&self) -> Result<Response, ApiError> {
        let status = self.status()?;
        let mut response = Response::new(Body::empty());
        *response.status_mut() = status;
        let mut room = HEADER_BYTES_LIMIT;
        for (before, (name, value)) in self.headers()?.into_iter().enumerate() {
            let size = name.len() + value.len();
            room = room.checked_sub(size).filter(|_| before < HEADERS_LIMIT).ok_or_else(|| {
                bad(&format!("more than {HEADERS_LIMIT} headers or {HEADER_BYTES_LIMIT} bytes of them"))
            })?;
            let (name, value) = header(&name, &value)?;
            if !CONNECTION_HEADERS.contains(&name.as_str()) {
                response.headers_mut().append(name, value);
            }
        }
        let body = self.body()?;
        if !response.headers().contains_key(CONTENT_TYPE) {
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED
            || status == StatusCode::RESET_CONTENT
        {
            response.headers_mut().remove(CONTENT_TYPE);
            response.headers_mut().remove(CONTENT_LENGTH);
        } else {
            *response.body_mut() = Body::from(body);
        }
        Ok(response)
    }

    fn get(&self, name: &str) -> Option<&RawValue> {
        self.fields.get(name).copied().filter(|raw| raw.get() != "null")
    }

    fn value(&self, name: &str) -> Result<Value, ApiError> {
        let Some(raw) = self.get(name) else { return Ok(Value::Null) };
        // Bounded before it is built: values take many times the memory of their text.
        if raw.get().len() > 2 * HEADER_BYTES_LIMIT {
            return Err(bad(&format!("'{name}' is longer than {} bytes", 2 * HEADER_BYTES_LIMIT)));
        }
        serde_json::from_str(raw.get()).map_err(|error| bad(&format!("'{name}': {error}")))
    }

    fn status(&self) -> Result<StatusCode, ApiError> {
        let number = match self.value("statusCode")? {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        let number =
            number.and_then(|number| u16::try_from(number).ok()).filter(|number| (200..600).contains(number));
        number
            .and_then(|number| StatusCode::from_u16(number).ok())
            .ok_or_else(|| bad("'statusCode' is no number from 200 to 599"))
    }

    fn headers(&self) -> Result<Vec<(String, String)>, ApiError> {
        let mut pairs = Vec::new();
        for field in ["headers", "multiValueHeaders"] {
            match self.value(field)? {
                Value::Null => {}
                Value::Object(fields) => {
                    for (name, value) in fields {
                        for value in
                            scalars(value).ok_or_else(|| bad(&format!("header '{name}' is no text")))?
                        {
                            pairs.push((name.clone(), value));
                        }
                    }
                }
                _ => return Err(bad(&format!("'{field}' is no object"))),
            }
        }
        match self.value("cookies")? {
            Value::Null => {}
            cookies @ Value::Array(_) => {
                let cookies = scalars(cookies).ok_or_else(|| bad("'cookies' is no list of texts"))?;
                pairs.extend(cookies.into_iter().map(|cookie| (SET_COOKIE.as_str().to_owned(), cookie)));
            }
            _ => return Err(bad("'cookies' is no list of texts")),
        }
        Ok(pairs)
    }

    fn body(&self) -> Result<Bytes, ApiError> {
        let encoded = match self.value("isBase64Encoded")? {
            Value::Null | Value::Bool(false) => false,
            Value::Bool(true) => true,
            _ => return Err(bad("'isBase64Encoded' is neither true nor false")),
        };
        let Some(raw) = self.get("body") else { return Ok(Bytes::new()) };
        // A body that is no text is sent as the JSON it is: handlers forget `json.dumps`.
        let text = match serde_json::from_str::<String>(raw.get()) {
            Ok(text) => text,
            Err(_) => raw.get().to_owned(),
        };
        if !encoded {
            return Ok(Bytes::from(text));
        }
        STANDARD.decode(text).map(Bytes::from).map_err(|error| bad(&format!("'body' is not base64: {error}")))
    }
}

/// The texts of a value, or of a list's values.
fn scalars(value: Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text]),
        Value::Number(number) => Some(vec![number.to_string()]),
        Value::Bool(flag) => Some(vec![flag.to_string()]),
        Value::Array(items) => {
            let lists: Option<Vec<_>> =
                items.into_iter().map(|item| if item.is_array() { None } else { scalars(item) }).collect();
            lists.map(|lists| lists.concat())
        }
        Value::Null | Value::Object(_) => None,
    }
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), ApiError> {
    let bad_header = || bad(&format!("'{}' is no header or its value cannot be one", name.escape_debug()));
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad_header())?;
    Ok((name, HeaderValue::from_str(value).map_err(|_| bad_header())?))
}

fn bad(what: &str) -> ApiError {
    ApiError::BadGateway(format!("The function's answer has a statusCode but is no HTTP answer: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{LATEST, ServedBy};
    use http_body_util::BodyExt as _;
    use proptest::prelude::*;
    use serde_json::json;

    fn reply(payload: impl Into<Bytes>, function_error: Option<FunctionError>) -> InvokeReply {
        InvokeReply {
            payload: payload.into(),
            content_type: None,
            function_error,
            executed_version: LATEST.to_owned(),
            log_tail: None,
            served_by: ServedBy::Warm,
            phases: Vec::new(),
            billed: None,
            paging: Vec::new(),
        }
    }

    async fn body(response: Response) -> Bytes {
        response.into_body().collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn answers_become_responses() {
        let answer = json!({
            "statusCode": 201, "body": "aGk=", "isBase64Encoded": true, "cookies": ["a=1", "b=2"],
            "headers": { "Content-Type": "text/plain", "X-Number": 7, "Connection": "close", "Content-Length": "99" },
            "multiValueHeaders": { "X-Many": ["1", "2"] },
        });
        let response = build(&reply(answer.to_string(), None)).unwrap();
        assert_eq!(response.status(), 201);
        let headers = response.headers();
        assert_eq!(
            (&headers["content-type"], &headers["x-number"]),
            (&"text/plain".parse().unwrap(), &7.into())
        );
        assert!(!headers.contains_key("connection") && !headers.contains_key("content-length"));
        assert_eq!(headers.get_all("set-cookie").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
        assert_eq!(headers.get_all("x-many").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(body(response).await, "hi");

        let forgotten_dumps = json!({ "statusCode": "200", "body": { "a": [1] } });
        let response = build(&reply(forgotten_dumps.to_string(), None)).unwrap();
        assert_eq!(body(response).await, r#"{"a":[1]}"#);
        let response = build(&reply(r#"{"statusCode":204,"body":"x"}"#, None)).unwrap();
        assert_eq!(body(response).await, "");
    }

    #[tokio::test]
    async fn everything_else_is_json() {
        for payload in ["null", "\"hi\"", "[1]", r#"{"body":"x"}"#, "", "<html>"] {
            let response = build(&reply(payload, None)).unwrap();
            assert_eq!(
                (response.status(), &response.headers()["content-type"]),
                (StatusCode::OK, &"application/json".parse().unwrap())
            );
            assert_eq!(body(response).await, payload);
        }
        let failed = r#"{"statusCode":200,"errorMessage":"x"}"#;
        let response = build(&reply(failed, Some(FunctionError::Unhandled))).unwrap();
        assert_eq!(response.status(), 502);
        assert_eq!(body(response).await, failed);
        assert_eq!(build(&reply(failed, Some(FunctionError::TimedOut))).unwrap().status(), 504);
    }

    #[test]
    fn bad_answers_say_what_is_wrong() {
        for (answer, says) in [
            (json!({ "statusCode": 99 }), "'statusCode'"),
            (json!({ "statusCode": 600 }), "'statusCode'"),
            (json!({ "statusCode": 101 }), "'statusCode'"),
            (json!({ "statusCode": [] }), "'statusCode'"),
            (json!({ "statusCode": -200 }), "'statusCode'"),
            (json!({ "statusCode": 200, "headers": [] }), "'headers'"),
            (json!({ "statusCode": 200, "headers": { "a b": "x" } }), "'a b'"),
            (json!({ "statusCode": 200, "headers": { "a": "x\r\nSet-Cookie: y" } }), "'a'"),
            (json!({ "statusCode": 200, "headers": { "a": {} } }), "'a'"),
            (json!({ "statusCode": 200, "headers": { "a": "x".repeat(40_000) } }), "bytes of them"),
            (json!({ "statusCode": 200, "headers": { "a": vec!["x"; 101] } }), "more than 100"),
            (json!({ "statusCode": 200, "cookies": "a=1" }), "'cookies'"),
            (json!({ "statusCode": 200, "isBase64Encoded": "yes" }), "'isBase64Encoded'"),
            (json!({ "statusCode": 200, "isBase64Encoded": true, "body": "%" }), "not base64"),
        ] {
            let error = build(&reply(answer.to_string(), None)).unwrap_err();
            assert!(matches!(&error, ApiError::BadGateway(text) if text.contains(says)), "{answer}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_answer_is_survived(
            status in prop_oneof![Just(json!(200)), any::<i64>().prop_map(|n| json!(n)), "\\PC{0,4}".prop_map(|s| json!(s))],
            name in "\\PC{0,12}", value in any::<String>(), cookies in any::<Vec<String>>(), body in any::<String>(),
            encoded in any::<bool>(), raw in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let answer = json!({
                "statusCode": status, "headers": { name: value }, "cookies": cookies, "body": body, "isBase64Encoded": encoded,
            });
            for payload in [answer.to_string().into_bytes(), raw] {
                match build(&reply(payload, None)) {
                    Ok(response) => prop_assert!((200..600).contains(&response.status().as_u16())),
                    Err(error) => prop_assert_eq!(error.status(), 502),
                }
            }
        }
    }
}
