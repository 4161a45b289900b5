//! PVH: entry in 32-bit protected mode without paging, facts in a start info structure.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use linux_loader::loader::elf::start_info::{
    XEN_HVM_MEMMAP_TYPE_RAM, XEN_HVM_MEMMAP_TYPE_RESERVED, XEN_HVM_START_MAGIC_VALUE, hvm_memmap_table_entry,
    hvm_start_info,
};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryMmap};

use super::{BootError, Entry, MapEntry, low};

/// Start info with a memory map.
const START_INFO_VERSION: u32 = 1;
const CR0_PROTECTED: u64 = 1;
const CR0_EXTENSION_TYPE: u64 = 1 << 4;

/// The structures as they lie in memory.
#[derive(Clone, Copy, Default)]
#[repr(transparent)]
struct StartInfo(hvm_start_info);
// SAFETY: plain integers without padding (56 bytes, checked by the defining crate).
unsafe impl ByteValued for StartInfo {}

#[derive(Clone, Copy, Default)]
#[repr(transparent)]
struct MapRecord(hvm_memmap_table_entry);
// SAFETY: plain integers without padding (24 bytes, checked by the defining crate).
unsafe impl ByteValued for MapRecord {}

fn flat(kind: u8, selector: u16) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_: kind,
        present: 1,
        dpl: 0,
        db: 1,
        s: 1,
        l: 0,
        g: 1,
        ..Default::default()
    }
}

/// Writes start info and memory map; the command line is in its place already.
pub(super) fn prepare(
    memory: &GuestMemoryMmap,
    map: &[MapEntry],
    entry: u64,
    mut sregs: kvm_sregs,
) -> Result<Entry, BootError> {
    let table = |source| BootError::Table { table: "PVH start info", source };
    let mut at = GuestAddress(low::MEMORY_MAP);
    for range in map {
        let record = MapRecord(hvm_memmap_table_entry {
            addr: range.start,
            size: range.length,
            type_: if range.usable { XEN_HVM_MEMMAP_TYPE_RAM } else { XEN_HVM_MEMMAP_TYPE_RESERVED },
            reserved: 0,
        });
        memory.write_obj(record, at).map_err(table)?;
        at = GuestAddress(at.0 + size_of::<MapRecord>() as u64);
    }
    let info = StartInfo(hvm_start_info {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: START_INFO_VERSION,
        cmdline_paddr: low::CMDLINE,
        memmap_paddr: low::MEMORY_MAP,
        memmap_entries: u32::try_from(map.len()).unwrap_or_default(),
        ..Default::default()
    });
    memory.write_obj(info, GuestAddress(low::START_INFO)).map_err(table)?;

    // Code: execute/read, accessed. Data: read/write, accessed. Task: 32-bit, busy.
    sregs.cs = flat(0xb, 0x8);
    let data = flat(0x3, 0x10);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment { limit: 0x67, s: 0, g: 0, db: 0, ..flat(0xb, 0x18) };
    sregs.cr0 = CR0_PROTECTED | CR0_EXTENSION_TYPE;
    sregs.cr4 = 0;
    sregs.efer = 0;
    let regs = kvm_regs { rip: entry, rbx: low::START_INFO, rflags: 2, ..Default::default() };
    Ok(Entry { regs, sregs })
}
