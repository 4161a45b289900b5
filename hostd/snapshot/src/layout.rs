//! The table of regions: what of guest memory comes from which file.
//!
//! ```text
//! 0   8  magic "MOTELAYO"
//! 8   4  format version
//! 12  4  zero
//! 16  8  length of the payload
//! 24  8  xxh3-64 of bytes 0..24 and the payload
//! 32  …  payload: numbers of 64 bits, little-endian
//! ```

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::pages::{PageSet, Run};
use crate::regions::{REGION_LIMIT, Region};
use crate::{LAYOUT_FILE, PAGE_SIZE};

const MAGIC: [u8; 8] = *b"MOTELAYO";

/// Version of the payload.
const VERSION: u32 = 3;

const HEADER: usize = 32;
const CHECKED_HEADER: usize = 24;

/// Largest table that is read, in bytes.
const LIMIT: u64 = 64 << 20;

/// Most pages of a memory: 1 TiB, the monitor's limit.
const PAGES_LIMIT: u64 = 1 << 28;

/// What is wrong with a table.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// It cannot be read.
    #[error("Cannot read {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is something else, of another version, or damaged.
    #[error("Layout {path}: {what}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is not as it must be.
        what: &'static str,
    },
}

/// Where guest memory comes from. Later entries lie over earlier ones: zeros, [`non_zero`](Self::non_zero),
/// [`inherited`](Self::inherited), [`loading`](Self::loading).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Pages of guest memory.
    pub memory_pages: u64,
    /// Checksum of the memory file this is the layout of; ties the two together.
    pub memory_checksum: u64,
    /// xxh3-64 of the loading-set file.
    pub loading_checksum: u64,
    /// xxh3-64 of the working-set file.
    pub working_checksum: u64,
    /// Regions that come from the memory file, at the same place there.
    pub non_zero: PageSet,
    /// Pages that come from the base's memory file, at the same place there.
    pub inherited: PageSet,
    /// Regions that come from the loading-set file, one after the other in this order.
    pub loading: Vec<Region>,
    /// Regions of the loading set that stay where they are, in the order they are wanted.
    pub in_place: Vec<Region>,
    /// Pages that are in the working-set file, one after the other in this order.
    pub working: PageSet,
    /// Pages of the loading set the guest is expected to write to, so that each sandbox needs its own; the others stay
    /// those of the file, which all share.
    pub written: PageSet,
}

impl Layout {
    /// Pages of the loading-set file.
    #[must_use]
    pub fn loading_pages(&self) -> u64 {
        self.loading.iter().map(|region| region.run.pages).sum()
    }

    /// Reads and checks the table in a snapshot's folder.
    ///
    /// # Errors
    /// When it is not there or not sound.
    pub fn read(dir: &Path) -> Result<Self, LayoutError> {
        let path = dir.join(LAYOUT_FILE);
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(LIMIT + 1).read_to_end(&mut bytes));
        if let Err(source) = read {
            return Err(LayoutError::Io { path, source });
        }
        Self::decode(&bytes).map_err(|what| LayoutError::Format { path, what })
    }

    /// The table as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        let mut put = |number: u64| payload.extend_from_slice(&number.to_le_bytes());
        put(self.memory_pages);
        put(self.memory_checksum);
        put(self.loading_checksum);
        put(self.working_checksum);
        for runs in [&self.non_zero, &self.working, &self.inherited, &self.written] {
            put(runs.runs().len() as u64);
            runs.runs().iter().for_each(|run| [run.page, run.pages].into_iter().for_each(&mut put));
        }
        for regions in [&self.loading, &self.in_place] {
            put(regions.len() as u64);
            for Region { run, group } in regions {
                [run.page, run.pages, u64::from(*group)].into_iter().for_each(&mut put);
            }
        }
        let mut file = Vec::with_capacity(HEADER + payload.len());
        file.extend_from_slice(&MAGIC);
        file.extend_from_slice(&VERSION.to_le_bytes());
        file.extend_from_slice(&0u32.to_le_bytes());
        file.extend_from_slice(&(payload.len() as u64).to_le_bytes());
        file.extend_from_slice(&checksum(&file, &payload).to_le_bytes());
        file.extend_from_slice(&payload);
        file
    }

    /// The other way round; what comes out can be mapped without further checks.
    ///
    /// # Errors
    /// What is not as it must be.
    pub fn decode(file: &[u8]) -> Result<Self, &'static str> {
        if file.len() as u64 > LIMIT {
            return Err("it is larger than any layout");
        }
        let (header, payload) = file.split_at_checked(HEADER).ok_or("it ends inside its header")?;
        let checked = header.get(..CHECKED_HEADER).unwrap_or_default();
        let mut words = Words(header);
        if words.next()? != u64::from_le_bytes(MAGIC) {
            return Err("it has no magic number");
        }
        if words.next()? != u64::from(VERSION) {
            return Err("it is of another version");
        }
        if words.next()? != payload.len() as u64 {
            return Err("it has another length than it declares");
        }
        if words.next()? != checksum(checked, payload) {
            return Err("its checksum does not fit");
        }
        let mut words = Words(payload);
        let mut layout = Self {
            memory_pages: words.next()?,
            memory_checksum: words.next()?,
            loading_checksum: words.next()?,
            working_checksum: words.next()?,
            ..Self::default()
        };
        if layout.memory_pages > PAGES_LIMIT {
            return Err("it declares more memory than a guest can have");
        }
        layout.non_zero = words.runs(layout.memory_pages)?;
        layout.working = words.runs(layout.memory_pages)?;
        layout.inherited = words.runs(layout.memory_pages)?;
        layout.written = words.runs(layout.memory_pages)?;
        if layout.non_zero.runs().len() + layout.inherited.runs().len() > 2 * REGION_LIMIT {
            return Err("it has more regions than can be mapped");
        }
        layout.loading = words.regions(layout.memory_pages)?;
        layout.in_place = words.regions(layout.memory_pages)?;
        let mut by_address: Vec<Run> = layout.loading.iter().map(|region| region.run).collect();
        by_address.sort_unstable();
        let disjoint = by_address.windows(2).all(|pair| match pair {
            [first, second] => first.end() <= second.page,
            _ => true,
        });
        if !disjoint {
            return Err("two regions of the loading set overlap");
        }
        if words.0.is_empty() { Ok(layout) } else { Err("something follows its last entry") }
    }
}

