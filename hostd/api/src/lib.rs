//! HTTP front door: the Lambda REST API, plain HTTP invocation and health.
//!
//! [`Platform`] is what a machine must offer; [`router`] puts the API in front of it.

mod error;
mod platform;
mod types;

use std::sync::Arc;

use axum::Router;

pub use error::{ApiError, ThrottleReason};
pub use platform::Platform;
pub use types::*;

/// The whole API over `platform`.
pub fn router<P: Platform>(platform: Arc<P>) -> Router {
    Router::new().with_state(platform)
}
