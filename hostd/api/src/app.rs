//! What every request handler gets to see.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderMap, Uri};
use axum::middleware::Next;
use axum::response::Response;
use uuid::Uuid;

use crate::body::{BodyLimits, BodyReader, Lingering};
use crate::invoke::EVENT_LIMIT;
use crate::lambda::DOCUMENT_LIMIT;
use crate::platform::Platform;
use crate::reply::REQUEST_ID;

/// Bounds of request bodies. While an archive is decoded, three quarters of its document's size come on top.
#[derive(Debug, Clone)]
pub struct ApiLimits {
    /// Documents of the management API, which may hold an archive.
    pub documents: BodyLimits,
    /// Events and the bodies of `/function/`.
    pub events: BodyLimits,
}

impl Default for ApiLimits {
    fn default() -> Self {
        // One archive of the largest size and some small ones; a deploy takes a while, others wait for their turn.
        let documents = BodyLimits::new(DOCUMENT_LIMIT, DOCUMENT_LIMIT + 16 * 1024 * 1024);
        Self {
            documents: BodyLimits { patience: Duration::from_secs(60), ..documents },
            events: BodyLimits::new(EVENT_LIMIT, 128 * 1024 * 1024),
        }
    }
}

/// Shared by all requests.
pub(crate) struct App<P> {
    pub platform: Arc<P>,
    pub documents: BodyReader,
    pub events: BodyReader,
}

impl<P: Platform> App<P> {
    pub fn new(platform: Arc<P>, limits: ApiLimits) -> Arc<Self> {
        let ApiLimits { documents, events } = limits;
        Arc::new(Self { platform, documents: BodyReader::new(documents), events: BodyReader::new(events) })
    }
}

/// Id of a request, kept in its extensions.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub String);

impl RequestId {
    /// The id the request was given, or a new one.
    pub fn of(request: &Request) -> String {
        request.extensions().get::<Self>().map_or_else(|| Uuid::new_v4().to_string(), |id| id.0.clone())
    }
}

/// Gives every request an id, which the answer carries and the log names, and lets refused bodies run out.
pub(crate) async fn with_request_id(mut request: Request, next: Next) -> Response {
    let id = Uuid::new_v4().to_string();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    request.extensions_mut().insert(RequestId(id.clone()));
    let request = request.map(Lingering::over);
    let mut response = next.run(request).await;
    tracing::debug!(%method, path = %path.escape_debug(), status = response.status().as_u16(), request = %id, "Request");
    if let Ok(value) = id.parse() {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// Segment `index` of a path, still percent-encoded; `/a/b` has "" at 0, "a" at 1.
pub(crate) fn segment(uri: &Uri, index: usize) -> &str {
    uri.path().split('/').nth(index).unwrap_or_default()
}

/// Value of a header, if it is there and readable ASCII.
pub(crate) fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}
