//! Whatever is sent: no panic, and every refusal is JSON that names its type.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::cell::Cell;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Request, StatusCode, Uri};
use http_body_util::BodyExt as _;
use mote_api::router;
use proptest::prelude::*;
use serde_json::{Value, json};
use support::Memory;
use tower_service::Service as _;

/// A router with one function in it, and a runtime to call it.
fn fixture() -> (tokio::runtime::Runtime, Router) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let router = router(Arc::new(Memory::default()));
    let body = json!({
        "FunctionName": "f", "Runtime": "python3.11", "Handler": "app.handler", "Code": { "ZipFile": "UEs=" },
    });
    let request = Request::post("/2015-03-31/functions").body(Body::from(body.to_string())).unwrap();
    let (status, _) = call(&runtime, &router, request);
    assert_eq!(status, StatusCode::CREATED);
    (runtime, router)
}

/// Sends a request and checks what must hold for every answer.
fn call(runtime: &tokio::runtime::Runtime, router: &Router, request: Request<Body>) -> (StatusCode, Vec<u8>) {
    let what = format!("{} {} {:?}", request.method(), request.uri(), request.headers());
    let head = request.method() == "HEAD";
    let mut router = router.clone();
    runtime.block_on(async {
        let response = router.call(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        assert!(parts.headers.contains_key("x-amzn-requestid"), "{what}");
        let by_function = parts.headers.contains_key("x-mote-served-by");
        let health = parts.status == StatusCode::SERVICE_UNAVAILABLE;
        if parts.status.as_u16() >= 400 && !by_function && !health {
            assert!(parts.headers.contains_key("x-amzn-errortype"), "{what}: {}", parts.status);
            assert_eq!(parts.headers["content-type"], "application/json", "{what}");
            if !head {
                let fields: Value = serde_json::from_slice(&body).expect(&what);
                let message = fields.get("message").or_else(|| fields.get("Message")).expect(&what);
                assert!(
                    !message.as_str().unwrap().is_empty() && message.as_str().unwrap().len() < 4096,
                    "{what}"
                );
                assert_eq!(
                    fields["Type"],
                    if parts.status.is_server_error() { "Service" } else { "User" },
                    "{what}"
                );
            }
        }
        (parts.status, body.to_vec())
    })
}

fn method() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec!["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
            .prop_map(str::to_owned),
        "[A-Z]{1,10}",
    ]
}

/// Paths near to ours, and any others.
fn target() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "2015-03-31",
            "2017-10-31",
            "2019-09-30",
            "concurrency",
            "provisioned-concurrency",
            "functions",
            "function",
            "system",
            "logs",
            "sandboxes",
            "healthz",
            "f",
            "f:1",
            "code",
            "configuration",
            "invocations",
            "..",
            "%2e%2e",
            "%00",
            "%ff",
            "%",
            "",
            "arn%3Aaws%3Alambda%3Ax",
            "$LATEST",
        ])
        .prop_map(str::to_owned),
        "[a-zA-Z0-9%._~!$&'()*+,;=:@-]{0,20}",
    ];
    let near = prop::sample::select(vec![
        "/2015-03-31/functions/",
        "/2015-03-31/functions/f/",
        "/2017-10-31/functions/f/",
        "/2019-09-30/functions/f/",
        "/function/f/",
        "/function/",
        "/system/",
        "/",
    ]);
    let query = prop_oneof![
        Just(String::new()),
        "\\?(Qualifier|List|Marker|MaxItems|FunctionVersion|function|limit)=[a-zA-Z0-9%$+&=-]{0,20}",
    ];
    (near, prop::collection::vec(piece, 0..4), query)
        .prop_map(|(near, pieces, query)| format!("{near}{}{query}", pieces.join("/")))
}

fn headers() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    let name = prop_oneof![
        prop::sample::select(vec![
            "authorization",
            "content-type",
            "x-amz-invocation-type",
            "x-amz-log-type",
            "x-amz-client-context",
            "cookie",
            "x-mote-start",
            "content-encoding",
            "host",
            "content-length",
        ])
        .prop_map(str::to_owned),
        "[a-z-]{1,12}",
    ];
    let value = prop_oneof![
        prop::sample::select(vec![
            "Tail",
            "DryRun",
            "Event",
            "RequestResponse",
            "cold",
            "e30=",
            "application/json",
            "7"
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..40),
    ];
    prop::collection::vec((name, value), 0..5)
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::sample::select(vec![
            "",
            "{}",
            "{",
            "[]",
            "null",
            "{\"FunctionName\":\"g\"}",
            "{\"ZipFile\":\"UEs=\"}",
            "{\"Timeout\":5}"
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..100),
    ]
}

#[test]
fn any_request_gets_an_answer() {
    let (runtime, router) = fixture();
    let strategy = (method(), target(), headers(), body());
    let config = ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() };
    let refused = Cell::new(0);
    let answered = Cell::new(0);
    proptest::test_runner::TestRunner::new(config)
        .run(&strategy, |(method, target, headers, body)| {
            // What is no URI never gets past the HTTP parser.
            let Ok(uri) = target.parse::<Uri>() else { return Ok(()) };
            let mut request =
                Request::builder().method(method.as_str()).uri(uri).body(Body::from(body)).unwrap();
            for (name, value) in headers {
                if let (Ok(name), Ok(value)) =
                    (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(&value))
                {
                    request.headers_mut().append(name, value);
                }
            }
            let (status, _) = call(&runtime, &router, request);
            let count = if status.is_success() { &answered } else { &refused };
            count.set(count.get() + 1);
            prop_assert!(status != StatusCode::INTERNAL_SERVER_ERROR);
            Ok(())
        })
        .unwrap();
    let (answered, refused) = (answered.get(), refused.get());
    assert!(answered > 50 && refused > 200, "{answered} answered, {refused} refused: the strategy is off");
}
