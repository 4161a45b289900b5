//! The working set: which pages were used, and in which order, in groups.

use crate::pages::{PageSet, Run};

/// Pages of a group: N in section 5.3.3 of the dissertation.
pub const GROUP_PAGES: u64 = 1024;

/// Which pages of guest memory appeared, and in which group: the first [`GROUP_PAGES`] are group 1, and so on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkingSet {
    /// One per page of memory; zero is "never".
    groups: Vec<u32>,
    pages: u64,
}

impl WorkingSet {
    /// Nothing yet, of a memory of `pages` pages.
    #[must_use]
    pub fn new(pages: usize) -> Self {
        Self { groups: vec![0; pages], pages: 0 }
    }

    /// Takes the pages flagged in `present` which were not there before, in order of address: the scans give the
    /// order between them. Returns how many were new.
    pub fn absorb(&mut self, present: impl IntoIterator<Item = bool>) -> u64 {
        let before = self.pages;
        for (group, present) in self.groups.iter_mut().zip(present) {
            if present && *group == 0 {
                *group = u32::try_from(self.pages / GROUP_PAGES + 1).unwrap_or(u32::MAX);
                self.pages += 1;
            }
        }
        self.pages - before
    }

    /// Group of a page, if it was used.
    #[must_use]
    pub fn group(&self, page: u64) -> Option<u32> {
        let group = usize::try_from(page).ok().and_then(|page| self.groups.get(page)).copied();
        group.filter(|group| *group != 0)
    }

    /// Lowest group of any page of `run`.
    #[must_use]
    pub fn lowest_group(&self, run: Run) -> Option<u32> {
        (run.page..run.end()).filter_map(|page| self.group(page)).min()
    }

    /// The pages.
    #[must_use]
    pub fn pages(&self) -> PageSet {
        PageSet::from_flags(self.groups.iter().map(|group| *group != 0))
    }

    /// How many pages were used.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.pages
    }

    /// Whether none was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages == 0
    }

    /// Pages of the memory.
    #[must_use]
    pub fn memory_pages(&self) -> u64 {
        self.groups.len() as u64
    }
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "the tests' sizes are small")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn groups_follow_the_order_of_appearance(scans in prop::collection::vec(prop::collection::vec(any::<bool>(), 3000), 1..6)) {
            let mut set = WorkingSet::new(3000);
            let mut order: Vec<usize> = Vec::new();
            for scan in &scans {
                let fresh: Vec<usize> = (0..3000).filter(|page| scan[*page] && !order.contains(page)).collect();
                prop_assert_eq!(set.absorb(scan.iter().copied()), fresh.len() as u64);
                order.extend(fresh);
            }
            for (rank, page) in order.iter().enumerate() {
                prop_assert_eq!(set.group(*page as u64), Some(rank as u32 / 1024 + 1));
            }
            prop_assert_eq!(set.len(), order.len() as u64);
            prop_assert_eq!(set.pages().len(), order.len() as u64);
            prop_assert_eq!(set.group(3000), None);
        }
    }
}
