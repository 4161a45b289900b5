//! A file mapped for reading, to ask which of its pages are in the page cache or to bring them there.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use crate::PAGE_BYTES;
use crate::layout::bytes;
use crate::pages::Run;

/// A read-only shared mapping of a whole file. Nothing is read through it by this program.
#[derive(Debug)]
pub(crate) struct Map {
    start: NonNull<libc::c_void>,
    length: usize,
}

// SAFETY: the mapping belongs to this value alone and is only asked about and filled, never read or written through.
unsafe impl Send for Map {}

impl Map {
    /// Maps `file`, which is not empty.
    pub(crate) fn new(file: &File) -> io::Result<Self> {
        let length = usize::try_from(file.metadata()?.len())
            .map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start).ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
        Ok(Self { start, length })
    }

    /// Pages of the file.
    pub(crate) fn pages(&self) -> usize {
        self.length.div_ceil(PAGE_BYTES)
    }

    /// Fills `flags`, one byte per page; bit 0 says whether the page is in the page cache.
    ///
    /// Since Linux 5.2 `mincore` says "all there" of a file the caller neither owns nor may write: the caller makes
    /// sure that it may.
    pub(crate) fn residency(&self, flags: &mut Vec<u8>) -> io::Result<()> {
        flags.clear();
        flags.resize(self.pages(), 0);
        // SAFETY: the range is this value's own mapping, and `flags` has a byte for each of its pages.
        let result = unsafe { libc::mincore(self.start.as_ptr(), self.length, flags.as_mut_ptr()) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Has what is brought in come in large pages, where the file system has such. Else nothing changes.
    pub(crate) fn want_large_pages(&self) {
        // SAFETY: the range is this value's own mapping; the advice changes nothing but the size of pages to come.
        unsafe { libc::madvise(self.start.as_ptr(), self.length, libc::MADV_HUGEPAGE) };
    }

    /// Brings pages into the page cache, and waits until they are there.
    pub(crate) fn bring_in(&self, run: Run) -> io::Result<()> {
        let range = usize::try_from(bytes(run.page)).ok().zip(usize::try_from(bytes(run.pages)).ok());
        let range = range.filter(|(from, length)| from.saturating_add(*length) <= self.pages() * PAGE_BYTES);
        let Some((from, length)) = range else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        // SAFETY: the range lies in this value's own mapping, as was just made sure; it is only read.
        let result =
            unsafe { libc::madvise(self.start.as_ptr().byte_add(from), length, libc::MADV_POPULATE_READ) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: made in `new`, not handed out, unmapped once.
        unsafe { libc::munmap(self.start.as_ptr(), self.length) };
    }
}

/// Whether a flag of [`Map::residency`] says "in the page cache".
pub(crate) fn is_resident(flag: u8) -> bool {
    flag & 1 != 0
}
