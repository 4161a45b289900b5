//! The mappings behind guest memory.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use mote_snapshot::layout::bytes;
use mote_snapshot::pages::Run;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress};

use crate::snapshot::PAGE_SIZE;

/// Guest memory cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum RamError {
    /// The address space cannot be had.
    #[error("Cannot map {bytes} bytes of guest memory")]
    Map {
        bytes: u64,
        #[source]
        source: vm_memory::mmap::FromRangesError,
    },
    /// A range is not (wholly) guest memory.
    #[error("Guest memory has no {length} bytes at {address:#x}")]
    Range { address: u64, length: usize },
    /// A file cannot be laid over memory.
    #[error("Cannot map {length} bytes of a file at guest address {address:#x}")]
    Overlay {
        address: u64,
        length: usize,
        #[source]
        source: io::Error,
    },
    /// A file cannot be read into memory.
    #[error("Cannot read {length} bytes of a file at offset {offset}")]
    Read {
        offset: u64,
        length: usize,
        #[source]
        source: io::Error,
    },
}

/// One contiguous range of guest memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RamRange {
    /// Guest address.
    pub(crate) guest: u64,
    /// Address in this process.
    pub(crate) host: *mut u8,
    /// Bytes.
    pub(crate) length: usize,
    /// Where it starts in the memory file.
    pub(crate) file_offset: u64,
}

/// A file laid over part of guest memory.
#[derive(Clone, Debug)]
pub(crate) struct Overlay {
    /// Where it starts, as an offset in the memory file.
    pub(crate) at: u64,
    /// Bytes.
    pub(crate) length: u64,
    /// The file.
    pub(crate) file: Arc<File>,
    /// Where in the file it starts.
    pub(crate) file_offset: u64,
}

/// Guest memory and what it is made of.
#[derive(Debug)]
pub(crate) struct GuestRam {
    memory: GuestMemoryMmap,
    ranges: Vec<RamRange>,
    overlays: Vec<Overlay>,
}

// SAFETY: the pointers in `ranges` are addresses of mappings owned by `memory`, which may move between threads.
unsafe impl Send for GuestRam {}

impl GuestRam {
    /// Maps `bytes` of zeros; nothing is allocated before it is touched.
    pub(crate) fn new(bytes: u64) -> Result<Self, RamError> {
        let wanted = super::ranges(bytes);
        let sized: Option<Vec<(GuestAddress, usize)>> =
            wanted.iter().map(|(address, length)| Some((*address, usize::try_from(*length).ok()?))).collect();
        let sized = sized.ok_or(RamError::Range { address: 0, length: usize::MAX })?;
        let memory =
            GuestMemoryMmap::from_ranges(&sized).map_err(|source| RamError::Map { bytes, source })?;
        let mut ranges = Vec::new();
        let mut file_offset = 0;
        for region in memory.iter() {
            let host = region
                .get_host_address(MemoryRegionAddress(0))
                .map_err(|_| RamError::Range { address: region.start_addr().0, length: 0 })?;
            let guest = region.start_addr().0;
            let length = usize::try_from(region.len())
                .map_err(|_| RamError::Range { address: guest, length: usize::MAX })?;
            ranges.push(RamRange { guest, host, length, file_offset });
            file_offset += region.len();
        }
        Ok(Self { memory, ranges, overlays: Vec::new() })
    }

    /// The view devices and loaders use.
    pub(crate) fn memory(&self) -> &GuestMemoryMmap {
        &self.memory
    }

    /// The ranges, in order of guest address.
    pub(crate) fn ranges(&self) -> &[RamRange] {
        &self.ranges
    }

    /// Files laid over memory, in the order it was done.
    pub(crate) fn overlays(&self) -> &[Overlay] {
        &self.overlays
    }

