//! The few fields of an ext4 superblock that decide what a data partition needs. Pure.

/// Where the superblock lies, in bytes.
pub const OFFSET: u64 = 1024;

/// Its size in bytes.
pub const SIZE: usize = 1024;

const MAGIC: u16 = 0xEF53;
const STATE_CLEAN: u16 = 1;
const STATE_ERROR: u16 = 2;
const INCOMPAT_RECOVER: u32 = 0x4;
const INCOMPAT_64BIT: u32 = 0x80;
const COMPAT_HAS_JOURNAL: u32 = 0x4;

/// What the superblock says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Superblock {
    /// Size of the file system in bytes.
    pub bytes: u64,
    /// It was not unmounted: the journal must be replayed.
    pub needs_recovery: bool,
    /// The kernel found it damaged while it was mounted.
    pub has_errors: bool,
    /// It was unmounted in order, or it has a journal (which keeps this set).
    pub is_valid: bool,
    /// It has a journal.
    pub has_journal: bool,
}

impl Superblock {
    /// Reads the bytes at [`OFFSET`]; none if they are no ext2/3/4 superblock.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if u16_at(bytes, 0x38)? != MAGIC {
            return None;
        }
        let state = u16_at(bytes, 0x3A)?;
        let incompat = u32_at(bytes, 0x60)?;
        let block_size =
            1024_u64.checked_shl(u32_at(bytes, 0x18)?).filter(|size| (1024..=65536).contains(size))?;
        let high = if incompat & INCOMPAT_64BIT != 0 { u32_at(bytes, 0x150)? } else { 0 };
        let blocks = u64::from(high) << 32 | u64::from(u32_at(bytes, 0x4)?);
        Some(Self {
            bytes: blocks.checked_mul(block_size)?,
            needs_recovery: incompat & INCOMPAT_RECOVER != 0,
            has_errors: state & STATE_ERROR != 0,
            is_valid: state & STATE_CLEAN != 0,
            has_journal: u32_at(bytes, 0x5C)? & COMPAT_HAS_JOURNAL != 0,
        })
    }

    /// Whether it must be checked before it is mounted.
    pub fn is_unclean(&self) -> bool {
        self.needs_recovery || self.has_errors || !self.is_valid
    }

    /// Whether there is enough room in `available` bytes to be worth growing to it.
    pub fn is_smaller_than(&self, available: u64) -> bool {
        /// Below this a resize costs more than it gives.
        const WORTHWHILE: u64 = 8 << 20;
        available.saturating_sub(self.bytes) >= WORTHWHILE
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::FileExt;
    use std::process::Command;

    /// Of a clean file system of 100 MiB.
    pub fn superblock() -> Vec<u8> {
        let mut bytes = vec![0; SIZE];
        bytes[0x4..0x8].copy_from_slice(&25600_u32.to_le_bytes());
        bytes[0x18..0x1C].copy_from_slice(&2_u32.to_le_bytes());
        bytes[0x38..0x3A].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[0x3A..0x3C].copy_from_slice(&STATE_CLEAN.to_le_bytes());
        bytes[0x5C] = 4;
        bytes
    }

    #[test]
    fn a_clean_one_and_its_size() {
        let read = Superblock::parse(&superblock()).unwrap();
        assert_eq!(read.bytes, 100 << 20);
        assert!(!read.is_unclean() && read.has_journal);
        assert!(
            !read.is_smaller_than(100 << 20) && !read.is_smaller_than(101 << 20) && !read.is_smaller_than(1)
        );
        assert!(read.is_smaller_than(200 << 20));
    }

    #[test]
    fn each_sign_of_an_unclean_stop_counts() {
        for (at, value) in [(0x60, 0x4_u8), (0x3A, 0x3), (0x3A, 0x0)] {
            let mut bytes = superblock();
            bytes[at] = value;
            assert!(Superblock::parse(&bytes).unwrap().is_unclean(), "{at:#x}={value}");
        }
    }

    #[test]
    fn a_real_one_made_by_mkfs() {
        if Command::new("mkfs.ext4").arg("-V").output().is_err() {
            println!("skipped: needs mkfs.ext4");
            return;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 20).unwrap();
        let done =
            Command::new("mkfs.ext4").args(["-q", "-F"]).arg(file.path()).arg("40960k").status().unwrap();
        assert!(done.success());
        let mut bytes = vec![0; SIZE];
        file.as_file().read_exact_at(&mut bytes, OFFSET).unwrap();
        let read = Superblock::parse(&bytes).unwrap();
        assert_eq!(read.bytes, 40 << 20);
        assert!(!read.is_unclean() && read.has_journal && read.is_smaller_than(64 << 20));
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(mut bytes in proptest::collection::vec(any::<u8>(), 0..=SIZE)) {
            Superblock::parse(&bytes);
            if bytes.len() > 0x3A {
                bytes[0x38..0x3A].copy_from_slice(&MAGIC.to_le_bytes());
                Superblock::parse(&bytes);
            }
        }
    }
}
