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

/// Bit of an entry: the page is a file's (or shared), so nobody has written to this private mapping of it.
const FILE: u64 = 1 << 61;

/// What the page tables say of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Nobody touched it.
    Absent,
    /// It was read, and is still the file's.
    File,
    /// It was written, or is anonymous.
    Own,
}

/// The entries of all pages of `range`.
pub(crate) fn entries(range: &RamRange) -> io::Result<Vec<Entry>> {
    let file = File::open("/proc/self/pagemap")?;
    let pages = range.length / PAGE_SIZE;
    let first = range.host.addr() / PAGE_SIZE;
    let mut entries = Vec::with_capacity(pages);
    let mut buffer = vec![0u8; BATCH * 8];
    while entries.len() < pages {
        let count = (pages - entries.len()).min(BATCH);
        let bytes = buffer.get_mut(..count * 8).unwrap_or_default();
        file.read_exact_at(bytes, (first + entries.len()) as u64 * 8)?;
        let (words, _) = bytes.as_chunks::<8>();
        entries.extend(words.iter().map(|word| match u64::from_le_bytes(*word) {
            word if word & USED == 0 => Entry::Absent,
            word if word & FILE != 0 => Entry::File,
            _ => Entry::Own,
        }));
    }
    Ok(entries)
}
