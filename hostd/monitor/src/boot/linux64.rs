//! The 64-bit Linux entry: long mode, identity-mapped, facts in the `boot_params` page.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::bzimage::{HEADER_OFFSET, SetupHeader};
use super::{BootError, Entry, MapEntry, low};

const PAGE: usize = 4096;

/// Offsets in `boot_params`.
mod field {
    pub(super) const E820_COUNT: usize = 0x1e8;
    pub(super) const VIDEO_MODE: usize = 0x1fa;
    pub(super) const LOADER_TYPE: usize = 0x210;
    pub(super) const CMDLINE: usize = 0x228;
    pub(super) const CMDLINE_SIZE: usize = 0x238;
    pub(super) const E820: usize = 0x2d0;
}

/// A boot loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
/// No video mode change.
const VIDEO_NORMAL: u16 = 0xffff;
const E820_USABLE: u32 = 1;
const E820_RESERVED: u32 = 2;

/// Null, unused, flat 64-bit code (0x10), flat data (0x18): the selectors the boot protocol asks for.
const GDT: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;

const PTE_PRESENT_WRITABLE: u64 = 3;
const PTE_LARGE: u64 = 1 << 7;
const LARGE_PAGE: u64 = 2 << 20;

const CR0: u64 = 1 << 31 | 1 << 4 | 1;
const CR4_PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
const EFER: u64 = 1 << 8 | 1 << 10;

fn put(page: &mut [u8], offset: usize, bytes: &[u8]) {
    if let Some(target) = page.get_mut(offset..offset + bytes.len()) {
        target.copy_from_slice(bytes);
    }
}

/// The `boot_params` page.
fn zero_page(header: &SetupHeader, map: &[MapEntry], cmdline_length: usize) -> Vec<u8> {
    let mut page = vec![0u8; PAGE];
    put(&mut page, HEADER_OFFSET, &header.raw);
    put(&mut page, field::VIDEO_MODE, &VIDEO_NORMAL.to_le_bytes());
    put(&mut page, field::LOADER_TYPE, &[LOADER_UNDEFINED]);
    // Both fit: the command line lies below 1 MiB and is at most a few KiB.
    put(&mut page, field::CMDLINE, &u32::try_from(low::CMDLINE).unwrap_or_default().to_le_bytes());
    put(&mut page, field::CMDLINE_SIZE, &u32::try_from(cmdline_length).unwrap_or_default().to_le_bytes());
    put(&mut page, field::E820_COUNT, &[u8::try_from(map.len()).unwrap_or_default()]);
    for (index, range) in map.iter().enumerate() {
        let at = field::E820 + index * 20;
        put(&mut page, at, &range.start.to_le_bytes());
        put(&mut page, at + 8, &range.length.to_le_bytes());
        let kind = if range.usable { E820_USABLE } else { E820_RESERVED };
        put(&mut page, at + 16, &kind.to_le_bytes());
    }
    page
}

/// Identity map of the first GiB in large pages: PML4, PDPT, one page directory.
fn page_tables() -> Vec<u8> {
    let mut tables = vec![0u8; 3 * PAGE];
    let page = PAGE as u64;
    put(&mut tables, 0, &((low::PAGE_TABLES + page) | PTE_PRESENT_WRITABLE).to_le_bytes());
    put(&mut tables, PAGE, &((low::PAGE_TABLES + 2 * page) | PTE_PRESENT_WRITABLE).to_le_bytes());
    for (index, at) in (0u64..512).zip((2 * PAGE..).step_by(8)) {
        put(&mut tables, at, &((index * LARGE_PAGE) | PTE_LARGE | PTE_PRESENT_WRITABLE).to_le_bytes());
    }
    tables
}

fn flat(kind: u8, selector: u16, long: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_: kind,
        present: 1,
        dpl: 0,
        db: 1 - long,
        s: 1,
        l: long,
        g: 1,
        ..Default::default()
    }
}

/// Writes `boot_params`, descriptor table and page tables; the command line is in its place already.
pub(super) fn prepare(
    memory: &GuestMemoryMmap,
    map: &[MapEntry],
    entry: u64,
    header: &SetupHeader,
    cmdline_length: usize,
    mut sregs: kvm_sregs,
) -> Result<Entry, BootError> {
    let gdt: Vec<u8> = GDT.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    let parts: [(&'static str, u64, Vec<u8>); 4] = [
        ("boot parameters", low::ZERO_PAGE, zero_page(header, map, cmdline_length)),
        ("descriptor table", low::GDT, gdt),
        ("interrupt table", low::IDT, vec![0; 8]),
        ("page tables", low::PAGE_TABLES, page_tables()),
    ];
    for (table, address, bytes) in parts {
        memory
            .write_slice(&bytes, GuestAddress(address))
            .map_err(|source| BootError::Table { table, source })?;
    }
    sregs.gdt.base = low::GDT;
    sregs.gdt.limit = u16::try_from(size_of_val(&GDT) - 1).unwrap_or_default();
    sregs.idt.base = low::IDT;
    sregs.idt.limit = 7;
    sregs.cs = flat(0xb, CODE_SELECTOR, 1);
    let data = flat(0x3, DATA_SELECTOR, 0);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = kvm_segment { limit: 0x67, s: 0, g: 0, db: 0, ..flat(0xb, 0x20, 0) };
    sregs.cr3 = low::PAGE_TABLES;
    sregs.cr4 = CR4_PHYSICAL_ADDRESS_EXTENSION;
    sregs.cr0 = CR0;
    sregs.efer = EFER;
    let regs = kvm_regs {
        rip: entry,
        rsi: low::ZERO_PAGE,
        rsp: low::STACK,
        rbp: low::STACK,
        rflags: 2,
        ..Default::default()
    };
    Ok(Entry { regs, sregs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_tables_map_each_large_page_to_itself() {
        let tables = page_tables();
        let entry = |at: usize| u64::from_le_bytes(tables[at..at + 8].try_into().unwrap());
        assert_eq!(entry(0), 0xa003);
        assert_eq!(entry(4096), 0xb003);
        assert_eq!(entry(8192), 0x83);
        assert_eq!(entry(8192 + 511 * 8), (511 * LARGE_PAGE) | 0x83);
    }
}
