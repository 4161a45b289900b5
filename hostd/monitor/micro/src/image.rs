//! The ELF file: code, the tables long mode wants, and whatever else a program is given.

use std::arch::global_asm;

global_asm!(".section .rodata.micro,\"a\"", include_str!("guest.S"), ".section .text", options(raw));

unsafe extern "C" {
    static micro_start: u8;
    static micro_end: u8;
    static micro_entry_slot: u8;
    static micro_loop: u8;
    static micro_reset: u8;
    static micro_crash: u8;
    static micro_touch: u8;
    static micro_balloon: u8;
}

/// What a guest does that needs nothing but its code.
#[derive(Clone, Copy, Debug)]
pub enum Program {
    /// Checks its registers and memory for ever.
    Loop,
    /// Resets the machine.
    Reset,
    /// Crashes.
    Crash,
}

/// Where in the code a guest begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Entry {
    Program(Program),
    Touch,
    Balloon,
}

const LOAD: u64 = 0x10_0000;
const TABLES: u64 = 0x20_0000;
/// Where ballast goes.
const BALLAST: u64 = 32 << 20;

/// Guest memory reached through the page tables, in GiB: all there is below the gap for devices.
pub(crate) const MAPPED_GIB: u64 = 3;

/// The same with the devices' windows.
const TABLES_GIB: u64 = MAPPED_GIB + 1;

const PAGE: usize = 0x1000;

/// Kinds of ELF segments.
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_NOTE: u32 = 4;
/// `XEN_ELFNOTE_PHYS32_ENTRY`: where to enter in 32-bit mode without paging.
const NOTE_PVH_ENTRY: u32 = 18;
const MACHINE_X86_64: u16 = 62;
const HEADER_SIZE: u16 = 64;
const PROGRAM_HEADER_SIZE: u16 = 56;

fn code(entry: Entry) -> Vec<u8> {
    // SAFETY: the symbols mark the bounds of, and places in, one piece of read-only data.
    let (bytes, slot, entry) = unsafe {
        let start = &raw const micro_start;
        let length = (&raw const micro_end).offset_from_unsigned(start);
        let entry = match entry {
            Entry::Program(Program::Loop) => &raw const micro_loop,
            Entry::Program(Program::Reset) => &raw const micro_reset,
            Entry::Program(Program::Crash) => &raw const micro_crash,
            Entry::Touch => &raw const micro_touch,
            Entry::Balloon => &raw const micro_balloon,
        };
        let slot = (&raw const micro_entry_slot).offset_from_unsigned(start);
        (std::slice::from_raw_parts(start, length), slot, entry.offset_from_unsigned(start))
    };
    let mut bytes = bytes.to_vec();
    put(&mut bytes, slot, LOAD + entry as u64);
    bytes
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    if let Some(place) = bytes.get_mut(at..at + 8) {
        place.copy_from_slice(&value.to_le_bytes());
    }
}

/// GDT pointer, GDT and task state with an I/O permission map for ports below 0x400, then PML4, PDPT and page
/// directories: memory and devices below 4 GiB in 2 MiB pages, for user code too.
fn tables() -> Vec<u8> {
    let directories = 3 * PAGE;
    let entries = 512 * TABLES_GIB;
    let mut bytes = vec![0u8; directories];
    put(&mut bytes, 0, 55 | (TABLES + 0x10) << 16);
    let task = TABLES + 0x100;
    let task_low = (0x67 + 0x81) | (task & 0xff_ffff) << 16 | 0x8900 << 32 | (task >> 24 & 0xff) << 56;
    let gdt = [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00af_fb00_0000_ffff,
        task_low,
        task >> 32,
    ];
    // The map starts behind the 104 bytes of the task state and ends with a byte of ones.
    put(&mut bytes, 0x100 + 96, 0x68 << 48);
    put(&mut bytes, 0x100 + 0x68 + 0x80, 0xff);
    for (index, descriptor) in gdt.into_iter().enumerate() {
        put(&mut bytes, 0x10 + index * 8, descriptor);
    }
    let directories = TABLES + directories as u64;
    put(&mut bytes, PAGE, (TABLES + 2 * PAGE as u64) | 7);
    for (index, gib) in (0..TABLES_GIB).enumerate() {
        put(&mut bytes, 2 * PAGE + index * 8, (directories + gib * PAGE as u64) | 7);
    }
    for entry in 0..entries {
        bytes.extend((entry << 21 | 0x87).to_le_bytes());
    }
    bytes
}

/// The ELF file of a program.
pub fn kernel(program: Program) -> Vec<u8> {
    elf(Entry::Program(program), None)
}

/// The ELF file of a program with a further segment of `ballast` bytes at 32 MiB, which nobody touches.
pub fn kernel_with(program: Program, ballast: usize) -> Vec<u8> {
    elf(Entry::Program(program), Some((BALLAST, vec![1; ballast])))
}

/// An ELF file, with one more segment of memory if there is any: its guest physical address and content.
pub(crate) fn elf(entry: Entry, data: Option<(u64, Vec<u8>)>) -> Vec<u8> {
    let mut note = Vec::new();
    for number in [4u32, 8, NOTE_PVH_ENTRY] {
        note.extend(number.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(LOAD.to_le_bytes());
    let mut segments =
        vec![(SEGMENT_LOAD, LOAD, code(entry)), (SEGMENT_LOAD, TABLES, tables()), (SEGMENT_NOTE, 0, note)];
    segments.extend(data.map(|(address, bytes)| (SEGMENT_LOAD, address, bytes)));

    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1];
    file.resize(18, 0);
    file.extend(MACHINE_X86_64.to_le_bytes());
    file.resize(32, 0);
    file.extend(u64::from(HEADER_SIZE).to_le_bytes());
    file.resize(54, 0);
    file.extend(PROGRAM_HEADER_SIZE.to_le_bytes());
    // Few, as can be seen above.
    file.extend(u16::try_from(segments.len()).unwrap_or_default().to_le_bytes());
    file.resize(usize::from(HEADER_SIZE), 0);
    let mut offset = PAGE;
    for (kind, address, bytes) in &segments {
        file.extend(kind.to_le_bytes());
        file.extend(7u32.to_le_bytes());
        let length = bytes.len() as u64;
        for field in [offset as u64, *address, *address, length, length, PAGE as u64] {
            file.extend(field.to_le_bytes());
        }
        offset += bytes.len().next_multiple_of(PAGE);
    }
    for (_, _, bytes) in segments {
        file.resize(file.len().next_multiple_of(PAGE), 0);
        file.extend(bytes);
    }
    file.resize(file.len().next_multiple_of(PAGE), 0);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_segment_starts_on_a_page_of_the_file() {
        let content = vec![0xab; 5000];
        let file = elf(Entry::Touch, Some((0x40_0000, content.clone())));
        let word = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
        assert_eq!(u16::from_le_bytes([file[56], file[57]]), 4);
        let last = usize::from(HEADER_SIZE) + 3 * usize::from(PROGRAM_HEADER_SIZE);
        let offset = usize::try_from(word(last + 8)).unwrap();
        assert!(offset.is_multiple_of(PAGE));
        assert_eq!((word(last + 24), word(last + 32)), (0x40_0000, 5000));
        assert_eq!(file[offset..offset + content.len()], content);
        assert!(file.len().is_multiple_of(PAGE));
    }
}
