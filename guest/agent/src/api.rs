//! The Lambda Runtime API over HTTP: turns requests into [`Asked`] and [`Reply`] into responses.
//! Which request is allowed when is not decided here.

use std::convert::Infallible;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mote_protocol::{InvokeSpec, MAX_BODY, ResultKind};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::words::ErrorObject;

/// Connections served at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 32;

/// Largest request head, bytes: `awslambdaric` puts up to 1 MiB of X-Ray cause into a header.
const MAX_HEAD: usize = 1024 * 1024 + 64 * 1024;

const ERROR_TYPE: &str = "lambda-runtime-function-error-type";
const ERROR_BODY: &str = "lambda-runtime-function-error-body";

/// What the runtime can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// `GET function`, a long poll of a runtime that was started without one.
    Function,
    /// `GET restore/next`.
    RestoreNext,
    /// `GET invocation/next`.
    Next,
    /// `POST invocation/{id}/response` or `…/error`.
    Answer(ResultKind),
    /// `POST init/error`.
    InitError,
    /// `POST restore/error`.
    RestoreError,
}

/// One request, to be replied to exactly once. The receiver is gone when the runtime hung up.
#[derive(Debug)]
pub struct Asked {
    /// What for.
    pub call: Call,
    /// The id in the path; empty where the path has none.
    pub request_id: String,
    /// What came with it.
    pub upload: Upload,
    /// Where the reply goes.
    pub reply: oneshot::Sender<Reply>,
}

/// The body of a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Upload {
    /// The bytes; empty if they were too many.
    pub bytes: Vec<u8>,
    /// There were more than [`MAX_BODY`].
    pub too_large: bool,
    /// Its `Content-Type`.
    pub content_type: Option<String>,
    /// `Lambda-Runtime-Function-Error-Type`, header or trailer.
    pub error_type: Option<String>,
}

/// The answer to a request.
#[derive(Debug)]
pub enum Reply {
    /// 202.
    Accepted,
    /// 200 to `function`: what it is, JSON.
    Function(Vec<u8>),
    /// 200 to `restore/next`.
    Restored,
    /// 200 to `next`: an event.
    Event(InvokeSpec, Vec<u8>),
    /// An error.
    Refused(StatusCode, ErrorObject),
}

/// Serves the API until the receiver of `asked` is gone.
pub async fn serve(listener: TcpListener, asked: mpsc::Sender<Asked>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // Out of descriptors or memory: the runtime's own doing, and it may get better.
                Err(_) => {
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    continue;
                }
            },
            () = asked.closed() => return,
        };
        let asked = asked.clone();
        tokio::spawn(async move {
            connection(stream, asked).await;
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, asked: mpsc::Sender<Asked>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| respond(request, &asked));
    let mut server = hyper::server::conn::http1::Builder::new();
    // A runtime that hangs up in a request is none of our errors.
    let _ = server.max_buf_size(MAX_HEAD).serve_connection(TokioIo::new(stream), service).await;
}

async fn respond(
    request: Request<Incoming>,
    asked: &mpsc::Sender<Asked>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let (call, request_id) = match route(&parts.method, parts.uri.path()) {
        Ok(routed) => routed,
        Err(why) => return Ok(unrouted(why, parts.uri.path())),
    };
    let Some((call, upload)) = receive(call, &parts.headers, body).await else {
        return Ok(refused(
            StatusCode::BAD_REQUEST,
            &ErrorObject::new("InvalidRequest", "The body ended early"),
        ));
    };
    let (reply, replied) = oneshot::channel();
    let sent = asked.send(Asked { call, request_id: request_id.to_owned(), upload, reply }).await;
    // No reply: the agent is about to end.
    let gone = || {
        Reply::Refused(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorObject::new("ShuttingDown", "The sandbox is ending"),
        )
    };
    let reply = if sent.is_ok() { replied.await.unwrap_or_else(|_| gone()) } else { gone() };
    Ok(render(reply))
}

const ID: &str = "{id}";

/// Everything there is. What is not Lambda's is for the runtime's own start program.
const ROUTES: &[(Method, &str, Call)] = &[
    (Method::GET, "/mote/function", Call::Function),
    (Method::GET, "/2018-06-01/runtime/restore/next", Call::RestoreNext),
    (Method::GET, "/2018-06-01/runtime/invocation/next", Call::Next),
    (Method::POST, "/2018-06-01/runtime/invocation/{id}/response", Call::Answer(ResultKind::Response)),
    (Method::POST, "/2018-06-01/runtime/invocation/{id}/error", Call::Answer(ResultKind::Error)),
    (Method::POST, "/2018-06-01/runtime/init/error", Call::InitError),
    (Method::POST, "/2018-06-01/runtime/restore/error", Call::RestoreError),
];

/// Why a request is none of the API's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unrouted {
    /// No such path.
    Path,
    /// The path takes another method, this one.
    Method(&'static Method),
}

