//! What the runtime writes to its standard output and error: two pipes.

use std::io;
use std::os::fd::OwnedFd;

use mote_protocol::LogStream;
use rustix::fs::{Gid, Uid, fchown};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::net::unix::pipe::Receiver;

use crate::process::Credentials;

/// Largest piece of output read at once, bytes: what a pipe holds.
const PIECE: usize = 64 * 1024;

/// The reading ends.
#[derive(Debug)]
pub struct Output {
    stdout: Option<Receiver>,
    stderr: Option<Receiver>,
    buffer: Vec<u8>,
    /// The stream whose last piece ended within a line. The rest of that line comes before anything of the other
    /// stream: a runtime may write a line and its end one by one, and whoever reads the log sees both streams as one.
    midline: Option<LogStream>,
}

/// The writing ends, for the process.
#[derive(Debug)]
pub struct Ends {
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
}

impl Output {
    /// Two new pipes, owned by `writer`: else it could not open `/dev/stdout`.
    ///
    /// # Errors
    /// When the system has no more of them.
    pub fn new(writer: Option<Credentials>) -> io::Result<(Self, Ends)> {
        let (stdout, stdout_end) = pipe(writer)?;
        let (stderr, stderr_end) = pipe(writer)?;
        let output =
            Self { stdout: Some(stdout), stderr: Some(stderr), buffer: vec![0; PIECE], midline: None };
        Ok((output, Ends { stdout: stdout_end, stderr: stderr_end }))
    }

    /// Waits for output; never ends once both pipes are closed. Nothing is lost when it is cancelled.
    pub async fn next(&mut self) -> (LogStream, &[u8]) {
        loop {
            let stream = tokio::select! {
                () = readable(&self.stdout) => LogStream::Stdout,
                () = readable(&self.stderr) => LogStream::Stderr,
            };
            // Asked anew: what was written before `stream` became readable is there by now.
            let stream =
                self.midline.filter(|&unfinished| self.pending().of(unfinished) > 0).unwrap_or(stream);
            let len = self.read(stream, PIECE);
            if len > 0 {
                return (stream, &self.buffer[..len]);
            }
        }
    }

    /// Takes the next piece of what was already written when this was called; `left` is [`Self::pending`]'s
    /// answer from then and counts down. A function that goes on writing cannot keep the caller here.
    pub fn written(&mut self, left: &mut Pending) -> Option<(LogStream, &[u8])> {
        let stream = [self.midline, Some(LogStream::Stdout), Some(LogStream::Stderr)]
            .into_iter()
            .flatten()
            .find(|&stream| left.of(stream) > 0)?;
        let bound = match stream {
            LogStream::Stdout => &mut left.stdout,
            LogStream::Stderr => &mut left.stderr,
        };
        let len = self.read(stream, PIECE.min(*bound));
        *bound = if len == 0 { 0 } else { *bound - len };
        if len > 0 { Some((stream, &self.buffer[..len])) } else { self.written_rest(left) }
    }

    /// How many bytes wait in the pipes.
    #[must_use]
    pub fn pending(&self) -> Pending {
        Pending { stdout: waiting(self.stdout.as_ref()), stderr: waiting(self.stderr.as_ref()) }
    }

    fn written_rest(&mut self, left: &mut Pending) -> Option<(LogStream, &[u8])> {
        if left.stdout == 0 && left.stderr == 0 { None } else { self.written(left) }
    }

    /// Reads what is there, at most `limit` bytes; closes the pipe at its end.
    fn read(&mut self, stream: LogStream, limit: usize) -> usize {
        let slot = match stream {
            LogStream::Stdout => &mut self.stdout,
            LogStream::Stderr => &mut self.stderr,
        };
        let Some(pipe) = slot else { return 0 };
        let buffer = &mut self.buffer[..limit.min(PIECE)];
        let result = match pipe.try_read(buffer) {
            // The pipe may hold bytes which the event loop has not heard of yet.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                rustix::io::read(&*pipe, &mut *buffer).map_err(io::Error::from)
            }
            other => other,
        };
        match result {
            Ok(len) if len > 0 => {
                self.midline = (buffer[..len].last() != Some(&b'\n')).then_some(stream);
                len
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => 0,
            Ok(_) | Err(_) => {
                *slot = None;
                0
            }
        }
    }
}

/// Bytes in the pipes at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    stdout: usize,
    stderr: usize,
}

impl Pending {
    fn of(self, stream: LogStream) -> usize {
        match stream {
            LogStream::Stdout => self.stdout,
            LogStream::Stderr => self.stderr,
        }
    }
}

