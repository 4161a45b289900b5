//! Snapshots: a folder with `state` (everything but memory) and `memory` (a sparse file as large as the guest's).
//!
//! A snapshot is only good for the kind of machine, host kernel and monitor it was made with. What does not match
//! is refused with an error that says what; it is never restored in part.

mod codec;
mod format;
mod host;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use mote_snapshot::build::file_checksum;
use mote_snapshot::source::inherited_path;
use mote_snapshot::{LAYOUT_FILE, Layout, WORKING_FILE};
use serde::{Deserialize, Serialize};

pub use mote_snapshot::checksum::{ContentHash, memory_checksum};
pub use mote_snapshot::{LOADING_FILE, MEMORY_FILE};

pub(crate) use codec::{DeviceRecords, VmSnapshot, decode, encode};
pub use format::{FORMAT_VERSION, FormatError, STATE_LIMIT};
pub(crate) use format::{Reader, put};
pub use host::{CpuModel, HostFacts};

/// Name of the state file in a snapshot's folder.
pub const STATE_FILE: &str = "state";

/// Size of a guest page in bytes.
pub const PAGE_SIZE: usize = 4096;

/// What a snapshot is of, and where it may be restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotInfo {
    /// Version of the monitor that wrote it.
    pub monitor_version: String,
    /// Release of the host's kernel.
    pub host_kernel: String,
    /// The processor.
    pub cpu: CpuModel,
    /// Frequency of the guest's time stamp counter in kHz.
    pub tsc_khz: u32,
    /// xxh3-64 of the CPUID leaves the guest sees, as 16 hexadecimal digits.
    pub cpuid_hash: String,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Guest memory = size of the memory file, in bytes.
    pub memory_bytes: u64,
    /// Bytes of the memory file that are not zero pages.
    pub stored_bytes: u64,
    /// [`memory_checksum`] of the memory file.
    pub memory_checksum: String,
    /// What a layered snapshot was made from; its memory file has only what differs from that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseInfo>,
    /// The drives, in order.
    pub drives: Vec<DriveInfo>,
    /// The guest's vsock address.
    pub cid: u32,
}

/// The snapshot a layered one was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseInfo {
    /// [`memory_checksum`] of its memory file.
    pub memory_checksum: String,
    /// xxh3-64 of the list of pages that come from there.
    pub inherited_checksum: u64,
}

/// A drive of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriveInfo {
    /// The file it was backed by; a restore may name another of the same size and content.
    pub path: PathBuf,
    /// Whether the guest cannot write to it.
    pub read_only: bool,
    /// Size in bytes.
    pub bytes: u64,
    /// The size is not that of the file: what lies behind the file's end reads as zeros.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub padded: bool,
}

/// A property of this host that is not as the snapshot needs it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Snapshot needs {property} {needed}, here it is {found}")]
pub struct Mismatch {
    /// What it is about.
    pub property: &'static str,
    /// As recorded.
    pub needed: String,
    /// As found.
    pub found: String,
}

/// Why a snapshot cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// A file of it cannot be read.
    #[error("Cannot read {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The state file is damaged or of another version.
    #[error("Cannot use {path}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: FormatError,
    },
    /// The state file is too large to be one.
    #[error("{path} is larger than {STATE_LIMIT} bytes")]
    Size {
        /// The file.
        path: PathBuf,
    },
    /// It belongs on another host.
    #[error("Snapshot {dir} does not fit this host")]
    Incompatible {
        /// The folder.
        dir: PathBuf,
        /// What differs.
        #[source]
        source: Mismatch,
    },
    /// The memory file has another size.
    #[error("{path} has {found} bytes, the state records {recorded}")]
    MemorySize {
        /// The file.
        path: PathBuf,
        /// By the state.
        recorded: u64,
        /// Of the file.
        found: u64,
    },
    /// The layout is damaged.
    #[error("Cannot use the snapshot's layout")]
    Layout(#[source] mote_snapshot::LayoutError),
    /// The memory file has another content.
    #[error("{path} has checksum {found}, the state records {recorded}")]
    MemoryChecksum {
        /// The file.
        path: PathBuf,
        /// By the state.
        recorded: String,
        /// Of the file.
        found: String,
    },
}

/// Reads a whole state file, bounded.
pub(crate) fn read_state(dir: &Path) -> Result<Vec<u8>, SnapshotError> {
    let path = dir.join(STATE_FILE);
    let mut bytes = Vec::new();
    let read = File::open(&path).and_then(|file| file.take(STATE_LIMIT + 1).read_to_end(&mut bytes));
    match read {
        Err(source) => Err(SnapshotError::Io { path, source }),
        Ok(length) if length as u64 > STATE_LIMIT => Err(SnapshotError::Size { path }),
        Ok(_) => Ok(bytes),
    }
}

