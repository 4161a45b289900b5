//! Finding out what a kernel file is, and getting it into memory.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::bzimage::{self, SetupHeader};
use super::{BootError, elf, load_error};
use crate::memory::GuestRam;

/// How much of a kernel's start is looked at; headers of both kinds lie within.
const HEAD: usize = 8192;

/// Largest ELF note segment that is read.
const NOTE_LIMIT: u64 = 64 * 1024;

/// An open kernel file.
pub(super) struct Image {
    file: Arc<File>,
    path: PathBuf,
    head: Vec<u8>,
    length: u64,
}

/// A kernel in guest memory.
pub(super) enum Loaded {
    /// To be entered in 32-bit protected mode.
    Pvh { entry: u64 },
    /// To be entered in long mode.
    Linux64 { entry: u64, header: SetupHeader },
}

impl Image {
    pub(super) fn open(path: &Path) -> Result<Self, BootError> {
        let read = || {
            let file = File::open(path)?;
            let length = file.metadata()?.len();
            let mut head = vec![0; HEAD];
            let read = file.read_at(&mut head, 0)?;
            head.truncate(read);
            Ok(Self { file: Arc::new(file), path: path.to_owned(), head, length })
        };
        read().map_err(|source| BootError::Read { path: path.to_owned(), source })
    }

    pub(super) fn load(&self, ram: &mut GuestRam) -> Result<Loaded, BootError> {
        if elf::is_elf(&self.head) {
            self.load_elf(ram)
        } else if bzimage::is_bzimage(&self.head) {
            self.load_bzimage(ram)
        } else {
            Err(BootError::Kind { path: self.path.clone() })
        }
    }

    fn load_elf(&self, ram: &mut GuestRam) -> Result<Loaded, BootError> {
        let failed = |source| BootError::Elf { path: self.path.clone(), source };
        let image = elf::parse(&self.head, self.length).map_err(failed)?;
        let mut entry = None;
        for note in &image.notes {
            let length = usize::try_from(note.length.min(NOTE_LIMIT)).unwrap_or_default();
            let mut bytes = vec![0; length];
            self.file
                .read_exact_at(&mut bytes, note.offset)
                .map_err(|source| BootError::Read { path: self.path.clone(), source })?;
            entry = entry.or(elf::pvh_entry(&bytes));
        }
        let entry = entry.ok_or_else(|| failed(elf::ElfError::NoEntry))?;
        for segment in &image.segments {
            ram.load(segment.address, segment.length, &self.file, segment.offset)
                .map_err(load_error(&self.path))?;
        }
        Ok(Loaded::Pvh { entry })
    }

    fn load_bzimage(&self, ram: &mut GuestRam) -> Result<Loaded, BootError> {
        let failed = |source| BootError::BzImage { path: self.path.clone(), source };
        let header = SetupHeader::parse(&self.head).map_err(failed)?;
        let plan = header.plan(self.length, ram.ranges().first().map_or(0, |range| range.length as u64));
        let plan = plan.map_err(failed)?;
        ram.load(plan.address, plan.length, &self.file, plan.offset).map_err(load_error(&self.path))?;
        Ok(Loaded::Linux64 { entry: plan.entry, header })
    }
}
