//! Reading request bodies within bounds: of size, of time, and of all bodies together.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::{ApiError, ThrottleReason};

/// Granule in which memory for bodies is accounted for.
const GRANULE: usize = 1024;

/// Memory is asked for in steps of this when a body does not announce its length.
const STEP: usize = 256 * 1024;

/// What is still taken of a body that was refused, bytes.
const DISCARD_LIMIT: usize = 256 * 1024 * 1024;

/// How long it is taken, in all and when nothing comes.
const LINGER: Duration = Duration::from_secs(10);
const LINGER_IDLE: Duration = Duration::from_secs(2);

/// Bounds of the bodies of one kind of request.
#[derive(Debug, Clone)]
pub struct BodyLimits {
    /// Largest body, bytes.
    pub max_bytes: usize,
    /// All bodies of this kind held at once, bytes.
    pub total_bytes: usize,
    /// How long a client may send nothing.
    pub idle: Duration,
    /// How long a body may take in all.
    pub total: Duration,
    /// How long to wait for memory taken by other bodies.
    pub patience: Duration,
}

impl BodyLimits {
    /// Bodies of at most `max_bytes`, together at most `total_bytes`, with the usual waits.
    pub fn new(max_bytes: usize, total_bytes: usize) -> Self {
        Self {
            max_bytes,
            total_bytes: total_bytes.max(max_bytes),
            idle: Duration::from_secs(15),
            total: Duration::from_secs(300),
            patience: Duration::from_secs(5),
        }
    }
}

/// Reads bodies of one kind.
#[derive(Debug)]
pub(crate) struct BodyReader {
    limits: BodyLimits,
    memory: Arc<Semaphore>,
}

/// A body that was read. Its memory counts as taken until `memory` is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    pub bytes: Bytes,
    /// The account; empty bodies need none.
    pub memory: Option<OwnedSemaphorePermit>,
}

impl BodyReader {
    pub fn new(limits: BodyLimits) -> Self {
        let granules = limits.total_bytes.div_ceil(GRANULE) + STEP / GRANULE;
        Self { memory: Arc::new(Semaphore::new(granules.min(Semaphore::MAX_PERMITS))), limits }
    }

    /// Reads `body` to its end. `too_large` words the refusal of one that is over the limit; its argument is how many
    /// bytes there are or were announced.
    pub async fn read(&self, body: Body, too_large: impl Fn(u64) -> ApiError) -> Result<Held, ApiError> {
        let max = self.limits.max_bytes;
        let announced = body.size_hint().lower();
        if announced > u64::try_from(max).unwrap_or(u64::MAX) {
            return Err(too_large(announced));
        }
        let announced = usize::try_from(announced).unwrap_or(max);
        match self.collect(body, announced).await {
            Ok(Ok(held)) => Ok(held),
            Ok(Err(size)) => Err(too_large(u64::try_from(size).unwrap_or(u64::MAX))),
            Err(error) => Err(error),
        }
    }

    /// `Ok(Err(size))` for a body that turned out too large.
    async fn collect(&self, mut body: Body, announced: usize) -> Result<Result<Held, usize>, ApiError> {
        let deadline = Instant::now() + self.limits.total;
        let mut memory = match announced {
            0 => None,
            some => Some(self.reserve(some).await?),
        };
        let mut reserved = announced;
        let mut bytes = BytesMut::with_capacity(announced);
        loop {
            let until = deadline.min(Instant::now() + self.limits.idle);
            let frame = match timeout_at(until, body.frame()).await {
                Err(_) => return Err(self.timed_out()),
                Ok(None) => break,
                Ok(Some(Err(error))) => {
                    return Err(ApiError::InvalidRequestContent(format!(
                        "The body could not be read: {error}"
                    )));
                }
                Ok(Some(Ok(frame))) => frame,
            };
            // Trailers mean nothing here.
            let Ok(data) = frame.into_data() else { continue };
            let size = bytes.len().saturating_add(data.len());
            if size > self.limits.max_bytes {
                return Ok(Err(size));
            }
            if size > reserved {
                let more = STEP.max(size - reserved);
                let permit = self.reserve(more).await?;
                reserved += more;
                match &mut memory {
                    Some(memory) => memory.merge(permit),
                    None => memory = Some(permit),
                }
            }
            bytes.extend_from_slice(&data);
        }
        Ok(Ok(Held { bytes: bytes.freeze(), memory }))
    }

