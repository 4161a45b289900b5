//! A whole snapshot state as bytes.

use mote_virtio::TransportState;
use serde::{Deserialize, Serialize};

use super::SnapshotInfo;
use super::format::{Builder, Container, FormatError, Section};
use crate::devices::SerialRecord;
use crate::vm::{VcpuState, VmState};

/// The emulated devices.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeviceRecords {
    /// The serial port.
    pub(crate) serial: SerialRecord,
    /// The virtio devices in order of their windows.
    pub(crate) virtio: Vec<TransportState>,
}

/// Everything but memory.
#[derive(Debug)]
pub(crate) struct VmSnapshot {
    pub(crate) info: SnapshotInfo,
    pub(crate) devices: DeviceRecords,
    pub(crate) vm: VmState,
    pub(crate) vcpus: Vec<VcpuState>,
}

/// The content of a state file.
pub(crate) fn encode(snapshot: &VmSnapshot) -> Result<Vec<u8>, serde_json::Error> {
    let mut builder = Builder::default();
    builder.section(Section::Info, 0, &serde_json::to_vec(&snapshot.info)?);
    builder.section(Section::Devices, 0, &serde_json::to_vec(&snapshot.devices)?);
    builder.section(Section::Vm, 0, &snapshot.vm.encode());
    for (index, vcpu) in (0u32..).zip(&snapshot.vcpus) {
        builder.section(Section::Vcpu, index, &vcpu.encode());
    }
    Ok(builder.finish())
}

/// The other way round. Only what a whole and consistent state file holds gets through.
pub(crate) fn decode(file: &[u8]) -> Result<VmSnapshot, FormatError> {
    let container = Container::parse(file)?;
    let info: SnapshotInfo = container.json(Section::Info)?;
    let vcpus = (0..u32::from(info.vcpus))
        .map(|index| VcpuState::decode(container.section(Section::Vcpu, index)?))
        .collect::<Result<_, _>>()?;
    Ok(VmSnapshot {
        devices: container.json(Section::Devices)?,
        vm: VmState::decode(container.section(Section::Vm, 0)?)?,
        vcpus,
        info,
    })
}
