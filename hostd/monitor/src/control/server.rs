//! The monitor's end of the control socket, driven by the event loop.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use super::line::LineBuffer;
use super::pass::receive_with;
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

/// What a blank hears.
#[derive(Debug)]
pub(crate) enum Told {
    /// No whole request yet.
    Nothing,
    /// A request, or why its line is none.
    Request(Result<Request, serde_json::Error>),
    /// More than a line may hold.
    TooLong,
    /// More descriptors than there is a use for.
    TooMany,
    /// The owner is gone.
    Gone,
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

    /// The whole lines that were read.
    fn requests(&mut self) -> Vec<Incoming> {
        let descriptor = self.stream.as_raw_fd();
        let lines = std::iter::from_fn(|| self.lines.next_line());
        lines.map(|line| Incoming::Request(descriptor, serde_json::from_slice(&line))).collect()
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
        let mut incoming = client.requests();
        if !alive {
            incoming.push(if client.owner { Incoming::OwnerGone } else { Incoming::Gone(descriptor) });
        }
        incoming
    }

    /// What was read already and not yet looked at.
    pub(crate) fn waiting(&mut self) -> Vec<Incoming> {
        self.clients.iter_mut().flat_map(Connection::requests).collect()
    }

    /// The inherited connection, to be waited for before there is an event loop.
    pub(crate) fn owner(&self) -> Option<BorrowedFd<'_>> {
        self.clients.iter().find(|client| client.owner).map(|client| client.stream.as_fd())
    }

    /// Reads what the owner says before there is an event loop; a descriptor he passes along goes into `passed`.
    pub(crate) fn hear(&mut self, passed: &mut Option<OwnedFd>) -> Told {
        let Some(owner) = self.clients.iter_mut().find(|client| client.owner) else { return Told::Gone };
        let mut chunk = [0u8; 4096];
        match receive_with(&owner.stream, &mut chunk) {
            Ok(read) => {
                for descriptor in read.descriptors {
                    if passed.replace(descriptor).is_some() {
                        return Told::TooMany;
                    }
                }
                if read.excess {
                    return Told::TooMany;
                }
                if read.bytes == 0 {
                    return Told::Gone;
                }
                if owner.lines.push(chunk.get(..read.bytes).unwrap_or_default()).is_err() {
                    return Told::TooLong;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            Err(_) => return Told::Gone,
        }
        match owner.lines.next_line() {
            Some(line) => Told::Request(serde_json::from_slice(&line)),
            None => Told::Nothing,
        }
    }

    /// Closes a client's connection; call it after the event loop forgot the descriptor.
    pub(crate) fn forget(&mut self, descriptor: RawFd) {
        self.clients.retain(|client| client.stream.as_raw_fd() != descriptor);
    }

    /// Answers the owner.
    pub(crate) fn answer(&mut self, reply: &Reply) {
        if let Some(owner) = self.clients.iter_mut().find(|client| client.owner) {
            owner.send(reply);
        }
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
