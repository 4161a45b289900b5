//! userfaultfd: the few system calls of it the monitor makes (the crate for it needs libclang at build time).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use linux_raw_sys::general as raw;
use rustix::mm::UserfaultfdFlags;

use super::ram::RamRange;

/// `_IOC(direction, 0xAA, number, size)` of `linux/userfaultfd.h`; 3 is read and write.
const fn request<T>(number: u32) -> libc::c_ulong {
    // Sizes of these structures are below the 14 bits there are for them.
    #[expect(clippy::cast_possible_truncation, reason = "see above")]
    let size = size_of::<T>() as u32;
    (3 << 30 | size << 16 | 0xAA << 8 | number) as libc::c_ulong
}

const API: libc::c_ulong = request::<raw::uffdio_api>(0x3F);
const REGISTER: libc::c_ulong = request::<raw::uffdio_register>(0x00);
const COPY: libc::c_ulong = request::<raw::uffdio_copy>(0x03);

/// `UFFD_FEATURE_WP_ASYNC`, Linux 6.7: write protection any mapping takes, resolved by the kernel itself.
const FEATURE_WP_ASYNC: u64 = 1 << 15;

/// An open userfaultfd.
#[derive(Debug)]
pub(crate) struct Uffd {
    file: File,
}

impl Uffd {
    /// Opens one with these features.
    fn open(features: u64) -> io::Result<Self> {
        let flags = UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK;
        // SAFETY: nothing is registered yet; what is will be this process's own guest memory.
        let fd = unsafe { rustix::mm::userfaultfd(flags) }?;
        let uffd = Self { file: File::from(fd) };
        let mut api = raw::uffdio_api { api: 0xAA, features, ioctls: 0 };
        uffd.ioctl(API, &mut api)?;
        Ok(uffd)
    }

    /// For pages that are not there.
    pub(crate) fn missing(ranges: &[RamRange]) -> io::Result<Self> {
        let uffd = Self::open(0)?;
        ranges.iter().try_for_each(|range| uffd.register(range, 1))?;
        Ok(uffd)
    }

    /// For nothing but a side effect: a mapping registered for write protection gets no fault-around, so that the
    /// page tables tell exactly which pages were touched. Linux 6.7 or newer.
    pub(crate) fn exact(ranges: &[RamRange]) -> io::Result<Self> {
        let uffd = Self::open(FEATURE_WP_ASYNC)?;
        ranges.iter().try_for_each(|range| uffd.register(range, 2))?;
        Ok(uffd)
    }

    fn register(&self, range: &RamRange, mode: u64) -> io::Result<()> {
        let range = raw::uffdio_range { start: range.host.addr() as u64, len: range.length as u64 };
        self.ioctl(REGISTER, &mut raw::uffdio_register { range, mode, ioctls: 0 })
    }

    fn ioctl<T>(&self, request: libc::c_ulong, argument: &mut T) -> io::Result<()> {
        // SAFETY: `request` was made for this very structure, which the kernel reads and writes during the call only.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), request, std::ptr::from_mut(argument)) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Puts `content`, whole pages, at `address`, and wakes who waits for it. Pages that are there already are left
    /// as they are.
    ///
    /// # Safety
    /// `address` must be in a registered range, with as many bytes of it behind as `content` has.
    pub(crate) unsafe fn copy(&self, address: usize, content: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while let Some(rest) = content.get(done..).filter(|rest| !rest.is_empty()) {
            let mut copy = raw::uffdio_copy {
                dst: (address + done) as u64,
                src: rest.as_ptr().addr() as u64,
                len: rest.len() as u64,
                mode: 0,
                copy: 0,
            };
            let result = self.ioctl(COPY, &mut copy);
            // How much was copied before the call was interrupted or met a page that is there.
            let copied = usize::try_from(copy.copy).unwrap_or(0);
            match result {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => done += copied,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => done += copied.max(PAGE),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Address of the next fault; `None` when none waits.
    pub(crate) fn fault(&self) -> io::Result<Option<usize>> {
        let mut message = [0u8; size_of::<raw::uffd_msg>()];
        match (&self.file).read(&mut message) {
            Ok(read) if read == message.len() => {}
            Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
        // The event is the first byte, the address of a page fault (0x12) the third word.
        let (words, _) = message.as_chunks::<8>();
        match (message.first(), words.get(2)) {
            (Some(0x12), Some(address)) => Ok(usize::try_from(u64::from_le_bytes(*address)).ok()),
            _ => Ok(None),
        }
    }
}

/// Size of a page.
const PAGE: usize = crate::snapshot::PAGE_SIZE;

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