    /// Total size in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.length as u64).sum()
    }

    /// The range `address..address + length` lies in, and its offset there.
    fn find(&self, address: u64, length: usize) -> Result<(RamRange, usize), RamError> {
        let error = RamError::Range { address, length };
        for range in &self.ranges {
            if let Some(offset) = address.checked_sub(range.guest).and_then(|o| usize::try_from(o).ok())
                && offset < range.length
            {
                let fits = offset.checked_add(length).is_some_and(|end| end <= range.length);
                return if fits { Ok((*range, offset)) } else { Err(error) };
            }
        }
        Err(error)
    }

    /// Lays `length` bytes of `file` from `file_offset` over guest memory at `address`, private: what the guest
    /// writes stays in this process. All three numbers are multiples of the page size.
    ///
    /// The file must not shrink while the guest lives: a missing page is a SIGBUS.
    pub(crate) fn overlay(
        &mut self,
        address: u64,
        length: usize,
        file: &Arc<File>,
        file_offset: u64,
    ) -> Result<(), RamError> {
        let (range, offset) = self.find(address, length)?;
        if !offset.is_multiple_of(PAGE_SIZE) || !length.is_multiple_of(PAGE_SIZE) || length == 0 {
            return Err(RamError::Range { address, length });
        }
        let system = |source| RamError::Overlay { address, length, source };
        let position = libc::off_t::try_from(file_offset)
            .map_err(|_| system(io::Error::from(io::ErrorKind::InvalidInput)))?;
        // SAFETY: `find` checked that the range lies inside a mapping owned by `self.memory`, so nothing but guest
        // memory is replaced; guest memory is only reached through raw pointers, never through references that
        // outlive a call. The mapping is later unmapped together with the one it lies in.
        let mapped = unsafe {
            libc::mmap(
                range.host.add(offset).cast(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
                file.as_raw_fd(),
                position,
            )
        };
        if mapped == libc::MAP_FAILED {
            return Err(system(io::Error::last_os_error()));
        }
        self.overlays.push(Overlay {
            at: range.file_offset + offset as u64,
            length: length as u64,
            file: Arc::clone(file),
            file_offset,
        });
        Ok(())
    }

    /// Lays pages of `file` from `file_offset` over the pages of `run`, which are counted as in a memory file.
    pub(crate) fn lay(&mut self, run: Run, file: &Arc<File>, file_offset: u64) -> Result<(), RamError> {
        let mut done = 0;
        for (host, length) in split(&self.ranges, run) {
            let range = self
                .ranges
                .iter()
                .find(|range| (range.host.addr()..range.host.addr() + range.length).contains(&host.addr()));
            let Some(range) = range else { break };
            let guest = range.guest + (host.addr() - range.host.addr()) as u64;
            self.overlay(guest, length, file, file_offset + done)?;
            done += length as u64;
        }
        if done == bytes(run.pages) {
            return Ok(());
        }
        let length = usize::try_from(bytes(run.pages)).unwrap_or(usize::MAX);
        Err(RamError::Range { address: bytes(run.page), length })
    }

    /// Notes that all of memory comes from `file`, though it is not mapped.
    pub(crate) fn note_paged(&mut self, file: &Arc<File>) {
        for range in &self.ranges {
            self.overlays.push(Overlay {
                at: range.file_offset,
                length: range.length as u64,
                file: Arc::clone(file),
                file_offset: range.file_offset,
            });
        }
    }

    /// Puts `length` bytes of `file` at `address`: whole pages are laid over, so that only what the guest touches
    /// is ever read; ragged ends, and files whose offset does not match, are copied.
    pub(crate) fn load(
        &mut self,
        address: u64,
        length: usize,
        file: &Arc<File>,
        file_offset: u64,
    ) -> Result<(), RamError> {
        let page = PAGE_SIZE as u64;
        let whole = length / PAGE_SIZE * PAGE_SIZE;
        let aligned = address.is_multiple_of(page) && file_offset.is_multiple_of(page);
        let mapped = if aligned && whole > 0 { whole } else { 0 };
        if mapped > 0 {
            self.overlay(address, mapped, file, file_offset)?;
        }
        let skip = mapped as u64;
        self.copy(address + skip, length - mapped, file, file_offset + skip)
    }

    fn copy(&self, address: u64, length: usize, file: &File, offset: u64) -> Result<(), RamError> {
        if length == 0 {
            return Ok(());
        }
        let (range, start) = self.find(address, length)?;
        // SAFETY: `find` checked that the bytes lie inside a live mapping; no vCPU runs yet and no other thread
        // knows of the memory, so nothing else reads or writes them during this call.
        let target = unsafe { std::slice::from_raw_parts_mut(range.host.add(start), length) };
        file.read_exact_at(target, offset).map_err(|source| RamError::Read { offset, length, source })
    }
}

