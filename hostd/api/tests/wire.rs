//! The API as it looks on the wire: plain HTTP calls, system paths, and clients that mean no good.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::time::{Duration, Instant};

use mote_api::{ApiLimits, Component, ServeError, ServeLimits};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use support::Server;

/// An answer, taken apart.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("no end of the head");
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_ascii_lowercase(), body: bytes[end + 4..].to_vec() }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// It is an error as all of ours are.
    fn assert_error(&self, status: u16, kind: &str) {
        assert_eq!(
            (self.status, self.header("x-amzn-errortype")),
            (status, Some(kind.to_ascii_lowercase().as_str()))
        );
        assert_eq!(self.header("content-type"), Some("application/json"));
        let fields = self.json();
        let message = fields.get("message").or_else(|| fields.get("Message"));
        assert!(message.is_some_and(|message| !message.as_str().unwrap().is_empty()), "{fields}");
        assert!(self.header("x-amzn-requestid").is_some());
    }
}

/// Sends bytes and reads to the end of the connection.
async fn raw(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // A server that has heard enough may close while we write.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "The server keeps the connection: {}", String::from_utf8_lossy(&answer));
    answer
}

async fn send(server: &Server, method: &str, target: &str, headers: &str, body: &[u8]) -> Answer {
    let mut request =
        format!("{method} {target} HTTP/1.1\r\nHost: box:8080\r\nConnection: close\r\n{headers}")
            .into_bytes();
    if !body.is_empty() || method == "POST" {
        request.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
    }
    request.extend_from_slice(b"\r\n");
    request.extend_from_slice(body);
    Answer::parse(&raw(server, &request).await)
}

async fn get(server: &Server, target: &str) -> Answer {
    send(server, "GET", target, "", b"").await
}

async fn deploy(server: &Server, name: &str) {
    let body = json!({
        "FunctionName": name, "Runtime": "python3.11", "Handler": "app.handler", "Code": { "ZipFile": "UEs=" },
    });
    let answer = send(server, "POST", "/2015-03-31/functions", "", body.to_string().as_bytes()).await;
    assert_eq!(answer.status, 201, "{answer:?}");
}

#[tokio::test]
async fn plain_http_becomes_an_event() {
    let server = Server::start().await;
    deploy(&server, "echo").await;
    let headers = "Content-Type: text/plain\r\nX-Colour: blue\r\nUser-Agent: me\r\n";
    let answer = send(&server, "PUT", "/function/echo/a%2Fb/c?x=1&x=2", headers, "grüß".as_bytes()).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("x-mote-served-by"), Some("warm"));
    assert_eq!(answer.header("x-mote-phases"), answer.header("server-timing"));
    let event = answer.json();
    assert_eq!((&event["rawPath"], &event["rawQueryString"]), (&json!("/a%2Fb/c"), &json!("x=1&x=2")));
    assert_eq!((&event["body"], &event["headers"]["x-colour"]), (&json!("grüß"), &json!("blue")));
    let context = &event["requestContext"];
    assert_eq!(
        (&context["http"]["method"], &context["http"]["sourceIp"]),
        (&json!("PUT"), &json!("127.0.0.1"))
    );
    assert_eq!(context["requestId"].as_str(), answer.header("x-amzn-requestid"));
    for method in ["GET", "POST", "DELETE", "PATCH", "OPTIONS", "BREW"] {
        let event = send(&server, method, "/function/echo", "", b"").await.json();
        assert_eq!(
            (&event["requestContext"]["http"]["method"], &event["rawPath"]),
            (&json!(method), &json!("/"))
        );
    }
}

