//! Guests of a few hundred bytes: a kernel that needs no operating system around it, as an ELF file with a PVH note.
//!
//! Their programs run at CPL 3, so they run at the processor's speed even where KVM emulates privileged code. Tests
//! and benchmarks use them to put a monitor, its memory and its snapshots to work without a Linux guest.

pub mod balloon;
mod image;
pub mod touch;

pub use image::{Program, kernel, kernel_with};

/// Guest physical address at which [`Program::Loop`] counts its rounds; also the offset in a memory file.
pub const COUNTER: u64 = 0x30_0000;

/// Whether this machine has a KVM to run on; if not, says so once per call.
pub fn have_kvm() -> bool {
    let found = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    if !found {
        eprintln!("skipped: /dev/kvm cannot be opened");
    }
    found
}
