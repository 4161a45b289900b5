//! What the guest learns about its processor.
//!
//! The base is what KVM supports here. From it everything is taken away that a microVM has no business with
//! (nested virtualisation, performance counters), that would not survive a snapshot (the invariant TSC: guests use
//! the KVM clock, which the host keeps right across restores), or that tells on which physical processor we ran
//! when we asked. What is left is the same for every microVM with the same number of vCPUs on this host, and its
//! hash is recorded in snapshots.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use xxhash_rust::xxh3::Xxh3;

/// Registers of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// Bits of a register, in every sub-leaf.
struct Bits {
    leaf: u32,
    register: Register,
    bits: u32,
}

/// Taken away.
const CLEAR: [Bits; 9] = [
    // Performance monitoring capability MSR (15), VMX (5), MONITOR (3), SMX (6), debug store (2).
    Bits { leaf: 1, register: Register::Ecx, bits: 1 << 15 | 1 << 5 | 1 << 3 | 1 << 6 | 1 << 2 },
    // Debug store (21), thermal monitoring (22, 29).
    Bits { leaf: 1, register: Register::Edx, bits: 1 << 21 | 1 << 22 | 1 << 29 },
    // SGX (2).
    Bits { leaf: 7, register: Register::Ebx, bits: 1 << 2 },
    // WAITPKG (5): a guest must not doze on our time; SGX launch control (30).
    Bits { leaf: 7, register: Register::Ecx, bits: 1 << 5 | 1 << 30 },
    // AMX (22, 24, 25): its state does not fit the classic XSAVE area that snapshots hold.
    Bits { leaf: 7, register: Register::Edx, bits: 1 << 22 | 1 << 24 | 1 << 25 },
    // SVM (2), instruction based sampling (10), topology extensions (22), performance counters (23, 24, 28).
    Bits {
        leaf: 0x8000_0001,
        register: Register::Ecx,
        bits: 1 << 2 | 1 << 10 | 1 << 22 | 1 << 23 | 1 << 24 | 1 << 28,
    },
    // Invariant TSC (8).
    Bits { leaf: 0x8000_0007, register: Register::Edx, bits: 1 << 8 },
    // KVM's asynchronous page faults (4, 10, 14): the guest parks the task whose page is not there and waits for an
    // interrupt, of which half is state of the host that no snapshot holds; after restores tasks were left waiting.
    Bits { leaf: KVM_FEATURES, register: Register::Eax, bits: 1 << 4 | 1 << 10 | 1 << 14 },
    // Performance counter extensions.
    Bits { leaf: 0x8000_0022, register: Register::Eax, bits: u32::MAX },
];

/// Leaves that are left out: performance counters, SGX, tracing, AMX, newer forms of the topology, SVM, cache and
/// topology of the processor we happen to run on.
const DROP: [u32; 12] = [
    0xa,
    0x12,
    0x14,
    0x1d,
    0x1e,
    0x1f,
    0x8000_000a,
    0x8000_001b,
    0x8000_001d,
    0x8000_001e,
    0x8000_0026,
    0x8000_001f,
];

/// What KVM offers to guests that know it.
const KVM_FEATURES: u32 = 0x4000_0001;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, ECX: the local APIC's timer can wait for a value of the TSC.
pub(crate) const TSC_DEADLINE: u32 = 1 << 24;
const HYPER_THREADING: u32 = 1 << 28;
const CACHE_LINE_UNITS: u32 = 8;
const LEVEL_THREAD: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;

/// The CPUID of a kind of microVM; [`for_vcpu`](Self::for_vcpu) makes it that of one vCPU.
#[derive(Clone, Debug)]
pub(crate) struct CpuTemplate {
    entries: Vec<kvm_cpuid_entry2>,
    vcpus: u8,
}

impl CpuTemplate {
    /// Filters what KVM supports for a microVM with `vcpus` vCPUs; `deadline` says whether the TSC deadline timer
    /// is there (KVM tells that apart).
    pub(crate) fn new(supported: &CpuId, vcpus: u8, deadline: bool) -> Self {
        let mut entries: Vec<kvm_cpuid_entry2> =
            supported.as_slice().iter().filter(|entry| !DROP.contains(&entry.function)).copied().collect();
        for entry in &mut entries {
            let leaf = entry.function;
            for rule in CLEAR.iter().filter(|rule| rule.leaf == leaf) {
                *register(entry, rule.register) &= !rule.bits;
            }
        }
        entries.retain(|entry| entry.function != 0xb);
        for index in 0..3 {
            entries.push(kvm_cpuid_entry2 {
                function: 0xb,
                index,
                flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                ..Default::default()
            });
        }
        let mut template = Self { entries, vcpus };
        template.describe(0, deadline);
        template
    }

    /// Whether the guest's timers count in TSC cycles.
    pub(crate) fn has_deadline_timer(&self) -> bool {
        self.entries.iter().any(|entry| entry.function == 1 && entry.ecx & TSC_DEADLINE != 0)
    }

    /// Hash of everything the guest can see, as 16 hexadecimal digits.
    pub(crate) fn hash(&self) -> String {
        let mut hash = Xxh3::new();
        for entry in &self.entries {
            for number in
                [entry.function, entry.index, entry.flags, entry.eax, entry.ebx, entry.ecx, entry.edx]
            {
                hash.update(&number.to_le_bytes());
            }
        }
        format!("{:016x}", hash.digest())
    }

