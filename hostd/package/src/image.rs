//! Writes a tree as a squashfs image.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use backhand::compression::{CompressionOptions, Compressor, Lz4};
use backhand::{BackhandError, FilesystemCompressor, FilesystemWriter, NodeHeader};

use crate::PackageError;
use crate::archive::refuse;
use crate::tree::{Node, Tree};
use crate::unpack::Unpack;

/// Modes of what the image holds: everyone reads, nobody writes.
const FOLDER: u16 = 0o755;
const FILE: u16 = 0o644;
const EXECUTABLE: u16 = 0o755;
const LINK: u16 = 0o777;

/// Bytes of a data block: what the guest decompresses at least to read one byte of a file. Small files share
/// blocks, of which the kernel keeps three: half the usual size is half the work when imports jump about.
const BLOCK: u32 = 64 << 10;

/// The first thing that went wrong while the image was written: the image writer itself only knows texts.
type Fault = Arc<Mutex<Option<PackageError>>>;

/// Writes `tree` to the new file `out` and returns its size in bytes. The file is removed on an error.
pub(crate) fn write(tree: &Tree<'_>, out: &Path) -> Result<u64, PackageError> {
    let file = File::create_new(out).map_err(|source| output(out, source))?;
    let written = write_to(tree, file, out);
    if written.is_err() {
        // Nothing better can be done if this fails too; the store clears its staging folder when it opens.
        let _ = std::fs::remove_file(out);
    }
    written
}

fn write_to(tree: &Tree<'_>, file: File, out: &Path) -> Result<u64, PackageError> {
    let fault: Fault = Fault::default();
    let broken = |error: BackhandError| PackageError::Image { reason: error.to_string() };
    let mut image = FilesystemWriter::default();
    image.set_block_size(BLOCK);
    image.set_compressor(compressor().map_err(broken)?);
    image.set_time(0);
    image.set_root_mode(FOLDER);
    image.set_no_padding();
    // It would tell duplicates by a hash that is no proof.
    image.set_no_duplicate_files(false);
    for (path, node, mtime) in tree.nodes() {
        let header = |mode| NodeHeader::new(mode, 0, 0, mtime);
        match node {
            Node::Folder => image.push_dir(path, header(FOLDER)),
            Node::Link { target } => image.push_symlink(target, path, header(LINK)),
            Node::File { data, executable } => {
                let mode = if *executable { EXECUTABLE } else { FILE };
                let reader = Content { unpack: Unpack::new(*data), path, fault: Arc::clone(&fault) };
                image.push_file(reader, path, header(mode))
            }
        }
        .map_err(broken)?;
    }
    let mut sink =
        Sink { file: BufWriter::with_capacity(1 << 20, file), path: out, fault: Arc::clone(&fault) };
    let written = image.write(&mut sink).map_err(broken);
    if let Some(first) = fault.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(first);
    }
    // Padded to whole sectors: it becomes a block device.
    let size = written?.1.next_multiple_of(4096);
    let file = sink.file.into_inner().map_err(|e| output(out, e.into_error()))?;
    file.set_len(size).map_err(|source| output(out, source))?;
    Ok(size)
}

/// LZ4: the guest decompresses, so what counts is what that costs it.
fn compressor() -> Result<FilesystemCompressor, BackhandError> {
    FilesystemCompressor::new(Compressor::Lz4, Some(CompressionOptions::Lz4(Lz4 { version: 1, flags: 0 })))
}

fn output(path: &Path, source: io::Error) -> PackageError {
    PackageError::Output { path: PathBuf::from(path), source }
}

/// Keeps the first fault.
fn note(fault: &Fault, error: impl FnOnce() -> PackageError) {
    let mut first = fault.lock().unwrap_or_else(PoisonError::into_inner);
    if first.is_none() {
        *first = Some(error());
    }
}

/// A file's bytes on their way into the image.
struct Content<'a> {
    unpack: Unpack<'a>,
    path: &'a Path,
    fault: Fault,
}

impl Read for Content<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let outcome = self.unpack.read(buf);
        if let (Err(_), Some(problem)) = (&outcome, self.unpack.problem()) {
            note(&self.fault, || refuse(self.path.as_os_str().as_encoded_bytes(), problem));
        }
        outcome
    }
}

/// The image file.
struct Sink<'a> {
    file: BufWriter<File>,
    path: &'a Path,
    fault: Fault,
}

impl Sink<'_> {
    fn noted<T>(&self, outcome: io::Result<T>) -> io::Result<T> {
        outcome.inspect_err(|error| {
            let source =
                error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error);
            note(&self.fault, || output(self.path, source));
        })
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let outcome = self.file.write(buf);
        self.noted(outcome)
    }

    fn flush(&mut self) -> io::Result<()> {
        let outcome = self.file.flush();
        self.noted(outcome)
    }
}

impl Seek for Sink<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let outcome = self.file.seek(to);
        self.noted(outcome)
    }
}
