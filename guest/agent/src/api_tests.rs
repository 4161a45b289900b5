use super::*;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Serves the API and answers what `reply` says; sends `request` as it is and reads until the server closes.
async fn exchange(request: &[u8], reply: impl Fn(&Asked) -> Reply) -> (String, Vec<(Call, String, Upload)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, mut receiver) = mpsc::channel(1);
    let server = tokio::spawn(serve(listener, sender));
    let mut client = TcpStream::connect(address).await.unwrap();
    let talk = async {
        let _ = client.write_all(request).await;
        let mut text = Vec::new();
        let _ = client.read_to_end(&mut text).await;
        String::from_utf8_lossy(&text).into_owned()
    };
    let mut seen = Vec::new();
    let answer = async {
        while let Some(asked) = receiver.recv().await {
            let made = reply(&asked);
            seen.push((asked.call, asked.request_id, asked.upload));
            asked.reply.send(made).unwrap();
        }
    };
    let text = tokio::select! { text = talk => text, () = answer => unreachable!() };
    server.abort();
    (text, seen)
}

fn invoke() -> InvokeSpec {
    InvokeSpec {
        request_id: "id-1".into(),
        deadline_unix_ms: 17,
        function_arn: "arn:aws:lambda:us-east-1:000000000000:function:f".into(),
        trace_id: "Root=1".into(),
        content_type: String::new(),
        client_context: Some("{\n \"custom\": {\"a\": \"é\"}\n}".into()),
    }
}

#[tokio::test]
async fn next_carries_what_a_runtime_needs() {
    let request = b"GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let (text, seen) = exchange(request, |_| Reply::Event(invoke(), b"{\"n\":1}".to_vec())).await;
    assert_eq!(seen[0].0, Call::Next);
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    for line in [
        "lambda-runtime-aws-request-id: id-1",
        "lambda-runtime-deadline-ms: 17",
        "lambda-runtime-invoked-function-arn: arn:aws:lambda:us-east-1:000000000000:function:f",
        "lambda-runtime-trace-id: Root=1",
        "lambda-runtime-client-context: {\"custom\":{\"a\":\"é\"}}",
        "content-type: application/json",
    ] {
        assert!(text.contains(&format!("{line}\r\n")), "{line} in {text}");
    }
    assert!(text.ends_with("\r\n\r\n{\"n\":1}"), "{text}");
}

#[tokio::test]
async fn unknown_paths_and_methods_are_told() {
    for (line, status, kind) in [
        ("GET /", 404, "NotFound"),
        ("GET /2018-06-01/runtime/invocation", 404, "NotFound"),
        ("GET /2018-06-01/runtime/invocation/next/x", 404, "NotFound"),
        ("POST /2018-06-01/runtime/invocation//response", 404, "NotFound"),
        ("POST /2020-01-01/extension/register", 404, "NotFound"),
        ("GET /mote/function/", 404, "NotFound"),
        ("POST /mote/function", 405, "MethodNotAllowed"),
        ("POST /2018-06-01/runtime/invocation/next", 405, "MethodNotAllowed"),
        ("GET /2018-06-01/runtime/invocation/1/response", 405, "MethodNotAllowed"),
    ] {
        let request = format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let (text, seen) = exchange(request.as_bytes(), |_| Reply::Accepted).await;
        assert!(seen.is_empty());
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {text}");
        assert!(text.contains(&format!("\"errorType\":\"{kind}\"")), "{line}: {text}");
    }
}

fn post(len: usize) -> Vec<u8> {
    let mut request = format!(
        "POST /2018-06-01/runtime/invocation/id-1/response HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         content-type: text/plain\r\ncontent-length: {len}\r\n\r\n"
    )
    .into_bytes();
    request.resize(request.len() + len, b'x');
    request
}

