//! A microVM: made by booting or restoring, then run, paused, saved.

mod bare;
mod config;
mod devices;
mod error;
mod reclaim;
mod save;

use std::sync::Arc;
use std::time::Instant;

use kvm_ioctls::Kvm;
use mote_virtio::net::{NetCounters, NetCounts};
use mote_virtio::{Balloon, BalloonControl, Net};

pub(crate) use bare::Bare;
pub(crate) use config::{BootConfig, Drive, RestoreConfig, SerialTarget, VsockEnds};
pub use error::StartError;
pub(crate) use reclaim::{Reclaim, Reclaimed};

use crate::boot;
use crate::control::RunState;
use crate::devices::{Bus, Console};
use crate::memory::restore::{Base, RestoredRam};
use crate::memory::{self, Extent, GuestRam, Handler, Populator, Uffd};
use crate::meter::Meter;
use crate::snapshot::{self, DriveInfo, HostFacts, Mismatch, STATE_FILE, SnapshotError};
use crate::vm::{self, Crew, CrewError, ExitSignal, VcpuBus, Vm};
use bare::Plugged;

/// A microVM. Fields are dropped in order: first the threads, last the memory the guest writes to.
#[derive(Debug)]
pub(crate) struct Machine {
    crew: Crew,
    pagers: Pagers,
    vm: Vm,
    kvm: Kvm,
    bus: Arc<Bus>,
    ram: GuestRam,
    state: RunState,
    facts: Facts,
    traffic: Option<NetCounters>,
    balloon: BalloonControl,
}

/// Who works on the memory of a restored microVM. None of them outlives it, and the vCPUs, which wait for them, end
/// first.
#[derive(Debug, Default)]
struct Pagers {
    /// What to map in bulk once the guest runs.
    extents: Vec<Extent>,
    populator: Option<Populator>,
    _handler: Option<Handler>,
    /// Has the page tables tell exactly what the guest touches.
    exact: Option<Uffd>,
    /// What the next snapshot is layered over.
    base: Option<Base>,
}

/// What a snapshot records of a microVM beside its state.
#[derive(Clone, Debug)]
struct Facts {
    host: HostFacts,
    vcpus: u8,
    tsc_khz: u32,
    cpuid_hash: String,
    drives: Vec<DriveInfo>,
    cid: u32,
}

const SECTOR: u64 = 512;

impl Machine {
    /// Makes a microVM that is about to enter its kernel, of what was prepared for it if anything was.
    pub(crate) fn boot(
        config: BootConfig,
        ready: Option<Bare>,
        exit: &Arc<ExitSignal>,
        meter: &mut Meter,
    ) -> Result<Self, StartError> {
        let bare = Bare::fitting(ready, config.vcpus, meter)?;
        let bytes = u64::from(config.memory_mib) << 20;
        let mut ram = GuestRam::new(bytes).map_err(|error| StartError::Memory(crate::error_chain(&error)))?;
        meter.phase("map memory");
        let Plugged { kvm, template, vm, vcpus } = bare.plug(&ram, meter)?;
        for vcpu in &vcpus {
            meter
                .kvm(|| {
                    vcpu.set_boot_msrs()?;
                    vcpu.set_local_interrupts()
                })
                .map_err(StartError::Vcpu)?;
        }
        meter.phase("set up vCPUs");

        let mut blocks = Vec::new();
        let mut drives = Vec::new();
        for (index, drive) in config.drives.iter().enumerate() {
            let block = devices::block(index, drive)?;
            drives.push(drive_info(drive, block.sectors()));
            blocks.push(block);
        }
        let net = config.net.map(Net::new).transpose()?;
        let traffic = net.as_ref().map(Net::counters);
        let balloon = Balloon::new();
        let control = balloon.control();
        let parts = devices::fresh(blocks, config.cid, config.vsock, balloon, net)?;
        let transports = devices::assemble(parts, ram.memory())?;
        meter.phase("make devices");
        let serial_irq = devices::event()?;
        meter.kvm(|| devices::connect(&vm, &transports, &serial_irq))?;
        meter.phase("connect devices");

        let root_read_only = config.drives.first().is_none_or(|drive| drive.read_only);
        let places: Vec<_> = devices::places(transports.len())
            .map(|(irq, address)| boot::cmdline::MmioDevice { address, irq })
            .collect();
        let cmdline = boot::cmdline::build(&config.cmdline, &places, root_read_only)?;
        let mut tsc_khz = 0;
        if let Some(first) = vcpus.first() {
            let sregs = meter
                .kvm(|| first.fd.get_sregs())
                .map_err(|source| vm::VmError::Kvm { call: "KVM_GET_SREGS", source })?;
            let entry = boot::prepare(&mut ram, &config.kernel, &cmdline, config.vcpus, sregs)?;
            meter.phase("load kernel");
            meter.kvm(|| first.set_entry(&entry)).map_err(StartError::Vcpu)?;
            tsc_khz = meter.kvm(|| first.tsc_khz()).map_err(StartError::Vcpu)?;
        }
        let console = Console::new(serial_irq, devices::serial_log(&config.serial)?);
        let bus = Arc::new(Bus::new(console, transports, Arc::clone(exit)));
        let shared: Arc<dyn VcpuBus> = Arc::<Bus>::clone(&bus);
        let crew = Crew::start(vcpus, &shared, exit)?;
        meter.phase("start threads");
        let facts = Facts {
            host: HostFacts::gather(),
            vcpus: config.vcpus,
            tsc_khz,
            cpuid_hash: template.hash(),
            drives,
            cid: config.cid,
        };
        meter.phase("gather facts");
        let pagers = Pagers::default();
        Ok(Self {
            crew,
            pagers,
            vm,
            kvm,
            bus,
            ram,
            state: RunState::Paused,
            facts,
            traffic,
            balloon: control,
        })
    }

