//! One vCPU: set-up, saving, restoring.

use kvm_bindings::{CpuId, kvm_cpuid_entry2, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use super::msr::{self, MsrError};
use super::state::VcpuState;
use crate::boot::Entry;

/// Offsets in the local APIC's page, and what to put there.
const LAPIC_LINT0: usize = 0x350;
const LAPIC_LINT1: usize = 0x360;
const DELIVERY_EXTERNAL: u32 = 7 << 8;
const DELIVERY_NMI: u32 = 4 << 8;
const DELIVERY_MASK: u32 = 7 << 8;

/// IA32_MISC_ENABLE (fast strings, no BTS, no PEBS) and the default memory type (enabled, write-back).
const BOOT_MSRS: [(u32, u64); 2] = [(0x1a0, 1 | 1 << 11 | 1 << 12), (0x2ff, 1 << 11 | 6)];

/// How far the host's TSC may be from the snapshot's when KVM cannot scale it and the guest's timers count its cycles:
/// a hundredth. The frequency is measured anew at every boot of the host and differs in the last digits. Guests without
/// the deadline timer use it for nothing that matters: their clock is the KVM clock and their timer the local APIC's,
/// both kept right by the host.
const TSC_TOLERANCE: u32 = 100;

/// A vCPU cannot be set up, saved or restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VcpuError {
    /// A call of the KVM interface failed.
    #[error("vCPU {vcpu}: {call} failed")]
    Kvm {
        /// Which vCPU.
        vcpu: u8,
        /// Which call.
        call: &'static str,
        /// Why.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// Model specific registers.
    #[error("vCPU {vcpu}")]
    Msr {
        /// Which vCPU.
        vcpu: u8,
        /// Why.
        #[source]
        source: MsrError,
    },
    /// More CPUID leaves than KVM takes.
    #[error("vCPU {vcpu}: {count} CPUID entries are more than KVM takes")]
    Cpuid {
        /// Which vCPU.
        vcpu: u8,
        /// How many.
        count: usize,
    },
    /// The extended state is larger than snapshots hold.
    #[error("XSAVE area has {size} bytes, snapshots hold 4096")]
    XsaveSize {
        /// By KVM.
        size: i32,
    },
    /// The TSC runs at another speed, and KVM cannot scale it.
    #[error("Snapshot needs a TSC of {needed} kHz, here it has {found} and cannot be scaled")]
    TscFrequency {
        /// Of the snapshot.
        needed: u32,
        /// Of this host.
        found: u32,
    },
}

/// Refuses hosts whose XSAVE area is larger than what snapshots hold; `size` is [`Vm::xsave_size`](super::Vm::xsave_size).
pub(crate) fn check_xsave(size: i32) -> Result<(), VcpuError> {
    if size > 4096 { Err(VcpuError::XsaveSize { size }) } else { Ok(()) }
}

/// A vCPU that does not run yet, or stands still.
#[derive(Debug)]
pub(crate) struct Vcpu {
    pub(crate) id: u8,
    pub(crate) fd: VcpuFd,
}

impl Vcpu {
    fn kvm(&self, call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> VcpuError + use<> {
        let vcpu = self.id;
        move |source| VcpuError::Kvm { vcpu, call, source }
    }

    /// Tells the vCPU what processor it is.
    pub(crate) fn set_cpuid(&self, entries: &[kvm_cpuid_entry2]) -> Result<(), VcpuError> {
        let cpuid = CpuId::from_entries(entries)
            .map_err(|_| VcpuError::Cpuid { vcpu: self.id, count: entries.len() })?;
        self.fd.set_cpuid2(&cpuid).map_err(self.kvm("KVM_SET_CPUID2"))
    }

    /// Wires the local interrupt pins as a BIOS would: PIC on LINT0, NMI on LINT1.
    pub(crate) fn set_local_interrupts(&self) -> Result<(), VcpuError> {
        let mut lapic = self.fd.get_lapic().map_err(self.kvm("KVM_GET_LAPIC"))?;
        for (offset, mode) in [(LAPIC_LINT0, DELIVERY_EXTERNAL), (LAPIC_LINT1, DELIVERY_NMI)] {
            if let Some(register) = lapic.regs.get_mut(offset..offset + 4) {
                let mut bytes = [0u8; 4];
                for (to, from) in bytes.iter_mut().zip(register.iter()) {
                    *to = from.to_le_bytes()[0];
                }
                let value = u32::from_le_bytes(bytes) & !DELIVERY_MASK | mode;
                for (to, from) in register.iter_mut().zip(value.to_le_bytes()) {
                    *to = std::ffi::c_char::from_le_bytes([from]);
                }
            }
        }
        self.fd.set_lapic(&lapic).map_err(self.kvm("KVM_SET_LAPIC"))
    }

    /// Makes this the vCPU the kernel starts on.
    pub(crate) fn set_entry(&self, entry: &Entry) -> Result<(), VcpuError> {
        self.fd.set_sregs(&entry.sregs).map_err(self.kvm("KVM_SET_SREGS"))?;
        self.fd.set_regs(&entry.regs).map_err(self.kvm("KVM_SET_REGS"))
    }

    /// Frequency of the guest's TSC in kHz.
    pub(crate) fn tsc_khz(&self) -> Result<u32, VcpuError> {
        self.fd.get_tsc_khz().map_err(self.kvm("KVM_GET_TSC_KHZ"))
    }

    /// Reads everything. The vCPU must have completed its last exit.
    pub(crate) fn save(&self, msrs: &[u32]) -> Result<VcpuState, VcpuError> {
        // The order is KVM's: reading the state of an application processor that waits for its start-up IPI changes
        // other state, so it goes first; reading events last keeps what the other calls may inject.
        Ok(VcpuState {
            mp_state: self.fd.get_mp_state().map_err(self.kvm("KVM_GET_MP_STATE"))?,
            regs: self.fd.get_regs().map_err(self.kvm("KVM_GET_REGS"))?,
            sregs: self.fd.get_sregs().map_err(self.kvm("KVM_GET_SREGS"))?,
            xsave: self.fd.get_xsave().map_err(self.kvm("KVM_GET_XSAVE"))?,
            xcrs: self.fd.get_xcrs().map_err(self.kvm("KVM_GET_XCRS"))?,
            debug_regs: self.fd.get_debug_regs().map_err(self.kvm("KVM_GET_DEBUGREGS"))?,
            lapic: self.fd.get_lapic().map_err(self.kvm("KVM_GET_LAPIC"))?,
            msrs: msr::save(&self.fd, msrs).map_err(|source| VcpuError::Msr { vcpu: self.id, source })?,
            events: self.fd.get_vcpu_events().map_err(self.kvm("KVM_GET_VCPU_EVENTS"))?,
        })
    }

    /// Writes everything to a fresh vCPU which has its CPUID.
    pub(crate) fn restore(&self, state: &VcpuState) -> Result<(), VcpuError> {
        self.fd.set_mp_state(state.mp_state).map_err(self.kvm("KVM_SET_MP_STATE"))?;
        self.fd.set_regs(&state.regs).map_err(self.kvm("KVM_SET_REGS"))?;
        self.fd.set_sregs(&state.sregs).map_err(self.kvm("KVM_SET_SREGS"))?;
        // SAFETY: KVM reads as much as the vCPU's XSAVE area has, and `check_xsave` made sure that is not more than
        // the 4096 bytes of this structure.
        unsafe { self.fd.set_xsave(&state.xsave) }.map_err(self.kvm("KVM_SET_XSAVE"))?;
        self.fd.set_xcrs(&state.xcrs).map_err(self.kvm("KVM_SET_XCRS"))?;
        self.fd.set_debug_regs(&state.debug_regs).map_err(self.kvm("KVM_SET_DEBUGREGS"))?;
        // The APIC's base and mode are in sregs; the deadline timer among the MSRs needs the APIC.
        self.fd.set_lapic(&state.lapic).map_err(self.kvm("KVM_SET_LAPIC"))?;
        msr::restore(&self.fd, &state.msrs).map_err(|source| VcpuError::Msr { vcpu: self.id, source })?;
        self.fd.set_vcpu_events(&state.events).map_err(self.kvm("KVM_SET_VCPU_EVENTS"))?;
        self.clock_paused();
        Ok(())
    }

    /// Runs the TSC at the snapshot's frequency, or refuses. `matters` says whether the guest's timers depend on it.
    pub(crate) fn match_tsc(&self, needed: u32, scalable: bool, matters: bool) -> Result<(), VcpuError> {
        let found = self.tsc_khz()?;
        if found == needed {
            return Ok(());
        }
        if scalable {
            return self.fd.set_tsc_khz(needed).map_err(self.kvm("KVM_SET_TSC_KHZ"));
        }
        if matters && found.abs_diff(needed) > needed / TSC_TOLERANCE {
            return Err(VcpuError::TscFrequency { needed, found });
        }
        Ok(())
    }

    /// Tells the guest's clock that it stood still, so that its watchdogs do not take offence. Guests without a KVM
    /// clock do not care.
    pub(crate) fn clock_paused(&self) {
        // EINVAL when the guest has no KVM clock (yet): nothing to tell then.
        let _ = self.fd.kvmclock_ctrl();
    }

    /// Registers a BIOS would have set: fast string operations on, memory cached unless said otherwise.
    pub(crate) fn set_boot_msrs(&self) -> Result<(), VcpuError> {
        let entries = BOOT_MSRS.map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() });
        msr::restore(&self.fd, &entries).map_err(|source| VcpuError::Msr { vcpu: self.id, source })
    }
}
