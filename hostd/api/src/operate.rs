//! What those who run the machine want to see: crashes.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde_json::json;

use crate::app::App;
use crate::error::ApiError;
use crate::platform::Platform;
use crate::reply;

/// The routes.
pub fn routes<P: Platform>() -> Router<Arc<App<P>>> {
    Router::new()
        .route("/system/crashes", get(crashes::<P>))
        .route("/system/crashes/{id}", get(crash::<P>).delete(remove_crash::<P>))
}

async fn crashes<P: Platform>(State(app): State<Arc<App<P>>>) -> Result<Response, ApiError> {
    Ok(reply::json(StatusCode::OK, &json!({ "crashes": app.platform.crashes().await? })))
}

async fn crash<P: Platform>(
    State(app): State<Arc<App<P>>>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    Ok(reply::json(StatusCode::OK, &app.platform.crash(&id).await?))
}

async fn remove_crash<P: Platform>(
    State(app): State<Arc<App<P>>>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    app.platform.remove_crash(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}
