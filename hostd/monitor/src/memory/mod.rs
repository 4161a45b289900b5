//! Guest memory: anonymous, with files laid over parts of it.
//!
//! Memory always starts as one anonymous mapping per range of guest addresses. A kernel image or a snapshot is then
//! laid over it piece by piece, private and copy on write ([`GuestRam::overlay`]). How a snapshot is cut into pieces
//! is what the restore modes differ in ([`restore`]).

mod dump;
#[cfg(test)]
mod given;
mod own;
mod pagemap;
mod populate;
mod ram;
mod reap;
pub mod restore;
mod uffd;

use vm_memory::GuestAddress;

pub(crate) use dump::{DumpError, create, dump, touched_pages};
pub(crate) use own::{allow_large_pages, own_bytes};
pub(crate) use populate::{Extent, Populator};
pub(crate) use ram::{GuestRam, RamError};
pub(crate) use reap::Handler;
pub(crate) use uffd::Uffd;

/// Where guest memory stops below 4 GiB; devices live between here and there.
pub(crate) const GAP_START: u64 = 0xc000_0000;

/// Where guest memory that did not fit below the gap goes on.
pub(crate) const GAP_END: u64 = 0x1_0000_0000;

/// Guest address and length of the ranges `bytes` of memory are split into.
pub(crate) fn ranges(bytes: u64) -> Vec<(GuestAddress, u64)> {
    let low = bytes.min(GAP_START);
    let mut ranges = vec![(GuestAddress(0), low)];
    if bytes > low {
        ranges.push((GuestAddress(GAP_END), bytes - low));
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_leaves_room_for_devices() {
        assert_eq!(ranges(128 << 20), [(GuestAddress(0), 128 << 20)]);
        assert_eq!(ranges(GAP_START), [(GuestAddress(0), GAP_START)]);
        assert_eq!(ranges(4 << 30), [(GuestAddress(0), 3 << 30), (GuestAddress(4 << 30), 1 << 30)]);
    }
}
