//! The volatile folder of one sandbox: its sockets and its serial log.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Bytes of a log quoted in an error.
const TAIL: u64 = 600;

/// A folder that goes with its owner.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Makes `parent/id`.
    ///
    /// # Errors
    /// As creating a folder.
    pub fn create(parent: &Path, id: &str) -> io::Result<Self> {
        let path = parent.join(id);
        std::fs::create_dir_all(&path)?;
        Ok(Self { path })
    }

    /// Unix socket on which the monitor offers the guest's vsock.
    pub fn vsock(&self) -> PathBuf {
        self.path.join("vsock")
    }

    /// Unix socket to which the monitor connects when the guest dials `port` on the host.
    pub fn vsock_port(&self, port: u32) -> PathBuf {
        self.path.join(format!("vsock_{port}"))
    }

    /// What the guest's kernel and agent print.
    pub fn serial(&self) -> PathBuf {
        self.path.join("serial.log")
    }

    /// What the monitor complains about.
    pub fn complaints(&self) -> PathBuf {
        self.path.join("monitor.log")
    }

    /// Makes an empty file, for a drive with nothing on it.
    ///
    /// # Errors
    /// As creating a file.
    pub fn empty_file(&self) -> io::Result<PathBuf> {
        let path = self.path.join("empty");
        File::create(&path).map(|_| path)
    }

    /// The end of the serial log, for people.
    pub fn serial_tail(&self) -> String {
        tail(&self.serial())
    }
}

/// The end of a text file as one line without control characters; empty if it cannot be read.
pub fn tail(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(path) {
        let skip = file.metadata().map_or(0, |metadata| metadata.len().saturating_sub(TAIL));
        let _ = file.seek(SeekFrom::Start(skip)).and_then(|_| file.take(TAIL).read_to_end(&mut bytes));
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join(" | ").chars().filter(|c| !c.is_control()).collect()
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "Cannot remove a sandbox's folder");
        }
    }
}