#[tokio::test]
async fn a_handlers_answer_becomes_http() {
    let server = Server::start().await;
    deploy(&server, "f").await;
    let call = |event: Value| {
        let server = &server;
        async move {
            send(server, "POST", "/function/f", "X-Mote-Start: cold\r\n", event.to_string().as_bytes()).await
        }
    };
    let reply =
        json!({ "statusCode": 302, "headers": { "Location": "/x" }, "body": "moved", "cookies": ["a=1"] });
    let answer = call(json!({ "reply": reply })).await;
    assert_eq!((answer.status, answer.body.as_slice()), (302, &b"moved"[..]));
    assert_eq!((answer.header("location"), answer.header("set-cookie")), (Some("/x"), Some("a=1")));
    assert_eq!(answer.header("x-mote-served-by"), Some("cold"));

    let answer = call(json!({ "reply": [1, 2] })).await;
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"[1,2]"[..]));
    let answer = call(json!({ "fail": "as asked" })).await;
    assert_eq!((answer.status, answer.header("x-amz-function-error")), (502, Some("unhandled")));
    assert_eq!(answer.json()["errorMessage"], "as asked");
    let answer = call(json!({ "slow": true })).await;
    assert_eq!((answer.status, answer.json()["errorType"].as_str()), (504, Some("Sandbox.Timedout")));
    call(json!({ "reply": { "statusCode": "much" } })).await.assert_error(502, "BadGatewayException");
    get(&server, "/function/nobody").await.assert_error(404, "ResourceNotFoundException");
    get(&server, "/function/no.body/x").await.assert_error(400, "InvalidParameterValueException");
    send(&server, "GET", "/function/f", "X-Mote-Start: hot\r\n", b"")
        .await
        .assert_error(400, "InvalidParameterValueException");
    let large = vec![b'x'; 6 * 1024 * 1024 + 1];
    send(&server, "POST", "/function/f", "", &large).await.assert_error(413, "RequestTooLargeException");
    // Within the limit, but not as base64 in an event.
    let binary = "Content-Type: image/png\r\n";
    send(&server, "POST", "/function/f", binary, &large[..5 * 1024 * 1024])
        .await
        .assert_error(413, "RequestTooLargeException");
}

#[tokio::test]
async fn health_follows_the_platform() {
    let server = Server::start().await;
    assert_eq!((get(&server, "/healthz").await.status, get(&server, "/readyz").await.status), (200, 200));
    {
        let mut health = server.platform.health.lock().unwrap();
        health.ready = false;
        let reason = "Partition mote-data is missing: attach the data disk".to_owned();
        health.components = vec![Component { name: "data-disk".to_owned(), ok: false, reason }];
    }
    let answer = get(&server, "/healthz").await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.json()["components"][0]["reason"],
        "Partition mote-data is missing: attach the data disk"
    );
    assert_eq!(get(&server, "/readyz").await.status, 503);
    server.platform.health.lock().unwrap().serving = false;
    assert_eq!((get(&server, "/healthz").await.status, get(&server, "/readyz").await.status), (503, 503));
}

#[tokio::test]
async fn the_machine_can_be_asked_and_told() {
    let server = Server::start().await;
    deploy(&server, "f").await;
    for _ in 0..3 {
        send(&server, "POST", "/2015-03-31/functions/f/invocations", "", b"{\"print\":\"hi\"}").await;
    }
    assert_eq!(get(&server, "/system/status").await.json()["functions"], 1);
    assert_eq!(get(&server, "/system/sandboxes").await.json().as_array().unwrap().len(), 3);
    assert_eq!(send(&server, "DELETE", "/system/sandboxes", "", b"").await.json(), json!({ "evicted": 3 }));
    assert_eq!(get(&server, "/system/sandboxes").await.json(), json!([]));
    let shown = get(&server, "/system/config").await;
    assert_eq!((shown.status, shown.header("content-type")), (200, Some("text/plain; charset=utf-8")));
    let set = send(&server, "PUT", "/system/config", "", b"[sandbox]\nvcpus = 2\n").await;
    assert_eq!(set.json(), json!({ "keys": 2, "effect": "when the machine starts again" }));
    let wrong = send(&server, "PUT", "/system/config", "", b"\xff").await;
    wrong.assert_error(400, "InvalidParameterValueException");
    for target in ["/system/logs?function=f&limit=2", "/system/logs/f?limit=2"] {
        let logs = get(&server, target).await.json();
        let lines = logs["lines"].as_array().unwrap();
        assert_eq!((lines.len(), &lines[0]), (2, &json!("hi")), "{target}");
    }
    get(&server, "/system/logs").await.assert_error(400, "InvalidParameterValueException");
    get(&server, "/system/logs?function=f&limit=0").await.assert_error(400, "InvalidParameterValueException");
    get(&server, "/system/logs?function=g").await.assert_error(404, "ResourceNotFoundException");
    assert_eq!(send(&server, "POST", "/system/shutdown", "", b"").await.status, 202);
    let answer = send(&server, "POST", "/system/reboot", "", b"").await;
    answer.assert_error(503, "ServiceException");
    assert_eq!(answer.header("retry-after"), Some("60"));
}

