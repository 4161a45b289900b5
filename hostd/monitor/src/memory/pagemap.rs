//! What the page tables of this process say of guest memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::ram::RamRange;
use crate::snapshot::PAGE_SIZE;

/// Entries of `/proc/self/pagemap` read at a time.
const BATCH: usize = 8192;

/// Bits of an entry: the page is in memory, or swapped out.
const USED: u64 = 1 << 63 | 1 << 62;

/// For each page of `range`, whether this process or its guest has touched it.
pub(crate) fn touched(range: &RamRange) -> io::Result<Vec<bool>> {
    let file = File::open("/proc/self/pagemap")?;
    let pages = range.length / PAGE_SIZE;
    let first = range.host.addr() / PAGE_SIZE;
    let mut used = Vec::with_capacity(pages);
    let mut buffer = vec![0u8; BATCH * 8];
    while used.len() < pages {
        let count = (pages - used.len()).min(BATCH);
        let bytes = buffer.get_mut(..count * 8).unwrap_or_default();
        file.read_exact_at(bytes, (first + used.len()) as u64 * 8)?;
        let (entries, _) = bytes.as_chunks::<8>();
        used.extend(entries.iter().map(|entry| u64::from_le_bytes(*entry) & USED != 0));
    }
    Ok(used)
}
