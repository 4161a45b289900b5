//! Booting a Linux kernel: loading it, and the tables it expects to find in low memory.
//!
//! There is no firmware and no ACPI. The kernel is entered by PVH (ELF vmlinux) or at the 64-bit entry point
//! (bzImage), finds the processors in an Intel MP table and the devices on its command line.

mod bzimage;
pub mod cmdline;
mod elf;
mod linux64;
mod loader;
mod mptable;
mod pvh;

use std::io;
use std::path::{Path, PathBuf};

use kvm_bindings::{kvm_regs, kvm_sregs};
use vm_memory::GuestMemoryError;

pub use bzimage::BzImageError;
pub use elf::ElfError;

use crate::memory::{GuestRam, RamError};

/// Where things are put in the first MiB, as guest physical addresses.
mod low {
    /// Global descriptor table.
    pub(super) const GDT: u64 = 0x500;
    /// Interrupt descriptor table (empty).
    pub(super) const IDT: u64 = 0x520;
    /// PVH start info.
    pub(super) const START_INFO: u64 = 0x6000;
    /// PVH memory map.
    pub(super) const MEMORY_MAP: u64 = 0x6100;
    /// The `boot_params` page.
    pub(super) const ZERO_PAGE: u64 = 0x7000;
    /// Stack pointer at entry.
    pub(super) const STACK: u64 = 0x8ff0;
    /// Page tables: PML4, PDPT and one page directory.
    pub(super) const PAGE_TABLES: u64 = 0x9000;
    /// Command line.
    pub(super) const CMDLINE: u64 = 0x2_0000;
    /// End of usable low memory; the MP table lies from here in what a BIOS would call the extended data area.
    pub(super) const END: u64 = 0x9_fc00;
}

/// Start of high memory.
const HIGH: u64 = 0x10_0000;

/// How the first vCPU starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// General registers.
    pub(crate) regs: kvm_regs,
    /// Segments and control registers, with the fields the boot protocol leaves open as KVM had them.
    pub(crate) sregs: kvm_sregs,
}

/// Why a kernel cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// The file cannot be read.
    #[error("Cannot read kernel {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It starts like neither kind of kernel.
    #[error("Kernel {path} is neither an ELF vmlinux nor a bzImage")]
    Kind {
        /// The file.
        path: PathBuf,
    },
    /// An ELF file that cannot be booted.
    #[error("Cannot boot ELF kernel {path}")]
    Elf {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: ElfError,
    },
    /// A bzImage that cannot be booted.
    #[error("Cannot boot bzImage {path}")]
    BzImage {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: BzImageError,
    },
    /// It does not fit into guest memory; the text says which part.
    #[error("Cannot load kernel {path}: {detail}")]
    Load {
        /// The file.
        path: PathBuf,
        /// What failed.
        detail: String,
    },
    /// A table cannot be written.
    #[error("Cannot write the {table}")]
    Table {
        /// Which.
        table: &'static str,
        /// Why.
        #[source]
        source: GuestMemoryError,
    },
    /// More processors than the MP table has room for.
    #[error("{0} vCPUs do not fit into the MP table")]
    Processors(u8),
}

fn load_error(path: &Path) -> impl FnOnce(RamError) -> BootError + '_ {
    move |error| BootError::Load { path: path.to_owned(), detail: crate::error_chain(&error) }
}

/// A range of the memory map given to the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct MapEntry {
    start: u64,
    length: u64,
    usable: bool,
}

/// The memory map of a guest with this memory.
fn memory_map(ram: &GuestRam) -> Vec<MapEntry> {
    let mut map = vec![
        MapEntry { start: 0, length: low::END, usable: true },
        MapEntry { start: low::END, length: HIGH - low::END, usable: false },
    ];
    for range in ram.ranges() {
        let start = range.guest.max(HIGH);
        let end = range.guest + range.length as u64;
        if end > start {
            map.push(MapEntry { start, length: end - start, usable: true });
        }
    }
    map
}

/// Puts kernel, command line and tables into `ram` and returns how the first vCPU has to start. `sregs` is what KVM
/// has for it now.
pub(crate) fn prepare(
    ram: &mut GuestRam,
    kernel: &Path,
    cmdline: &str,
    vcpus: u8,
    sregs: kvm_sregs,
) -> Result<Entry, BootError> {
    use vm_memory::{Bytes, GuestAddress};

    let image = loader::Image::open(kernel)?;
    let loaded = image.load(ram)?;
    mptable::write(ram.memory(), vcpus)?;
    let mut text = cmdline.as_bytes().to_vec();
    text.push(0);
    ram.memory()
        .write_slice(&text, GuestAddress(low::CMDLINE))
        .map_err(|source| BootError::Table { table: "command line", source })?;
    let map = memory_map(ram);
    match loaded {
        loader::Loaded::Pvh { entry } => pvh::prepare(ram.memory(), &map, entry, sregs),
        loader::Loaded::Linux64 { entry, header } => {
            linux64::prepare(ram.memory(), &map, entry, &header, cmdline.len(), sregs)
        }
    }
}
