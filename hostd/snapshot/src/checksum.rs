//! The checksum of guest memory: the same for a sparse file, a copy of it without holes, and the live memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::SeekFrom;
use xxhash_rust::xxh3::Xxh3;

/// Size of a guest page in bytes.
const PAGE_SIZE: usize = crate::PAGE_BYTES;

/// How much is read at a time, in bytes; a multiple of the page size that stays in the second-level cache.
const CHUNK: usize = 64 * PAGE_SIZE;

/// xxh3-64 over the index (u64, little-endian) and content of every page that is not all zeros, in order.
#[derive(Clone, Default)]
pub struct ContentHash {
    hash: Xxh3,
}

impl std::fmt::Debug for ContentHash {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ContentHash").finish_non_exhaustive()
    }
}

impl ContentHash {
    /// Adds page `index`; zero pages are to be left out.
    pub fn page(&mut self, index: u64, content: &[u8]) {
        self.hash.update(&index.to_le_bytes());
        self.hash.update(content);
    }

    /// 16 hexadecimal digits.
    pub fn finish(&self) -> String {
        format!("{:016x}", self.hash.digest())
    }
}

/// Whether a page holds nothing but zeros.
#[must_use]
pub fn is_zero(page: &[u8]) -> bool {
    // Whole words first: this runs over all of a guest's memory.
    let (words, rest) = page.as_chunks::<32>();
    words.iter().all(|word| u256(word) == 0) && rest.iter().all(|byte| *byte == 0)
}

fn u256(bytes: &[u8; 32]) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().fold(0, |sum, word| sum | u64::from_le_bytes(*word))
}

/// Ranges `(start, end)` of `file` between `from` and `to` that are not holes.
///
/// # Errors
/// When the file cannot be searched.
pub fn data_ranges(file: &File, from: u64, to: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut ranges = Vec::new();
    let mut at = from;
    while at < to {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole up to the end.
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(to);
        if start >= end {
            break;
        }
        ranges.push((start, end));
        at = end;
    }
    Ok(ranges)
}

/// [`ContentHash`] of a memory file. A last page that is not whole counts as filled up with zeros.
///
/// # Errors
/// When the file cannot be read.
pub fn memory_checksum(path: &Path) -> io::Result<String> {
    let mut hash = ContentHash::default();
    for_each_page(&File::open(path)?, |page, content| {
        if !is_zero(content) {
            hash.page(page, content);
        }
    })?;
    Ok(hash.finish())
}

/// Calls `look` with the index and content of every page of `file` that is not in a hole, in order. A last page that
/// is not whole comes filled up with zeros.
///
/// # Errors
/// When the file cannot be read.
pub fn for_each_page(file: &File, mut look: impl FnMut(u64, &[u8])) -> io::Result<()> {
    let length = file.metadata()?.len();
    let page = PAGE_SIZE as u64;
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    for (start, end) in data_ranges(file, 0, length)? {
        // A hole may begin or end inside a page on file systems with small blocks.
        let mut at = (start / page * page).max(done);
        let end = end.next_multiple_of(page);
        while at < end {
            let wanted = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            let chunk = buffer.get_mut(..wanted).unwrap_or_default();
            read_up_to(file, chunk, at)?;
            for content in chunk.chunks(PAGE_SIZE) {
                look(at / page, content);
                at += page;
            }
        }
        done = end;
    }
    Ok(())
}

/// Fills `buffer` from `offset`, with zeros past the end of the file.
fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => {
                rest.fill(0);
                break;
            }
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content() -> Vec<u8> {
        let mut bytes = vec![0u8; 100 * PAGE_SIZE];
        bytes[5 * PAGE_SIZE..7 * PAGE_SIZE].fill(7);
        bytes[99 * PAGE_SIZE + 4095] = 1;
        bytes
    }

    #[test]
    fn holes_and_zeros_are_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let (full, sparse) = (dir.path().join("full"), dir.path().join("sparse"));
        std::fs::write(&full, content()).unwrap();
        let file = File::create(&sparse).unwrap();
        file.set_len(content().len() as u64).unwrap();
        file.write_all_at(&content()[5 * PAGE_SIZE..7 * PAGE_SIZE], 5 * PAGE_SIZE as u64).unwrap();
        file.write_all_at(&[1], 100 * PAGE_SIZE as u64 - 1).unwrap();
        assert_eq!(memory_checksum(&full).unwrap(), memory_checksum(&sparse).unwrap());
    }

    #[test]
    fn moved_and_changed_pages_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory");
        std::fs::write(&path, content()).unwrap();
        let before = memory_checksum(&path).unwrap();
        let mut moved = content();
        moved.swap(99 * PAGE_SIZE + 4095, 98 * PAGE_SIZE + 4095);
        std::fs::write(&path, moved).unwrap();
        assert_ne!(memory_checksum(&path).unwrap(), before);
        let mut changed = content();
        changed[5 * PAGE_SIZE + 100] ^= 1;
        std::fs::write(&path, changed).unwrap();
        assert_ne!(memory_checksum(&path).unwrap(), before);
    }

    #[test]
    fn zero_test_sees_every_byte() {
        let mut page = [0u8; PAGE_SIZE];
        assert!(is_zero(&page));
        for position in 0..PAGE_SIZE {
            page[position] = 1;
            assert!(!is_zero(&page));
            page[position] = 0;
        }
        assert!(!is_zero(&[0, 0, 1]));
    }
}
