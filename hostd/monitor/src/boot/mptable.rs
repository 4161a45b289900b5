//! The Intel MultiProcessor table (specification 1.4): how a guest without ACPI finds processors and interrupts.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{BootError, low};

/// Most processors: the table has to fit between the end of low memory and 640 KiB.
pub(crate) const PROCESSOR_LIMIT: u8 = 32;

/// Interrupt lines of the I/O APIC that KVM emulates.
pub(crate) const IRQ_LINES: u8 = 24;

const ROOM: usize = 1024;
const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;
const APIC_VERSION: u8 = 0x14;
const SPECIFICATION: u8 = 4;
/// Processor family 6 with FPU and APIC; Linux looks at CPUID instead.
const CPU_SIGNATURE: u32 = 0x600;
const CPU_FEATURES: u32 = 0x201;
const CPU_ENABLED: u8 = 1;
const CPU_BOOTSTRAP: u8 = 2;
/// Every local APIC.
const ALL_APICS: u8 = 0xff;

/// Kinds of entry.
mod kind {
    pub(super) const PROCESSOR: u8 = 0;
    pub(super) const BUS: u8 = 1;
    pub(super) const IO_APIC: u8 = 2;
    pub(super) const INTERRUPT: u8 = 3;
    pub(super) const LOCAL_INTERRUPT: u8 = 4;
}

/// Kinds of interrupt.
mod interrupt {
    pub(super) const VECTORED: u8 = 0;
    pub(super) const NMI: u8 = 1;
    pub(super) const EXTERNAL: u8 = 3;
}

/// Makes the sum of all bytes zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg()
}

fn entries(vcpus: u8) -> (Vec<u8>, u16) {
    let mut bytes = Vec::new();
    let mut count = 0;
    for id in 0..vcpus {
        let flags = CPU_ENABLED | if id == 0 { CPU_BOOTSTRAP } else { 0 };
        bytes.extend([kind::PROCESSOR, id, APIC_VERSION, flags]);
        bytes.extend(CPU_SIGNATURE.to_le_bytes());
        bytes.extend(CPU_FEATURES.to_le_bytes());
        bytes.extend([0; 8]);
        count += 1;
    }
    bytes.extend([kind::BUS, 0]);
    bytes.extend(b"ISA   ");
    // The I/O APIC's id follows the processors'.
    bytes.extend([kind::IO_APIC, vcpus, APIC_VERSION, 1]);
    bytes.extend(IO_APIC.to_le_bytes());
    count += 2;
    for line in 0..IRQ_LINES {
        bytes.extend([kind::INTERRUPT, interrupt::VECTORED, 0, 0, 0, line, vcpus, line]);
        count += 1;
    }
    bytes.extend([kind::LOCAL_INTERRUPT, interrupt::EXTERNAL, 0, 0, 0, 0, 0, 0]);
    bytes.extend([kind::LOCAL_INTERRUPT, interrupt::NMI, 0, 0, 0, 0, ALL_APICS, 1]);
    (bytes, count + 2)
}

/// Floating pointer and configuration table for `vcpus` processors.
fn table(vcpus: u8) -> Vec<u8> {
    let (entries, count) = entries(vcpus);
    let pointer_length = 16u64;
    let mut pointer = b"_MP_".to_vec();
    pointer.extend(u32::try_from(low::END + pointer_length).unwrap_or_default().to_le_bytes());
    pointer.extend([1, SPECIFICATION, 0, 0, 0, 0, 0, 0]);
    let sum = checksum(&pointer);
    if let Some(byte) = pointer.get_mut(10) {
        *byte = sum;
    }

    let mut header = b"PCMP".to_vec();
    header.extend(u16::try_from(44 + entries.len()).unwrap_or_default().to_le_bytes());
    header.extend([SPECIFICATION, 0]);
    header.extend(b"MOTE    ");
    header.extend(b"microVM     ");
    header.extend([0; 6]);
    header.extend(count.to_le_bytes());
    header.extend(LOCAL_APIC.to_le_bytes());
    header.extend([0; 4]);
    header.extend(entries);
    let sum = checksum(&header);
    if let Some(byte) = header.get_mut(7) {
        *byte = sum;
    }
    pointer.extend(header);
    pointer
}

/// Writes the table for `vcpus` processors to its place.
pub(super) fn write(memory: &GuestMemoryMmap, vcpus: u8) -> Result<(), BootError> {
    let bytes = table(vcpus);
    if vcpus == 0 || vcpus > PROCESSOR_LIMIT || bytes.len() > ROOM {
        return Err(BootError::Processors(vcpus));
    }
    memory
        .write_slice(&bytes, GuestAddress(low::END))
        .map_err(|source| BootError::Table { table: "MP table", source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_zero_and_the_largest_fits() {
        for vcpus in [1, 2, PROCESSOR_LIMIT] {
            let bytes = table(vcpus);
            assert!(bytes.len() <= ROOM, "{} bytes", bytes.len());
            let sum = |part: &[u8]| part.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
            assert_eq!(sum(&bytes[..16]), 0);
            assert_eq!(sum(&bytes[16..]), 0);
            let length = u16::from_le_bytes(bytes[20..22].try_into().unwrap());
            assert_eq!(usize::from(length), bytes.len() - 16);
        }
    }

    #[test]
    fn entry_count_is_right() {
        let (bytes, count) = entries(3);
        let mut at = 0;
        let mut found = 0;
        while at < bytes.len() {
            at += if bytes[at] == kind::PROCESSOR { 20 } else { 8 };
            found += 1;
        }
        assert_eq!(found, count);
        assert_eq!(at, bytes.len());
    }
}