    /// Makes a microVM that is about to go on where it was saved, of what was prepared for it if anything was.
    pub(crate) fn restore(
        config: RestoreConfig,
        ready: Option<Bare>,
        exit: &Arc<ExitSignal>,
        meter: &mut Meter,
    ) -> Result<Self, StartError> {
        let dir = &config.dir;
        let bytes = snapshot::read_state(dir)?;
        let saved = snapshot::decode(&bytes)
            .map_err(|source| SnapshotError::Format { path: dir.join(STATE_FILE), source })?;
        let info = saved.info;
        let host = HostFacts::gather();
        snapshot::check_host(dir, &info, &host)?;
        snapshot::check_memory_size(dir, &info)?;
        meter.phase("read state");
        let bare = Bare::fitting(ready, info.vcpus, meter)?;
        let cpuid_hash = bare.template().hash();
        if cpuid_hash != info.cpuid_hash {
            let (needed, found) = (info.cpuid_hash, cpuid_hash);
            let source = Mismatch { property: "CPUID hash", needed, found };
            return Err(SnapshotError::Incompatible { dir: config.dir, source }.into());
        }
        let restored = memory::restore::restore(dir, &info, config.base.as_deref(), config.options)?;
        let (ram, pagers) = Pagers::take(restored)?;
        meter.phase("map memory");
        let Plugged { kvm, template, vm, vcpus } = bare.plug(&ram, meter)?;
        for (vcpu, state) in vcpus.iter().zip(&saved.vcpus) {
            meter
                .kvm(|| {
                    vm::check_xsave(vm.xsave_size())?;
                    vcpu.match_tsc(info.tsc_khz, vm.tsc_scalable(), template.has_deadline_timer())?;
                    vcpu.restore(state)
                })
                .map_err(StartError::RestoreVcpu)?;
        }
        meter.phase("restore vCPUs");
        meter.kvm(|| vm.restore(&saved.vm)).map_err(StartError::RestoreVm)?;
        meter.phase("restore interrupt controllers");

        let drives = replace_drives(&info.drives, &config.drives)?;
        let mut blocks = Vec::new();
        for (index, drive) in drives.iter().enumerate() {
            blocks.push(devices::block(index, drive)?);
        }
        let recorded =
            drives.iter().zip(&blocks).map(|(drive, block)| drive_info(drive, block.sectors())).collect();
        let net = devices::saved_net(&saved.devices.virtio, config.net)?;
        let traffic = net.as_ref().map(Net::counters);
        let balloon = Balloon::new();
        let control = balloon.control();
        let parts = devices::saved(saved.devices.virtio, blocks, info.cid, config.vsock, balloon, net)?;
        let transports = devices::assemble(parts, ram.memory())?;
        meter.phase("make devices");
        let serial_irq = devices::event()?;
        meter.kvm(|| devices::connect(&vm, &transports, &serial_irq))?;
        meter.phase("connect devices");
        let log = devices::serial_log(&config.serial)?;
        let console = Console::restore(&saved.devices.serial, serial_irq, log)
            .map_err(|error| StartError::RestoreSerial(error.to_string()))?;
        for transport in &transports {
            transport.resume();
        }
        let bus = Arc::new(Bus::new(console, transports, Arc::clone(exit)));
        let shared: Arc<dyn VcpuBus> = Arc::<Bus>::clone(&bus);
        let crew = Crew::start(vcpus, &shared, exit)?;
        meter.phase("start threads");
        let facts = Facts {
            host,
            vcpus: info.vcpus,
            tsc_khz: info.tsc_khz,
            cpuid_hash: info.cpuid_hash,
            drives: recorded,
            cid: info.cid,
        };
        Ok(Self {
            crew,
            pagers,
            vm,
            kvm,
            bus,
            ram,
            state: RunState::Paused,
            facts,
            traffic,
            balloon: control,
        })
    }

