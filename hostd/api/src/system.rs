//! The machine itself: health, state, sandboxes, logs, switching off.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::{get, post};
use percent_encoding::percent_decode_str;
use serde_json::json;

use crate::app::{App, RequestId, header, segment};
use crate::error::ApiError;
use crate::invoke;
use crate::name::{Reference, parameter};
use crate::operate;
use crate::platform::Platform;
use crate::reply;
use crate::reset;
use crate::types::{Caller, Health, Identity, InvokeRequest, LATEST, StartPreference};
use crate::update;

/// Log lines answered when no limit is given.
const DEFAULT_LINES: usize = 100;

/// Most log lines answered.
const MAX_LINES: usize = 10_000;

/// Where the function's name stands in `/system/logs/{name}` and `/system/snapshots/{name}/…`.
const NAME_SEGMENT: usize = 3;

/// The routes.
pub fn routes<P: Platform>() -> Router<Arc<App<P>>> {
    Router::new()
        .route("/healthz", get(healthz::<P>))
        .route("/readyz", get(readyz::<P>))
        .route("/system/status", get(status::<P>))
        .route("/system/config", get(configuration::<P>).put(configure::<P>))
        .route("/system/sandboxes", get(sandboxes::<P>).delete(evict::<P>))
        .route("/system/shutdown", post(shutdown::<P>))
        .route("/system/reboot", post(reboot::<P>))
        .route("/system/snapshots", get(snapshots::<P>))
        .route("/system/snapshots/{name}/evict-cache", post(evict_cache::<P>))
        .route("/system/snapshots/{name}/record", post(record::<P>))
        .route("/system/logs", get(logs::<P>))
        .route("/system/logs/{name}", get(logs::<P>))
        .merge(operate::routes::<P>())
        .merge(reset::routes::<P>())
        .merge(update::routes::<P>())
        .route_layer(from_fn(not_from_foreign_pages))
}

/// Refuses to let web pages of other origins change the machine: a browser on this network sends what they say.
/// What they may read is the browser's to decide, and it lets them read nothing of ours.
async fn not_from_foreign_pages(request: Request, next: Next) -> Result<Response, ApiError> {
    if !request.method().is_safe()
        && let Some(why) = foreign(request.headers())
    {
        return Err(ApiError::AccessDenied(format!(
            "{} {} was sent by a web page that is not this machine's own ({why}): use curl or a Lambda client",
            request.method(),
            request.uri().path().escape_debug()
        )));
    }
    Ok(next.run(request).await)
}

/// The header by which a browser says that a request was sent by a page of another origin.
fn foreign(headers: &HeaderMap) -> Option<String> {
    let told =
        |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    if let Some(site) = told("sec-fetch-site").filter(|site| !matches!(site.as_str(), "same-origin" | "none"))
    {
        return Some(format!("Sec-Fetch-Site: {}", site.escape_debug()));
    }
    let origin = told("origin")?;
    let of = origin.parse::<Uri>().ok().and_then(|uri| uri.authority().cloned());
    let same = match (of, header(headers, "host")) {
        (Some(of), Some(host)) => of.as_str().eq_ignore_ascii_case(host),
        _ => false,
    };
    (!same).then(|| format!("Origin: {}", origin.escape_debug()))
}

