//! Model specific registers in snapshots.

use std::collections::HashMap;

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

/// Most registers in one call to KVM.
const BATCH: usize = 128;

/// Registers of Hyper-V, which no guest of ours is told of.
const HYPERV: std::ops::Range<u32> = 0x4000_0000..0x4000_2000;

const TSC: u32 = 0x10;
/// Fires when the TSC passes it, so it has to be written after the TSC (and after the local APIC).
const TSC_DEADLINE: u32 = 0x6e0;

/// Registers KVM does not list though a guest can change them: memory types.
const UNLISTED: [u32; 13] =
    [0x277, 0x2ff, 0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];
/// Variable memory types: eight pairs of base and mask.
const UNLISTED_VARIABLE: std::ops::Range<u32> = 0x200..0x210;

/// A register cannot be saved or restored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MsrError {
    /// More than KVM takes at once; cannot happen with [`BATCH`].
    #[error("Cannot build a list of {0} MSRs")]
    List(usize),
    /// KVM refuses the call as a whole.
    #[error("Cannot {what} MSRs")]
    Kvm {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// A register cannot be given the value it had.
    #[error("MSR {index:#x} cannot be set to {value:#x}")]
    Value {
        /// Which.
        index: u32,
        /// Its value in the snapshot.
        value: u64,
    },
}

/// The registers to save, out of those KVM lists, in the order they have to be restored in.
pub(crate) fn to_save(listed: &[u32]) -> Vec<u32> {
    let mut indices: Vec<u32> = listed
        .iter()
        .copied()
        .chain(UNLISTED)
        .chain(UNLISTED_VARIABLE)
        .filter(|index| !HYPERV.contains(index) && *index != TSC_DEADLINE)
        .collect();
    indices.sort_unstable();
    indices.dedup();
    if listed.contains(&TSC_DEADLINE) {
        indices.push(TSC_DEADLINE);
    }
    indices
}

fn list(entries: &[kvm_msr_entry]) -> Result<Msrs, MsrError> {
    Msrs::from_entries(entries).map_err(|_| MsrError::List(entries.len()))
}

/// The values of `indices` for a snapshot, leaving out what this vCPU does not have.
pub(crate) fn save(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<kvm_msr_entry>, MsrError> {
    let mut saved = read(vcpu, indices)?;
    rearm(&mut saved);
    Ok(saved)
}

fn read(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<kvm_msr_entry>, MsrError> {
    let mut saved = Vec::with_capacity(indices.len());
    let mut rest = indices;
    while !rest.is_empty() {
        let (batch, _) = rest.split_at(rest.len().min(BATCH));
        let wanted: Vec<kvm_msr_entry> =
            batch.iter().map(|index| kvm_msr_entry { index: *index, ..Default::default() }).collect();
        let mut msrs = list(&wanted)?;
        // KVM stops at the first register it cannot read, and says how many it has.
        let read = vcpu.get_msrs(&mut msrs).map_err(|source| MsrError::Kvm { what: "read", source })?;
        saved.extend_from_slice(msrs.as_slice().get(..read).unwrap_or_default());
        let skip = if read < batch.len() { read + 1 } else { read };
        rest = rest.get(skip..).unwrap_or_default();
    }
    Ok(saved)
}

/// A deadline that passed just before the vCPU was stopped reads as zero, its interrupt may not have reached the local
/// APIC, and the guest waits for it before it sets the next: has it fire at once. One interrupt more does no harm.
fn rearm(entries: &mut [kvm_msr_entry]) {
    let now = entries.iter().find(|entry| entry.index == TSC).map_or(0, |entry| entry.data);
    if let Some(deadline) = entries.iter_mut().find(|entry| entry.index == TSC_DEADLINE && entry.data == 0) {
        deadline.data = now;
    }
}

/// Gives a vCPU the values of `entries`, in their order. Those it has already are not written: some registers can
/// be read but not written, and KVM logs attempts.
pub(crate) fn restore(vcpu: &VcpuFd, entries: &[kvm_msr_entry]) -> Result<(), MsrError> {
    let indices: Vec<u32> = entries.iter().map(|entry| entry.index).collect();
    let now: HashMap<u32, u64> =
        read(vcpu, &indices)?.into_iter().map(|entry| (entry.index, entry.data)).collect();
    let changed: Vec<kvm_msr_entry> =
        entries.iter().filter(|entry| now.get(&entry.index) != Some(&entry.data)).copied().collect();
    for batch in changed.chunks(BATCH) {
        let written =
            vcpu.set_msrs(&list(batch)?).map_err(|source| MsrError::Kvm { what: "write", source })?;
        if let Some(refused) = batch.get(written) {
            return Err(MsrError::Value { index: refused.index, value: refused.data });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadline_comes_last_and_hyperv_never() {
        let order = to_save(&[TSC_DEADLINE, 0x10, 0x4000_0000, 0x4b56_4d01, 0x10]);
        assert_eq!(order.last(), Some(&TSC_DEADLINE));
        assert!(!order.contains(&0x4000_0000));
        assert_eq!(order.iter().filter(|index| **index == 0x10).count(), 1);
        assert!(order.contains(&0x4b56_4d01) && order.contains(&0x277));
    }

    #[test]
    fn only_a_deadline_that_has_passed_is_set_again() {
        let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
        for (before, after) in [(0, 77), (99, 99)] {
            let mut entries = [entry(TSC, 77), entry(0x277, 0), entry(TSC_DEADLINE, before)];
            rearm(&mut entries);
            assert_eq!(entries.map(|entry| entry.data), [77, 0, after]);
        }
    }
}
