//! Filling the page tables in bulk, behind the loader: what is there costs the guest no fault of the host's. Pages it
//! wrote to when it was recorded become its own, which is the dearer fault; the others stay those of the page cache,
//! which all sandboxes of a function share.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::ram::RamRange;

/// How much is mapped by one system call: the thread can be ended after each.
const CHUNK: usize = 1 << 20;

/// A piece of guest memory in this process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub(crate) host: *mut u8,
    pub(crate) length: usize,
    /// Whether the guest is expected to write to it: it gets pages of its own then, else those of the file.
    pub(crate) write: bool,
}

// SAFETY: an address and a length; only `madvise` is given them.
unsafe impl Send for Extent {}

/// The thread that fills page tables; ended and joined when dropped, so before the memory goes.
#[derive(Debug)]
pub(crate) struct Populator {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Populator {
    /// Maps `extents` in order, reading what the page cache does not have.
    pub(crate) fn start(extents: Vec<Extent>) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("populate".to_owned()).spawn(move || {
            for extent in extents {
                let advice = if extent.write { libc::MADV_POPULATE_WRITE } else { libc::MADV_POPULATE_READ };
                let mut done = 0;
                while done < extent.length && !told.load(Ordering::Relaxed) {
                    let length = (extent.length - done).min(CHUNK);
                    // SAFETY: the range lies in guest memory, which outlives this thread; the advice changes
                    // nothing of its content.
                    let failed = unsafe { libc::madvise(extent.host.add(done).cast(), length, advice) != 0 };
                    // What cannot be mapped now (an I/O error, say) is the guest's to meet.
                    if failed {
                        return;
                    }
                    done += length;
                }
            }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Populator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does not panic.
            let _ = thread.join();
        }
    }
}

/// Asks for large pages in `ranges`; where there are none, memory is only slower.
pub(crate) fn large_pages(ranges: &[RamRange]) {
    for range in ranges {
        // SAFETY: the range is guest memory; the advice changes nothing but the size of pages to come.
        unsafe { libc::madvise(range.host.cast(), range.length, libc::MADV_HUGEPAGE) };
    }
}