fn checksum(header: &[u8], payload: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(header);
    hash.update(payload);
    hash.digest()
}

struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn next(&mut self) -> Result<u64, &'static str> {
        let (word, rest) = self.0.split_first_chunk().ok_or("it ends too early")?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*word))
    }

    fn run(&mut self, memory_pages: u64) -> Result<Run, &'static str> {
        let (page, pages) = (self.next()?, self.next()?);
        let fits = page.checked_add(pages).is_some_and(|end| end <= memory_pages);
        if pages > 0 && fits { Ok(Run { page, pages }) } else { Err("a run lies outside the memory") }
    }

    fn regions(&mut self, memory_pages: u64) -> Result<Vec<Region>, &'static str> {
        let count = self.next()?;
        if count > REGION_LIMIT as u64 {
            return Err("it has more regions than can be mapped");
        }
        let mut regions = Vec::new();
        for _ in 0..count {
            let run = self.run(memory_pages)?;
            let group = u32::try_from(self.next()?).map_err(|_| "a group number is too large")?;
            regions.push(Region { run, group });
        }
        Ok(regions)
    }

    fn runs(&mut self, memory_pages: u64) -> Result<PageSet, &'static str> {
        let count = self.next()?;
        let mut set = PageSet::default();
        let mut end = None;
        for _ in 0..count {
            let run = self.run(memory_pages)?;
            if end.is_some_and(|end| run.page <= end) {
                return Err("runs touch or are out of order");
            }
            end = Some(run.end());
            set.push(run);
        }
        Ok(set)
    }
}

/// Bytes of `pages` pages.
#[must_use]
pub fn bytes(pages: u64) -> u64 {
    pages.saturating_mul(PAGE_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::tests::any_set;
    use crate::working_set::WorkingSet;
    use proptest::prelude::*;

    fn any_layout() -> impl Strategy<Value = Layout> {
        (any_set(), any_set(), any_set(), any_set(), any_set(), any::<[u64; 3]>()).prop_map(
            |(non_zero, used, working, inherited, written, sums)| {
                let mut set = WorkingSet::new(400);
                let pages: Vec<u64> = used.iter().collect();
                set.absorb((0..400).map(|page| pages.contains(&page)));
                Layout {
                    memory_pages: 400,
                    memory_checksum: sums[0],
                    loading_checksum: sums[1],
                    working_checksum: sums[2],
                    loading: crate::regions::loading_set(&set, &non_zero, 4),
                    in_place: crate::regions::loading_set(&set, &working, 4),
                    non_zero,
                    inherited,
                    working,
                    written,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(layout in any_layout()) {
            prop_assert_eq!(Layout::decode(&layout.encode()), Ok(layout));
        }

        #[test]
        fn every_flipped_bit_is_noticed(layout in any_layout(), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let mut bytes = layout.encode();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(Layout::decode(&bytes).is_err());
        }

        #[test]
        fn every_truncation_is_noticed(layout in any_layout(), at in any::<prop::sample::Index>()) {
            let bytes = layout.encode();
            prop_assert!(Layout::decode(&bytes[..at.index(bytes.len())]).is_err());
        }

        /// Somebody who gets the checksum right still causes nothing worse than an error, and what passes can be
        /// mapped.
        #[test]
        fn forgeries_are_refused_or_harmless(words in prop::collection::vec(prop_oneof![0u64..500, any::<u64>()], 0..40)) {
            let payload: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let mut file = Layout::default().encode();
            file.truncate(HEADER);
            file[16..24].copy_from_slice(&(payload.len() as u64).to_le_bytes());
            let sum = checksum(&file[..24], &payload);
            file[24..32].copy_from_slice(&sum.to_le_bytes());
            file.extend(payload);
            if let Ok(layout) = Layout::decode(&file) {
                let runs = layout.non_zero.runs().iter().chain(layout.working.runs()).copied();
                for run in runs.chain(layout.loading.iter().map(|region| region.run)) {
                    prop_assert!(run.pages > 0 && run.end() <= layout.memory_pages);
                }
            }
        }
    }
}
