//! REAP, for comparison: the working set is put in place before the guest runs, everything else by a thread that
//! handles its page faults (Ustiugov et al., ASPLOS 2021; section 5.1.5 of the dissertation).

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::thread::JoinHandle;

use mote_snapshot::layout::bytes;
use mote_snapshot::{Layout, Source, WORKING_FILE};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::ram::{GuestRam, RamRange};
use super::uffd::Uffd;
use crate::snapshot::PAGE_SIZE;

/// How much of the working set is read and put in place at a time.
const CHUNK: usize = 1 << 20;

/// Guest memory that is filled by a thread of this process.
#[derive(Debug)]
pub(crate) struct Paged {
    uffd: Uffd,
    memory: Source,
    ranges: Vec<RamRange>,
    stop: OwnedFd,
}

// SAFETY: the addresses are of guest memory, which outlives the handler: its owner joins it first.
unsafe impl Send for Paged {}

/// The thread that serves page faults; ended and joined when dropped.
#[derive(Debug)]
pub(crate) struct Handler {
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Paged {
    /// Makes `ram`, which nobody has touched, wait for pages of `memory`.
    pub(crate) fn new(ram: &GuestRam, memory: Source) -> io::Result<Self> {
        let uffd = Uffd::missing(ram.ranges())?;
        let stop = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { uffd, memory, ranges: ram.ranges().to_vec(), stop })
    }

    /// Reads the working set in `dir`, past the page cache where the file system can, and puts it in place.
    pub(crate) fn prefetch(&self, dir: &Path, layout: &Layout) -> io::Result<()> {
        let path = dir.join(WORKING_FILE);
        let direct = File::options().read(true).custom_flags(libc::O_DIRECT).open(&path);
        let file = direct.or_else(|_| File::open(&path))?;
        // Direct reads want an aligned buffer.
        let mut room = vec![0u8; CHUNK + PAGE_SIZE];
        let skip = room.as_ptr().align_offset(PAGE_SIZE);
        let buffer = room.get_mut(skip..skip + CHUNK).unwrap_or_default();
        let (mut chunk_start, mut filled) = (0u64, 0usize);
        let mut at = 0u64;
        for run in layout.working.runs() {
            let (mut page, end) = (bytes(run.page), bytes(run.end()));
            while page < end {
                if at >= chunk_start + filled as u64 {
                    chunk_start = at;
                    filled = file.read_at(buffer, at)?;
                    if filled < PAGE_SIZE {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    filled -= filled % PAGE_SIZE;
                }
                let from = usize::try_from(at - chunk_start).unwrap_or(usize::MAX);
                let length = (filled - from).min(usize::try_from(end - page).unwrap_or(usize::MAX));
                let content = buffer.get(from..from + length).unwrap_or_default();
                let placed = self.place(page, content)?;
                page += placed;
                at += placed;
            }
        }
        Ok(())
    }

    /// Puts pages at their place, as far as the range they begin in goes; returns how many bytes.
    fn place(&self, at: u64, content: &[u8]) -> io::Result<u64> {
        let missing = || io::Error::from(io::ErrorKind::InvalidData);
        let inside =
            |range: &&RamRange| at >= range.file_offset && at - range.file_offset < range.length as u64;
        let range = self.ranges.iter().find(inside).ok_or_else(missing)?;
        let offset = usize::try_from(at - range.file_offset).map_err(|_| missing())?;
        let length = content.len().min(range.length - offset);
        let content = content.get(..length).unwrap_or_default();
        // SAFETY: the bytes lie in a registered range, as was just computed.
        unsafe { self.uffd.copy(range.host.addr() + offset, content) }?;
        Ok(length as u64)
    }

    /// Starts serving page faults. `failed` is called when that is over before its time.
    pub(crate) fn serve(self, failed: impl FnOnce(io::Error) + Send + 'static) -> io::Result<Handler> {
        let stop = self.stop.try_clone()?;
        let thread = std::thread::Builder::new().name("faults".to_owned()).spawn(move || {
            if let Err(error) = self.handle() {
                failed(error);
            }
        })?;
        Ok(Handler { stop, thread: Some(thread) })
    }

    fn handle(&self) -> io::Result<()> {
        let mut page = [0u8; PAGE_SIZE];
        loop {
            let mut watched =
                [PollFd::new(&self.uffd, PollFlags::IN), PollFd::new(&self.stop, PollFlags::IN)];
            match poll(&mut watched, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if watched.get(1).is_some_and(|stop| !stop.revents().is_empty()) {
                return Ok(());
            }
            while let Some(address) = self.uffd.fault()? {
                let address = address / PAGE_SIZE * PAGE_SIZE;
                let at = self.ranges.iter().find_map(|range| {
                    let offset = address.checked_sub(range.host.addr())?;
                    (offset < range.length).then(|| range.file_offset + offset as u64)
                });
                let at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
                self.memory.read_exact_at(&mut page, at)?;
                self.place(at, &page)?;
            }
        }
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        // Fails only when the counter is full, and then it is readable anyway.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // It does not panic, and if it did the guest is over anyway.
            let _ = thread.join();
        }
    }
}
