//! How QEMU runs the appliance's processors: by KVM where a guest may itself use KVM, else emulated.
//!
//! That `/dev/kvm` exists says nothing: the machine may be a guest whose KVM has no vmx or svm to pass on.
//! QEMU's emulation (TCG) has svm with nested paging, so the appliance's own KVM works everywhere.

use std::fs;

use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::Kvm;

/// Leaf and bits of CPUID: vmx is ECX bit 5 of leaf 1, svm is ECX bit 2 of leaf 0x8000_0001.
const VMX: (u32, u32) = (1, 1 << 5);
const SVM: (u32, u32) = (0x8000_0001, 1 << 2);

/// How the processors are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// By the machine's own KVM.
    Kvm,
    /// Emulated.
    Tcg,
}

impl Accelerator {
    /// QEMU's arguments.
    #[must_use]
    pub fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["-accel", "kvm", "-cpu", "host"],
            // Without five-level page tables: nested, every emulated page walk is shorter, and no function
            // needs 57 bits. Measured on warm calls: a sixth less processor time.
            Self::Tcg => &["-accel", "tcg,thread=multi", "-cpu", "max,la57=off"],
        }
    }

    /// Short name, as on QEMU's command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// Processors that QEMU is to make, for an appliance that works with so many.
    ///
    /// Emulated, one more than these: with every FXRSTOR and XRSTOR of any processor QEMU (`cpu_clear_ignne`) reads and
    /// writes the first processor's virtualisation flags from a thread that is not the first processor's. A change
    /// that VMRUN or #VMEXIT makes to them meanwhile is lost: a guest goes on without its nested page tables, or its
    /// host without interrupts. So the first processor is there, and runs no guests.
    #[must_use]
    pub fn processors(self, working: u32) -> u32 {
        match self {
            Self::Tcg if working > 1 => working + 1,
            Self::Tcg | Self::Kvm => working,
        }
    }

    /// What the appliance's kernel is told about these processors. Emulated, its TSC is the machine's own; left to
    /// measure the frequency on a loaded machine it can be off by factors, and its clock with it. The first of
    /// several runs no programs, see [`Self::processors`].
    #[must_use]
    pub fn kernel_options(self, working: u32) -> Vec<String> {
        let mut options = Vec::new();
        if self == Self::Tcg {
            options.extend(
                tsc_khz(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
                    .map(|khz| format!("tsc_early_khz={khz}")),
            );
        }
        if self.processors(working) > working {
            options.push("isolcpus=0".to_owned());
        }
        options
    }

    /// Picks for this machine. The second value says why, for a person.
    #[must_use]
    pub fn choose() -> (Self, String) {
        let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        match has_virtualisation(&flags).then(nested_kvm) {
            None => (Self::Tcg, "emulated: this processor offers no vmx or svm".to_owned()),
            Some(Err(reason)) => (Self::Tcg, format!("emulated: {reason}")),
            Some(Ok(())) => (Self::Kvm, "by KVM, nested".to_owned()),
        }
    }
}

/// Frequency of this machine's TSC: BogoMIPS are two per TSC cycle wherever Linux delays by the TSC.
fn tsc_khz(cpuinfo: &str) -> Option<u64> {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"))?;
    flags.split_whitespace().find(|flag| *flag == "constant_tsc")?;
    let line = cpuinfo.lines().find(|line| line.starts_with("bogomips"))?;
    let (mips, fraction) = line.split_once(':')?.1.trim().split_once('.')?;
    // Two digits follow the point.
    let hundredths: u64 = format!("{mips}{}", fraction.get(..2)?).parse().ok()?;
    Some(hundredths * 5).filter(|khz| (100_000..100_000_000).contains(khz))
}

fn has_virtualisation(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| line.split_whitespace().any(|flag| flag == "vmx" || flag == "svm"))
}

/// Whether a guest of this machine's KVM can run guests itself, tried on KVM rather than guessed.
fn nested_kvm() -> Result<(), String> {
    let kvm = Kvm::new().map_err(|error| format!("/dev/kvm cannot be opened ({error})"))?;
    let vm = kvm.create_vm().map_err(|error| format!("KVM makes no machine ({error})"))?;
    vm.create_vcpu(0).map_err(|error| format!("KVM makes no processor ({error})"))?;
    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(|error| format!("KVM does not say what it offers ({error})"))?;
    let offers = |(leaf, bit): (u32, u32)| {
        cpuid.as_slice().iter().any(|entry| entry.function == leaf && entry.ecx & bit != 0)
    };
    if offers(VMX) || offers(SVM) {
        Ok(())
    } else {
        Err("nested KVM is off (parameter `nested` of kvm_intel or kvm_amd)".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tsc_runs_at_half_the_bogomips() {
        let of = |flags, mips| tsc_khz(&format!("flags\t\t: fpu {flags}\nbogomips\t: {mips}\n"));
        assert_eq!(of("constant_tsc", "5192.18"), Some(2_596_090));
        assert_eq!(of("tsc", "5192.18"), None);
        assert_eq!(of("constant_tsc", "48.00"), None);
        assert_eq!(of("constant_tsc", "many"), None);
    }

    #[test]
    fn the_first_emulated_processor_of_several_runs_no_guests() {
        let spared = |accelerator: Accelerator, working| {
            let options = accelerator.kernel_options(working);
            (accelerator.processors(working), options.contains(&"isolcpus=0".to_owned()))
        };
        assert_eq!(spared(Accelerator::Tcg, 2), (3, true));
        assert_eq!(spared(Accelerator::Tcg, 1), (1, false));
        assert_eq!(spared(Accelerator::Kvm, 2), (2, false));
    }

    #[test]
    fn flags_are_whole_words_of_the_flags_line() {
        assert!(has_virtualisation("processor : 0\nflags\t\t: fpu vmx sse\n"));
        assert!(has_virtualisation("flags : svm\n"));
        assert!(!has_virtualisation("flags : fpu svm_lock vmxnet\nbugs : vmx\nvmx flags : vnmi\n"));
        assert!(!has_virtualisation(""));
    }

    #[test]
    fn a_choice_is_never_against_the_processor() {
        let flags = fs::read_to_string("/proc/cpuinfo").unwrap();
        let (choice, why) = Accelerator::choose();
        assert!(choice == Accelerator::Tcg || has_virtualisation(&flags), "{why}");
    }
}
