//! A whole snapshot state as bytes.

use mote_virtio::TransportState;
use serde::{Deserialize, Serialize};

use super::format::{Builder, Container, FormatError, Section};
use super::{PAGE_SIZE, SnapshotInfo};
use crate::devices::SerialRecord;
use crate::vm::{VcpuState, VmState};

/// Most vCPUs, as the command line has it.
const VCPU_LIMIT: u8 = 32;

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
    let offset = container.section(Section::Info, 0)?.offset();
    if info.vcpus == 0 || info.vcpus > VCPU_LIMIT {
        return Err(FormatError::Field { field: "info.vcpus", offset });
    }
    if info.memory_bytes == 0 || !info.memory_bytes.is_multiple_of(PAGE_SIZE as u64) {
        return Err(FormatError::Field { field: "info.memory_bytes", offset });
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::format::reseal;
    use crate::snapshot::{CpuModel, DriveInfo};
    use kvm_bindings::kvm_msr_entry;
    use proptest::prelude::*;
    use zerocopy::FromZeros;

    fn sample(vcpus: u8) -> VmSnapshot {
        let vcpu = |number: u8| VcpuState {
            mp_state: FromZeros::new_zeroed(),
            regs: kvm_bindings::kvm_regs { rip: u64::from(number), ..Default::default() },
            sregs: FromZeros::new_zeroed(),
            xsave: FromZeros::new_zeroed(),
            xcrs: FromZeros::new_zeroed(),
            debug_regs: FromZeros::new_zeroed(),
            lapic: FromZeros::new_zeroed(),
            events: FromZeros::new_zeroed(),
            msrs: vec![kvm_msr_entry { index: 0x10, data: 7, ..Default::default() }; 3],
        };
        VmSnapshot {
            info: SnapshotInfo {
                monitor_version: "1".to_owned(),
                host_kernel: "6".to_owned(),
                cpu: CpuModel { vendor: "V".to_owned(), family: 1, model: 2, stepping: 3 },
                tsc_khz: 1_000_000,
                cpuid_hash: "00".to_owned(),
                vcpus,
                memory_bytes: 1 << 20,
                stored_bytes: 0,
                memory_checksum: "00".to_owned(),
                base: None,
                drives: vec![DriveInfo { path: "a".into(), read_only: true, bytes: 512, padded: false }],
                cid: 3,
            },
            devices: DeviceRecords { serial: SerialRecord::default(), virtio: Vec::new() },
            vm: VmState {
                pic_master: FromZeros::new_zeroed(),
                pic_slave: FromZeros::new_zeroed(),
                io_apic: FromZeros::new_zeroed(),
                pit: FromZeros::new_zeroed(),
                clock: FromZeros::new_zeroed(),
            },
            vcpus: (0..vcpus).map(vcpu).collect(),
        }
    }

    #[test]
    fn everything_comes_back() {
        let before = sample(2);
        let bytes = encode(&before).unwrap();
        let after = decode(&bytes).unwrap();
        assert_eq!(after.info, before.info);
        assert_eq!(after.vcpus[1].regs.rip, 1);
        assert_eq!(after.vcpus[0].msrs.len(), 3);
        assert_eq!(encode(&after).unwrap(), bytes);
    }

    #[test]
    fn impossible_machines_are_refused() {
        for (vcpus, memory) in [(0, 4096), (33, 4096), (1, 0), (1, 4097)] {
            let mut wrong = sample(vcpus);
            wrong.info.memory_bytes = memory;
            let error = decode(&encode(&wrong).unwrap()).unwrap_err();
            assert!(matches!(error, FormatError::Field { .. }), "{error}");
        }
    }

    proptest! {
        #[test]
        fn damage_is_an_error(position in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut bytes = encode(&sample(1)).unwrap();
            let position = position.index(bytes.len());
            bytes[position] ^= 1 << bit;
            prop_assert!(decode(&bytes).is_err());
        }

        #[test]
        fn truncation_is_an_error(length in any::<prop::sample::Index>()) {
            let bytes = encode(&sample(1)).unwrap();
            prop_assert!(decode(&bytes[..length.index(bytes.len())]).is_err());
        }

        /// Somebody who gets the checksum right still causes nothing worse than an error.
        #[test]
        fn forgery_never_panics(
            noise in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = encode(&sample(1)).unwrap();
            let keep = bytes.len() - cut.index(bytes.len() - 32) / 16;
            bytes.truncate(keep);
            for (position, value) in noise {
                let position = position.index(bytes.len());
                bytes[position] = value;
            }
            let _ = decode(&reseal(bytes));
        }
    }
}
