//! The image file: bounds, reads and writes straight between file and guest memory.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::PathBuf;

use super::request::Request;
use super::{BlockConfig, SECTOR};

/// Bytes moved by one request at most: bounds the time the device thread spends on it.
const MAX_REQUEST: usize = 16 * 1024 * 1024;

/// Most buffers the kernel takes in one call (IOV_MAX).
const MAX_IOVECS: usize = 1024;

/// A drive cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlockError {
    /// The image cannot be opened or measured.
    #[error("Cannot open drive {path}")]
    Open {
        /// The image.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A writable image must be whole sectors.
    #[error("Writable drive {path} has {len} bytes, not a multiple of 512")]
    Odd {
        /// The image.
        path: PathBuf,
        /// Its length.
        len: u64,
    },
    /// The image is larger than the drive is to be.
    #[error("Drive {path} has {len} bytes, more than the {sectors} sectors it may have")]
    TooLong {
        /// The image.
        path: PathBuf,
        /// Its length.
        len: u64,
        /// What it may have.
        sectors: u64,
    },
    /// Neither a regular file nor a block device: reads could block for ever.
    #[error("Drive {path} is neither a file nor a block device")]
    Kind {
        /// The image.
        path: PathBuf,
    },
}

/// A request that failed; the guest sees VIRTIO_BLK_S_IOERR.
#[derive(Debug, thiserror::Error)]
pub(super) enum IoError {
    /// Not whole sectors, past the end, or too much at once.
    #[error("Request of {len} bytes at sector {sector} is out of bounds")]
    Bounds { sector: u64, len: usize },
    /// A write to a read-only drive.
    #[error("Drive is read-only")]
    ReadOnly,
    /// The file became shorter than it was.
    #[error("Drive ends at byte {0}, before its capacity")]
    Truncated(u64),
    /// The file system said no.
    #[error("Drive I/O failed")]
    System(#[from] io::Error),
}

/// An open image.
#[derive(Debug)]
pub(super) struct Disk {
    file: File,
    len: u64,
    sectors: u64,
    pub(super) read_only: bool,
}

impl Disk {
    pub(super) fn open(config: &BlockConfig) -> Result<Self, BlockError> {
        let fail = |source| BlockError::Open { path: config.path.clone(), source };
        // O_NONBLOCK means nothing to a file and keeps open() from waiting on a FIFO, which is refused below.
        let mut options = File::options();
        options.read(true).write(!config.read_only).custom_flags(libc::O_NONBLOCK);
        let mut file = options.open(&config.path).map_err(fail)?;
        let kind = file.metadata().map_err(fail)?.file_type();
        if !kind.is_block_device() && !kind.is_file() {
            return Err(BlockError::Kind { path: config.path.clone() });
        }
        let len = file.seek(SeekFrom::End(0)).map_err(fail)?;
        if !config.read_only && !len.is_multiple_of(SECTOR) {
            return Err(BlockError::Odd { path: config.path.clone(), len });
        }
        let own = len.div_ceil(SECTOR);
        let sectors = match config.sectors {
            Some(sectors) if config.read_only && sectors >= own => sectors,
            Some(sectors) => return Err(BlockError::TooLong { path: config.path.clone(), len, sectors }),
            None => own,
        };
        Ok(Self { file, len, sectors, read_only: config.read_only })
    }

    /// Capacity in sectors. A read-only image may end before it; the rest reads as zeros.
    pub(super) fn sectors(&self) -> u64 {
        self.sectors
    }

    pub(super) fn read(&self, request: &Request<'_>) -> Result<usize, IoError> {
        let (start, len) = self.range(request)?;
        let done = self.transfer(request, start, len, libc::preadv)?;
        if done < len {
            self.fill_tail(request, start, done, len)?;
        }
        Ok(len)
    }

    pub(super) fn write(&self, request: &Request<'_>) -> Result<(), IoError> {
        if self.read_only {
            return Err(IoError::ReadOnly);
        }
        let (start, len) = self.range(request)?;
        if self.transfer(request, start, len, libc::pwritev)? < len {
            return Err(IoError::System(io::ErrorKind::WriteZero.into()));
        }
        Ok(())
    }

    /// Moves the request's data to or from byte `start` on by `call`, until all of it is or `call` moves nothing;
    /// how much that was.
    fn transfer(
        &self,
        request: &Request<'_>,
        start: u64,
        len: usize,
        call: unsafe extern "C" fn(i32, *const libc::iovec, i32, i64) -> isize,
    ) -> Result<usize, IoError> {
        let mut done = 0;
        while done < len {
            let at = advance(start, done)?;
            let (buffers, count) = vector(request, done);
            // SAFETY: `call` is preadv or pwritev. The buffers lie in guest memory, which `request` borrows; the guest
            // may read and write them at the same time, and only the kernel accesses them here. The count is that of
            // the array, and the descriptor is open.
            let n = retry(|| unsafe { call(self.file.as_raw_fd(), buffers.as_ptr(), count, at) })?;
            if n == 0 {
                break;
            }
            done += n;
        }
        Ok(done)
    }

    pub(super) fn flush(&self) -> Result<(), IoError> {
        if !self.read_only {
            self.file.sync_data()?;
        }
        Ok(())
    }

    /// First byte and length of a request that lies within the drive.
    fn range(&self, request: &Request<'_>) -> Result<(u64, usize), IoError> {
        let len = request.data_len();
        let bounds = || IoError::Bounds { sector: request.sector, len };
        let bytes = u64::try_from(len).map_err(|_| bounds())?;
        let end = request.sector.checked_add(bytes / SECTOR).ok_or_else(bounds)?;
        if !bytes.is_multiple_of(SECTOR) || end > self.sectors() || len > MAX_REQUEST {
            return Err(bounds());
        }
        Ok((request.sector.checked_mul(SECTOR).ok_or_else(bounds)?, len))
    }

    /// The file ended within or before a read: zeros follow, unless it should have gone on.
    fn fill_tail(&self, request: &Request<'_>, start: u64, done: usize, len: usize) -> Result<(), IoError> {
        let end = u64::try_from(done).ok().and_then(|done| start.checked_add(done));
        if end.is_none_or(|end| end < self.len) {
            return Err(IoError::Truncated(end.unwrap_or(start)));
        }
        let zeros = [0u8; 4096];
        let mut at = done;
        while at < len {
            let padding = zeros.get(..(len - at).min(zeros.len())).unwrap_or_default();
            request.write(at, padding);
            at += padding.len();
        }
        Ok(())
    }
}

/// The request's data from byte `done` on, as many buffers as one call takes.
fn vector(request: &Request<'_>, done: usize) -> (Vec<libc::iovec>, i32) {
    let mut buffers = request.data(done);
    buffers.truncate(MAX_IOVECS);
    let count = i32::try_from(buffers.len()).unwrap_or(0);
    (buffers, count)
}

fn advance(start: u64, done: usize) -> Result<i64, IoError> {
    let at = u64::try_from(done).ok().and_then(|done| start.checked_add(done));
    at.and_then(|at| i64::try_from(at).ok()).ok_or(IoError::Truncated(start))
}

/// Repeats an interrupted system call; a negative result is an error.
fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(n) => return Ok(n),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}