    async fn reserve(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let granules = u32::try_from(bytes.div_ceil(GRANULE)).unwrap_or(u32::MAX);
        match timeout(self.limits.patience, Arc::clone(&self.memory).acquire_many_owned(granules)).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(ApiError::TooManyRequests {
                message: "Too many large requests at once; send it again".to_owned(),
                retry_after: Duration::from_secs(1),
                reason: ThrottleReason::CallerRateLimitExceeded,
            }),
        }
    }

    fn timed_out(&self) -> ApiError {
        ApiError::RequestTimeout(format!(
            "The body did not arrive: at most {} s between its parts and {} s in all",
            self.limits.idle.as_secs_f64(),
            self.limits.total.as_secs_f64()
        ))
    }
}

/// A body that, when given up, takes what its client still sends, beside the answer that is already on its way. A
/// connection closed with unread bytes is reset, and most clients then report a broken pipe instead of reading why.
pub(crate) struct Lingering(Option<Body>);

impl Lingering {
    /// Watches over `body`.
    pub fn over(body: Body) -> Body {
        if body.is_end_stream() { body } else { Body::new(Self(Some(body))) }
    }
}

impl axum::body::HttpBody for Lingering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(body) = &mut self.0 else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            self.0 = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(axum::body::HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), axum::body::HttpBody::size_hint)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let Some(body) = self.0.take().filter(|body| !body.is_end_stream()) else { return };
        // Outside of a runtime there is no connection either.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(timeout(LINGER, discard(body)));
        }
    }
}

async fn discard(mut body: Body) {
    let mut left = DISCARD_LIMIT;
    while let Ok(Some(Ok(frame))) = timeout(LINGER_IDLE, body.frame()).await {
        left = match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(left) => left,
            None => return,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(max: usize, total: usize) -> BodyReader {
        let short = Duration::from_millis(50);
        BodyReader::new(BodyLimits {
            idle: short,
            total: 4 * short,
            patience: short,
            ..BodyLimits::new(max, total)
        })
    }

    fn refuse(size: u64) -> ApiError {
        ApiError::RequestTooLarge(size.to_string())
    }

    fn pieces(pieces: Vec<&'static str>, pause: Duration) -> Body {
        let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
        tokio::spawn(async move {
            for piece in pieces {
                tokio::time::sleep(pause).await;
                if sender.send(Bytes::from_static(piece.as_bytes())).await.is_err() {
                    return;
                }
            }
        });
        Body::new(Channel(receiver))
    }

    struct Channel(tokio::sync::mpsc::Receiver<Bytes>);

    impl axum::body::HttpBody for Channel {
        type Data = Bytes;
        type Error = std::convert::Infallible;
        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
            self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(hyper::body::Frame::data(piece))))
        }
    }

    #[tokio::test]
    async fn the_limit_is_exact() {
        let reader = reader(8, 8);
        assert_eq!(reader.read(Body::from("12345678"), refuse).await.unwrap().bytes, "12345678");
        let error = reader.read(Body::from("123456789"), refuse).await.unwrap_err();
        assert_eq!(error, refuse(9));
        let error =
            reader.read(pieces(vec!["12345", "6789", "x"], Duration::ZERO), refuse).await.unwrap_err();
        assert_eq!(error, refuse(9));
        let whole = reader.read(pieces(vec!["1234", "5678"], Duration::ZERO), refuse).await.unwrap();
        assert_eq!(whole.bytes, "12345678");
    }

    #[tokio::test]
    async fn slow_bodies_end() {
        let reader = reader(1000, 1000);
        let stalled =
            reader.read(pieces(vec!["a", "b"], Duration::from_millis(200)), refuse).await.unwrap_err();
        assert!(matches!(stalled, ApiError::RequestTimeout(_)), "{stalled:?}");
        let begun = Instant::now();
        let trickle =
            reader.read(pieces(vec!["a"; 100], Duration::from_millis(20)), refuse).await.unwrap_err();
        assert!(matches!(trickle, ApiError::RequestTimeout(_)), "{trickle:?}");
        assert!(begun.elapsed() < Duration::from_secs(1));
    }

    #[tokio::test]
    async fn memory_is_shared_and_given_back() {
        let reader = reader(STEP, STEP);
        let big = || Body::from(vec![b'x'; STEP]);
        let first = reader.read(big(), refuse).await.unwrap();
        let second = reader.read(big(), refuse).await.unwrap();
        let third = reader.read(big(), refuse).await.unwrap_err();
        assert!(matches!(third, ApiError::TooManyRequests { .. }), "{third:?}");
        drop(first);
        reader.read(big(), refuse).await.unwrap();
        drop(second);
        assert_eq!(reader.memory.available_permits(), 2 * STEP / GRANULE);
    }
}
