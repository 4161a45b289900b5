//! Reads one entry's bytes, and no more of them than it says it has.

use std::io::{self, Read};

use flate2::read::DeflateDecoder;
use rawzip::Crc32;

use crate::EntryProblem;
use crate::archive::{Data, Method};

/// Unpacks one entry. Its end is only reached if size and checksum are as declared; otherwise reading fails
/// and [`Unpack::problem`] says why. The decoder's memory exists only while reading.
pub(crate) struct Unpack<'a> {
    data: Data<'a>,
    state: State<'a>,
    read: u64,
    crc: Crc32,
    problem: Option<EntryProblem>,
}

enum State<'a> {
    Unopened,
    Store(&'a [u8]),
    Deflate(Box<DeflateDecoder<&'a [u8]>>),
    Done,
}

impl<'a> Unpack<'a> {
    pub(crate) fn new(data: Data<'a>) -> Self {
        Self { data, state: State::Unopened, read: 0, crc: Crc32::new(), problem: None }
    }

    /// Why reading failed.
    pub(crate) fn problem(&self) -> Option<EntryProblem> {
        self.problem.clone()
    }

    fn fail(&mut self, what: &'static str) -> io::Error {
        self.state = State::Done;
        self.problem = Some(EntryProblem::Damaged { what });
        io::Error::new(io::ErrorKind::InvalidData, what)
    }

    /// Checks the whole at its end.
    fn finish(&mut self) -> io::Result<usize> {
        self.state = State::Done;
        if self.read < self.data.size {
            return Err(self.fail("its data are shorter than it says"));
        }
        if self.crc.checksum() != self.data.crc {
            return Err(self.fail("its checksum is wrong"));
        }
        Ok(0)
    }
}

impl Read for Unpack<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        if let State::Unopened = self.state {
            self.state = match self.data.method {
                Method::Store => State::Store(self.data.packed),
                Method::Deflate => State::Deflate(Box::new(DeflateDecoder::new(self.data.packed))),
            };
        }
        let outcome = match &mut self.state {
            State::Store(rest) => rest.read(buf),
            State::Deflate(decoder) => decoder.read(buf),
            State::Unopened | State::Done => return self.problem.as_ref().map_or(Ok(0), |_| Err(failed())),
        };
        let n = match outcome {
            Ok(0) => return self.finish(),
            Ok(n) => n,
            Err(_) => return Err(self.fail("its compressed data are not valid")),
        };
        self.read += u64::try_from(n).unwrap_or(u64::MAX);
        if self.read > self.data.size {
            return Err(self.fail("its data are longer than it says"));
        }
        self.crc.update(buf.get(..n).unwrap_or_default());
        Ok(n)
    }
}

/// What reading on after a failure gives.
fn failed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "Read after a failure")
}
