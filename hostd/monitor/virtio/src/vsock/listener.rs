//! The Unix sockets of the host: the one clients come to, and those guests are connected to.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, connect, socket_with,
};

/// Bytes of a Unix socket path without the terminating zero.
const MAX_SOCKET_PATH: usize = 107;

/// Longest suffix that is appended to the path: `_4294967295`.
const MAX_SUFFIX: usize = 11;

/// Where clients of the host connect.
#[derive(Debug)]
pub enum VsockListener {
    /// Bind and listen on [`VsockConfig::path`](crate::VsockConfig::path); the socket file is removed when the device
    /// is dropped.
    Bind,
    /// A Unix stream socket that is already bound and listening.
    Fd(OwnedFd),
}

/// A socket device cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VsockError {
    /// The path leaves no room for a port in a socket address.
    #[error("Socket path {path} is longer than {max} bytes")]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Limit.
        max: usize,
    },
    /// Context ids below 3 are reserved, and so are those of more than 32 bits.
    #[error("Context id {0} is not one of a guest")]
    Cid(u64),
    /// The listening socket cannot be made.
    #[error("Cannot listen on {path}")]
    Listen {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A system call for the device's own descriptors failed.
    #[error("{what} failed")]
    System {
        /// The call.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The listening socket, and the path the others are named after.
#[derive(Debug)]
pub(super) struct Host {
    socket: OwnedFd,
    path: PathBuf,
    /// The socket file is ours to remove.
    bound: bool,
}

impl Host {
    pub(super) fn new(listener: VsockListener, path: PathBuf) -> Result<Self, VsockError> {
        let max = MAX_SOCKET_PATH - MAX_SUFFIX;
        if path.as_os_str().as_bytes().len() > max {
            return Err(VsockError::PathTooLong { path, max });
        }
        let (socket, bound) = match listener {
            VsockListener::Fd(fd) => (fd, false),
            VsockListener::Bind => match UnixListener::bind(&path) {
                Ok(listener) => (listener.into(), true),
                Err(source) => return Err(VsockError::Listen { path, source }),
            },
        };
        // Made first, so that the file is removed if the rest fails.
        let host = Self { socket, path, bound };
        rustix::io::ioctl_fionbio(&host.socket, true).map_err(|e| VsockError::System {
            what: "Making the listening socket non-blocking",
            source: e.into(),
        })?;
        Ok(host)
    }

    /// The next client, `WouldBlock` if there is none.
    pub(super) fn accept(&self) -> io::Result<OwnedFd> {
        Ok(accept_with(&self.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?)
    }

    /// Connects to whoever listens for guests on host port `port`. A Unix socket answers at once: a full backlog is a
    /// refusal like any other.
    pub(super) fn connect(&self, port: u32) -> io::Result<OwnedFd> {
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!("_{port}"));
        let address = SocketAddrUnix::new(Path::new(&name))?;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &address)?;
        Ok(socket)
    }
}

impl AsFd for Host {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.bound {
            // Somebody else removed it: fine.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
