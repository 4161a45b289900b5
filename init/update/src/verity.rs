//! The tree of hashes over a slot's file system, as the kernel's dm-verity wants it: format 1, SHA-256, blocks of 4096
//! bytes, no salt. The tree is right behind the data.
//!
//! ```text
//! │ data block 0 │ … │ data block N-1 │ top of the tree │ … │ bottom: N digests, 128 a block │
//! ```
//!
//! The root is the digest of the topmost block. Who knows it and N, knows every byte: [`Verity`].

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use crate::digest::{DIGEST_BYTES, Digest};
use crate::text::clip;

/// Bytes of a block.
pub const BLOCK: usize = 4096;

/// Most blocks of data: 16 GiB, whose tree is 128 MiB.
pub const MAX_BLOCKS: u64 = 1 << 22;

/// Digests in a block of the tree.
const PER_BLOCK: usize = BLOCK / DIGEST_BYTES;

/// What a file system was when its tree was made. Written as `BLOCKS:ROOT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verity {
    /// Blocks of data; the tree begins at the block of this number.
    pub blocks: u64,
    /// The root of the tree.
    pub root: Digest,
}

/// Not `BLOCKS:ROOT`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Not BLOCKS:ROOT, 1 to {MAX_BLOCKS} and 64 hexadecimal digits: {0:?}")]
pub struct VerityError(String);

impl Verity {
    /// The kernel's description of the target, over a device that has data and tree.
    pub fn table(&self, device: &str) -> String {
        let Self { blocks, root } = self;
        format!("1 {device} {device} {BLOCK} {BLOCK} {blocks} {blocks} sha256 {root} -")
    }

    /// Sectors of 512 bytes of the data.
    pub fn sectors(&self) -> u64 {
        self.blocks * 8
    }
}

impl fmt::Display for Verity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.blocks, self.root)
    }
}

impl FromStr for Verity {
    type Err = VerityError;

    fn from_str(text: &str) -> Result<Self, VerityError> {
        let wrong = || VerityError(clip(text));
        let (blocks, root) = text.split_once(':').ok_or_else(wrong)?;
        let plain = blocks.bytes().all(|byte| byte.is_ascii_digit());
        let blocks = blocks.parse().ok().filter(|blocks| plain && (1..=MAX_BLOCKS).contains(blocks));
        let root = Digest::try_from(root.to_owned()).map_err(|_| wrong())?;
        Ok(Self { blocks: blocks.ok_or_else(wrong)?, root })
    }
}

