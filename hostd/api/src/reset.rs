//! Wiping the data disk, which takes two requests: the answer to the first has what the second one must repeat.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::post;
use serde::Deserialize;
use serde_json::json;

use crate::app::App;
use crate::error::ApiError;
use crate::invoke;
use crate::platform::Platform;
use crate::reply;

/// What is wiped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wipe {
    /// Functions, snapshots and records; what the API has set stays.
    Data,
    /// That, too.
    Factory,
}

/// What comes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResetReply {
    /// Nothing yet: it has to be confirmed.
    Confirm {
        /// With this.
        token: String,
        /// Within this time.
        valid: Duration,
    },
    /// The machine restarts, and its data disk is wiped then.
    Begun,
}

/// A request's body.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    what: Wipe,
    confirm: Option<String>,
}

/// The routes.
pub fn routes<P: Platform>() -> Router<Arc<App<P>>> {
    Router::new().route("/system/reset", post(reset::<P>))
}

async fn reset<P: Platform>(State(app): State<Arc<App<P>>>, request: Request) -> Result<Response, ApiError> {
    let body = app.events.read(request.into_body(), invoke::event_too_large).await?;
    let wish: Wish = serde_json::from_slice(&body.bytes).map_err(|error| {
        ApiError::InvalidRequestContent(format!(
            "The body is not {{\"what\": \"data\"}} or {{\"what\": \"factory\"}}, with \"confirm\" the second time: {error}"
        ))
    })?;
    Ok(match app.platform.reset(wish.what, wish.confirm.as_deref()).await? {
        ResetReply::Confirm { token, valid } => {
            let answer = json!({
                "confirm": token,
                "valid_s": valid.as_secs(),
                "wipes": match wish.what {
                    Wipe::Data => "all functions, snapshots and records",
                    Wipe::Factory => "all functions, snapshots and records, and what was set at /system/config",
                },
                "next": "the same request with this 'confirm' wipes it and restarts the machine",
            });
            reply::json(StatusCode::OK, &answer)
        }
        ResetReply::Begun => reply::json(StatusCode::ACCEPTED, &json!({ "state": "rebooting" })),
    })
}
