//! Frames on a byte stream: `u32 LE header length, u32 LE body length, header (JSON), body`.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{MAX_BODY, MAX_HEADER};

/// Bytes before a frame's header: the two lengths.
pub const PREFIX: usize = 8;

/// One message with its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame<M> {
    /// What it is.
    pub message: M,
    /// The bytes that belong to it; empty for most messages.
    pub body: Vec<u8>,
}

/// Why bytes are not a frame. The stream cannot be used after any of these.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The header is longer than [`MAX_HEADER`].
    #[error("Frame header of {0} bytes, at most {MAX_HEADER} allowed")]
    HeaderTooLarge(usize),
    /// The body is longer than [`MAX_BODY`].
    #[error("Frame body of {0} bytes, at most {MAX_BODY} allowed")]
    BodyTooLarge(usize),
    /// The header is not a message of this protocol.
    #[error("Frame header is not a known message")]
    Header(#[source] serde_json::Error),
}

/// Encodes one frame.
///
/// # Errors
/// When the header or body is over its limit.
pub fn encode<M: Serialize>(message: &M, body: &[u8]) -> Result<Vec<u8>, FrameError> {
    let mut bytes = head(message, body.len())?;
    bytes.extend_from_slice(body);
    Ok(bytes)
}

/// Encodes everything of a frame but its body, for a writer which sends a large body from where it is.
///
/// # Errors
/// When the header or the announced body is over its limit.
pub fn head<M: Serialize>(message: &M, body_len: usize) -> Result<Vec<u8>, FrameError> {
    let header = serde_json::to_vec(message).map_err(FrameError::Header)?;
    let header_prefix = bounded(header.len(), MAX_HEADER).ok_or(FrameError::HeaderTooLarge(header.len()))?;
    let body_prefix = bounded(body_len, MAX_BODY).ok_or(FrameError::BodyTooLarge(body_len))?;
    let mut bytes = Vec::with_capacity(PREFIX + header.len());
    bytes.extend_from_slice(&header_prefix.to_le_bytes());
    bytes.extend_from_slice(&body_prefix.to_le_bytes());
    bytes.extend_from_slice(&header);
    Ok(bytes)
}

/// The two lengths at the start of a frame, in bytes, each within its limit: for a reader which reads header
/// and body into memory of just that size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lengths {
    /// Of the header.
    pub header: usize,
    /// Of the body.
    pub body: usize,
}

impl Lengths {
    /// Reads a frame's first bytes.
    ///
    /// # Errors
    /// When a length is over its limit.
    pub fn decode(prefix: [u8; PREFIX]) -> Result<Self, FrameError> {
        let [a, b, c, d, e, f, g, h] = prefix;
        let (header, body) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        let header = usize::try_from(header).unwrap_or(usize::MAX);
        let body = usize::try_from(body).unwrap_or(usize::MAX);
        if header > MAX_HEADER {
            return Err(FrameError::HeaderTooLarge(header));
        }
        if body > MAX_BODY {
            return Err(FrameError::BodyTooLarge(body));
        }
        Ok(Self { header, body })
    }
}

/// Reads a frame's header.
///
/// # Errors
/// When it is no message of this protocol.
pub fn message<M: DeserializeOwned>(header: &[u8]) -> Result<M, FrameError> {
    serde_json::from_slice(header).map_err(FrameError::Header)
}

fn bounded(len: usize, limit: usize) -> Option<u32> {
    if len > limit { None } else { u32::try_from(len).ok() }
}

/// Turns a stream of bytes, in pieces of any size, back into frames. Holds at most one frame's bytes beyond
/// what the caller pushed last.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
}

impl Decoder {
    /// An empty decoder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 && self.start * 2 >= self.buffer.len() {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Takes the next whole frame, if it has arrived.
    ///
    /// # Errors
    /// As soon as a prefix names a length over its limit, or a header is no message.
    #[expect(clippy::should_implement_trait, reason = "Which message it is only the caller knows")]
    pub fn next<M: DeserializeOwned>(&mut self) -> Result<Option<Frame<M>>, FrameError> {
        let pending = &self.buffer[self.start..];
        let Some((prefix, rest)) = pending.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let lengths = Lengths::decode(*prefix)?;
        if rest.len() < lengths.header + lengths.body {
            return Ok(None);
        }
        let (header, rest) = rest.split_at(lengths.header);
        let message = message(header)?;
        let body = rest[..lengths.body].to_vec();
        self.start += PREFIX + lengths.header + lengths.body;
        Ok(Some(Frame { message, body }))
    }

    /// Whether no byte of an unfinished frame is held. At the end of a stream `false` means it was cut short.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AgentMessage, LogStream};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn frames_survive_any_split(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..8),
                                    cuts in prop::collection::vec(1usize..97, 1..40)) {
            let mut stream = Vec::new();
            for body in &bodies {
                stream.extend(encode(&AgentMessage::Log { stream: LogStream::Stdout }, body).unwrap());
            }
            let mut decoder = Decoder::new();
            let mut seen = Vec::new();
            let mut cut = cuts.iter().cycle();
            let mut rest = stream.as_slice();
            while !rest.is_empty() {
                let (piece, tail) = rest.split_at((*cut.next().unwrap()).min(rest.len()));
                rest = tail;
                decoder.push(piece);
                while let Some(frame) = decoder.next::<AgentMessage>().unwrap() {
                    seen.push(frame.body);
                }
            }
            prop_assert_eq!(seen, bodies);
            prop_assert!(decoder.is_empty());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut decoder = Decoder::new();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next::<AgentMessage>() {}
        }
    }

    #[test]
    fn refuses_lengths_before_the_bytes_arrive() {
        let mut decoder = Decoder::new();
        decoder.push(&u32::MAX.to_le_bytes());
        decoder.push(&0u32.to_le_bytes());
        assert!(matches!(decoder.next::<AgentMessage>(), Err(FrameError::HeaderTooLarge(_))));
        let mut decoder = Decoder::new();
        decoder.push(&2u32.to_le_bytes());
        decoder.push(&u32::try_from(MAX_BODY + 1).unwrap().to_le_bytes());
        assert!(matches!(decoder.next::<AgentMessage>(), Err(FrameError::BodyTooLarge(_))));
    }

    #[test]
    fn refuses_to_encode_over_the_limit() {
        let body = vec![0; MAX_BODY + 1];
        let refused = encode(&AgentMessage::Log { stream: LogStream::Stderr }, &body);
        assert!(matches!(refused, Err(FrameError::BodyTooLarge(_))));
    }
}
