//! Writing guest memory to a sparse file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mote_snapshot::checksum::{data_ranges, is_zero};
use mote_snapshot::pages::{PageSet, Run};

use super::pagemap::{self, Entry};
use super::ram::{GuestRam, RamRange};
use crate::snapshot::{ContentHash, PAGE_SIZE};

/// Most pages written by one system call.
const RUN_PAGES: usize = 256;

/// The memory file cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum DumpError {
    /// It exists already, or cannot be made. An existing file may be what a running guest's memory is mapped from.
    #[error("Cannot create {path}")]
    Create {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Writing failed.
    #[error("Cannot write {path} at offset {offset}")]
    Write {
        path: PathBuf,
        offset: u64,
        #[source]
        source: io::Error,
    },
    /// A file that is mapped into the guest cannot be searched for holes.
    #[error("Cannot find the holes of a mapped file")]
    Holes(#[source] io::Error),
}

/// What was written.
#[derive(Debug)]
pub(crate) struct Dump {
    /// The open file, for syncing.
    pub(crate) file: File,
    /// Bytes that are not holes.
    pub(crate) stored_bytes: u64,
    /// Checksum over the content.
    pub(crate) checksum: String,
    /// Pages left out because they are as in the base's memory file.
    pub(crate) inherited: PageSet,
}

/// Makes a new file for `path`, readable by its owner only: it holds a tenant's memory.
pub(crate) fn create(path: &Path) -> Result<File, DumpError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| DumpError::Create { path: path.to_owned(), source })
}

/// Writes `ram` to a new file at `path`, zero pages as holes; with a `base`, also what is still as in that file, which
/// is mapped into `ram`, as holes.
///
/// The caller guarantees that nobody changes guest memory meanwhile: vCPUs are paused, devices stand still.
pub(crate) fn dump(ram: &GuestRam, path: &Path, base: Option<&Arc<File>>) -> Result<Dump, DumpError> {
    let file = create(path)?;
    file.set_len(ram.bytes()).map_err(|source| DumpError::Write {
        path: path.to_owned(),
        offset: 0,
        source,
    })?;
    let mut writer = Writer { file: &file, path, hash: ContentHash::default(), stored: 0 };
    let mut inherited = PageSet::default();
    for range in ram.ranges() {
        let pages = pages_of(ram, range, base)?;
        let used: Vec<bool> = pages.iter().map(|page| *page == Page::Used).collect();
        writer.range(range, &used)?;
        let first = range.file_offset / PAGE_SIZE as u64;
        for (page, kind) in (first..).zip(&pages) {
            if *kind == Page::Inherited {
                inherited.push(Run { page, pages: 1 });
            }
        }
    }
    let (stored_bytes, checksum) = (writer.stored, writer.hash.finish());
    Ok(Dump { file, stored_bytes, checksum, inherited })
}

/// What is to be done with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    /// It holds zeros: a hole.
    Zero,
    /// It may hold anything: look at it.
    Used,
    /// It is as in the base: a hole, and noted.
    Inherited,
}

/// Looking at memory nobody ever touched would cost a page fault per page, so the page tables and the mapped files'
/// holes are asked first.
fn pages_of(ram: &GuestRam, range: &RamRange, base: Option<&Arc<File>>) -> Result<Vec<Page>, DumpError> {
    let count = range.length / PAGE_SIZE;
    let page = PAGE_SIZE as u64;
    let (start, end) = (range.file_offset, range.file_offset + range.length as u64);
    // What the files say, the uppermost last.
    let mut pages = vec![Page::Zero; count];
    for overlay in ram.overlays().iter().filter(|overlay| overlay.at >= start && overlay.at < end) {
        let in_base =
            base.is_some_and(|base| Arc::ptr_eq(base, &overlay.file)) && overlay.at == overlay.file_offset;
        let kind = if in_base { Page::Inherited } else { Page::Used };
        let (first, last) = (overlay.file_offset, overlay.file_offset + overlay.length);
        let place = |offset: u64| usize::try_from((overlay.at - start + (offset - first)) / page);
        if let (Ok(from), Ok(to)) = (place(first), place(last)) {
            pages.get_mut(from..to).unwrap_or_default().fill(Page::Zero);
        }
        for (from, to) in data_ranges(&overlay.file, first, last).map_err(DumpError::Holes)? {
            if let (Ok(from), Ok(to)) = (place(from), place(to.next_multiple_of(page))) {
                pages.get_mut(from..to).unwrap_or_default().fill(kind);
            }
        }
    }
    // What was written since. Without /proc (or in a sandbox that hides it) that may be any page: slower, equally
    // right.
    match pagemap::entries(range) {
        Ok(entries) => {
            let written = pages.iter_mut().zip(entries).filter(|(_, entry)| *entry == Entry::Own);
            written.for_each(|(page, _)| *page = Page::Used);
        }
        Err(_) => pages.fill(Page::Used),
    }
    Ok(pages)
}