fn health(fine: bool, health: &Health) -> Response {
    let status = if fine { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    reply::json(status, &json!(health))
}

async fn healthz<P: Platform>(State(app): State<Arc<App<P>>>) -> Response {
    let state = app.platform.health().await;
    health(state.serving, &state)
}

async fn readyz<P: Platform>(State(app): State<Arc<App<P>>>) -> Response {
    let state = app.platform.health().await;
    health(state.serving && state.ready, &state)
}

async fn status<P: Platform>(State(app): State<Arc<App<P>>>) -> Response {
    reply::json(StatusCode::OK, &app.platform.status().await)
}

async fn configuration<P: Platform>(State(app): State<Arc<App<P>>>) -> Response {
    reply::text(StatusCode::OK, app.platform.configuration().await)
}

async fn configure<P: Platform>(
    State(app): State<Arc<App<P>>>,
    request: Request,
) -> Result<Response, ApiError> {
    let caller = Caller::of(request.headers());
    let body = app.events.read(request.into_body(), invoke::event_too_large).await?;
    let keys = app.platform.configure(&caller, body.bytes.clone()).await?;
    Ok(reply::json(StatusCode::OK, &json!({ "keys": keys, "effect": "when the machine starts again" })))
}

async fn sandboxes<P: Platform>(State(app): State<Arc<App<P>>>) -> Response {
    reply::json(StatusCode::OK, &app.platform.sandboxes().await)
}

async fn evict<P: Platform>(State(app): State<Arc<App<P>>>) -> Result<Response, ApiError> {
    let evicted = app.platform.evict_idle().await?;
    Ok(reply::json(StatusCode::OK, &json!({ "evicted": evicted })))
}

async fn shutdown<P: Platform>(State(app): State<Arc<App<P>>>) -> Result<Response, ApiError> {
    app.platform.shutdown().await?;
    Ok(reply::json(StatusCode::ACCEPTED, &json!({ "state": "shutting-down" })))
}

async fn reboot<P: Platform>(State(app): State<Arc<App<P>>>) -> Result<Response, ApiError> {
    app.platform.reboot().await?;
    Ok(reply::json(StatusCode::ACCEPTED, &json!({ "state": "rebooting" })))
}

async fn snapshots<P: Platform>(State(app): State<Arc<App<P>>>) -> Result<Response, ApiError> {
    Ok(reply::json(StatusCode::OK, &app.platform.snapshots().await?))
}

/// The function a `/system/snapshots/{name}/…` request is about.
fn snapshot_of(request: &Request, identity: &Identity) -> Result<Reference, ApiError> {
    let name = percent_decode_str(segment(request.uri(), NAME_SEGMENT)).decode_utf8_lossy();
    Reference::parse(&name)?.latest(identity)
}

async fn evict_cache<P: Platform>(
    State(app): State<Arc<App<P>>>,
    request: Request,
) -> Result<Response, ApiError> {
    let reference = snapshot_of(&request, &app.platform.identity())?;
    let evicted = app.platform.evict_cache(&Caller::of(request.headers()), &reference.name).await?;
    Ok(reply::json(StatusCode::OK, &evicted))
}

async fn record<P: Platform>(State(app): State<Arc<App<P>>>, request: Request) -> Result<Response, ApiError> {
    let identity = app.platform.identity();
    let reference = snapshot_of(&request, &identity)?;
    let caller = Caller::of(request.headers());
    let request_id = RequestId::of(&request);
    let body = app.events.read(request.into_body(), invoke::event_too_large).await?;
    let payload = invoke::event(&body.bytes)?;
    let call = InvokeRequest {
        arn: reference.arn(&identity),
        function: reference.name,
        qualifier: LATEST.to_owned(),
        request_id,
        payload,
        content_type: invoke::EVENT_TYPE.to_owned(),
        log_tail: false,
        client_context: None,
        start: StartPreference::Restore,
        restore_mode: None,
    };
    Ok(reply::json(StatusCode::OK, &app.platform.record(&caller, call).await?))
}

async fn logs<P: Platform>(State(app): State<Arc<App<P>>>, request: Request) -> Result<Response, ApiError> {
    let query = request.uri().query();
    let name = match segment(request.uri(), NAME_SEGMENT) {
        "" => parameter(query, "function"),
        name => Some(percent_decode_str(name).decode_utf8_lossy().into_owned()),
    };
    let name = name.ok_or_else(|| {
        ApiError::InvalidParameterValue("Parameter 'function' is missing: give its name".to_owned())
    })?;
    let reference = Reference::parse(&name)?.latest(&app.platform.identity())?;
    let limit = match parameter(query, "limit") {
        None => DEFAULT_LINES,
        Some(text) => match text.parse() {
            Ok(number) if (1..=MAX_LINES).contains(&number) => number,
            _ => {
                return Err(ApiError::InvalidParameterValue(format!(
                    "Value '{text}' at 'limit' is out of range: give 1 to {MAX_LINES}"
                )));
            }
        },
    };
    let lines = app.platform.logs(&Caller::of(request.headers()), &reference.name, limit).await?;
    Ok(reply::json(StatusCode::OK, &json!({ "function": reference.name, "lines": lines })))
}