/// Makes the tree of all that `data` gives. What is missing to a whole block counts as zeros.
///
/// # Errors
/// When it cannot be read, is empty, or has more than [`MAX_BLOCKS`].
pub fn tree(data: &mut impl Read) -> io::Result<(Verity, Vec<u8>)> {
    let mut bottom = Vec::new();
    let mut blocks = 0;
    let mut block = Vec::with_capacity(BLOCK);
    loop {
        block.clear();
        let wanted = u64::try_from(BLOCK).map_err(io::Error::other)?;
        if data.by_ref().take(wanted).read_to_end(&mut block)? == 0 {
            break;
        }
        blocks += 1;
        if blocks > MAX_BLOCKS {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        block.resize(BLOCK, 0);
        bottom.extend_from_slice(&Digest::of(&block).0);
    }
    // From the bottom up, until there is one digest left.
    let mut levels = Vec::new();
    let mut digests = bottom;
    while digests.len() > DIGEST_BYTES {
        let level = padded(digests);
        digests = level.chunks(BLOCK).flat_map(|block| Digest::of(block).0).collect();
        levels.push(level);
    }
    let root = Digest(digests.try_into().map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?);
    Ok((Verity { blocks, root }, levels.into_iter().rev().flatten().collect()))
}

fn padded(mut level: Vec<u8>) -> Vec<u8> {
    level.resize(level.len().next_multiple_of(PER_BLOCK * DIGEST_BYTES), 0);
    level
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(data: &[u8]) -> (Verity, Vec<u8>) {
        tree(&mut io::Cursor::new(data)).unwrap()
    }

    /// As the kernel goes about it: from a block's digest up to the root.
    fn is_sound(verity: &Verity, data: &[u8], tree: &[u8], index: usize) -> bool {
        let mut counts = vec![];
        let mut count = data.len() / BLOCK;
        while count > 1 {
            count = count.div_ceil(PER_BLOCK);
            counts.push(count);
        }
        let (mut digest, mut at) = (Digest::of(&data[index * BLOCK..][..BLOCK]), index);
        for (level, _) in counts.iter().enumerate() {
            let start: usize = counts[level + 1..].iter().sum();
            let block = &tree[(start + at / PER_BLOCK) * BLOCK..][..BLOCK];
            if block[at % PER_BLOCK * DIGEST_BYTES..][..DIGEST_BYTES] != digest.0 {
                return false;
            }
            (digest, at) = (Digest::of(block), at / PER_BLOCK);
        }
        digest == verity.root
    }

    #[test]
    fn one_block_is_its_own_tree() {
        let (verity, tree) = of(&[7; BLOCK]);
        assert_eq!((verity.blocks, verity.root, tree.len()), (1, Digest::of(&[7; BLOCK]), 0));
        assert_eq!(of(&[7; BLOCK - 1]).0.blocks, 1);
        assert!(super::tree(&mut io::empty()).is_err());
    }

    #[test]
    fn levels_are_as_many_as_it_takes() {
        for (blocks, expected) in [(2, 1), (128, 1), (129, 3), (128 * 128, 129), (128 * 128 + 1, 132)] {
            let data: Vec<u8> =
                (0..blocks).flat_map(|n: u32| [n.to_le_bytes(); BLOCK / 4].concat()).collect();
            let (verity, tree) = of(&data);
            assert_eq!(tree.len(), expected * BLOCK, "{blocks}");
            for index in [0, 1, blocks as usize / 2, blocks as usize - 1] {
                assert!(is_sound(&verity, &data, &tree, index), "{blocks} {index}");
            }
        }
    }

    #[test]
    fn the_kernel_is_told_where_all_is() {
        let verity = Verity { blocks: 5, root: Digest([0xab; 32]) };
        let root = "ab".repeat(32);
        assert_eq!(verity.table("254:0"), format!("1 254:0 254:0 4096 4096 5 5 sha256 {root} -"));
        assert_eq!(verity.sectors(), 40);
        assert_eq!(verity.to_string(), format!("5:{root}"));
        for wrong in
            ["", "5", ":", &format!("0:{root}"), &format!("+5:{root}"), &format!("4194305:{root}"), "5:ab"]
        {
            assert!(wrong.parse::<Verity>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_flipped_bit_is_seen(blocks in 1..300_usize, at in any::<prop::sample::Index>(), bit in 0..8_u8) {
            let mut data: Vec<u8> = (0..blocks).flat_map(|n| [n.to_le_bytes(); BLOCK / 8].concat()).collect();
            let (verity, tree) = of(&data);
            let at = at.index(data.len() + tree.len());
            let mut changed = tree.clone();
            let index = at.min(data.len() - 1) / BLOCK;
            prop_assert!(is_sound(&verity, &data, &tree, index));
            match at.checked_sub(data.len()) {
                None => data[at] ^= 1 << bit,
                Some(at) => changed[at] ^= 1 << bit,
            }
            let all_sound = (0..blocks).all(|index| is_sound(&verity, &data, &changed, index));
            prop_assert!(!all_sound);
        }

        #[test]
        fn what_is_written_reads_back(blocks in 1..=MAX_BLOCKS, root: [u8; 32]) {
            let verity = Verity { blocks, root: Digest(root) };
            prop_assert_eq!(verity.to_string().parse(), Ok(verity));
        }

        #[test]
        fn any_text_is_one_or_refused(text: String) {
            prop_assert!(text.parse::<Verity>().is_err());
        }
    }
}
