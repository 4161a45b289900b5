//! The monitor's end of the control socket, driven by the event loop.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use super::line::LineBuffer;
use super::{Event, Reply, Request};

/// Most clients at a time; a further one is turned away.
const CLIENT_LIMIT: usize = 8;

/// Bound on sending one line to a client who does not read.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    /// Cannot listen there.
    #[error("Cannot listen on control socket {path}")]
    Listen {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The inherited descriptor does not work as one.
    #[error("Cannot use the inherited control descriptor")]
    Inherited(#[source] std::io::Error),
}

/// What came over the socket.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A request of the client with this descriptor, or why its line is none.
    Request(RawFd, Result<Request, serde_json::Error>),
    /// A client went away; its descriptor is closed once the event loop forgot it.
    Gone(RawFd),
    /// The one inherited connection ended: so does the monitor.
    OwnerGone,
}

/// The listener or the one inherited connection, and the clients.
#[derive(Debug)]
pub(crate) struct Server {
    listener: Option<UnixListener>,
    path: Option<PathBuf>,
    clients: Vec<Connection>,
    greeting: Option<Event>,
}

#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    lines: LineBuffer,
    owner: bool,
}

impl Connection {
    fn new(stream: UnixStream, owner: bool) -> std::io::Result<Self> {
        // Blocking with a bound: replies are short, and reads are only made when the loop says there is input.
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(SEND_TIMEOUT))?;
        Ok(Self { stream, lines: LineBuffer::default(), owner })
    }

    fn send<T: serde::Serialize>(&mut self, message: &T) {
        if let Ok(mut line) = serde_json::to_vec(message) {
            line.push(b'\n');
            // A client who is gone shows up as end of file in the event loop.
            let _ = self.stream.write_all(&line);
        }
    }
}

impl Server {
    /// Listens on `path`, replacing a socket left over there.
    pub(crate) fn listen(path: PathBuf) -> Result<Self, ServerError> {
        let attempt = || {
            if let Err(error) = std::fs::remove_file(&path)
                && error.kind() != ErrorKind::NotFound
            {
                return Err(error);
            }
            let listener = UnixListener::bind(&path)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        match attempt() {
            Ok(listener) => {
                Ok(Self { listener: Some(listener), path: Some(path), clients: Vec::new(), greeting: None })
            }
            Err(source) => Err(ServerError::Listen { path, source }),
        }
    }

    /// Uses one connected stream whose other end owns this process.
    pub(crate) fn inherited(stream: UnixStream) -> Result<Self, ServerError> {
        let owner = Connection::new(stream, true).map_err(ServerError::Inherited)?;
        Ok(Self { listener: None, path: None, clients: vec![owner], greeting: None })
    }

    /// Descriptors to watch from the start.
    pub(crate) fn descriptors(&self) -> Vec<RawFd> {
        let listener = self.listener.iter().map(AsRawFd::as_raw_fd);
        listener.chain(self.clients.iter().map(|client| client.stream.as_raw_fd())).collect()
    }

    /// Whether `descriptor` is the listener: then [`accept`](Self::accept), else [`read`](Self::read).
    pub(crate) fn is_listener(&self, descriptor: RawFd) -> bool {
        self.listener.as_ref().is_some_and(|listener| listener.as_raw_fd() == descriptor)
    }

    /// Takes a waiting client in and returns its descriptor, to be watched.
    pub(crate) fn accept(&mut self) -> Option<RawFd> {
        let (stream, _) = self.listener.as_ref()?.accept().ok()?;
        if self.clients.len() >= CLIENT_LIMIT {
            return None;
        }
        let mut client = Connection::new(stream, false).ok()?;
        if let Some(greeting) = &self.greeting {
            client.send(greeting);
        }
        let descriptor = client.stream.as_raw_fd();
        self.clients.push(client);
        Some(descriptor)
    }

    /// Reads what the client sent: one read, so that nobody keeps the loop for himself.
    pub(crate) fn read(&mut self, descriptor: RawFd) -> Vec<Incoming> {
        let Some(client) = self.clients.iter_mut().find(|client| client.stream.as_raw_fd() == descriptor)
        else {
            return Vec::new();
        };
        let mut chunk = [0u8; 4096];
        let alive = match client.stream.read(&mut chunk) {
            Ok(0) => false,
            Ok(read) => client.lines.push(chunk.get(..read).unwrap_or_default()).is_ok(),
            Err(error) => matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock),
        };
        let mut incoming = Vec::new();
        while let Some(line) = client.lines.next_line() {
            incoming.push(Incoming::Request(descriptor, serde_json::from_slice(&line)));
        }
        if !alive {
            incoming.push(if client.owner { Incoming::OwnerGone } else { Incoming::Gone(descriptor) });
        }
        incoming
    }

    /// Closes a client's connection; call it after the event loop forgot the descriptor.
    pub(crate) fn forget(&mut self, descriptor: RawFd) {
        self.clients.retain(|client| client.stream.as_raw_fd() != descriptor);
    }

    /// Answers the client with this descriptor, if he is still there.
    pub(crate) fn reply(&mut self, descriptor: RawFd, reply: &Reply) {
        if let Some(client) = self.clients.iter_mut().find(|client| client.stream.as_raw_fd() == descriptor) {
            client.send(reply);
        }
    }

    /// Tells everybody; `Running` is also what later clients are greeted with.
    pub(crate) fn announce(&mut self, event: &Event) {
        for client in &mut self.clients {
            client.send(event);
        }
        if matches!(event, Event::Running { .. }) {
            self.greeting = Some(event.clone());
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Best effort: a socket left over is replaced by the next monitor.
            let _ = std::fs::remove_file(path);
        }
    }
}
