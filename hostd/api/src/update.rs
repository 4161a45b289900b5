//! Updates of the machine's system: `/system/update`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::app::App;
use crate::error::ApiError;
use crate::name::parameter;
use crate::platform::Platform;
use crate::reply;
use crate::types::{Caller, UpdateWish, Upload};

/// Pieces of an update that wait to be written; each is what came in at once, some ten KiB.
const PIECES: usize = 8;

/// How long a client may send nothing, and how long an update may take in all: on a slow line it takes its time.
const IDLE: Duration = Duration::from_secs(30);
const TOTAL: Duration = Duration::from_secs(3 * 3600);

/// The routes.
pub fn routes<P: Platform>() -> Router<Arc<App<P>>> {
    Router::new()
        .route("/system/update", get(state::<P>).post(install::<P>).put(install::<P>).delete(call_off::<P>))
        .route("/system/update/rollback", post(roll_back::<P>))
}

async fn state<P: Platform>(State(app): State<Arc<App<P>>>) -> Result<Response, ApiError> {
    Ok(reply::json(StatusCode::OK, &app.platform.update_state().await?))
}

async fn install<P: Platform>(
    State(app): State<Arc<App<P>>>,
    request: Request,
) -> Result<Response, ApiError> {
    let wish = wish(request.uri().query())?;
    let caller = Caller::of(request.headers());
    let (sender, pieces) = mpsc::channel(PIECES);
    let update = app.platform.update(&caller, wish, Upload { pieces });
    let sending = send(request.into_body(), sender);
    tokio::pin!(update, sending);
    // Who has refused it does not wait for the rest.
    let updated = tokio::select! {
        biased;
        updated = &mut update => updated,
        () = &mut sending => update.await,
    };
    Ok(reply::json(StatusCode::ACCEPTED, &updated?))
}

async fn roll_back<P: Platform>(
    State(app): State<Arc<App<P>>>,
    request: Request,
) -> Result<Response, ApiError> {
    let wish = wish(request.uri().query())?;
    let caller = Caller::of(request.headers());
    Ok(reply::json(StatusCode::ACCEPTED, &app.platform.roll_back(&caller, wish).await?))
}

async fn call_off<P: Platform>(
    State(app): State<Arc<App<P>>>,
    request: Request,
) -> Result<Response, ApiError> {
    let caller = Caller::of(request.headers());
    Ok(reply::json(StatusCode::OK, &app.platform.call_off_update(&caller).await?))
}

fn wish(query: Option<&str>) -> Result<UpdateWish, ApiError> {
    let choice = |name: &str, words: [&str; 2]| match parameter(query, name).as_deref() {
        None => Ok(false),
        Some(word) if word == words[0] => Ok(false),
        Some(word) if word == words[1] => Ok(true),
        Some(word) => Err(ApiError::InvalidParameterValue(format!(
            "Value '{word}' at '{name}': give {} or {}",
            words[0], words[1]
        ))),
    };
    Ok(UpdateWish {
        reboot: !choice("reboot", ["now", "later"])?,
        force: choice("force", ["false", "true"])?,
    })
}

/// Hands a body on as it comes, no faster than it is taken.
async fn send(mut body: Body, pieces: mpsc::Sender<Result<Bytes, ApiError>>) {
    let end = Instant::now() + TOTAL;
    loop {
        let until = end.min(Instant::now() + IDLE);
        let piece = match timeout_at(until, body.frame()).await {
            Err(_) => Err(ApiError::RequestTimeout(format!(
                "The update did not arrive: at most {} s between its parts and {} s in all",
                IDLE.as_secs(),
                TOTAL.as_secs()
            ))),
            Ok(None) => return,
            Ok(Some(Err(error))) => {
                Err(ApiError::InvalidRequestContent(format!("The update could not be read: {error}")))
            }
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(bytes) => Ok(bytes),
                // Trailers mean nothing here.
                Err(_) => continue,
            },
        };
        let ends = piece.is_err();
        if pieces.send(piece).await.is_err() || ends {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_word_the_machine_starts_again_and_nothing_is_forced() {
        let of = |query: &str| wish(Some(query)).map(|wish| (wish.reboot, wish.force));
        assert_eq!(wish(None).map(|wish| (wish.reboot, wish.force)), Ok((true, false)));
        assert_eq!(of("reboot=later&force=true"), Ok((false, true)));
        assert_eq!(of("force=false&reboot=now"), Ok((true, false)));
        for wrong in ["reboot=no", "reboot=", "force=yes", "force=TRUE"] {
            assert!(matches!(of(wrong), Err(ApiError::InvalidParameterValue(_))), "{wrong}");
        }
    }
}