    /// The devices.
    pub(crate) fn bus(&self) -> &Arc<Bus> {
        &self.bus
    }

    /// Whether it runs.
    pub(crate) fn state(&self) -> RunState {
        self.state
    }

    /// Guest memory in bytes.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.ram.bytes()
    }

    /// Number of vCPUs.
    pub(crate) fn vcpus(&self) -> u8 {
        self.facts.vcpus
    }

    /// What passed through its network device, if it has one.
    pub(crate) fn traffic(&self) -> Option<NetCounts> {
        self.traffic.as_ref().map(NetCounters::read)
    }

    /// Lets the vCPUs run.
    pub(crate) fn resume(&mut self) -> Result<(), CrewError> {
        if self.state == RunState::Paused {
            self.crew.run()?;
            self.state = RunState::Running;
            self.pagers.go();
        }
        Ok(())
    }

    /// Stops the vCPUs and returns how long that took in microseconds. The devices stand still as long as the event
    /// loop, which calls this, does nothing else.
    pub(crate) fn pause(&mut self) -> Result<u64, CrewError> {
        let start = Instant::now();
        if self.state == RunState::Running {
            self.crew.stop()?;
            self.state = RunState::Paused;
        }
        self.bus.console().sync();
        Ok(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }
}

impl Pagers {
    fn take(restored: RestoredRam) -> Result<(GuestRam, Self), StartError> {
        let RestoredRam { ram, paged, populate, exact, base } = restored;
        let failed = |error: std::io::Error| {
            // Not in order, and at once: without its pages the guest must not run on, and once the descriptor is
            // closed the kernel would give it zeros.
            eprintln!("mote-monitor: Cannot serve a page fault of the guest: {error}");
            std::process::exit(1);
        };
        let handler = match paged {
            None => None,
            Some(paged) => Some(paged.serve(failed).map_err(|error| StartError::Memory(error.to_string()))?),
        };
        Ok((ram, Self { extents: populate, populator: None, _handler: handler, exact, base }))
    }

    /// The guest runs: begin what goes on beside it.
    fn go(&mut self) {
        let extents = std::mem::take(&mut self.extents);
        if !extents.is_empty() {
            // Without it the guest is slower, no more.
            self.populator = Populator::start(extents).ok();
        }
    }
}

fn drive_info(drive: &Drive, sectors: u64) -> DriveInfo {
    let padded = drive.sectors.is_some();
    DriveInfo { path: drive.path.clone(), read_only: drive.read_only, bytes: sectors * SECTOR, padded }
}

/// The snapshot's drives with some of their files replaced.
fn replace_drives(
    recorded: &[DriveInfo],
    replacements: &[(usize, std::path::PathBuf)],
) -> Result<Vec<Drive>, StartError> {
    let drive = |info: &DriveInfo| Drive {
        path: info.path.clone(),
        read_only: info.read_only,
        sectors: info.padded.then_some(info.bytes / SECTOR),
    };
    let mut drives: Vec<Drive> = recorded.iter().map(drive).collect();
    for (index, path) in replacements {
        let count = drives.len();
        let drive = drives.get_mut(*index).ok_or(StartError::NoDrive { index: *index, count })?;
        drive.path.clone_from(path);
    }
    Ok(drives)
}
