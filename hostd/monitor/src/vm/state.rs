//! State of vCPUs and of the machine around them, as structures of the KVM interface.

use kvm_bindings::{
    kvm_clock_data, kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_pit_state2,
    kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};

use crate::snapshot::{FormatError, Reader, put};

/// Most MSRs of a vCPU.
const MSR_LIMIT: u32 = 1024;

/// One vCPU.
#[derive(Debug)]
pub(crate) struct VcpuState {
    pub(crate) mp_state: kvm_mp_state,
    pub(crate) regs: kvm_regs,
    pub(crate) sregs: kvm_sregs,
    pub(crate) xsave: kvm_xsave,
    pub(crate) xcrs: kvm_xcrs,
    pub(crate) debug_regs: kvm_debugregs,
    pub(crate) lapic: kvm_lapic_state,
    pub(crate) events: kvm_vcpu_events,
    pub(crate) msrs: Vec<kvm_msr_entry>,
}

impl VcpuState {
    /// As bytes of a section.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16 * 1024);
        put(&mut bytes, &self.mp_state);
        put(&mut bytes, &self.regs);
        put(&mut bytes, &self.sregs);
        put(&mut bytes, &self.xsave);
        put(&mut bytes, &self.xcrs);
        put(&mut bytes, &self.debug_regs);
        put(&mut bytes, &self.lapic);
        put(&mut bytes, &self.events);
        let count = u32::try_from(self.msrs.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&count.to_le_bytes());
        for entry in &self.msrs {
            put(&mut bytes, entry);
        }
        bytes
    }

    /// From the bytes of a section.
    pub(crate) fn decode(mut reader: Reader<'_>) -> Result<Self, FormatError> {
        let mut state = Self {
            mp_state: reader.value("vcpu.mp_state")?,
            regs: reader.value("vcpu.regs")?,
            sregs: reader.value("vcpu.sregs")?,
            xsave: reader.value("vcpu.xsave")?,
            xcrs: reader.value("vcpu.xcrs")?,
            debug_regs: reader.value("vcpu.debug_regs")?,
            lapic: reader.value("vcpu.lapic")?,
            events: reader.value("vcpu.events")?,
            msrs: Vec::new(),
        };
        let offset = reader.offset();
        let count = reader.u32("vcpu.msr_count")?;
        if count > MSR_LIMIT {
            return Err(FormatError::Field { field: "vcpu.msr_count", offset });
        }
        for _ in 0..count {
            state.msrs.push(reader.value("vcpu.msr")?);
        }
        reader.finish("vcpu")?;
        Ok(state)
    }
}

/// Interrupt controllers, timer and clock.
#[derive(Debug)]
pub(crate) struct VmState {
    pub(crate) pic_master: kvm_irqchip,
    pub(crate) pic_slave: kvm_irqchip,
    pub(crate) io_apic: kvm_irqchip,
    pub(crate) pit: kvm_pit_state2,
    pub(crate) clock: kvm_clock_data,
}

impl VmState {
    /// As bytes of a section.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(2048);
        put(&mut bytes, &self.pic_master);
        put(&mut bytes, &self.pic_slave);
        put(&mut bytes, &self.io_apic);
        put(&mut bytes, &self.pit);
        put(&mut bytes, &self.clock);
        bytes
    }

    /// From the bytes of a section.
    pub(crate) fn decode(mut reader: Reader<'_>) -> Result<Self, FormatError> {
        let state = Self {
            pic_master: reader.value("vm.pic_master")?,
            pic_slave: reader.value("vm.pic_slave")?,
            io_apic: reader.value("vm.io_apic")?,
            pit: reader.value("vm.pit")?,
            clock: reader.value("vm.clock")?,
        };
        reader.finish("vm")?;
        Ok(state)
    }
}
