//! The KVM side of a microVM: memory slots, interrupt controllers, vCPUs.

mod cpuid;
mod exit;
mod msr;
mod runner;
mod state;
mod vcpu;

use std::arch::x86_64::__cpuid;

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_MAX_CPUID_ENTRIES,
    KVM_PIT_SPEAKER_DUMMY, kvm_clock_data, kvm_irqchip, kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VmFd};

pub use vcpu::VcpuError;

pub(crate) use cpuid::{CpuTemplate, TSC_DEADLINE};
pub(crate) use exit::{ExitReason, ExitSignal};
pub use runner::CrewError;
pub(crate) use runner::{Crew, VcpuBus};
pub(crate) use state::{VcpuState, VmState};
pub(crate) use vcpu::{Vcpu, check_xsave};

use crate::memory::GuestRam;

/// Three pages below 4 GiB that Intel processors need for real mode.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// What KVM must be able to do.
const REQUIRED: [(Cap, &str); 7] = [
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Pit2, "KVM_CAP_PIT2"),
    (Cap::PitState2, "KVM_CAP_PIT_STATE2"),
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
];

/// The machine around the vCPUs cannot be set up, saved or restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VmError {
    /// There is no usable KVM.
    #[error("Cannot open /dev/kvm")]
    Open(#[source] kvm_ioctls::Error),
    /// This KVM lacks something.
    #[error("KVM has no {0}")]
    Capability(&'static str),
    /// A call of the KVM interface failed.
    #[error("{call} failed")]
    Kvm {
        /// Which call.
        call: &'static str,
        /// Why.
        #[source]
        source: kvm_ioctls::Error,
    },
}

fn kvm_error(call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> VmError {
    move |source| VmError::Kvm { call, source }
}

/// Opens KVM and checks what it can do.
pub(crate) fn open_kvm() -> Result<Kvm, VmError> {
    let kvm = Kvm::new().map_err(VmError::Open)?;
    match REQUIRED.iter().find(|(capability, _)| !kvm.check_extension(*capability)) {
        Some((_, name)) => Err(VmError::Capability(name)),
        None => Ok(kvm),
    }
}

/// The processor a guest with `vcpus` vCPUs sees on this host.
pub(crate) fn cpu_template(kvm: &Kvm, vcpus: u8) -> Result<CpuTemplate, VmError> {
    let supported =
        kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(kvm_error("KVM_GET_SUPPORTED_CPUID"))?;
    // KVM can emulate the deadline timer on any processor, but it is only as good as the host's idea of the TSC's
    // frequency; on emulated processors, which lack it, guests were seen to miss ticks for half a minute with it.
    let deadline = kvm.check_extension(Cap::TscDeadlineTimer) && __cpuid(1).ecx & TSC_DEADLINE != 0;
    Ok(CpuTemplate::new(&supported, vcpus, deadline))
}

/// The model specific registers a snapshot holds.
pub(crate) fn msrs_to_save(kvm: &Kvm) -> Result<Vec<u32>, VmError> {
    let listed = kvm.get_msr_index_list().map_err(kvm_error("KVM_GET_MSR_INDEX_LIST"))?;
    Ok(msr::to_save(listed.as_slice()))
}

/// A virtual machine.
#[derive(Debug)]
pub(crate) struct Vm {
    pub(crate) fd: VmFd,
}

impl Vm {
    /// Makes a machine with nothing in it.
    pub(crate) fn new(kvm: &Kvm) -> Result<Self, VmError> {
        let fd = kvm.create_vm().map_err(kvm_error("KVM_CREATE_VM"))?;
        Ok(Self { fd })
    }

    /// Gives it memory. `ram` must outlive it: the guest writes to these addresses.
    pub(crate) fn plug(&self, ram: &GuestRam) -> Result<(), VmError> {
        for (slot, range) in (0u32..).zip(ram.ranges()) {
            let region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: range.guest,
                memory_size: range.length as u64,
                userspace_addr: range.host.expose_provenance() as u64,
            };
            // SAFETY: the range is mapped, does not overlap another slot, and stays mapped until the process is
            // done with the machine: `Machine` owns both and drops the machine first.
            unsafe { self.fd.set_user_memory_region(region) }
                .map_err(kvm_error("KVM_SET_USER_MEMORY_REGION"))?;
        }
        Ok(())
    }

    /// Adds the interrupt controllers and the timer, which vCPUs need.
    pub(crate) fn add_controllers(&self) -> Result<(), VmError> {
        self.fd.set_tss_address(TSS_ADDRESS).map_err(kvm_error("KVM_SET_TSS_ADDR"))?;
        self.fd.create_irq_chip().map_err(kvm_error("KVM_CREATE_IRQCHIP"))?;
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        self.fd.create_pit2(pit).map_err(kvm_error("KVM_CREATE_PIT2"))
    }

    /// Has the guest's clock begin now, not when the machine was made.
    pub(crate) fn start_clock(&self) -> Result<(), VmError> {
        self.fd.set_clock(&kvm_clock_data::default()).map_err(kvm_error("KVM_SET_CLOCK"))
    }

    /// Adds vCPU `id`.
    pub(crate) fn vcpu(&self, id: u8) -> Result<Vcpu, VmError> {
        let fd = self.fd.create_vcpu(u64::from(id)).map_err(kvm_error("KVM_CREATE_VCPU"))?;
        Ok(Vcpu { id, fd })
    }

    fn irqchip(&self, chip_id: u32) -> Result<kvm_irqchip, VmError> {
        let mut chip = kvm_irqchip { chip_id, ..Default::default() };
        self.fd.get_irqchip(&mut chip).map_err(kvm_error("KVM_GET_IRQCHIP"))?;
        Ok(chip)
    }

    /// Size of the extended state of a vCPU, in bytes.
    pub(crate) fn xsave_size(&self) -> i32 {
        self.fd.check_extension_int(Cap::Xsave2)
    }

    /// Whether vCPUs can run their TSC at another speed than the host's.
    pub(crate) fn tsc_scalable(&self) -> bool {
        self.fd.check_extension(Cap::TscControl)
    }

    /// Reads interrupt controllers, timer and clock. All vCPUs stand still.
    pub(crate) fn save(&self) -> Result<VmState, VmError> {
        let mut clock = self.fd.get_clock().map_err(kvm_error("KVM_GET_CLOCK"))?;
        // Guest time goes on from where it stopped, however long the snapshot lay on the disk: a jump would fire
        // every timer at once. The agent sets the wall clock. (KVM would add the time passed if told the real time.)
        (clock.flags, clock.realtime, clock.host_tsc) = (0, 0, 0);
        Ok(VmState {
            pic_master: self.irqchip(KVM_IRQCHIP_PIC_MASTER)?,
            pic_slave: self.irqchip(KVM_IRQCHIP_PIC_SLAVE)?,
            io_apic: self.irqchip(KVM_IRQCHIP_IOAPIC)?,
            pit: self.fd.get_pit2().map_err(kvm_error("KVM_GET_PIT2"))?,
            clock,
        })
    }

    /// Writes interrupt controllers, timer and clock; after the vCPUs, whose APICs the controllers talk to.
    pub(crate) fn restore(&self, state: &VmState) -> Result<(), VmError> {
        self.fd.set_pit2(&state.pit).map_err(kvm_error("KVM_SET_PIT2"))?;
        self.fd.set_clock(&state.clock).map_err(kvm_error("KVM_SET_CLOCK"))?;
        for chip in [&state.pic_master, &state.pic_slave, &state.io_apic] {
            self.fd.set_irqchip(chip).map_err(kvm_error("KVM_SET_IRQCHIP"))?;
        }
        Ok(())
    }
}
