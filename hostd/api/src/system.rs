//! The machine itself: health, state, sandboxes, logs, switching off.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use percent_encoding::percent_decode_str;
use serde_json::json;

use crate::app::{App, segment};
use crate::error::ApiError;
use crate::name::{Reference, parameter};
use crate::platform::Platform;
use crate::reply;
use crate::types::{Caller, Health};

/// Log lines answered when no limit is given.
const DEFAULT_LINES: usize = 100;

/// Most log lines answered.
const MAX_LINES: usize = 10_000;

/// Where the function's name may stand in `/system/logs/{name}`.
const LOGS_NAME_SEGMENT: usize = 3;

/// The routes.
pub fn routes<P: Platform>() -> Router<Arc<App<P>>> {
    Router::new()
        .route("/healthz", get(healthz::<P>))
        .route("/readyz", get(readyz::<P>))
        .route("/system/status", get(status::<P>))
        .route("/system/sandboxes", get(sandboxes::<P>).delete(evict::<P>))
        .route("/system/shutdown", post(shutdown::<P>))
        .route("/system/reboot", post(reboot::<P>))
        .route("/system/logs", get(logs::<P>))
        .route("/system/logs/{name}", get(logs::<P>))
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

async fn logs<P: Platform>(State(app): State<Arc<App<P>>>, request: Request) -> Result<Response, ApiError> {
    let query = request.uri().query();
    let name = match segment(request.uri(), LOGS_NAME_SEGMENT) {
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
