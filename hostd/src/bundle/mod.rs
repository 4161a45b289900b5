//! A support bundle: one archive of what somebody who is to help needs to see, without secrets.
//!
//! Written while it is sent, a part at a time; parts, all together and time are bounded. What functions printed is
//! not in it: it is their owners'.

mod redact;
mod sources;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::mpsc;

pub use redact::Redactor;
pub use sources::Part;

/// Size of all parts together, in bytes; later ones are left out, and named.
const MOST: usize = 32 << 20;

/// Time all of it may take.
const BOUND: Duration = Duration::from_secs(600);

/// Bytes sent at once, and how many such pieces wait for the network.
const PIECE: usize = 64 * 1024;
const PIECES: usize = 4;

const README: &str = "\
A support bundle of a Mote appliance. Secrets were taken out: values under names that say so (password, token, key, \
environment of functions, ...), the same values wherever else they stood, private keys, passwords in addresses.\n\
\n\
hostd/     what the service says: health, status, sandboxes, functions (without code), snapshots\n\
config/    the configuration in force, and what was found and set at boot\n\
logs/      of init and hostd, the last lines; what functions printed is not here\n\
crashes/   records of crashes\n\
kernel/    facts, and the kernel's log\n\
network/   names\n";

/// Where files are.
#[derive(Debug, Clone)]
pub struct Places {
    /// `/`, but in tests.
    pub root: PathBuf,
    /// What init found at boot.
    pub boot: PathBuf,
    /// What the system is of.
    pub version: PathBuf,
    /// Folder of init's log.
    pub run: PathBuf,
}

/// What is in a bundle besides files.
#[derive(Debug, Default)]
pub struct Told {
    /// What hostd says of itself, by the names of the parts.
    pub documents: Vec<(&'static str, Value)>,
    /// More parts.
    pub parts: Vec<Part>,
    /// Documents that are not in it: what stands in them under names of secrets is secret everywhere.
    pub secrets: Vec<Value>,
}

/// Begins to write a bundle.
pub fn start(places: Places, told: Told) -> mpsc::Receiver<io::Result<Bytes>> {
    let (pieces, receiver) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let mut sink =
            Sink { pieces: pieces.clone(), waiting: Vec::with_capacity(PIECE), begun: Instant::now() };
        if let Err(error) = write(&places, told, &mut sink).and_then(|()| sink.flush()) {
            // Whoever reads sees that it is not whole, if anyone still reads.
            let _ = pieces.blocking_send(Err(error));
        }
    });
    receiver
}

/// Writes the archive.
fn write(places: &Places, told: Told, sink: &mut impl Write) -> io::Result<()> {
    let documents: Vec<(&str, Option<Part>)> =
        [("config/boot.toml", &places.boot), ("config/version.toml", &places.version)]
            .into_iter()
            .map(|(name, path)| (name, sources::file(name, path)))
            .collect();
    // All that is secret is known before anything is written.
    let mut redactor = Redactor::default();
    told.secrets
        .iter()
        .chain(told.documents.iter().map(|(_, value)| value))
        .for_each(|value| redactor.learn(value));
    let tables: Vec<(Part, Option<Value>)> = documents
        .into_iter()
        .filter_map(|(_, part)| part)
        .map(|part| {
            let table = toml::from_str(&part.text).ok();
            (part, table)
        })
        .collect();
    tables.iter().filter_map(|(_, table)| table.as_ref()).for_each(|table| redactor.learn(table));

    let mut archive = Archive { builder: tar::Builder::new(sink), size: 0, left_out: Vec::new() };
    archive.add(&Part::new("README", README))?;
    for (name, value) in told.documents {
        let text = serde_json::to_string_pretty(&redactor.document(value)).map_err(io::Error::other)?;
        archive.add(&Part::new(name, text))?;
    }
    for (part, table) in tables {
        // Without comments, but nothing of a secret that spans lines is left.
        let text = table.and_then(|table| toml::to_string_pretty(&redactor.document(table)).ok());
        let text = text.unwrap_or_else(|| redactor.text(&part.text));
        archive.add(&Part::new(part.name, text))?;
    }
    let logs = ["log.1", "log"]
        .into_iter()
        .filter_map(|name| sources::file(&format!("logs/{name}"), &places.run.join(name)));
    let kernel_log = sources::kernel_log(places.root.join("dev/kmsg"));
    for part in told.parts.into_iter().chain(logs).chain(sources::kernel(&places.root)).chain(kernel_log) {
        archive.add(&Part::new(part.name, redactor.text(&part.text)))?;
    }
    archive.end()
}

struct Archive<W: Write> {
    builder: tar::Builder<W>,
    size: usize,
    left_out: Vec<String>,
}

impl<W: Write> Archive<W> {
    fn add(&mut self, part: &Part) -> io::Result<()> {
        let from = part.text.ceil_char_boundary(part.text.len().saturating_sub(sources::MOST_PART));
        let text = part.text.get(from..).unwrap_or_default();
        if self.size + text.len() > MOST {
            self.left_out.push(part.name.clone());
            return Ok(());
        }
        self.size += text.len();
        self.append(&part.name, text)
    }

    fn append(&mut self, name: &str, text: &str) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(text.len()).unwrap_or(0));
        header.set_mode(0o600);
        header.set_mtime(crate::text::unix_ms() / 1000);
        self.builder.append_data(&mut header, Path::new("mote-support").join(name), text.as_bytes())
    }

    fn end(mut self) -> io::Result<()> {
        if !self.left_out.is_empty() {
            let names = std::mem::take(&mut self.left_out).join("\n");
            self.append("LEFT-OUT", &format!("For want of room in {MOST} bytes:\n{names}\n"))?;
        }
        self.builder.finish()
    }
}

/// Gathers what is written into pieces and hands them on; waits while nobody takes them.
struct Sink {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    waiting: Vec<u8>,
    begun: Instant,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = PIECE.saturating_sub(self.waiting.len()).min(bytes.len());
        self.waiting.extend_from_slice(bytes.get(..room).unwrap_or_default());
        if self.waiting.len() >= PIECE {
            self.flush()?;
        }
        Ok(room)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.begun.elapsed() > BOUND {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let piece = std::mem::replace(&mut self.waiting, Vec::with_capacity(PIECE));
        if piece.is_empty() {
            return Ok(());
        }
        // An error: nobody reads any more.
        self.pieces.blocking_send(Ok(piece.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests;
