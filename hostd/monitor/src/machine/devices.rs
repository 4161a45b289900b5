//! Making the devices, and plugging them into KVM.

use std::sync::Arc;

use kvm_ioctls::IoEventAddress;
use mote_virtio::{
    Balloon, Block, BlockConfig, DeviceState, MmioTransport, Net, NetConfig, QUEUE_NOTIFY, Rng,
    TransportState, VirtioDevice, Vsock, VsockConfig, VsockListener,
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

/// Makes the network device of a restored microVM: the one it had, leading to where `config` says or nowhere.
pub(super) fn saved_net(
    states: &[TransportState],
    config: Option<NetConfig>,
) -> Result<Option<Net>, StartError> {
    let saved = states.iter().find_map(|state| match &state.device {
        DeviceState::Net(saved) => Some(saved),
        _ => None,
    });
    let config = match (saved, config) {
        (None, Some(NetConfig { link: Some(_), .. })) => return Err(StartError::NoNet),
        (None, _) => return Ok(None),
        (Some(_), Some(config)) => config,
        (Some(saved), None) => NetConfig { mac: saved.mac, mtu: saved.mtu, link: None },
    };
    Ok(Some(Net::new(config)?))
}

/// The devices of a new microVM: drives, vsock, rng, balloon, net. Their order is that of their windows and interrupts.
pub(super) fn fresh(
    drives: Vec<Block>,
    cid: u32,
    ends: Option<VsockEnds>,
    balloon: Balloon,
    net: Option<Net>,
) -> Result<Vec<Part>, StartError> {
    let mut parts: Vec<Part> = Vec::new();
    for drive in drives {
        parts.push((Box::new(drive), None));
    }
    if let Some(ends) = ends {
        parts.push((Box::new(vsock(cid, ends)?), None));
    }
    parts.push((Box::new(Rng::new()), None));
    parts.push((Box::new(balloon), None));
    if let Some(net) = net {
        parts.push((Box::new(net), None));
    }
    Ok(parts)
}

/// The devices a snapshot had, in its order. Drives are taken from `drives` one after the other.
pub(super) fn saved(
    states: Vec<TransportState>,
    drives: Vec<Block>,
    cid: u32,
    ends: Option<VsockEnds>,
    balloon: Balloon,
    net: Option<Net>,
) -> Result<Vec<Part>, StartError> {
    let (mut drives, mut ends, mut net) = (drives.into_iter(), ends, net);
    let mut balloon = Some(balloon);
    let mut parts: Vec<Part> = Vec::new();
    for state in states {
        let device: Box<dyn VirtioDevice> = match &state.device {
            DeviceState::Block(_) => {
                let index = parts.len();
                Box::new(drives.next().ok_or(StartError::NoDrive { index, count: index })?)
            }
            DeviceState::Vsock(_) => Box::new(vsock(cid, ends.take().ok_or(StartError::NoVsock)?)?),
            DeviceState::Rng(_) => Box::new(Rng::new()),
            DeviceState::Net(_) => Box::new(net.take().ok_or(StartError::TwoNets)?),
            DeviceState::Balloon(_) => Box::new(balloon.take().ok_or(StartError::Balloons)?),
        };
        parts.push((device, Some(state)));
    }
    if balloon.is_some() {
        return Err(StartError::Balloons);
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

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn detached() -> NetConfig {
        NetConfig { mac: MAC, mtu: 1450, link: None }
    }

    #[test]
    fn the_network_device_comes_last() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("drive");
        std::fs::write(&path, [0; 512]).unwrap();
        let drive = block(0, &Drive { path, read_only: true, sectors: None }).unwrap();
        let ends = VsockEnds { listener: None, path: dir.path().join("vsock") };
        let net = Net::new(detached()).unwrap();
        let parts = fresh(vec![drive], 3, Some(ends), Balloon::new(), Some(net)).unwrap();
        assert_eq!(
            parts.iter().map(|(device, _)| device.device_type()).collect::<Vec<_>>(),
            [2, 19, 4, 5, 1]
        );
    }

    #[test]
    fn a_restored_device_is_the_one_it_was_or_none() {
        let memory = GuestMemoryMmap::from_ranges(&[(vm_memory::GuestAddress(0), 4096)]).unwrap();
        let state = |device: Box<dyn VirtioDevice>| {
            MmioTransport::new(device, memory.clone(), event().unwrap()).unwrap().save()
        };
        let net = state(Box::new(Net::new(detached()).unwrap()));
        let balloon = state(Box::new(Balloon::new()));
        let made = |states: &[TransportState]| {
            let net = saved_net(states, None).unwrap();
            super::saved(states.to_vec(), Vec::new(), 3, None, Balloon::new(), net)
        };
        // Nothing said: detached, under its own address.
        let parts = made(&[balloon.clone(), net.clone()]).unwrap();
        let transports = assemble(parts, &memory).unwrap();
        assert_eq!(transports[0].save().device, balloon.device);
        assert_eq!(transports[1].save().device, net.device);
        // Two of them are not ours.
        assert!(matches!(made(&[balloon.clone(), net.clone(), net.clone()]), Err(StartError::TwoNets)));
        assert!(saved_net(&[], Some(detached())).unwrap().is_none());
        // Nor is anything but one balloon.
        for states in [vec![], vec![net], vec![balloon.clone(), balloon]] {
            let refused = made(&states).map(drop).unwrap_err();
            assert!(matches!(refused, StartError::Balloons) && refused.is_incompatible());
        }
    }
}