/// Pages of guest memory this process or its guest has touched.
pub(crate) fn touched_pages(ram: &GuestRam) -> io::Result<Touched> {
    let mut entries = Vec::new();
    for range in ram.ranges() {
        entries.extend(pagemap::entries(range)?);
    }
    Ok(Touched {
        all: PageSet::from_flags(entries.iter().map(|entry| *entry != Entry::Absent)),
        written: PageSet::from_flags(entries.iter().map(|entry| *entry == Entry::Own)),
    })
}

/// What the guest touched.
#[derive(Debug)]
pub(crate) struct Touched {
    /// In any way.
    pub(crate) all: PageSet,
    /// By writing.
    pub(crate) written: PageSet,
}

struct Writer<'a> {
    file: &'a File,
    path: &'a Path,
    hash: ContentHash,
    stored: u64,
}

impl Writer<'_> {
    fn range(&mut self, range: &RamRange, used: &[bool]) -> Result<(), DumpError> {
        // SAFETY: the range is a live mapping of that length, and by this module's contract nobody writes to it
        // while the snapshot is taken. Files mapped into it are longer than what is mapped of them.
        let memory = unsafe { std::slice::from_raw_parts(range.host.cast_const(), range.length) };
        let first_page = range.file_offset / PAGE_SIZE as u64;
        let mut run_start = 0;
        let mut run = 0;
        for (index, (page, used)) in memory.chunks_exact(PAGE_SIZE).zip(used).enumerate() {
            let stored = *used && !is_zero(page);
            if stored {
                self.hash.page(first_page + index as u64, page);
                if run == 0 {
                    run_start = index;
                }
                run += 1;
            }
            if run > 0 && (!stored || run == RUN_PAGES) {
                self.write(memory, range.file_offset, run_start, run)?;
                run = 0;
            }
        }
        if run > 0 {
            self.write(memory, range.file_offset, run_start, run)?;
        }
        Ok(())
    }

    fn write(&mut self, memory: &[u8], base: u64, page: usize, count: usize) -> Result<(), DumpError> {
        let start = page * PAGE_SIZE;
        let bytes = memory.get(start..start + count * PAGE_SIZE).unwrap_or_default();
        let offset = base + start as u64;
        self.file.write_all_at(bytes, offset).map_err(|source| DumpError::Write {
            path: self.path.to_owned(),
            offset,
            source,
        })?;
        self.stored += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::restore::tests::{info, options};
    use crate::memory::restore::{RestoreMode, restore};
    use crate::snapshot::{MEMORY_FILE, memory_checksum};
    use std::os::unix::fs::MetadataExt;
    use vm_memory::{Bytes, GuestAddress};

    const SIZE: u64 = 64 << 20;

    #[test]
    fn memory_is_sparse_checked_and_comes_back_twice() {
        let dir = tempfile::tempdir().unwrap();
        let ram = GuestRam::new(SIZE).unwrap();
        let pattern: Vec<u8> = (0..=255u8).cycle().take(3 << 20).collect();
        ram.memory().write_slice(&pattern, GuestAddress(0x10_0123)).unwrap();
        ram.memory().write_slice(&[1], GuestAddress(SIZE - 1)).unwrap();
        ram.memory().write_slice(&[0; 4096], GuestAddress(0x200_0000)).unwrap();
        let path = dir.path().join(MEMORY_FILE);
        let first = dump(&ram, &path, None).unwrap();
        let pages = (3 << 20) / 4096 + 1 + 1;
        assert_eq!(first.stored_bytes, pages * 4096);
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), SIZE);
        assert!(metadata.blocks() * 512 < 2 * first.stored_bytes, "not sparse");
        assert_eq!(memory_checksum(&path).unwrap(), first.checksum);

        // A guest restored from it and saved again without having touched anything is the same.
        let again =
            restore(dir.path(), &info(SIZE, &first.checksum), None, options(RestoreMode::Lazy)).unwrap().ram;
        let second_path = dir.path().join("again");
        let second = dump(&again, &second_path, None).unwrap();
        assert_eq!(second.checksum, first.checksum);
        assert_eq!(second.stored_bytes, first.stored_bytes);
        // Pages that were zeroed or written since are seen.
        again.memory().write_slice(&vec![0; 3 << 20], GuestAddress(0x10_0123)).unwrap();
        again.memory().write_slice(&[7], GuestAddress(0x300_0000)).unwrap();
        let third = dump(&again, &dir.path().join("third"), None).unwrap();
        assert_eq!(third.stored_bytes, 2 * 4096);
        let mut last = [0u8];
        again.memory().read_slice(&mut last, GuestAddress(SIZE - 1)).unwrap();
        assert_eq!(last, [1]);
    }

    #[test]
    fn a_mapped_memory_file_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(MEMORY_FILE);
        let ram = GuestRam::new(1 << 20).unwrap();
        dump(&ram, &path, None).unwrap();
        assert!(matches!(dump(&ram, &path, None), Err(DumpError::Create { .. })));
    }
}
