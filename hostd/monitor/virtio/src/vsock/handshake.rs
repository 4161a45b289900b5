//! What a host client says first: `CONNECT <port>\n`.

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

/// Longest line accepted, with its newline. The longest sensible one is `CONNECT 4294967294\n`.
pub(super) const MAX_LINE: usize = 32;

/// VMADDR_PORT_ANY names no port.
const PORT_ANY: u32 = u32::MAX;

/// How far a client got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// The line is not complete.
    Waiting,
    /// To be connected to this guest port. The line was consumed, and nothing after it.
    Port(u32),
    /// The client hung up or sent something else.
    Refused,
}

/// Looks at what the client sent so far. Bytes behind the line belong to the guest, so they are left in the socket.
pub(super) fn advance(client: BorrowedFd<'_>) -> Progress {
    let mut line = [0u8; MAX_LINE];
    let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
    let seen = loop {
        match recv(client, &mut line, flags) {
            Ok((n, _)) => break n,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Progress::Waiting,
            Err(_) => return Progress::Refused,
        }
    };
    let seen = line.get(..seen).unwrap_or_default();
    let Some(end) = seen.iter().position(|byte| *byte == b'\n') else {
        // Nothing at all is the end of the stream.
        return if seen.is_empty() || seen.len() == MAX_LINE { Progress::Refused } else { Progress::Waiting };
    };
    let mut consumed = [0u8; MAX_LINE];
    let Some(target) = consumed.get_mut(..=end) else { return Progress::Refused };
    let wanted = target.len();
    match recv(client, target, RecvFlags::DONTWAIT) {
        Ok((n, _)) if n == wanted => parse(&seen[..end]).map_or(Progress::Refused, Progress::Port),
        _ => Progress::Refused,
    }
}

/// The port of a line without its newline.
pub(super) fn parse(line: &[u8]) -> Option<u32> {
    let digits = line.strip_prefix(b"CONNECT ")?;
    let digits = digits.strip_suffix(b"\r").unwrap_or(digits);
    // `parse` alone would take a sign.
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok().filter(|port| *port != PORT_ANY)
}
