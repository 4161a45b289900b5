//! Which cgroup has which addresses, as programs look it up.

use std::ffi::c_long;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use super::load::{BpfError, address, command, descriptor, map};
use crate::plan::Addresses;

// Commands and types of linux/bpf.h.
const UPDATE: c_long = 2;
const DELETE: c_long = 3;
const MAP_TYPE_HASH: u32 = 1;

/// Where things are in a value: both addresses in the network's byte order.
pub(super) mod offset {
    /// IPv4.
    pub(in crate::bpf) const V4: i16 = 0;
    /// IPv6.
    pub(in crate::bpf) const V6: i16 = 4;
    /// Its length.
    pub(in crate::bpf) const END: u16 = 20;
}

/// Addresses by the number of a cgroup.
#[derive(Debug)]
pub struct Table(OwnedFd);

#[repr(C)]
struct EntryAttributes {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl Table {
    /// An empty one.
    ///
    /// # Errors
    /// On a kernel without eBPF.
    pub fn new(entries: u16) -> Result<Self, BpfError> {
        let sizes = [8, u32::from(offset::END)];
        map(MAP_TYPE_HASH, sizes, entries, 0).map(Self).map_err(|source| BpfError::Map { entries, source })
    }

    /// The descriptor as a program's instruction has it.
    pub(super) fn fd(&self) -> i32 {
        self.0.as_raw_fd()
    }

    /// Gives a cgroup its addresses, in one system call.
    ///
    /// # Errors
    /// When the table is full.
    pub fn insert(&self, cgroup: u64, addresses: Addresses) -> Result<(), BpfError> {
        let mut value = [0; offset::END as usize];
        let (v4, v6) = value.split_at_mut(4);
        v4.copy_from_slice(&addresses.v4.octets());
        v6.copy_from_slice(&addresses.v6.octets());
        self.change(UPDATE, cgroup, address(value.as_ptr()))
    }

    /// Takes a cgroup's addresses away.
    ///
    /// # Errors
    /// When it has none.
    pub fn remove(&self, cgroup: u64) -> Result<(), BpfError> {
        self.change(DELETE, cgroup, 0)
    }

    fn change(&self, number: c_long, cgroup: u64, value: u64) -> Result<(), BpfError> {
        let key = address(std::ptr::from_ref(&cgroup));
        let mut attributes =
            EntryAttributes { map: descriptor(self.0.as_fd()), padding: 0, key, value, flags: 0 };
        let done: io::Result<c_long> = command(number, &mut attributes);
        done.map(drop).map_err(BpfError::Entry)
    }
}
