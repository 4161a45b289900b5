//! What of a microVM depends on nothing but the number of its vCPUs.

use kvm_ioctls::Kvm;

use super::error::StartError;
use crate::memory::GuestRam;
use crate::meter::Meter;
use crate::vm::{self, CpuTemplate, Vcpu, Vm};

/// KVM, and perhaps a machine that has no memory yet.
#[derive(Debug)]
pub(crate) struct Bare {
    kvm: Kvm,
    template: CpuTemplate,
    vcpus: u8,
    made: Option<(Vm, Vec<Vcpu>)>,
}

/// A machine with memory, whose vCPUs know what processors they are and nothing else.
pub(super) struct Plugged {
    pub(super) kvm: Kvm,
    pub(super) template: CpuTemplate,
    pub(super) vm: Vm,
    pub(super) vcpus: Vec<Vcpu>,
}

impl Bare {
    /// Opens KVM for a microVM with `vcpus` vCPUs.
    pub(crate) fn open(vcpus: u8, meter: &mut Meter) -> Result<Self, StartError> {
        let kvm = meter.kvm(vm::open_kvm)?;
        let template = meter.kvm(|| vm::cpu_template(&kvm, vcpus))?;
        meter.phase("open KVM, CPUID");
        Ok(Self { kvm, template, vcpus, made: None })
    }

    /// The same with the machine made already, but for its memory. For milliseconds of that the kernel only waits, as
    /// it does once more when memory is plugged in right behind it; later that costs no waiting.
    pub(crate) fn ahead(vcpus: u8, meter: &mut Meter) -> Result<Self, StartError> {
        let mut bare = Self::open(vcpus, meter)?;
        let vm = meter.kvm(|| Vm::new(&bare.kvm))?;
        let crew = bare.complete(&vm, meter)?;
        bare.made = Some((vm, crew));
        Ok(bare)
    }

    /// What was prepared, if it is for as many vCPUs as are needed; made now, if nothing was.
    pub(super) fn fitting(ready: Option<Self>, vcpus: u8, meter: &mut Meter) -> Result<Self, StartError> {
        match ready {
            None => Self::open(vcpus, meter),
            Some(bare) if bare.vcpus == vcpus => Ok(bare),
            Some(bare) => Err(StartError::Vcpus { ready: bare.vcpus, needed: vcpus }),
        }
    }

    /// The processors its vCPUs are.
    pub(super) fn template(&self) -> &CpuTemplate {
        &self.template
    }

    /// Gives the machine its memory, which must outlive it.
    pub(super) fn plug(mut self, ram: &GuestRam, meter: &mut Meter) -> Result<Plugged, StartError> {
        let (vm, vcpus) = match self.made.take() {
            Some((vm, vcpus)) => {
                meter.kvm(|| vm.plug(ram))?;
                meter.kvm(|| vm.start_clock())?;
                meter.phase("plug memory in");
                (vm, vcpus)
            }
            None => {
                let vm = meter.kvm(|| Vm::new(&self.kvm))?;
                // Now, while nobody uses the machine and the kernel has to wait for nobody.
                meter.kvm(|| vm.plug(ram))?;
                let vcpus = self.complete(&vm, meter)?;
                (vm, vcpus)
            }
        };
        Ok(Plugged { kvm: self.kvm, template: self.template, vm, vcpus })
    }

    /// Adds interrupt controllers and vCPUs.
    fn complete(&self, vm: &Vm, meter: &mut Meter) -> Result<Vec<Vcpu>, StartError> {
        meter.kvm(|| vm.add_controllers())?;
        meter.phase("create VM");
        let mut vcpus = Vec::new();
        for id in 0..self.vcpus {
            let vcpu = meter.kvm(|| vm.vcpu(id))?;
            meter.kvm(|| vcpu.set_cpuid(&self.template.for_vcpu(id))).map_err(StartError::Vcpu)?;
            vcpus.push(vcpu);
        }
        meter.phase("create vCPUs");
        Ok(vcpus)
    }
}