#[tokio::test]
async fn a_reset_takes_two_requests() {
    let server = Server::start().await;
    let ask = async |body: &str| send(&server, "POST", "/system/reset", "", body.as_bytes()).await;
    for wrong in
        ["", "{}", "[]", "data", r#"{"what":"all"}"#, r#"{"what":"data","sure":true}"#, r#"{"what":null}"#]
    {
        ask(wrong).await.assert_error(400, "InvalidRequestContentException");
    }
    let answer = ask(r#"{"what":"data"}"#).await;
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    assert_eq!((&answer["confirm"], &answer["valid_s"]), (&json!("sure"), &json!(60)));
    assert!(!answer["wipes"].as_str().unwrap().contains("/system/config"), "{answer}");
    assert!(ask(r#"{"what":"factory"}"#).await.json()["wipes"].as_str().unwrap().contains("/system/config"));
    ask(r#"{"what":"data","confirm":"yes"}"#).await.assert_error(412, "PreconditionFailedException");
    let answer = ask(r#"{"what":"data","confirm":"sure"}"#).await;
    assert_eq!((answer.status, answer.json()), (202, json!({ "state": "rebooting" })));
}

#[tokio::test]
async fn foreign_web_pages_do_not_change_the_machine() {
    let server = Server::start().await;
    let changes = [
        ("POST", "/system/shutdown"),
        ("POST", "/system/reboot"),
        ("POST", "/system/reset"),
        ("DELETE", "/system/sandboxes"),
        ("PUT", "/system/config"),
        ("POST", "/system/update"),
        ("PUT", "/system/update"),
        ("DELETE", "/system/update"),
        ("POST", "/system/update/rollback"),
    ];
    for foreign in [
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
        "Sec-Fetch-Site: cross-site\r\nOrigin: http://box:8080",
        "Origin: http://evil.example",
        "Origin: http://box",
        "Origin: http://box:3000",
        "Origin: null",
        "Origin: \u{fc}",
    ] {
        for (method, target) in changes {
            let answer = send(&server, method, target, &format!("{foreign}\r\n"), b"").await;
            answer.assert_error(403, "AccessDeniedException");
            let message = answer.json()["message"].as_str().unwrap().to_owned();
            assert!(message.contains(target) && message.contains("web page"), "{message}");
        }
        // Reading is not changing, and functions are there to be called from anywhere.
        assert_eq!(send(&server, "GET", "/system/status", &format!("{foreign}\r\n"), b"").await.status, 200);
    }
    deploy(&server, "f").await;
    let foreign = "Sec-Fetch-Site: cross-site\r\nOrigin: http://evil.example\r\n";
    assert_eq!(send(&server, "POST", "/function/f", foreign, b"{}").await.status, 200);
    for own in [
        "",
        "Sec-Fetch-Site: none\r\n",
        "Sec-Fetch-Site: same-origin\r\nOrigin: http://BOX:8080\r\n",
        "Origin: https://box:8080\r\n",
    ] {
        assert_eq!(send(&server, "DELETE", "/system/sandboxes", own, b"").await.status, 200, "{own}");
    }
}

#[tokio::test]
async fn an_update_is_handed_on_as_it_comes() {
    const LARGE: usize = 20 << 20;
    let server = Server::start().await;
    // Larger than any other body may be.
    for method in ["POST", "PUT"] {
        let answer = send(&server, method, "/system/update?reboot=later", "", &vec![7; LARGE]).await;
        assert_eq!(answer.status, 202);
        assert_eq!(answer.json(), json!({ "bytes": LARGE, "reboot": false, "force": false }));
    }
    assert_eq!(get(&server, "/system/update").await.json()["bytes"], LARGE);
    let forced = send(&server, "POST", "/system/update?force=true", "", b"x").await;
    assert_eq!(forced.json(), json!({ "bytes": 1, "reboot": true, "force": true }));
    let back = send(&server, "POST", "/system/update/rollback", "", b"").await;
    assert_eq!((back.status, back.json()), (202, json!({ "reboot": true })));
    assert_eq!(send(&server, "DELETE", "/system/update", "", b"").await.status, 200);
    let nothing = send(&server, "DELETE", "/system/update", "", b"").await;
    nothing.assert_error(409, "ResourceConflictException");
    let wrong = send(&server, "POST", "/system/update?reboot=maybe", "", b"x").await;
    wrong.assert_error(400, "InvalidParameterValueException");
}

#[tokio::test]
async fn an_update_that_is_refused_is_answered_before_all_of_it_came() {
    let server = Server::start().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /system/update HTTP/1.1\r\nHost: box:8080\r\nContent-Length: 1000000\r\n\r\nbad";
    stream.write_all(head.as_bytes()).await.unwrap();
    let begun = Instant::now();
    let mut answer = [0; 13];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 403 ");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_client_that_hangs_up_has_sent_no_whole_update() {
    let server = Server::start().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /system/update HTTP/1.1\r\nHost: box:8080\r\nContent-Length: 1000000\r\n\r\nsome";
    stream.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(stream);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(get(&server, "/system/update").await.json()["bytes"], Value::Null);
}

#[tokio::test]
async fn a_bundle_comes_in_pieces() {
    let server = Server::start().await;
    let answer = get(&server, "/system/bundle").await;
    assert_eq!(answer.header("content-type"), Some("application/x-tar"));
    assert_eq!(answer.header("content-disposition"), Some("attachment; filename=\"bundle.tar\""));
    // As it came: in chunks, and whole.
    assert_eq!(
        answer.body,
        b"5\r\npiece\r\n".repeat(3).into_iter().chain(*b"0\r\n\r\n").collect::<Vec<u8>>()
    );
}

#[tokio::test]
async fn crashes_are_listed_shown_and_removed() {
    let server = Server::start().await;
    assert_eq!(get(&server, "/system/crashes").await.json(), json!({ "crashes": [] }));
    let crash = json!({ "kind": "kernel", "reason": "panic" });
    server.platform.crashes.lock().unwrap().insert("7-kernel-0".to_owned(), crash.clone());
    assert_eq!(get(&server, "/system/crashes").await.json(), json!({ "crashes": ["7-kernel-0"] }));
    assert_eq!(get(&server, "/system/crashes/7-kernel-0").await.json(), crash);
    let foreign = "Origin: http://evil.example\r\n";
    let answer = send(&server, "DELETE", "/system/crashes/7-kernel-0", foreign, b"").await;
    answer.assert_error(403, "AccessDeniedException");
    assert_eq!(send(&server, "DELETE", "/system/crashes/7-kernel-0", "", b"").await.status, 204);
    for target in ["/system/crashes/7-kernel-0", "/system/crashes/..%2f..%2fetc"] {
        get(&server, target).await.assert_error(404, "ResourceNotFoundException");
    }
}

#[tokio::test]
async fn what_is_not_there_says_what_is() {
    let server = Server::start().await;
    let answer = get(&server, "/nothing-here").await;
    answer.assert_error(404, "UnknownOperationException");
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    // Every path it lists is there, with every method it lists.
    let mut listed = 0;
    for endpoint in message.split("there are ").nth(1).unwrap().split("; ") {
        let (methods, path) = endpoint.rsplit_once(' ').unwrap();
        let path = path.replace("{name}", "f").replace("{path}", "x").replace("{lines}", "1");
        for method in methods.replace("ANY", "GET, POST").split(", ") {
            let answer = send(&server, method, &path, "", b"").await;
            assert_ne!(
                answer.header("x-amzn-errortype"),
                Some("unknownoperationexception"),
                "{method} {path}"
            );
            assert_ne!(answer.status, 405, "{method} {path}");
            listed += 1;
        }
    }
    assert!(listed > 12, "{message}");
    let answer = send(&server, "PATCH", "/2015-03-31/functions", "", b"").await;
    answer.assert_error(405, "MethodNotAllowedException");
    assert!(answer.header("allow").unwrap().contains("post"), "{answer:?}");
}

fn quick(max_connections: usize) -> (ApiLimits, ServeLimits) {
    let mut api = ApiLimits::default();
    let short = Duration::from_millis(300);
    api.documents.idle = short;
    api.events.idle = short;
    let drain = Duration::from_millis(600);
    (
        api,
        ServeLimits {
            max_connections,
            head_timeout: short,
            write_timeout: short,
            drain,
            ..ServeLimits::default()
        },
    )
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_it_arrives() {
    let server = Server::start().await;
    for (target, length) in
        [("/2015-03-31/functions", 70_167_212_u64), ("/2015-03-31/functions/f/invocations", u64::MAX / 2)]
    {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = format!(
            "POST {target} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let read =
            tokio::time::timeout(Duration::from_secs(5), stream.read(&mut answer)).await.unwrap().unwrap();
        let answer = Answer::parse(&answer[..read]);
        assert_eq!(
            (answer.status, answer.header("x-amzn-errortype")),
            (413, Some("requesttoolargeexception"))
        );
    }
    // A client that sends all of it before it reads must still get to read the answer.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let size = 32 << 20;
    let head = format!(
        "POST /function/f HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b'x'; size]).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    Answer::parse(&answer).assert_error(413, "RequestTooLargeException");
    // One that does not announce its size is cut off when it gets there.
    let mut chunked =
        b"POST /function/f HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
            .to_vec();
    for _ in 0..7 {
        chunked.extend_from_slice(b"100000\r\n");
        chunked.extend_from_slice(&vec![b'x'; 1 << 20]);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    Answer::parse(&raw(&server, &chunked).await).assert_error(413, "RequestTooLargeException");
}

#[tokio::test]
async fn slow_clients_are_let_go() {
    let (api, limits) = quick(64);
    let server = Server::with(api, limits).await;
    // A head that never ends, an idle connection, a body that stops.
    let begun = Instant::now();
    assert!(raw(&server, b"GET /healthz HTTP/1.1\r\nX: ").await.is_empty());
    assert!(raw(&server, b"").await.is_empty());
    let kept = raw(&server, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(Answer::parse(&kept).status, 200);
    let stalled = raw(
        &server,
        b"POST /function/f HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nab",
    )
    .await;
    Answer::parse(&stalled).assert_error(408, "RequestTimeoutException");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_let_go() {
    let (api, limits) = quick(1);
    let server = Server::with(api, limits).await;
    deploy(&server, "f").await;
    let mut large = vec![b'1'; 6 << 20];
    large[0] = b'"';
    large[(6 << 20) - 1] = b'"';
    // A small window and several answers, or the kernel takes them all in.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let (stuck, mut sender) = socket.connect(server.address).await.unwrap().into_split();
    let writer = tokio::spawn(async move {
        let head =
            "POST /2015-03-31/functions/f/invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 6291456\r\n\r\n";
        for _ in 0..4 {
            if sender.write_all(head.as_bytes()).await.is_err() || sender.write_all(&large).await.is_err() {
                return;
            }
        }
        std::future::pending::<()>().await;
    });
    // It holds the only place, until the server has waited long enough for it to read.
    let begun = Instant::now();
    assert_eq!(
        tokio::time::timeout(Duration::from_secs(20), get(&server, "/healthz")).await.unwrap().status,
        200
    );
    assert!(begun.elapsed() > Duration::from_millis(100));
    writer.abort();
    drop(stuck);
}

#[tokio::test]
async fn heads_and_connections_are_bounded() {
    let (api, limits) = quick(3);
    let server = Server::with(api, limits).await;
    let many: String = (0..200).map(|number| format!("X-{number}: 1\r\n")).collect();
    let answer = raw(&server, format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{many}\r\n").as_bytes()).await;
    assert!(answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    let long = "x".repeat(100_000);
    let answer = raw(&server, format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
    assert!(answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    // Three idle connections hold all places; the fourth waits until one of them is let go.
    let mut idle = Vec::new();
    for _ in 0..3 {
        idle.push(TcpStream::connect(server.address).await.unwrap());
    }
    let begun = Instant::now();
    assert_eq!(get(&server, "/healthz").await.status, 200);
    assert!(begun.elapsed() >= Duration::from_millis(150), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_shutdown_lets_calls_end_and_cuts_what_takes_too_long() {
    for (sleep_ms, cut) in [(200, false), (30_000, true)] {
        // Connections must end because of the shutdown, not because they idle.
        let (api, limits) = quick(64);
        let limits = ServeLimits { head_timeout: Duration::from_secs(30), ..limits };
        let mut server = Server::with(api, limits).await;
        deploy(&server, "f").await;
        let idle = TcpStream::connect(server.address).await.unwrap();
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let body = format!("{{\"sleep_ms\":{sleep_ms}}}");
        let request = format!(
            "POST /2015-03-31/functions/f/invocations HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let address = server.address;
        let begun = Instant::now();
        server.stop();
        tokio::time::sleep(Duration::from_millis(50)).await;
        // Whoever comes now is answered, once, and does not keep the machine on.
        let late = raw(&server, b"POST /system/reboot HTTP/1.1\r\nHost: x\r\n\r\n").await;
        Answer::parse(&late).assert_error(503, "ServiceException");
        assert_eq!(Answer::parse(&late).header("connection"), Some("close"));
        let silent = TcpStream::connect(address).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        match server.ended().await {
            Ok(()) => assert!(!cut && Answer::parse(&answer).status == 200),
            Err(ServeError::Cut { open: 1, .. }) => assert!(cut && answer.is_empty()),
            Err(other) => panic!("{other}"),
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
        drop((idle, silent));
    }
}
