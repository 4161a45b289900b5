//! Pages the guest names, and taking them out of this process.

use std::ops::Range;

use virtio_queue::DescriptorChain;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress};

use super::{BALLOON_PAGE, MAX_SEGMENTS};
use crate::Buffers;

/// Pages taken from one request: as many as Linux puts into one. Those behind stay the guest's.
const PAGES: usize = 256;

/// Bytes of a page's number.
const NUMBER: usize = 4;

/// Pages that follow one another, by number, all of them guest memory.
type Run = Range<u64>;

/// The pages named in a request, in runs that lie in one region of guest memory each; each page once.
pub(super) fn named(mem: &GuestMemoryMmap, chain: DescriptorChain<&GuestMemoryMmap>) -> Vec<Run> {
    let Ok((source, _)) = Buffers::split(mem, chain, MAX_SEGMENTS) else { return Vec::new() };
    let mut bytes = [0u8; NUMBER * PAGES];
    let read = source.read_at(0, &mut bytes);
    let (numbers, _) = bytes.get(..read).unwrap_or_default().as_chunks::<NUMBER>();
    runs(numbers.iter().map(|number| u32::from_le_bytes(*number)).collect(), &regions(mem))
}

/// Regions of guest memory, by page number; a region that is no whole number of pages loses the rest.
fn regions(mem: &GuestMemoryMmap) -> Vec<Run> {
    mem.iter()
        .map(|region| {
            let start = region.start_addr().0;
            let end = start.saturating_add(region.len());
            start.div_ceil(BALLOON_PAGE)..end / BALLOON_PAGE
        })
        .collect()
}

/// Puts pages in order, those that are in no region left out.
fn runs(mut numbers: Vec<u32>, regions: &[Run]) -> Vec<Run> {
    numbers.sort_unstable();
    numbers.dedup();
    let mut runs: Vec<Run> = Vec::new();
    for page in numbers.into_iter().map(u64::from) {
        let Some(region) = regions.iter().find(|region| region.contains(&page)) else { continue };
        match runs.last_mut() {
            Some(last) if last.end == page && page != region.start => last.end = page + 1,
            _ => runs.push(page..page + 1),
        }
    }
    runs
}

/// How many pages there are in `runs`.
pub(super) fn count(runs: &[Run]) -> u32 {
    let pages = runs.iter().map(|run| run.end - run.start).sum::<u64>();
    u32::try_from(pages).unwrap_or(u32::MAX)
}

/// How many pages the guest has.
pub(super) fn all(mem: &GuestMemoryMmap) -> u32 {
    count(&regions(mem))
}

/// Takes pages of guest memory, in runs of page numbers, out of this process: what they held is lost. Runs that do not
/// lie in one region of it are passed over, as are pages the kernel does not give back: they stay in use, no more.
pub fn give_back(mem: &GuestMemoryMmap, runs: &[Range<u64>]) {
    for run in runs {
        let bytes = |pages: u64| pages.checked_mul(BALLOON_PAGE);
        let (Some(start), Some(end)) = (bytes(run.start), bytes(run.end)) else { continue };
        let region = mem.iter().find(|region| {
            let first = region.start_addr().0;
            first <= start && start < end && end - first <= region.len()
        });
        let Some(region) = region else { continue };
        let Ok(length) = usize::try_from(end - start) else { continue };
        let offset = MemoryRegionAddress(start - region.start_addr().0);
        let Ok(slice) = region.get_slice(offset, length) else { continue };
        // SAFETY: the bytes lie in a mapping `mem` owns. Guest memory is only reached through raw pointers and may
        // change at any time, here to the guest's undoing alone; no one has a reference into it but while the guest and
        // the devices stand still.
        unsafe { libc::madvise(slice.ptr_guard_mut().as_ptr().cast(), length, libc::MADV_DONTNEED) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pages_are_put_in_order_and_no_run_leaves_its_region() {
        let regions = [0..100, 100..200, 1000..1100];
        let numbers = vec![7, 5, 6, 5, 99, 100, 101, 199, 200, 999, 1000, u32::MAX];
        assert_eq!(runs(numbers, &regions), [5..8, 99..100, 100..102, 199..200, 1000..1001]);
        assert_eq!(runs(Vec::new(), &regions), []);
    }

    proptest! {
        #[test]
        fn each_page_of_memory_once_and_no_other(
            numbers in prop::collection::vec(prop_oneof![0u32..300, 990u32..1200, any::<u32>()], 0..300),
        ) {
            let regions = [0..100, 100..200, 1000..1100];
            let runs = runs(numbers.clone(), &regions);
            let inside = |page: &u64| regions.iter().any(|region| region.contains(page));
            let wanted: std::collections::BTreeSet<u64> =
                numbers.into_iter().map(u64::from).filter(inside).collect();
            let found: Vec<u64> = runs.iter().cloned().flatten().collect();
            prop_assert_eq!(found, wanted.into_iter().collect::<Vec<_>>());
            for run in &runs {
                prop_assert!(regions.iter().any(|r| r.start <= run.start && run.end <= r.end));
            }
        }
    }
}
