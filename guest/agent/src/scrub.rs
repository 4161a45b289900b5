//! Clears what programs left in memory they gave back, so that a snapshot does not carry it: the kernel hands out
//! zeroed pages and puts nothing of its own into free ones, so it is enough to take them all and return them.

use std::ffi::c_void;
use std::fs;
use std::ptr;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use rustix::param::page_size;
use rustix::system::sysinfo;

/// Taken at once, bytes: between two of these the clock and the free memory are looked at.
const PIECE: u64 = 1024 * 1024;

const MIN_FREE: &str = "/proc/sys/vm/min_free_kbytes";

/// The share of memory, one part in so many, that each CPU may keep aside of what was given back. An eighth is the
/// kernel's own measure: out of reach from another CPU, and counted as used.
const ASIDE: (&str, &str) = ("/proc/sys/vm/percpu_pagelist_high_fraction", "1024");

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scrubbed {
    /// Bytes that are zero now.
    pub bytes: u64,
    /// Nothing more could be taken; otherwise the time was up.
    pub whole: bool,
}

/// Clears free memory, from the most fragmented (the last given back, mostly) to the least, for so long at most.
/// The caches keep theirs: they are part of what makes a restored function fast.
#[must_use]
pub fn free_memory(within: Duration) -> Scrubbed {
    let (path, share) = ASIDE;
    // Without it less is cleared; that is all.
    let _ = fs::write(path, share);
    clear(reserve(fs::read_to_string(MIN_FREE).ok().as_deref()), within)
}

/// What stays untouched, bytes. Below half of that the kernel would begin to drop caches, and in the end to kill.
fn reserve(min_free_kb: Option<&str>) -> u64 {
    let kept = min_free_kb.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(8 * 1024);
    3 * kept * 1024 + PIECE
}

fn clear(reserve: u64, within: Duration) -> Scrubbed {
    let begun = Instant::now();
    let mut taken = Vec::new();
    let mut bytes = 0;
    let whole = loop {
        let Some(size) = next(free(), reserve) else { break true };
        if begun.elapsed() >= within {
            break false;
        }
        match Piece::take(size) {
            Ok(piece) => taken.push(piece),
            // The kernel is short of something else: what there was to gain was gained.
            Err(_) => break true,
        }
        bytes += u64::try_from(size).unwrap_or(0);
    };
    Scrubbed { bytes, whole }
}

/// The size of the next piece, in whole pages, that leaves so much free.
fn next(free: u64, reserve: u64) -> Option<usize> {
    let size = usize::try_from(free.saturating_sub(reserve).min(PIECE)).ok()?;
    let size = size - size % page_size();
    (size > 0).then_some(size)
}

fn free() -> u64 {
    let now = sysinfo();
    let free: u64 = now.freeram;
    free.saturating_mul(u64::from(now.mem_unit))
}

/// Memory of nobody else; given back when dropped.
struct Piece {
    at: *mut c_void,
    len: usize,
}

impl Piece {
    /// Takes so many bytes, a multiple of the page size, and has the kernel fill them.
    fn take(len: usize) -> Result<Self, Errno> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: A new mapping at an address of the kernel's choice touches no existing one.
        let at = unsafe { mmap_anonymous(ptr::null_mut(), len, protection, MapFlags::PRIVATE) }?;
        let piece = Self { at, len };
        // SAFETY: The range is exactly the mapping just made, nothing refers to it, and to populate it changes none
        // of its (zero) bytes.
        unsafe { madvise(at, len, Advice::LinuxPopulateWrite) }?;
        Ok(piece)
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        // SAFETY: The mapping was made by `take` with this address and length, and nobody was given a reference into
        // it. It can fail for want of memory only; then it stays until the process ends.
        let _ = unsafe { munmap(self.at, self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn takes_what_is_free_above_the_reserve() {
        // Others use this machine, so free memory comes and goes.
        assert!(clear(free().saturating_sub(9 * PIECE), Duration::from_secs(1)).bytes > 0);
        assert_eq!(clear(u64::MAX, Duration::from_secs(60)), Scrubbed { bytes: 0, whole: true });
    }

    #[test]
    fn stops_when_the_time_is_up() {
        assert_eq!(clear(0, Duration::ZERO), Scrubbed { bytes: 0, whole: false });
    }

    #[test]
    fn the_reserve_follows_the_kernels() {
        assert_eq!(reserve(Some("1448\n")), 3 * 1448 * 1024 + PIECE);
        assert_eq!(reserve(None), reserve(Some("8192")));
        assert_eq!(reserve(Some("x")), reserve(None));
    }

    proptest! {
        #[test]
        fn never_goes_below_the_reserve(free in any::<u64>(), reserve in any::<u64>()) {
            match next(free, reserve) {
                Some(size) => {
                    prop_assert!(size % page_size() == 0 && size as u64 <= PIECE);
                    prop_assert!(free - size as u64 >= reserve);
                }
                None => prop_assert!(free.saturating_sub(reserve) < page_size() as u64),
            }
        }
    }
}
