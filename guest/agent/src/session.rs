//! One stream to the host: frames in, frames out.

use std::time::Duration;

use mote_protocol::frame::{Lengths, PREFIX, head, message};
use mote_protocol::{AgentMessage, Frame, FrameError, HostMessage};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A frame once begun must be whole within this time, and one sent must be taken.
const FRAME_TIME: Duration = Duration::from_secs(30);

/// How long a finished session is kept for the host to read its last frame.
const FAREWELL: Duration = Duration::from_secs(2);

/// Frames read ahead of the agent: `Resume` and `Invoke` come together.
const READ_AHEAD: usize = 2;

/// What a session runs on: vsock in a microVM, a Unix socket natively.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Any such stream.
pub type BoxStream = Box<dyn Stream>;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The stream failed.
    #[error("The session's stream failed")]
    Stream(#[source] std::io::Error),
    /// What came, or what was to be sent, is no frame.
    #[error("Not a frame")]
    Frame(#[source] FrameError),
    /// A frame did not get through in time.
    #[error("A frame took longer than {} s", FRAME_TIME.as_secs())]
    Slow,
}

/// A session. Frames are read by a task of their own, so that a host which is still writing can be written to.
#[derive(Debug)]
pub struct Session {
    writer: WriteHalf<BoxStream>,
    incoming: mpsc::Receiver<Result<Frame<HostMessage>, SessionError>>,
    reader: JoinHandle<()>,
}

impl std::fmt::Debug for dyn Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stream")
    }
}

impl Session {
    /// Takes over a stream. Needs a tokio runtime.
    #[must_use]
    pub fn new(stream: BoxStream) -> Self {
        let (reader, writer) = split(stream);
        let (sender, incoming) = mpsc::channel(READ_AHEAD);
        Self { writer, incoming, reader: tokio::spawn(read(reader, sender)) }
    }

    /// The next frame; `None` at the end of the stream. Nothing is lost when it is cancelled.
    ///
    /// # Errors
    /// When the stream broke, or the host does not speak the protocol. It is the session's end too.
    pub async fn next(&mut self) -> Result<Option<Frame<HostMessage>>, SessionError> {
        self.incoming.recv().await.transpose()
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// When the host does not take it; the session is broken then.
    pub async fn send(&mut self, message: &AgentMessage, body: &[u8]) -> Result<(), SessionError> {
        let head = head(message, body.len()).map_err(SessionError::Frame)?;
        let write = async {
            self.writer.write_all(&head).await?;
            self.writer.write_all(body).await?;
            self.writer.flush().await
        };
        timeout(FRAME_TIME, write).await.map_err(|_| SessionError::Slow)?.map_err(SessionError::Stream)
    }

    /// Closes the stream at once. Nothing of the session is left when this returns: the host may take a
    /// snapshot as soon as it sees the end.
    pub async fn close(self) {
        self.reader.abort();
        let _ = self.reader.await;
    }

    /// Says nothing more, and waits for the host to hang up, but not for long.
    pub async fn finish(mut self) {
        let last = async {
            self.writer.shutdown().await.ok();
            while let Some(Ok(_)) = self.incoming.recv().await {}
        };
        let _ = timeout(FAREWELL, last).await;
        self.close().await;
    }
}

async fn read(
    mut stream: ReadHalf<BoxStream>,
    frames: mpsc::Sender<Result<Frame<HostMessage>, SessionError>>,
) {
    while let Some(frame) = read_frame(&mut stream).await.transpose() {
        let broken = frame.is_err();
        if frames.send(frame).await.is_err() || broken {
            return;
        }
    }
}

/// Reads one frame into memory of just its size.
async fn read_frame(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<Frame<HostMessage>>, SessionError> {
    let mut prefix = [0; PREFIX];
    // A session may be idle for as long as the host likes: only the rest of a frame has to hurry.
    if stream.read(&mut prefix[..1]).await.map_err(SessionError::Stream)? == 0 {
        return Ok(None);
    }
    let rest = async {
        stream.read_exact(&mut prefix[1..]).await.map_err(SessionError::Stream)?;
        let lengths = Lengths::decode(prefix).map_err(SessionError::Frame)?;
        let mut header = vec![0; lengths.header];
        stream.read_exact(&mut header).await.map_err(SessionError::Stream)?;
        let message = message(&header).map_err(SessionError::Frame)?;
        let mut body = vec![0; lengths.body];
        stream.read_exact(&mut body).await.map_err(SessionError::Stream)?;
        Ok(Frame { message, body })
    };
    timeout(FRAME_TIME, rest).await.map_err(|_| SessionError::Slow)?.map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mote_protocol::{Decoder, LogStream, encode};
    use proptest::prelude::*;
    use tokio::net::UnixStream;

    async fn frames(bytes: &[u8]) -> (usize, Option<SessionError>) {
        let (mut host, agent) = tokio::io::duplex(64);
        let mut session = Session::new(Box::new(agent));
        let write = async move {
            let _ = host.write_all(bytes).await;
            drop(host);
        };
        let read = async move {
            let mut count = 0;
            loop {
                match session.next().await {
                    Ok(Some(_)) => count += 1,
                    Ok(None) => return (count, None),
                    Err(error) => return (count, Some(error)),
                }
            }
        };
        tokio::join!(write, read).1
    }

    #[tokio::test]
    async fn whole_frames_then_the_end() {
        let mut bytes = encode(&HostMessage::Quiesce, b"").unwrap();
        bytes.extend(encode(&HostMessage::Quiesce, &[7; 100_000]).unwrap());
        assert!(matches!(frames(&bytes).await, (2, None)));
        assert!(matches!(frames(&bytes[..bytes.len() - 1]).await, (1, Some(SessionError::Stream(_)))));
        assert!(matches!(frames(&[255; 20]).await, (0, Some(SessionError::Frame(_)))));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_end_a_session_in_order(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (count, _) = runtime.block_on(frames(&bytes));
            prop_assert!(count * PREFIX <= bytes.len());
        }
    }

    #[tokio::test]
    async fn closing_is_seen_by_the_host() {
        let (mut host, agent) = UnixStream::pair().unwrap();
        let mut session = Session::new(Box::new(agent));
        session.send(&AgentMessage::Log { stream: LogStream::Stderr }, b"bye").await.unwrap();
        session.close().await;
        let mut bytes = Vec::new();
        host.read_to_end(&mut bytes).await.unwrap();
        let mut decoder = Decoder::new();
        decoder.push(&bytes);
        let frame = decoder.next::<AgentMessage>().unwrap().unwrap();
        assert_eq!(frame.body, b"bye");
        assert!(decoder.is_empty());
    }
}