#[tokio::test]
async fn bodies_are_bounded() {
    for (len, too_large) in [(0, false), (MAX_BODY, false), (MAX_BODY + 1, true), (3 * MAX_BODY, true)] {
        let (text, seen) = exchange(&post(len), |_| Reply::Accepted).await;
        let (call, id, upload) = &seen[0];
        assert_eq!((*call, id.as_str()), (Call::Answer(ResultKind::Response), "id-1"));
        assert_eq!(upload.too_large, too_large);
        assert_eq!(upload.bytes.len(), if too_large { 0 } else { len });
        assert_eq!(upload.content_type.as_deref(), Some("text/plain"));
        assert!(text.starts_with("HTTP/1.1 202 "), "{text}");
    }
}

#[tokio::test]
async fn a_streamed_response_may_end_in_an_error() {
    let report = STANDARD.encode(b"{\"errorMessage\":\"m\"}");
    let request = format!(
        "POST /2018-06-01/runtime/invocation/i/response HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         lambda-runtime-function-response-mode: streaming\r\ntransfer-encoding: chunked\r\n\
         trailer: Lambda-Runtime-Function-Error-Type\r\n\r\n3\r\nabc\r\n0\r\n\
         Lambda-Runtime-Function-Error-Type: E\r\nLambda-Runtime-Function-Error-Body: {report}\r\n\r\n"
    );
    let (_, seen) = exchange(request.as_bytes(), |_| Reply::Accepted).await;
    assert_eq!(seen[0].0, Call::Answer(ResultKind::Error));
    assert_eq!(seen[0].2.bytes, b"{\"errorMessage\":\"m\"}");
    assert_eq!(seen[0].2.error_type.as_deref(), Some("E"));
}

#[tokio::test]
async fn a_cause_of_a_mebibyte_fits_in_a_header() {
    let cause = "x".repeat(1024 * 1024 - 1);
    let request = format!(
        "POST /2018-06-01/runtime/invocation/i/error HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         lambda-runtime-function-xray-error-cause: {cause}\r\ncontent-length: 2\r\n\r\n{{}}"
    );
    let (text, seen) = exchange(request.as_bytes(), |_| Reply::Accepted).await;
    assert!(text.starts_with("HTTP/1.1 202 "), "{text}");
    assert_eq!(seen[0].0, Call::Answer(ResultKind::Error));
}

#[tokio::test]
async fn a_body_cut_short_is_no_answer() {
    let mut request = post(100);
    request.truncate(request.len() - 1);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, mut receiver) = mpsc::channel(1);
    let server = tokio::spawn(serve(listener, sender));
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(&request).await.unwrap();
    drop(client);
    let asked = tokio::time::timeout(std::time::Duration::from_millis(100), receiver.recv()).await;
    assert!(asked.is_err());
    server.abort();
}

#[tokio::test]
async fn a_runtime_that_hangs_up_is_noticed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, mut receiver) = mpsc::channel(1);
    let server = tokio::spawn(serve(listener, sender));
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET /2018-06-01/runtime/restore/next HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut asked = receiver.recv().await.unwrap();
    assert_eq!(asked.call, Call::RestoreNext);
    drop(client);
    tokio::time::timeout(std::time::Duration::from_secs(5), asked.reply.closed()).await.unwrap();
    server.abort();
}

proptest! {
    #[test]
    fn any_path_is_routed_or_refused(path in "(/2018-06-01/runtime)?/[a-z/{}]{0,40}") {
        match route(&Method::GET, &path) {
            Ok((call, _)) => prop_assert!(matches!(call, Call::Next | Call::RestoreNext)),
            Err(why) => prop_assert!(unrouted(why, &path).status().is_client_error()),
        }
    }

    #[test]
    fn any_call_makes_a_response(context in any::<Option<String>>(), kind in any::<String>()) {
        let spec = InvokeSpec { client_context: context, content_type: kind, ..invoke() };
        prop_assert_eq!(event(spec, Vec::new()).status(), StatusCode::OK);
    }
}
