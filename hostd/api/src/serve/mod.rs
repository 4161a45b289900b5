//! The listener: bounded connections, bounded waits, and an end in order.

mod stalled;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tower_service::Service;

use stalled::Stalled;

/// Pause after `accept` failed for want of files or memory; connections end meanwhile.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What requests that came during a shutdown get at its end, to take their answers away.
const LATE_ANSWERS: Duration = Duration::from_millis(500);

/// What the listener puts up with.
#[derive(Debug, Clone)]
pub struct ServeLimits {
    /// Open connections at once; further ones wait in the kernel's backlog.
    pub max_connections: usize,
    /// How long a client may take to send a request's head, and how long a connection may idle between requests.
    pub head_timeout: Duration,
    /// How long a client may refuse to take any byte of its answer.
    pub write_timeout: Duration,
    /// Bytes of a request's head; beyond it 431.
    pub max_head_bytes: usize,
    /// Header lines of a request; beyond it 431.
    pub max_headers: usize,
    /// How long requests under way may take to end after the shutdown was asked for.
    pub drain: Duration,
}

impl Default for ServeLimits {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            head_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            max_head_bytes: 64 * 1024,
            max_headers: 100,
            drain: Duration::from_secs(8),
        }
    }
}

/// Why the listener did not end in order.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Requests still ran when the time was over; their connections were cut.
    #[error("{open} connections were cut: still busy {} s after the shutdown began", drain.as_secs_f64())]
    Cut {
        /// How many.
        open: usize,
        /// How long they had.
        drain: Duration,
    },
}

/// Address of a request's client, kept in the request's extensions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub SocketAddr);

/// Serves `router` on `listener` until `shutdown` resolves, then lets requests under way end, and returns when all
/// have or [`ServeLimits::drain`] is over. Whoever comes meanwhile is answered as well: by then the platform behind
/// `router` is to refuse what takes long, for nothing waits for these answers.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()>,
    limits: ServeLimits,
) -> Result<(), ServeError> {
    let places = Arc::new(Semaphore::new(limits.max_connections.clamp(1, Semaphore::MAX_PERMITS)));
    let mut door =
        Door { listener, router, places, http: protocol(&limits), write_timeout: limits.write_timeout };
    let (stop, stopped) = watch::channel(());
    let mut connections = JoinSet::new();
    tokio::select! {
        () = shutdown => {}
        () = door.accept(&mut connections, &stopped) => {}
    }

    drop(stop);
    door.http.keep_alive(false);
    let (stop, stopped) = watch::channel(());
    let mut late = JoinSet::new();
    let drained = tokio::select! {
        drained = tokio::time::timeout(limits.drain, all(&mut connections)) => drained.is_ok(),
        () = door.accept(&mut late, &stopped) => false,
    };
    drop((door, stop));
    // Out of time is no error here: none of these was under way when the shutdown began.
    let _ = tokio::time::timeout(LATE_ANSWERS, all(&mut late)).await;
    late.shutdown().await;
    if drained {
        return Ok(());
    }
    let open = connections.len();
    connections.shutdown().await;
    Err(ServeError::Cut { open, drain: limits.drain })
}

async fn all(connections: &mut JoinSet<()>) {
    while connections.join_next().await.is_some() {}
}

/// Where connections come in.
struct Door {
    listener: TcpListener,
    router: Router,
    places: Arc<Semaphore>,
    http: http1::Builder,
    write_timeout: Duration,
}

impl Door {
    /// Takes connections in until it is dropped. They are told of `stopped`.
    async fn accept(&self, connections: &mut JoinSet<()>, stopped: &watch::Receiver<()>) {
        loop {
            while connections.try_join_next().is_some() {}
            // The semaphore is never closed.
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let connection = serve_connection(
                        self.http.clone(),
                        stream,
                        peer,
                        self.router.clone(),
                        stopped.clone(),
                        self.write_timeout,
                    );
                    connections.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "No connection could be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

fn protocol(limits: &ServeLimits) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_headers(limits.max_headers)
        // hyper panics below 8 KiB.
        .max_buf_size(limits.max_head_bytes.max(8 * 1024));
    http
}

async fn serve_connection(
    http: http1::Builder,
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    mut stopped: watch::Receiver<()>,
    write_timeout: Duration,
) {
    // Small answers must not wait for the client's delayed acknowledgement; without it they are only slower.
    let _ = stream.set_nodelay(true);
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let mut router = router.clone();
        let mut request: Request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(Peer(peer));
        // A router is always ready.
        async move { router.call(request).await }
    });
    let io = TokioIo::new(Stalled::new(stream, write_timeout));
    let mut connection = std::pin::pin!(http.serve_connection(io, service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %peer, "Connection ended early");
    }
}

/// Errors of `accept` that say something of the one connection, not of the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
