//! The guest's statistics, of which one is of interest.

use virtio_queue::DescriptorChain;
use vm_memory::GuestMemoryMmap;

use super::MAX_SEGMENTS;
use crate::Buffers;

/// Bytes of a figure: what it is (16 bits), and how much (64), not aligned.
const ENTRY: usize = 10;

/// Figures looked at; there are 16 kinds.
const ENTRIES: usize = 64;

/// `VIRTIO_BALLOON_S_MEMFREE`: bytes of memory not in use for anything.
const FREE: u16 = 4;

/// Bytes of free memory, if the guest says.
pub(super) fn free(mem: &GuestMemoryMmap, chain: DescriptorChain<&GuestMemoryMmap>) -> Option<u64> {
    let (source, _) = Buffers::split(mem, chain, MAX_SEGMENTS).ok()?;
    let mut bytes = [0u8; ENTRY * ENTRIES];
    let read = source.read_at(0, &mut bytes);
    let (entries, _) = bytes.get(..read)?.as_chunks::<ENTRY>();
    entries.iter().find_map(|entry| {
        let [t0, t1, value @ ..] = *entry;
        (u16::from_le_bytes([t0, t1]) == FREE).then_some(u64::from_le_bytes(value))
    })
}