    /// The entries for vCPU `id`.
    pub(crate) fn for_vcpu(&self, id: u8) -> Vec<kvm_cpuid_entry2> {
        let mut mine = self.clone();
        mine.describe(id, self.has_deadline_timer());
        mine.entries
    }

    /// Writes identity and topology: one package, a core per vCPU, the APIC id is the vCPU's number.
    fn describe(&mut self, id: u8, deadline: bool) {
        let (id, count) = (u32::from(id), u32::from(self.vcpus));
        let id_bits = count.next_power_of_two().trailing_zeros();
        for entry in &mut self.entries {
            match (entry.function, entry.index) {
                (1, _) => {
                    let logical = count.next_power_of_two();
                    entry.ebx = id << 24 | logical << 16 | CACHE_LINE_UNITS << 8 | (entry.ebx & 0xff);
                    entry.ecx = entry.ecx & !TSC_DEADLINE | HYPERVISOR;
                    if deadline {
                        entry.ecx |= TSC_DEADLINE;
                    }
                    entry.edx &= !HYPER_THREADING;
                    if count > 1 {
                        entry.edx |= HYPER_THREADING;
                    }
                }
                // Cores per package; how many share each cache is left at one.
                (4, _) if entry.eax & 0x1f != 0 => {
                    entry.eax = entry.eax & 0x3fff | (count.next_power_of_two() - 1).min(0x3f) << 26;
                }
                (0xb, 0) => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 1, LEVEL_THREAD, id),
                (0xb, 1) => {
                    (entry.eax, entry.ebx, entry.ecx, entry.edx) = (id_bits, count, 1 | LEVEL_CORE, id)
                }
                (0xb, index) => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, index, id),
                (0x8000_0008, _) => entry.ecx = id_bits << 12 | (count - 1),
                _ => {}
            }
        }
    }
}

fn register(entry: &mut kvm_cpuid_entry2, register: Register) -> &mut u32 {
    match register {
        Register::Eax => &mut entry.eax,
        Register::Ebx => &mut entry.ebx,
        Register::Ecx => &mut entry.ecx,
        Register::Edx => &mut entry.edx,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, eax: u32, ebx: u32, ecx: u32, edx: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, eax, ebx, ecx, edx, ..Default::default() }
    }

    fn supported(apic_id: u32) -> CpuId {
        CpuId::from_entries(&[
            leaf(0, 0x10, 1, 2, 3),
            leaf(1, 0x1234, apic_id << 24 | 16 << 16, 1 << 5 | 1 << 24, 1),
            leaf(0xb, 1, 2, 3, apic_id),
            leaf(KVM_FEATURES, 1 << 14 | 1 << 10 | 1 << 4 | 1 << 3, 0, 0, 0),
            leaf(0x8000_0001, 0, 0, 1 << 2 | 1, 0),
            leaf(0x8000_0007, 0, 0, 0, 1 << 8),
            leaf(0x8000_0008, 48, 0, 0x700f, 0),
            leaf(0x8000_000a, 1, 2, 3, 4),
            leaf(0x8000_001e, apic_id, apic_id, 0, 0),
        ])
        .unwrap()
    }

    #[test]
    fn the_processor_we_ran_on_does_not_show() {
        let one = CpuTemplate::new(&supported(1), 2, true);
        assert_eq!(one.hash(), CpuTemplate::new(&supported(7), 2, true).hash());
        assert_ne!(one.hash(), CpuTemplate::new(&supported(1), 1, true).hash());
        assert_ne!(one.hash(), CpuTemplate::new(&supported(1), 2, false).hash());
    }

    #[test]
    fn vcpus_differ_in_their_ids_only() {
        let template = CpuTemplate::new(&supported(0), 3, true);
        let find = |id: u8, function: u32, index: u32| {
            template
                .for_vcpu(id)
                .into_iter()
                .find(|entry| (entry.function, entry.index) == (function, index))
                .unwrap()
        };
        assert_eq!(find(2, 1, 0).ebx, 2 << 24 | 4 << 16 | 8 << 8);
        assert_eq!(find(2, 1, 0).ecx, HYPERVISOR | TSC_DEADLINE);
        assert_eq!(find(2, 1, 0).edx, 1 | HYPER_THREADING);
        let core = find(1, 0xb, 1);
        assert_eq!((core.eax, core.ebx, core.ecx, core.edx), (2, 3, 0x201, 1));
        assert_eq!(find(0, 0x8000_0008, 0).ecx, 2 << 12 | 2);
    }

    #[test]
    fn what_does_not_survive_snapshots_is_gone() {
        let entries = CpuTemplate::new(&supported(0), 1, true).for_vcpu(0);
        let find = |function: u32| entries.iter().find(|entry| entry.function == function);
        assert_eq!(find(KVM_FEATURES).unwrap().eax, 1 << 3);
        assert_eq!(find(0x8000_0001).unwrap().ecx, 1);
        assert_eq!(find(0x8000_0007).unwrap().edx, 0);
        assert!(find(0x8000_000a).is_none());
        assert_eq!(find(1).unwrap().ecx & 1 << 5, 0);
    }
}
