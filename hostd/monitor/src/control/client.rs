//! A blocking client of the control socket.

use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::line::{LineBuffer, LineError};
use super::{Event, Reply, Request};

/// Why a conversation with the monitor failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No monitor listens there.
    #[error("Cannot connect to control socket {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Reading or writing failed, or took longer than the bound.
    #[error("Cannot talk to the monitor")]
    Io(#[source] std::io::Error),
    /// The monitor closed the connection; the text is the reason it gave, if any.
    #[error("The monitor ended: {0}")]
    Ended(String),
    /// It sent too much.
    #[error("The monitor's answer cannot be read")]
    Line(#[source] LineError),
    /// It sent something else.
    #[error("The monitor's answer is not what was agreed")]
    Answer(#[source] serde_json::Error),
}

/// A connection to a monitor.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    lines: LineBuffer,
}

impl Client {
    /// Connects to the control socket at `path`; every later wait is bounded by `timeout`.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn connect(path: &Path, timeout: Duration) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path)
            .map_err(|source| ClientError::Connect { path: path.to_owned(), source })?;
        Self::from_stream(stream, timeout)
    }

    /// Talks over a stream that is connected already.
    ///
    /// # Errors
    /// When the bound cannot be set on it.
    pub fn from_stream(stream: UnixStream, timeout: Duration) -> Result<Self, ClientError> {
        stream.set_read_timeout(Some(timeout)).map_err(ClientError::Io)?;
        stream.set_write_timeout(Some(timeout)).map_err(ClientError::Io)?;
        Ok(Self { stream, lines: LineBuffer::default() })
    }

    fn line(&mut self) -> Result<Vec<u8>, ClientError> {
        let mut chunk = [0u8; 4096];
        loop {
            if let Some(line) = self.lines.next_line() {
                return Ok(line);
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(ClientError::Ended("connection closed".to_owned())),
                Ok(read) => {
                    self.lines.push(chunk.get(..read).unwrap_or_default()).map_err(ClientError::Line)?;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ClientError::Io(error)),
            }
        }
    }

    /// Sends one request and waits for its reply; a refusal is a reply too. Events in between are skipped, but
    /// the end of the monitor is an error unless it was asked for.
    ///
    /// # Errors
    /// When the conversation fails.
    pub fn request(&mut self, request: &Request) -> Result<Reply, ClientError> {
        let mut line = serde_json::to_vec(request).map_err(ClientError::Answer)?;
        line.push(b'\n');
        self.stream.write_all(&line).map_err(ClientError::Io)?;
        loop {
            let line = self.line()?;
            match serde_json::from_slice::<Event>(&line) {
                Ok(Event::Exited { reason }) => return Err(ClientError::Ended(reason)),
                Ok(Event::Running { .. } | Event::Blank { .. }) => {}
                Err(_) => return serde_json::from_slice(&line).map_err(ClientError::Answer),
            }
        }
    }

    /// Tells a blank what to be; the events say what becomes of it. `queue` is that of its network device.
    ///
    /// # Errors
    /// When it is gone.
    pub fn start(
        &mut self,
        arguments: Vec<String>,
        queue: Option<BorrowedFd<'_>>,
    ) -> Result<(), ClientError> {
        let mut line = serde_json::to_vec(&Request::Start { arguments }).map_err(ClientError::Answer)?;
        line.push(b'\n');
        let sent = super::send_with(&self.stream, &line, queue).map_err(ClientError::Io)?;
        self.stream.write_all(line.get(sent..).unwrap_or_default()).map_err(ClientError::Io)
    }

    /// Waits for the next event; replies nobody waits for are skipped.
    ///
    /// # Errors
    /// When the connection ends or the bound passes first.
    pub fn event(&mut self) -> Result<Event, ClientError> {
        loop {
            let line = self.line()?;
            if let Ok(event) = serde_json::from_slice(&line) {
                return Ok(event);
            }
        }
    }
}
