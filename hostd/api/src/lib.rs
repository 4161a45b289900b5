//! HTTP front door: the Lambda REST API, plain HTTP invocation and health.
//!
//! [`Platform`] is what a machine must offer; [`router`] puts the API in front of it, [`serve`] puts a listener in
//! front of that. Whatever comes in is bounded and checked here, and every error is JSON with `x-amzn-errortype`.
//!
//! | what | where |
//! |---|---|
//! | Lambda REST API | `/2015-03-31/functions…` |
//! | plain HTTP | `/function/{name}`, any method, any sub-path: [`web`] |
//! | health | `/healthz`, `/readyz` |
//! | the machine | `/system/status`, `/system/config`, `/system/sandboxes`, `/system/logs`, `/system/crashes`, `/system/shutdown`, … |

mod app;
mod body;
mod caller;
mod error;
mod invoke;
mod lambda;
mod name;
mod operate;
mod platform;
mod reply;
mod reset;
mod serve;
mod system;
mod time;
mod types;
mod update;
pub mod web;
mod wishes;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;

pub use app::ApiLimits;
pub use body::BodyLimits;
pub use error::{ApiError, ThrottleReason};
pub use lambda::TagChange;
pub use platform::Platform;
pub use reset::{ResetReply, Wipe};
pub use serve::{ServeError, ServeLimits, serve};
pub use time::rfc3339;
pub use types::*;
pub use wishes::Wishes;

use app::App;

/// Everything there is, for those who ask for something else.
const ENDPOINTS: &[(&str, &str)] = &[
    ("GET, POST", "/2015-03-31/functions"),
    ("GET, DELETE", "/2015-03-31/functions/{name}"),
    ("PUT", "/2015-03-31/functions/{name}/code"),
    ("GET, PUT", "/2015-03-31/functions/{name}/configuration"),
    ("POST", "/2015-03-31/functions/{name}/invocations"),
    ("PUT, DELETE", "/2017-10-31/functions/{name}/concurrency"),
    ("GET", "/2019-09-30/functions/{name}/concurrency"),
    ("GET, PUT, DELETE", "/2019-09-30/functions/{name}/provisioned-concurrency"),
    ("GET", "/2016-08-19/account-settings"),
    ("GET, POST, DELETE", "/2017-03-31/tags/{arn}"),
    ("ANY", "/function/{name}/{path}"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/system/status"),
    ("GET, PUT", "/system/config"),
    ("GET, DELETE", "/system/sandboxes"),
    ("GET", "/system/snapshots"),
    ("POST", "/system/snapshots/{name}/record"),
    ("POST", "/system/snapshots/{name}/evict-cache"),
    ("GET", "/system/logs?function={name}&limit={lines}"),
    ("GET", "/system/bundle"),
    ("GET", "/system/crashes"),
    ("GET, DELETE", "/system/crashes/{id}"),
    ("GET, POST, PUT, DELETE", "/system/update?reboot={now, later}&force={false, true}"),
    ("POST", "/system/update/rollback"),
    ("POST", "/system/shutdown"),
    ("POST", "/system/reboot"),
    ("POST", "/system/reset"),
];

/// The whole API over `platform`, with the default [`ApiLimits`].
pub fn router<P: Platform>(platform: Arc<P>) -> Router {
    router_with(platform, ApiLimits::default())
}

/// The whole API over `platform`.
pub fn router_with<P: Platform>(platform: Arc<P>, limits: ApiLimits) -> Router {
    Router::new()
        .merge(lambda::routes::<P>())
        .merge(web::routes::<P>())
        .merge(system::routes::<P>())
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(axum::middleware::from_fn(app::with_request_id))
        .with_state(App::new(platform, limits))
}

async fn unknown_path(request: Request) -> ApiError {
    let known: Vec<String> = ENDPOINTS.iter().map(|(methods, path)| format!("{methods} {path}")).collect();
    ApiError::UnknownPath(format!(
        "There is no {}: there are {}",
        request.uri().path().escape_debug(),
        known.join("; ")
    ))
}

async fn unknown_method(request: Request) -> ApiError {
    ApiError::MethodNotAllowed(format!(
        "{} {} is not possible: see the header Allow",
        request.method(),
        request.uri().path().escape_debug()
    ))
}
