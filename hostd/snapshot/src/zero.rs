//! The zero scan: which pages of a memory file hold anything.

use std::fs::File;
use std::io;

use crate::checksum::{ContentHash, for_each_page, is_zero};
use crate::pages::{PageSet, Run};

/// What a memory file holds.
#[derive(Debug)]
pub struct Scan {
    /// Pages that are not all zeros.
    pub non_zero: PageSet,
    /// [`memory_checksum`](crate::checksum::memory_checksum) of the file.
    pub checksum: String,
    /// Pages of the file, the last perhaps not whole.
    pub pages: u64,
}

/// Looks at every page of `memory` that is not in a hole.
///
/// # Errors
/// When it cannot be read.
pub fn scan(memory: &File) -> io::Result<Scan> {
    let mut non_zero = PageSet::default();
    let mut hash = ContentHash::default();
    for_each_page(memory, |page, content| {
        if !is_zero(content) {
            non_zero.push(Run { page, pages: 1 });
            hash.page(page, content);
        }
    })?;
    let pages = memory.metadata()?.len().div_ceil(crate::PAGE_SIZE);
    Ok(Scan { non_zero, checksum: hash.finish(), pages })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn holes_and_written_zeros_are_zero() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(100 << 12).unwrap();
        file.write_all_at(&[0; 4096 * 3], 10 << 12).unwrap();
        file.write_all_at(&[1], (11 << 12) + 4095).unwrap();
        file.write_all_at(&[1; 8192], 50 << 12).unwrap();
        let scan = scan(&file).unwrap();
        assert_eq!(scan.non_zero.runs(), [Run { page: 11, pages: 1 }, Run { page: 50, pages: 2 }]);
        assert_eq!(scan.pages, 100);
    }
}
