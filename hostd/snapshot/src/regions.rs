//! From a working set to the regions of the loading set (sections 5.3.5 to 5.3.7).

use crate::pages::{PageSet, Run};
use crate::working_set::WorkingSet;

/// Regions closer than this are merged, the pages between them loaded or mapped as well (section 5.3.6).
pub const MERGE_GAP: u64 = 32;

/// The same for the loading set of touched pages: with their page tables filled in bulk a region costs less than the
/// pages between two of them.
pub const LOADING_GAP: u64 = 4;

/// Where only the pages the guest wrote to are given to it as its own: gaps shorter than this between them are as well,
/// a call for each costs more.
pub const WRITTEN_GAP: u64 = 8;

/// Regions of the loading set at least this long stay in the memory file: they are contiguous there as well, and large
/// pages of the page cache can be mapped only where file and memory are aligned alike.
pub const IN_PLACE_PAGES: u64 = 512;

/// Most regions a layout may have. Each is a mapping of its own, of which the kernel allows a process 65,530.
pub const REGION_LIMIT: usize = 16_384;

/// One region of the loading set. Its place in the loading-set file follows from its place in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its pages.
    pub run: Run,
    /// When it is wanted: lowest group of any of its pages.
    pub group: u32,
}

/// The loading set: pages of the working set that are not zero, regions closer than `gap` merged, ordered by
/// (group, address).
#[must_use]
pub fn loading_set(working_set: &WorkingSet, non_zero: &PageSet, gap: u64) -> Vec<Region> {
    let pages = fitting(&working_set.pages().intersection(non_zero), gap);
    let mut regions: Vec<Region> = pages
        .runs()
        .iter()
        // Every region has a page of the working set: its ends are such.
        .map(|run| Region { run: *run, group: working_set.lowest_group(*run).unwrap_or(u32::MAX) })
        .collect();
    regions.sort_unstable_by_key(|region| (region.group, region.run.page));
    regions
}

/// `pages` with gaps shorter than `gap` bridged, and longer ones as well until there are few enough runs.
#[must_use]
pub fn fitting(pages: &PageSet, gap: u64) -> PageSet {
    let mut gap = gap;
    loop {
        let bridged = pages.bridged(gap);
        if bridged.runs().len() <= REGION_LIMIT {
            return bridged;
        }
        gap = (gap * 2).max(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::tests::{any_set, naive};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// Against a model that goes page by page.
        #[test]
        fn no_page_is_lost_and_none_comes_twice(scans in prop::collection::vec(any_set(), 1..4), non_zero in any_set(), gap in 0u64..40) {
            let mut working_set = WorkingSet::new(400);
            for scan in &scans {
                let pages = naive(scan);
                working_set.absorb((0..400).map(|page| pages.contains(&page)));
            }
            let wanted: BTreeSet<u64> = (0..400)
                .filter(|page| working_set.group(*page).is_some() && naive(&non_zero).contains(page))
                .collect();
            let regions = loading_set(&working_set, &non_zero, gap);
            let mut mapped = BTreeSet::new();
            for region in &regions {
                let pages: Vec<u64> = (region.run.page..region.run.end()).collect();
                prop_assert!(pages.iter().all(|page| mapped.insert(*page)), "a page is mapped twice");
                let lowest = pages.iter().filter_map(|page| working_set.group(*page)).min();
                prop_assert_eq!(Some(region.group), lowest);
                prop_assert!(wanted.contains(&pages[0]) && wanted.contains(&pages[pages.len() - 1]));
                // What was added lies in gaps that are short enough.
                let strange: Vec<&u64> = pages.iter().filter(|page| !wanted.contains(page)).collect();
                for page in strange {
                    let before = wanted.range(..page).next_back().unwrap();
                    let after = wanted.range(page..).next().unwrap();
                    prop_assert!(after - before - 1 < gap);
                }
            }
            prop_assert!(wanted.iter().all(|page| mapped.contains(page)), "a page is lost");
            let mut sorted = regions.clone();
            sorted.sort_by_key(|region| (region.group, region.run.page));
            prop_assert_eq!(&regions, &sorted);
            let mut by_address: Vec<Run> = regions.iter().map(|region| region.run).collect();
            by_address.sort_unstable();
            prop_assert!(by_address.windows(2).all(|pair| pair[1].page - pair[0].end() >= gap.max(1)));
        }
    }

    #[test]
    fn there_are_never_too_many_regions() {
        let scattered = PageSet::from_runs((0..100_000).map(|at| Run { page: at * 50, pages: 1 }).collect());
        let fitting = fitting(&scattered, MERGE_GAP);
        assert!(fitting.runs().len() <= REGION_LIMIT);
        assert!(
            scattered
                .iter()
                .all(|page| fitting.runs().iter().any(|run| run.page <= page && page < run.end()))
        );
    }
}