fn waiting(pipe: Option<&Receiver>) -> usize {
    let bytes = pipe.and_then(|pipe| rustix::io::ioctl_fionread(pipe).ok()).unwrap_or(0);
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

async fn readable(pipe: &Option<Receiver>) {
    match pipe {
        // An error shows when it is read.
        Some(pipe) => drop(pipe.readable().await),
        None => std::future::pending().await,
    }
}

fn pipe(writer: Option<Credentials>) -> io::Result<(Receiver, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    if let Some(Credentials { uid, gid }) = writer {
        fchown(&write, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    // Only our end becomes non-blocking: a function that writes faster than the host reads must wait, not fail.
    Ok((Receiver::from_owned_fd(read)?, write))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(output: &mut Output) -> Vec<(LogStream, Vec<u8>)> {
        let mut left = output.pending();
        let mut pieces = Vec::new();
        while let Some((stream, bytes)) = output.written(&mut left) {
            pieces.push((stream, bytes.to_vec()));
        }
        pieces
    }

    #[tokio::test]
    async fn what_is_written_is_seen_without_waiting() {
        let (mut output, ends) = Output::new(None).unwrap();
        assert_eq!(collect(&mut output), []);
        rustix::io::write(&ends.stdout, b"one").unwrap();
        rustix::io::write(&ends.stderr, b"two").unwrap();
        let expected = vec![(LogStream::Stdout, b"one".to_vec()), (LogStream::Stderr, b"two".to_vec())];
        assert_eq!(collect(&mut output), expected);
        assert_eq!(collect(&mut output), []);
        // And again, now that the event loop has heard of both.
        rustix::io::write(&ends.stderr, b"three").unwrap();
        assert_eq!(output.next().await, (LogStream::Stderr, b"three".as_slice()));
        rustix::io::write(&ends.stderr, b"four").unwrap();
        assert_eq!(collect(&mut output), [(LogStream::Stderr, b"four".to_vec())]);
    }

    #[tokio::test]
    async fn a_line_that_was_begun_is_ended_before_the_other_stream_speaks() {
        let (mut output, ends) = Output::new(None).unwrap();
        let streams = [(&ends.stdout, LogStream::Stdout), (&ends.stderr, LogStream::Stderr)];
        // Often: which of two readable pipes is seen first is chance.
        for round in 0..100 {
            let ((begun, first), (between, second)) = (streams[round % 2], streams[(round + 1) % 2]);
            rustix::io::write(begun, b"begun").unwrap();
            assert_eq!(output.next().await, (first, b"begun".as_slice()));
            rustix::io::write(begun, b"\n").unwrap();
            rustix::io::write(between, b"between\n").unwrap();
            if round % 4 < 2 {
                assert_eq!(output.next().await, (first, b"\n".as_slice()));
                assert_eq!(output.next().await, (second, b"between\n".as_slice()));
            } else {
                let expected = [(first, b"\n".to_vec()), (second, b"between\n".to_vec())];
                assert_eq!(collect(&mut output), expected);
            }
        }
    }

    #[tokio::test]
    async fn a_line_that_is_never_ended_holds_nothing_back() {
        let (mut output, ends) = Output::new(None).unwrap();
        rustix::io::write(&ends.stdout, b"begun").unwrap();
        assert_eq!(output.next().await, (LogStream::Stdout, b"begun".as_slice()));
        rustix::io::write(&ends.stderr, b"other\n").unwrap();
        assert_eq!(output.next().await, (LogStream::Stderr, b"other\n".as_slice()));
    }

    #[tokio::test]
    async fn a_full_pipe_comes_whole_and_no_more_than_was_there() {
        let (mut output, ends) = Output::new(None).unwrap();
        let written = rustix::io::write(&ends.stdout, &[b'x'; PIECE]).unwrap();
        let mut left = output.pending();
        let (_, first) = output.written(&mut left).unwrap();
        assert_eq!(first.len(), written);
        rustix::io::write(&ends.stdout, b"later").unwrap();
        assert!(output.written(&mut left).is_none());
        assert_eq!(collect(&mut output), [(LogStream::Stdout, b"later".to_vec())]);
    }

    #[tokio::test]
    async fn closed_pipes_are_quiet() {
        let (mut output, ends) = Output::new(None).unwrap();
        rustix::io::write(&ends.stdout, b"last").unwrap();
        drop(ends);
        assert_eq!(output.next().await, (LogStream::Stdout, b"last".as_slice()));
        let more = tokio::time::timeout(std::time::Duration::from_millis(50), output.next()).await;
        assert!(more.is_err());
        assert_eq!(collect(&mut output), []);
    }
}
