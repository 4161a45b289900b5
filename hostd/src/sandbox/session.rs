//! A session with the agent: protocol frames over the microVM's vsock stream.

use std::path::Path;

use mote_protocol::{AgentMessage, Decoder, Frame, FrameError, HostMessage, encode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Longest answer to `CONNECT`, bytes.
const GREETING_LIMIT: usize = 32;

/// Why a session failed. The sandbox cannot be used after any of these.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The vsock socket of the monitor cannot be reached.
    #[error("Cannot connect to the microVM's vsock")]
    Connect(#[source] std::io::Error),
    /// The guest refused the connection, or something that is no monitor answered.
    #[error("The guest accepts no connection on vsock port {port}")]
    Refused {
        /// The port.
        port: u32,
    },
    /// Reading or writing failed.
    #[error("The session with the guest agent broke")]
    Stream(#[source] std::io::Error),
    /// The stream ended inside a frame or before the expected message.
    #[error("The guest agent closed the session")]
    Closed,
    /// A restored runtime did not ask for its event.
    #[error("The restored runtime did not ask for its event within {seconds} s")]
    Silent {
        /// The bound.
        seconds: u64,
    },
    /// The guest sent something that is no frame.
    #[error("The guest agent sent an invalid frame")]
    Frame(#[source] FrameError),
}

/// One open session.
#[derive(Debug)]
pub struct Session {
    stream: UnixStream,
    decoder: Decoder,
    chunk: Box<[u8]>,
}

impl Session {
    /// Takes a stream the guest opened.
    pub fn accepted(stream: UnixStream) -> Self {
        Self { stream, decoder: Decoder::new(), chunk: vec![0; 64 * 1024].into_boxed_slice() }
    }

    /// Opens a stream to `port` in the guest through the monitor's vsock socket. The caller bounds the time.
    ///
    /// # Errors
    /// When the monitor or the guest does not accept.
    pub async fn connect(vsock: &Path, port: u32) -> Result<Self, SessionError> {
        let mut stream = UnixStream::connect(vsock).await.map_err(SessionError::Connect)?;
        stream.write_all(format!("CONNECT {port}\n").as_bytes()).await.map_err(SessionError::Connect)?;
        // Byte by byte: what follows the line belongs to the session. It is at most a dozen bytes.
        let mut greeting = Vec::with_capacity(GREETING_LIMIT);
        while greeting.last() != Some(&b'\n') {
            let byte = stream.read_u8().await.map_err(|_| SessionError::Refused { port })?;
            greeting.push(byte);
            if greeting.len() > GREETING_LIMIT {
                return Err(SessionError::Refused { port });
            }
        }
        if !greeting.starts_with(b"OK ") {
            return Err(SessionError::Refused { port });
        }
        Ok(Self::accepted(stream))
    }

    /// Sends one message.
    ///
    /// # Errors
    /// When the stream is gone or the message over its limits.
    pub async fn send(&mut self, message: &HostMessage, body: &[u8]) -> Result<(), SessionError> {
        let bytes = encode(message, body).map_err(SessionError::Frame)?;
        self.stream.write_all(&bytes).await.map_err(SessionError::Stream)
    }

    /// The next message; `None` at the orderly end of the stream. Safe to cancel: nothing read is lost.
    ///
    /// # Errors
    /// When the stream broke or carries something else.
    pub async fn receive(&mut self) -> Result<Option<Frame<AgentMessage>>, SessionError> {
        loop {
            if let Some(frame) = self.decoder.next().map_err(SessionError::Frame)? {
                return Ok(Some(frame));
            }
            let read = self.stream.read(&mut self.chunk).await.map_err(SessionError::Stream)?;
            match self.chunk.get(..read) {
                Some([]) | None if self.decoder.is_empty() => return Ok(None),
                Some([]) | None => return Err(SessionError::Closed),
                Some(bytes) => self.decoder.push(bytes),
            }
        }
    }
}
