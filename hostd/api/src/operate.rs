//! What those who run the machine want to see: crashes, and a bundle of everything for those who are to help.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use bytes::Bytes;
use hyper::body::Frame;
use serde_json::json;
use tokio::sync::mpsc;

use crate::app::App;
use crate::error::ApiError;
use crate::platform::Platform;
use crate::reply;

/// The routes.
pub fn routes<P: Platform>() -> Router<Arc<App<P>>> {
    Router::new()
        .route("/system/bundle", get(bundle::<P>))
        .route("/system/crashes", get(crashes::<P>))
        .route("/system/crashes/{id}", get(crash::<P>).delete(remove_crash::<P>))
}

async fn bundle<P: Platform>(State(app): State<Arc<App<P>>>) -> Result<Response, ApiError> {
    let bundle = app.platform.bundle().await?;
    let mut response = Response::new(Body::new(Pieces(bundle.pieces)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    if let Ok(value) = HeaderValue::from_str(&format!("attachment; filename=\"{}\"", bundle.name)) {
        headers.insert(header::CONTENT_DISPOSITION, value);
    }
    Ok(response)
}

/// A body that comes in pieces.
struct Pieces(mpsc::Receiver<io::Result<Bytes>>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
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