fn route<'a>(method: &Method, path: &'a str) -> Result<(Call, &'a str), Unrouted> {
    let mut other = Unrouted::Path;
    for (with, pattern, call) in ROUTES {
        let Some(id) = matched(pattern, path) else { continue };
        if with == method {
            return Ok((*call, id));
        }
        other = Unrouted::Method(with);
    }
    Err(other)
}

/// The id in a path of this form, empty if it has none; `None` if the path is of another form.
fn matched<'a>(pattern: &str, path: &'a str) -> Option<&'a str> {
    let mut id = "";
    let mut segments = path.split('/');
    for part in pattern.split('/') {
        let segment = segments.next()?;
        match part {
            ID if !segment.is_empty() => id = segment,
            part if part == segment => {}
            _ => return None,
        }
    }
    segments.next().is_none().then_some(id)
}

fn unrouted(why: Unrouted, path: &str) -> Response<Full<Bytes>> {
    match why {
        Unrouted::Path => {
            let error = ErrorObject::new("NotFound", format!("No such path in the Runtime API: {path:.200}"));
            refused(StatusCode::NOT_FOUND, &error)
        }
        Unrouted::Method(allowed) => {
            let error = ErrorObject::new("MethodNotAllowed", format!("This path takes {allowed}"));
            let mut response = refused(StatusCode::METHOD_NOT_ALLOWED, &error);
            if let Ok(value) = HeaderValue::from_str(allowed.as_str()) {
                response.headers_mut().insert(ALLOW, value);
            }
            response
        }
    }
}

/// Reads a whole body. Of one that is too large only the end is awaited: a client in the middle of its upload
/// would not read a refusal. A streamed response whose trailers tell of an error becomes that error.
async fn receive<B>(call: Call, headers: &HeaderMap, mut body: B) -> Option<(Call, Upload)>
where
    B: Body<Data = Bytes> + Unpin,
{
    let text = |headers: &HeaderMap, name: &str| {
        headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    let expected = body.size_hint().exact().and_then(|len| usize::try_from(len).ok()).unwrap_or(0);
    let mut upload = Upload {
        bytes: Vec::with_capacity(if expected > MAX_BODY { 0 } else { expected }),
        too_large: false,
        content_type: text(headers, CONTENT_TYPE.as_str()),
        error_type: text(headers, ERROR_TYPE),
    };
    let mut call = call;
    while let Some(frame) = body.frame().await {
        let frame = match frame.ok()?.into_data() {
            Ok(data) => {
                if upload.too_large || upload.bytes.len() + data.len() > MAX_BODY {
                    upload.too_large = true;
                    upload.bytes = Vec::new();
                } else {
                    upload.bytes.extend_from_slice(&data);
                }
                continue;
            }
            Err(frame) => frame,
        };
        let Ok(trailers) = frame.into_trailers() else { continue };
        if let (Call::Answer(_), Some(kind)) = (call, text(&trailers, ERROR_TYPE)) {
            let report = text(&trailers, ERROR_BODY).and_then(|encoded| STANDARD.decode(encoded).ok());
            call = Call::Answer(ResultKind::Error);
            upload.bytes = report.unwrap_or_default();
            upload.too_large = false;
            upload.error_type = Some(kind);
        }
    }
    Some((call, upload))
}

fn render(reply: Reply) -> Response<Full<Bytes>> {
    match reply {
        Reply::Accepted => json(StatusCode::ACCEPTED, br#"{"status":"OK"}"#.to_vec()),
        Reply::Function(function) => json(StatusCode::OK, function),
        Reply::Restored => json(StatusCode::OK, b"{}".to_vec()),
        Reply::Refused(status, error) => refused(status, &error),
        Reply::Event(invoke, body) => event(invoke, body),
    }
}

fn refused(status: StatusCode, error: &ErrorObject) -> Response<Full<Bytes>> {
    json(status, error.json())
}

fn json(status: StatusCode, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn event(invoke: InvokeSpec, body: Vec<u8>) -> Response<Full<Bytes>> {
    // `awslambdaric` fails without a content type.
    let content_type =
        if invoke.content_type.is_empty() { "application/json".to_owned() } else { invoke.content_type };
    let fields = [
        ("lambda-runtime-aws-request-id", invoke.request_id),
        ("lambda-runtime-deadline-ms", invoke.deadline_unix_ms.to_string()),
        ("lambda-runtime-invoked-function-arn", invoke.function_arn),
        ("lambda-runtime-trace-id", invoke.trace_id),
        ("lambda-runtime-client-context", invoke.client_context.map(one_line).unwrap_or_default()),
        ("content-type", content_type),
    ];
    let mut response = Response::new(Full::new(Bytes::from(body)));
    for (name, value) in fields {
        // What the caller sent may hold bytes no header can: then the function goes without.
        if let (false, Ok(value)) = (value.is_empty(), HeaderValue::from_bytes(value.as_bytes())) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    response
}

/// JSON may be spread over lines, a header may not.
fn one_line(json: String) -> String {
    serde_json::from_str::<serde_json::Value>(&json).map_or(json, |value| value.to_string())
}

#[cfg(test)]
#[path = "api_tests.rs"]
mod tests;
