//! What a microVM is made of.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use mote_virtio::NetConfig;

use crate::memory::restore::RestoreOptions;

/// A drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Drive {
    /// Image file or block device.
    pub(crate) path: PathBuf,
    /// Whether the guest cannot write to it.
    pub(crate) read_only: bool,
    /// Size as the guest sees it, in sectors of 512 bytes, if that is not the file's.
    pub(crate) sectors: Option<u64>,
}

/// Where the vsock device meets the host.
#[derive(Debug)]
pub(crate) struct VsockEnds {
    /// A socket that listens already; else one is bound to `path`.
    pub(crate) listener: Option<OwnedFd>,
    /// The Unix socket; with `_<port>` behind it, where the guest's connections go.
    pub(crate) path: PathBuf,
}

/// Where the console's output goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SerialTarget {
    /// Nowhere.
    Nowhere,
    /// Standard output; standard input is typed into the guest.
    Terminal,
    /// A bounded file.
    File(PathBuf),
}

/// A microVM to boot.
#[derive(Debug)]
pub(crate) struct BootConfig {
    pub(crate) kernel: PathBuf,
    pub(crate) drives: Vec<Drive>,
    pub(crate) memory_mib: u32,
    pub(crate) vcpus: u8,
    pub(crate) cmdline: String,
    pub(crate) cid: u32,
    pub(crate) vsock: Option<VsockEnds>,
    pub(crate) net: Option<NetConfig>,
    pub(crate) serial: SerialTarget,
}

/// A microVM to restore.
#[derive(Debug)]
pub(crate) struct RestoreConfig {
    pub(crate) dir: PathBuf,
    pub(crate) options: RestoreOptions,
    /// Folder of the snapshot it is layered over, or its own.
    pub(crate) base: Option<PathBuf>,
    /// Index of a drive, and the file to use instead of the recorded one.
    pub(crate) drives: Vec<(usize, PathBuf)>,
    pub(crate) vsock: Option<VsockEnds>,
    /// Where its network device leads, if it has one. Nowhere if it is not said.
    pub(crate) net: Option<NetConfig>,
    pub(crate) serial: SerialTarget,
}
