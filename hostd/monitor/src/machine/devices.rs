//! Making the devices, and plugging them into KVM.

use std::sync::Arc;

use kvm_ioctls::IoEventAddress;
use mote_virtio::{
    Block, BlockConfig, DeviceState, MmioTransport, QUEUE_NOTIFY, Rng, TransportState, VirtioDevice, Vsock,
    VsockConfig, VsockListener,
};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::config::{Drive, SerialTarget, VsockEnds};
use super::error::StartError;
use crate::devices::{SERIAL_IRQ, SerialLog, VIRTIO_IRQ_FIRST, VIRTIO_LIMIT, window};
use crate::vm::{Vm, VmError};

/// A device, and its state if it comes from a snapshot.
type Part = (Box<dyn VirtioDevice>, Option<TransportState>);

/// Makes a descriptor for an event.
pub(super) fn event() -> Result<EventFd, StartError> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(StartError::Event)
}

/// Opens drive `index`.
pub(super) fn block(index: usize, drive: &Drive) -> Result<Block, StartError> {
    let config = BlockConfig {
        path: drive.path.clone(),
        read_only: drive.read_only,
        id: format!("drive{index}"),
        sectors: drive.sectors,
    };
    Block::open(&config).map_err(|source| StartError::Drive { index, source })
}

/// Makes the socket device.
pub(super) fn vsock(cid: u32, ends: VsockEnds) -> Result<Vsock, StartError> {
    let listener = ends.listener.map_or(VsockListener::Bind, VsockListener::Fd);
    Ok(Vsock::new(VsockConfig { cid: u64::from(cid), listener, path: ends.path })?)
}

/// The devices of a new microVM: drives, vsock, rng. Their order is that of their windows and interrupts.
pub(super) fn fresh(drives: Vec<Block>, cid: u32, ends: Option<VsockEnds>) -> Result<Vec<Part>, StartError> {
    let mut parts: Vec<Part> = Vec::new();
    for drive in drives {
        parts.push((Box::new(drive), None));
    }
    if let Some(ends) = ends {
        parts.push((Box::new(vsock(cid, ends)?), None));
    }
    parts.push((Box::new(Rng::new()), None));
    Ok(parts)
}

/// The devices a snapshot had, in its order. Drives are taken from `drives` one after the other.
pub(super) fn saved(
    states: Vec<TransportState>,
    drives: Vec<Block>,
    cid: u32,
    ends: Option<VsockEnds>,
) -> Result<Vec<Part>, StartError> {
    let (mut drives, mut ends) = (drives.into_iter(), ends);
    let mut parts: Vec<Part> = Vec::new();
    for state in states {
        let device: Box<dyn VirtioDevice> = match &state.device {
            DeviceState::Block(_) => {
                let index = parts.len();
                Box::new(drives.next().ok_or(StartError::NoDrive { index, count: index })?)
            }
            DeviceState::Vsock(_) => Box::new(vsock(cid, ends.take().ok_or(StartError::NoVsock)?)?),
            DeviceState::Rng(_) => Box::new(Rng::new()),
        };
        parts.push((device, Some(state)));
    }
    Ok(parts)
}

/// Puts each device behind a window.
pub(super) fn assemble(
    parts: Vec<Part>,
    memory: &GuestMemoryMmap,
) -> Result<Vec<Arc<MmioTransport>>, StartError> {
    let count = parts.len();
    if count > VIRTIO_LIMIT {
        return Err(StartError::Devices { count, limit: VIRTIO_LIMIT });
    }
    let mut transports = Vec::new();
    for (index, (device, state)) in parts.into_iter().enumerate() {
        let transport = match state {
            None => MmioTransport::new(device, memory.clone(), event()?)?,
            Some(state) => MmioTransport::restore(&state, device, memory.clone(), event()?)
                .map_err(|source| StartError::RestoreDevice { index, source })?,
        };
        transports.push(Arc::new(transport));
    }
    Ok(transports)
}

/// Interrupt and address of each of `count` devices.
pub(super) fn places(count: usize) -> impl Iterator<Item = (u32, u64)> {
    (VIRTIO_IRQ_FIRST..).zip((0..count).map(window))
}

/// Connects interrupts and queue kicks with KVM, so that neither costs an exit.
pub(super) fn connect(
    vm: &Vm,
    transports: &[Arc<MmioTransport>],
    serial_irq: &EventFd,
) -> Result<(), VmError> {
    let failed = |call| move |source| VmError::Kvm { call, source };
    vm.fd.register_irqfd(serial_irq, SERIAL_IRQ).map_err(failed("KVM_IRQFD"))?;
    for (transport, (irq, address)) in transports.iter().zip(places(transports.len())) {
        vm.fd.register_irqfd(transport.irq(), irq).map_err(failed("KVM_IRQFD"))?;
        for (queue, kick) in (0u32..).zip(transport.queue_events()) {
            let at = IoEventAddress::Mmio(address + QUEUE_NOTIFY);
            vm.fd.register_ioevent(kick, &at, queue).map_err(failed("KVM_IOEVENTFD"))?;
        }
    }
    Ok(())
}

/// Opens the console's log.
pub(super) fn serial_log(target: &SerialTarget) -> Result<SerialLog, StartError> {
    Ok(match target {
        SerialTarget::Nowhere => SerialLog::Nowhere,
        SerialTarget::Terminal => SerialLog::Stdout,
        SerialTarget::File(path) => {
            SerialLog::file(path).map_err(|source| StartError::Serial { path: path.clone(), source })?
        }
    })
}
