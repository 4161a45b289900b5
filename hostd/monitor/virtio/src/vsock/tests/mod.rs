//! The socket device between real Unix sockets and a guest that behaves like Linux where it behaves.

mod guest;
mod handshake;
mod hostile;
mod restore;
mod streams;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::header::{HEADER, Header, Op};
use super::peers::Key;
use super::*;
use crate::testing::Machine;
use guest::Guest;

/// The guest's context id.
pub const CID: u64 = 3;
/// A port something listens on in the guest.
pub const PORT: u32 = 1024;

/// A folder for sockets.
pub struct Place {
    folder: TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("v.sock")
    }

    pub fn device(&self, limits: VsockLimits) -> Box<Vsock> {
        let config = VsockConfig { cid: CID, listener: VsockListener::Bind, path: self.path() };
        Box::new(Vsock::with_limits(config, limits).unwrap())
    }

    pub fn guest(&self, limits: VsockLimits) -> Guest {
        let mut guest = Guest::new(Machine::new(self.device(limits)));
        guest.listening.push(PORT);
        guest
    }

    /// A client that sent its line.
    pub fn client(&self, port: u32) -> UnixStream {
        let mut client = UnixStream::connect(self.path()).unwrap();
        client.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
        client
    }

    /// A client that is connected to the guest's port.
    pub fn connect(&self, guest: &mut Guest) -> (UnixStream, Key) {
        let mut client = self.client(PORT);
        let line = guest.wait(|_| read_line(&mut client), "no OK line").unwrap();
        let host: u32 = line.strip_prefix("OK ").unwrap().parse().unwrap();
        let key = *guest.socks.keys().find(|key| key.host == host).unwrap();
        assert_eq!(key.guest, PORT);
        (client, key)
    }

    /// Someone who waits for guests on a host port.
    pub fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.folder.path().join(format!("v.sock_{port}"))).unwrap()
    }
}

/// Limits with timeouts a test can wait for, and that do not pass by themselves on a busy machine.
pub fn quick() -> VsockLimits {
    VsockLimits {
        handshake_timeout: Duration::from_millis(400),
        close_timeout: Duration::from_millis(600),
        drain_timeout: Duration::from_millis(800),
        reset_timeout: Duration::from_millis(600),
        ..VsockLimits::default()
    }
}

/// `Some(Some(line))` or `Some(None)` at the end of the stream, `None` while there is nothing yet.
pub fn read_line(client: &mut UnixStream) -> Option<Option<String>> {
    client.set_nonblocking(true).unwrap();
    let mut line = Vec::new();
    let mut byte = [0];
    let result = loop {
        match client.read(&mut byte) {
            Ok(0) => break Some(None),
            Ok(_) if byte[0] == b'\n' => break Some(Some(String::from_utf8(line).unwrap())),
            Ok(_) => line.push(byte[0]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && line.is_empty() => break None,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => break Some(None),
        }
    };
    client.set_nonblocking(false).unwrap();
    result
}

/// What a client has read when it may not wait: the bytes, and whether the stream ended.
pub fn read_now(client: &mut UnixStream) -> (Vec<u8>, bool) {
    client.set_nonblocking(true).unwrap();
    let mut all = Vec::new();
    let mut bytes = [0; 65536];
    let ended = loop {
        match client.read(&mut bytes) {
            Ok(0) => break true,
            Ok(n) => all.extend_from_slice(&bytes[..n]),
            Err(error) => break error.kind() != std::io::ErrorKind::WouldBlock,
        }
    };
    client.set_nonblocking(false).unwrap();
    (all, ended)
}

/// Writes what fits now.
pub fn write_now(client: &mut UnixStream, bytes: &[u8]) -> std::io::Result<usize> {
    client.set_nonblocking(true).unwrap();
    let result = client.write(bytes);
    client.set_nonblocking(false).unwrap();
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}

/// Bytes `from..` of an endless stream in which every position is recognisable.
pub fn pattern(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|i| ((i.wrapping_mul(0x9e37_79b9)) >> 13) as u8 ^ (i >> 7) as u8).collect()
}