/// Address in this process and length in bytes of the pieces `run` has in `ranges`.
pub(crate) fn split(ranges: &[RamRange], run: Run) -> Vec<(*mut u8, usize)> {
    let (start, end) = (bytes(run.page), bytes(run.end()));
    let mut pieces = Vec::new();
    for range in ranges {
        let from = start.max(range.file_offset);
        let to = end.min(range.file_offset + range.length as u64);
        if from < to
            && let (Ok(offset), Ok(length)) =
                (usize::try_from(from - range.file_offset), usize::try_from(to - from))
        {
            pieces.push((range.host.wrapping_add(offset), length));
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    fn file(content: &[u8]) -> Arc<File> {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(content, 0).unwrap();
        Arc::new(file)
    }

    #[test]
    fn files_are_laid_over_and_written_privately() {
        let mut content = vec![1u8; PAGE_SIZE];
        content.extend(vec![2u8; PAGE_SIZE]);
        content.extend([3u8; 10]);
        let backing = file(&content);
        let mut ram = GuestRam::new(1 << 20).unwrap();
        ram.load(0x2000, content.len(), &backing, 0).unwrap();
        let mut read = vec![0u8; content.len() + 1];
        ram.memory().read_slice(&mut read, GuestAddress(0x2000)).unwrap();
        assert_eq!(read[..content.len()], content);
        assert_eq!(read[content.len()], 0, "past the file memory is zero");
        assert_eq!(ram.overlays().len(), 1, "the ragged end is copied");
        ram.memory().write_slice(&[9], GuestAddress(0x2000)).unwrap();
        let mut first = [0u8];
        backing.read_exact_at(&mut first, 0).unwrap();
        assert_eq!(first, [1]);
    }

    #[test]
    fn odd_offsets_are_copied() {
        let content: Vec<u8> = (0..=255).cycle().take(3 * PAGE_SIZE).collect();
        let mut ram = GuestRam::new(1 << 20).unwrap();
        ram.load(0x3000, 2 * PAGE_SIZE, &file(&content), 512).unwrap();
        assert!(ram.overlays().is_empty());
        let mut read = vec![0u8; 2 * PAGE_SIZE];
        ram.memory().read_slice(&mut read, GuestAddress(0x3000)).unwrap();
        assert_eq!(read, content[512..512 + 2 * PAGE_SIZE]);
    }

    #[test]
    fn nothing_lands_outside_guest_memory() {
        let mut ram = GuestRam::new(1 << 20).unwrap();
        let backing = file(&[1; 2 * PAGE_SIZE]);
        assert!(matches!(
            ram.overlay((1 << 20) - 4096, 2 * PAGE_SIZE, &backing, 0),
            Err(RamError::Range { .. })
        ));
        assert!(matches!(ram.overlay(u64::MAX - 10, PAGE_SIZE, &backing, 0), Err(RamError::Range { .. })));
        assert!(matches!(ram.overlay(1, PAGE_SIZE, &backing, 0), Err(RamError::Range { .. })));
        assert!(matches!(ram.load(0, 3 * PAGE_SIZE + 1, &backing, 1), Err(RamError::Read { .. })));
    }
}
