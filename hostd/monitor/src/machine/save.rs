//! Writing a snapshot.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::Machine;
use crate::control::RunState;
use mote_snapshot::build::file_checksum;
use mote_snapshot::source::{inherited_path, write_runs};
use mote_snapshot::{TOUCHED_FILE, WRITTEN_FILE};

use crate::memory::{self, DumpError};
use crate::snapshot::{self, BaseInfo, DeviceRecords, MEMORY_FILE, STATE_FILE, SnapshotInfo, VmSnapshot};
use crate::vm::{self, CrewError, VcpuError, VmError};

/// Why a snapshot cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SaveError {
    /// It runs.
    #[error("The microVM runs: pause it first")]
    Running,
    /// The folder.
    #[error("Cannot make folder {path}")]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The processor has more state than a snapshot holds.
    #[error("Cannot save this processor")]
    Processor(#[source] VcpuError),
    /// vCPUs.
    #[error("Cannot read the state of the vCPUs")]
    Crew(#[from] CrewError),
    /// Interrupt controllers, clock.
    #[error("Cannot read the state of the virtual machine")]
    Vm(#[from] VmError),
    /// Memory.
    #[error("Cannot save the memory")]
    Memory(#[from] DumpError),
    /// The record of touched pages.
    #[error("Cannot record what the guest touched")]
    Touched(#[source] io::Error),
    /// Encoding.
    #[error("Cannot encode the state")]
    Encode(#[from] serde_json::Error),
    /// The state file.
    #[error("Cannot write {path}")]
    State {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Syncing.
    #[error("Cannot sync the snapshot")]
    Sync(#[source] io::Error),
}

/// What was written.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    pub(crate) memory_bytes: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) memory_checksum: String,
    pub(crate) took_us: u64,
}

impl Machine {
    /// Writes the paused microVM into `dir`. A failed attempt leaves no file behind.
    pub(crate) fn save(&self, dir: &Path, sync: bool) -> Result<Saved, SaveError> {
        if self.state != RunState::Paused {
            return Err(SaveError::Running);
        }
        let start = Instant::now();
        match std::fs::create_dir(dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            Err(source) => return Err(SaveError::Folder { path: dir.to_owned(), source }),
        }
        let (memory_path, state_path) = (dir.join(MEMORY_FILE), dir.join(STATE_FILE));
        // Before the memory is read, which touches all of it.
        self.write_touched(dir)?;
        let base = self.pagers.base.as_ref();
        let dump =
            memory::dump(&self.ram, &memory_path, base.map(|base| &base.file)).inspect_err(|error| {
                // Not when it was there before: somebody may use it.
                if !matches!(error, DumpError::Create { .. }) {
                    remove(&memory_path);
                }
            })?;
        let base = match base {
            None => None,
            Some(base) => {
                let path = inherited_path(dir);
                let written = write_runs(&path, &dump.inherited).and_then(|()| file_checksum(&path));
                let inherited_checksum = written
                    .map_err(|source| SaveError::State { path, source })
                    .inspect_err(|_| remove(&memory_path))?;
                Some(BaseInfo { memory_checksum: base.checksum.clone(), inherited_checksum })
            }
        };
        let info = SnapshotInfo {
            base,
            monitor_version: self.facts.host.monitor_version.clone(),
            host_kernel: self.facts.host.host_kernel.clone(),
            cpu: self.facts.host.cpu.clone(),
            tsc_khz: self.facts.tsc_khz,
            cpuid_hash: self.facts.cpuid_hash.clone(),
            vcpus: self.facts.vcpus,
            memory_bytes: self.ram.bytes(),
            stored_bytes: dump.stored_bytes,
            memory_checksum: dump.checksum.clone(),
            drives: self.facts.drives.clone(),
            cid: self.facts.cid,
        };
        self.save_state(info, &state_path, &dump.file, sync).inspect_err(|_| remove(&memory_path))?;
        Ok(Saved {
            memory_bytes: self.ram.bytes(),
            stored_bytes: dump.stored_bytes,
            memory_checksum: dump.checksum,
            took_us: u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX),
        })
    }

    /// Writes which pages the guest touched, if that is recorded.
    pub(crate) fn write_touched(&self, dir: &Path) -> Result<(), SaveError> {
        if self.pagers.exact.is_none() {
            return Ok(());
        }
        memory::touched_pages(&self.ram)
            .and_then(|touched| {
                write_runs(&dir.join(TOUCHED_FILE), &touched.all)?;
                write_runs(&dir.join(WRITTEN_FILE), &touched.written)
            })
            .map_err(SaveError::Touched)
    }

    fn save_state(
        &self,
        info: SnapshotInfo,
        path: &Path,
        memory: &File,
        sync: bool,
    ) -> Result<(), SaveError> {
        let bytes = snapshot::encode(&self.collect(info)?)?;
        let mut file = memory::create(path)?;
        let failed = |source| SaveError::State { path: path.to_owned(), source };
        file.write_all(&bytes).map_err(failed).inspect_err(|_| remove(path))?;
        if sync {
            memory
                .sync_data()
                .and_then(|()| file.sync_data())
                .map_err(SaveError::Sync)
                .inspect_err(|_| remove(path))?;
        }
        Ok(())
    }

    fn collect(&self, info: SnapshotInfo) -> Result<VmSnapshot, SaveError> {
        let msrs = vm::msrs_to_save(&self.kvm)?;
        vm::check_xsave(self.vm.xsave_size()).map_err(SaveError::Processor)?;
        let vcpus = self.crew.save(&msrs)?;
        let virtio = self.bus.virtio().iter().map(|transport| transport.save()).collect();
        let devices = DeviceRecords { serial: self.bus.console().save(), virtio };
        Ok(VmSnapshot { info, devices, vm: self.vm.save()?, vcpus })
    }
}

fn remove(path: &Path) {
    // Best effort: the caller removes the whole folder of a failed snapshot anyway.
    let _ = std::fs::remove_file(path);
}
