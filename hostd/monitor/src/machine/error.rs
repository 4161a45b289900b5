//! Why a microVM cannot be started.

use std::io;
use std::path::PathBuf;

use mote_virtio::block::BlockError;
use mote_virtio::vsock::VsockError;
use mote_virtio::{NetError, RestoreError, TransportError};

use crate::boot::BootError;
use crate::boot::cmdline::CmdlineError;
use crate::snapshot::SnapshotError;
use crate::vm::{CrewError, VcpuError, VmError};

/// Why a microVM cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// KVM.
    #[error("Cannot set up the virtual machine")]
    Vm(#[from] VmError),
    /// A vCPU.
    #[error("Cannot set up the vCPUs")]
    Vcpu(#[source] VcpuError),
    /// What was prepared is for another kind of microVM.
    #[error("The microVM needs {needed} vCPUs, {ready} were prepared")]
    Vcpus {
        /// Prepared.
        ready: u8,
        /// Wanted.
        needed: u8,
    },
    /// vCPU threads.
    #[error("Cannot start the vCPUs")]
    Crew(#[from] CrewError),
    /// The kernel.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The command line.
    #[error("Cannot pass the command line on")]
    Cmdline(#[from] CmdlineError),
    /// Guest memory; the text is the whole reason.
    #[error("{0}")]
    Memory(String),
    /// The snapshot's files of memory are damaged, missing or do not belong together; the text is the whole reason.
    #[error("{0}")]
    SnapshotMemory(String),
    /// A drive.
    #[error("Cannot attach drive {index}")]
    Drive {
        /// Which, counted from 0.
        index: usize,
        /// Why.
        #[source]
        source: BlockError,
    },
    /// The socket device.
    #[error("Cannot attach the vsock device")]
    Vsock(#[from] VsockError),
    /// A device's registers.
    #[error("Cannot attach a virtio device")]
    Transport(#[from] TransportError),
    /// More devices than there are interrupts.
    #[error("{count} virtio devices are more than the {limit} there is room for")]
    Devices {
        /// Wanted.
        count: usize,
        /// Possible.
        limit: usize,
    },
    /// A drive that is not there was to be replaced.
    #[error("The snapshot has {count} drives, none has the index {index}")]
    NoDrive {
        /// Wanted.
        index: usize,
        /// There are.
        count: usize,
    },
    /// The snapshot has a socket device and no socket was given for it.
    #[error("The snapshot has a vsock device: say where its socket goes")]
    NoVsock,
    /// The network device.
    #[error("Cannot attach the network device")]
    Net(#[from] NetError),
    /// A snapshot without a network device was to be attached to a network.
    #[error("The snapshot has no network device")]
    NoNet,
    /// No microVM has two.
    #[error("The snapshot has more than one network device")]
    TwoNets,
    /// Every microVM has one.
    #[error("The snapshot has not one balloon")]
    Balloons,
    /// An event descriptor.
    #[error("Cannot create an event")]
    Event(#[source] io::Error),
    /// The console's log.
    #[error("Cannot open console log {path}")]
    Serial {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The snapshot is damaged, or belongs elsewhere.
    #[error("Cannot restore the snapshot")]
    Snapshot(#[from] SnapshotError),
    /// The vCPUs of this host do not take the snapshot's state.
    #[error("Cannot restore the snapshot's vCPUs")]
    RestoreVcpu(#[source] VcpuError),
    /// KVM does not take the snapshot's state.
    #[error("Cannot restore the snapshot's interrupt controllers")]
    RestoreVm(#[source] VmError),
    /// A device does not take the snapshot's state.
    #[error("Cannot restore device {index} of the snapshot")]
    RestoreDevice {
        /// Which, counted from 0.
        index: usize,
        /// Why.
        #[source]
        source: RestoreError,
    },
    /// The serial port does not take the snapshot's state; the text is the whole reason.
    #[error("{0}")]
    RestoreSerial(String),
}

impl StartError {
    /// Whether the snapshot is at fault, so that trying again is pointless: it has to be made anew.
    pub fn is_incompatible(&self) -> bool {
        matches!(
            self,
            Self::Snapshot(_)
                | Self::SnapshotMemory(_)
                | Self::RestoreVcpu(_)
                | Self::RestoreVm(_)
                | Self::RestoreDevice { .. }
                | Self::RestoreSerial(_)
                | Self::NoNet
                | Self::TwoNets
                | Self::Balloons
        )
    }
}
