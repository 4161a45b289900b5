//! Where a guest's console output goes: bounded, whatever the guest prints.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

/// Bytes kept of the beginning of the output.
const HEAD: u64 = 64 * 1024;

/// Bytes kept of its end: between half of this and all of it.
const TAIL: usize = 64 * 1024;

/// Between the two, once something is missing.
const MARK: &[u8] = b"\n[... console output left out ...]\n";

/// How much is collected before it is written.
const BUFFER: usize = 4096;

/// A console log.
#[derive(Debug)]
pub(crate) enum SerialLog {
    /// Nobody wants it.
    Nowhere,
    /// Standard output, for a person to watch: nothing is kept, so nothing is bounded.
    Stdout,
    /// A file of at most 128 KiB and a mark: the first 64 KiB, and up to 64 KiB of what came last.
    File(BoundedFile),
}

impl SerialLog {
    /// A log in a new file at `path` (an old one is emptied).
    pub(crate) fn file(path: &Path) -> io::Result<Self> {
        Ok(Self::File(BoundedFile::new(File::create(path)?)))
    }
}

impl Write for SerialLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Nowhere => {}
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes)?;
                stdout.flush()?;
            }
            Self::File(file) => file.push(bytes)?,
        }
        Ok(bytes.len())
    }

    /// Does nothing: the serial port flushes after every byte. See [`sync`](Self::sync).
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SerialLog {
    /// Hands everything collected to the kernel.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        match self {
            Self::File(file) => file.write_out(),
            Self::Nowhere | Self::Stdout => Ok(()),
        }
    }
}

/// See [`SerialLog::File`].
#[derive(Debug)]
pub(crate) struct BoundedFile {
    file: File,
    /// Bytes of the beginning in the file.
    head: u64,
    /// What the file holds behind the beginning.
    tail: Vec<u8>,
    /// Whether something was left out.
    cut: bool,
    /// Not yet written.
    buffer: Vec<u8>,
}

impl BoundedFile {
    fn new(file: File) -> Self {
        Self { file, head: 0, tail: Vec::new(), cut: false, buffer: Vec::new() }
    }

    fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER || self.buffer.last() == Some(&b'\n') {
            self.write_out()?;
        }
        Ok(())
    }

    fn write_out(&mut self) -> io::Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        let room = usize::try_from(HEAD - self.head).unwrap_or_default();
        let (first, rest) = buffer.split_at(room.min(buffer.len()));
        self.file.write_all(first)?;
        self.head += first.len() as u64;
        if self.tail.len() + rest.len() > TAIL {
            // The older half goes, and what stays is written anew: once per 32 KiB of output.
            self.tail.extend_from_slice(rest);
            let keep = self.tail.len().min(TAIL / 2);
            self.tail.drain(..self.tail.len() - keep);
            self.cut = true;
            self.file.set_len(HEAD)?;
            self.file.seek(SeekFrom::Start(HEAD))?;
            self.file.write_all(MARK)?;
            self.file.write_all(&self.tail)?;
        } else {
            self.file.write_all(rest)?;
            self.tail.extend_from_slice(rest);
        }
        Ok(())
    }
}

impl Drop for BoundedFile {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.write_out();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_of(write: impl Fn(&mut SerialLog)) -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = SerialLog::file(&path).unwrap();
        write(&mut log);
        drop(log);
        std::fs::read(&path).unwrap()
    }

    #[test]
    fn short_output_is_kept_whole() {
        let text = b"line one\nline two, unfinished";
        assert_eq!(log_of(|log| log.write_all(text).unwrap()), text);
        let exact: Vec<u8> = (0..=255).cycle().take(128 * 1024).collect();
        let found = log_of(|log| exact.chunks(7).for_each(|chunk| log.write_all(chunk).unwrap()));
        assert_eq!(found, exact);
    }

    #[test]
    fn of_endless_output_both_ends_are_kept() {
        let lines: Vec<String> = (0..100_000).map(|number| format!("line {number}\n")).collect();
        let found = log_of(|log| {
            for line in &lines {
                for byte in line.as_bytes() {
                    log.write_all(&[*byte]).unwrap();
                }
            }
        });
        assert!(found.len() <= 128 * 1024 + MARK.len(), "{} bytes", found.len());
        let text = String::from_utf8(found).unwrap();
        assert!(text.starts_with("line 0\nline 1\n"));
        assert!(text.ends_with("line 99998\nline 99999\n"));
        let tail = text.split("[... console output left out ...]\n").nth(1).unwrap();
        assert!(tail.len() >= TAIL / 2 - 20);
    }
}