/// Checks what can be checked without restoring and without reading the memory: the state file is whole and of this
/// version, host kernel, processor and monitor are those it needs, the memory file has the right size.
///
/// Microseconds of work; do it before every restore. Whether the CPUID and TSC fit is only seen by the restore.
///
/// # Errors
/// What is wrong; then the snapshot must be made anew.
pub fn verify_state(dir: &Path) -> Result<SnapshotInfo, SnapshotError> {
    let bytes = read_state(dir)?;
    let info = format::Container::parse(&bytes)
        .and_then(|container| container.json::<SnapshotInfo>(format::Section::Info))
        .map_err(|source| SnapshotError::Format { path: dir.join(STATE_FILE), source })?;
    check_host(dir, &info, &HostFacts::gather())?;
    check_memory_size(dir, &info)?;
    Ok(info)
}

/// Compares what the snapshot needs with what is here.
pub(crate) fn check_host(dir: &Path, info: &SnapshotInfo, host: &HostFacts) -> Result<(), SnapshotError> {
    let table = [
        ("monitor version", info.monitor_version.clone(), host.monitor_version.clone()),
        ("host kernel", info.host_kernel.clone(), host.host_kernel.clone()),
        ("processor", info.cpu.to_string(), host.cpu.to_string()),
    ];
    for (property, needed, found) in table {
        if needed != found {
            let source = Mismatch { property, needed, found };
            return Err(SnapshotError::Incompatible { dir: dir.to_owned(), source });
        }
    }
    Ok(())
}

/// Checks that the memory file has the size the state records.
pub(crate) fn check_memory_size(dir: &Path, info: &SnapshotInfo) -> Result<(), SnapshotError> {
    let path = dir.join(MEMORY_FILE);
    match std::fs::metadata(&path) {
        Err(source) => Err(SnapshotError::Io { path, source }),
        Ok(metadata) if metadata.len() != info.memory_bytes => {
            Err(SnapshotError::MemorySize { path, recorded: info.memory_bytes, found: metadata.len() })
        }
        Ok(_) => Ok(()),
    }
}

/// Everything [`verify_state`] checks, and the content of the memory file and of the files made for a quick restore.
/// Reads all of them: do it once, when a snapshot is first used after a boot.
///
/// # Errors
/// What is wrong; then the snapshot must be made anew.
pub fn verify_memory(dir: &Path) -> Result<SnapshotInfo, SnapshotError> {
    let info = verify_state(dir)?;
    let path = dir.join(MEMORY_FILE);
    match memory_checksum(&path) {
        Err(source) => Err(SnapshotError::Io { path, source }),
        Ok(found) if found != info.memory_checksum => {
            Err(SnapshotError::MemoryChecksum { path, recorded: info.memory_checksum.clone(), found })
        }
        Ok(_) => {
            verify_inherited(dir, &info)?;
            verify_layout(dir, &info)?;
            Ok(info)
        }
    }
}

/// The list of what comes from a base, if there is one.
fn verify_inherited(dir: &Path, info: &SnapshotInfo) -> Result<(), SnapshotError> {
    let Some(base) = &info.base else { return Ok(()) };
    verify_file(inherited_path(dir), base.inherited_checksum)
}

/// Checks the checksum of a file.
fn verify_file(path: PathBuf, recorded: u64) -> Result<(), SnapshotError> {
    match file_checksum(&path) {
        Err(source) => Err(SnapshotError::Io { path, source }),
        Ok(found) if found != recorded => {
            let (recorded, found) = (format!("{recorded:016x}"), format!("{found:016x}"));
            Err(SnapshotError::MemoryChecksum { path, recorded, found })
        }
        Ok(_) => Ok(()),
    }
}

/// The layout and its files, if there are any.
fn verify_layout(dir: &Path, info: &SnapshotInfo) -> Result<(), SnapshotError> {
    if !dir.join(LAYOUT_FILE).exists() {
        return Ok(());
    }
    let layout = Layout::read(dir).map_err(SnapshotError::Layout)?;
    let named = format!("{:016x}", layout.memory_checksum);
    if named != info.memory_checksum {
        let path = dir.join(LAYOUT_FILE);
        return Err(SnapshotError::MemoryChecksum {
            path,
            recorded: info.memory_checksum.clone(),
            found: named,
        });
    }
    verify_file(dir.join(LOADING_FILE), layout.loading_checksum)?;
    match verify_file(dir.join(WORKING_FILE), layout.working_checksum) {
        // The working set is only made where it is wanted.
        Err(SnapshotError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
        verified => verified,
    }
}
