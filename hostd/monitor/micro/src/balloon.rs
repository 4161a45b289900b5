//! A guest that drives the balloon device: it fills pages and gives of them what is asked for.

use crate::image::{Entry, elf};

/// As in guest.S: where the number of pages is said, and where they are.
const PLAN: u64 = 0x40_0000;
const POOL_MIB: u32 = 16;

/// The ELF file of a guest with `mib` MiB of pages, and its memory in MiB. It says `ready` when they are filled; for every
/// key it is sent it prints, in 16 hexadecimal digits, how many pages it has that are as they were filled, and for a `!` it
/// fills them before. Those that come back from the balloon are filled, too. The device has to be the second one, behind that for entropy.
pub fn balloon(mib: u32) -> (Vec<u8>, u32) {
    let pages = u64::from(mib) * 256;
    (elf(Entry::Balloon, Some((PLAN, pages.to_le_bytes().to_vec()))), POOL_MIB + mib)
}
