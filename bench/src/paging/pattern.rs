//! What the guests do: which pages they touch, how and in which order, when recorded and when tested.

use std::ops::Range;

use mote_micro::touch::{Checksum, Image, List, Touch, Visit};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::Outcome;

const PAGES_PER_MIB: u32 = 256;
/// The same pages in every run of the benchmark.
const SEED: u64 = 5;
/// Pages next to each other which are touched one after the other.
const RUN_PAGES: std::ops::RangeInclusive<u32> = 1..=16;
/// Of ten visits to existing data, how many write.
const WRITES_OF_TEN: u32 = 3;

/// How the pages of a working set follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// Short runs from all over the memory.
    Scattered,
    /// By address.
    Ascending,
}

/// What happens to a page of a working set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// It holds data, which is read or written over.
    Mixed,
    /// It holds data, which is read.
    Read,
    /// It was unused: it is zeroed and written, and given back, zeroed once more, before the snapshot.
    Allocate,
}

/// A kind of function.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    /// How the report calls it.
    pub name: &'static str,
    memory_mib: u32,
    working_set_mib: u32,
    order: Order,
    access: Access,
    /// Of ten runs, how many are other ones in the test than in the recording.
    changed_of_ten: usize,
}

/// All patterns.
pub const PATTERNS: [Pattern; 5] = [
    Pattern {
        name: "stable",
        memory_mib: 512,
        working_set_mib: 100,
        order: Order::Scattered,
        access: Access::Mixed,
        changed_of_ten: 0,
    },
    Pattern {
        name: "different",
        memory_mib: 512,
        working_set_mib: 100,
        order: Order::Scattered,
        access: Access::Mixed,
        changed_of_ten: 3,
    },
    Pattern {
        name: "sequential",
        memory_mib: 512,
        working_set_mib: 512,
        order: Order::Ascending,
        access: Access::Read,
        changed_of_ten: 0,
    },
    Pattern {
        name: "allocation",
        memory_mib: 512,
        working_set_mib: 512,
        order: Order::Ascending,
        access: Access::Allocate,
        changed_of_ten: 0,
    },
    Pattern {
        name: "small",
        memory_mib: 128,
        working_set_mib: 12,
        order: Order::Scattered,
        access: Access::Mixed,
        changed_of_ten: 0,
    },
];

/// A list to visit, and what the guest has to answer.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The list.
    pub list: List,
    /// The right answer.
    pub answer: Checksum,
}

/// A guest which behaves like a pattern.
#[derive(Debug)]
pub struct Guest {
    /// The guest.
    pub image: Image,
    /// The calls that are recorded, each by itself; the warm snapshot is made after the first.
    pub recorded: Vec<Call>,
    /// What happens between that and the snapshot.
    pub settling: Option<Call>,
    /// The call whose time is taken.
    pub tested: Call,
}

impl Pattern {
    /// Makes its guest, of which `recordings` calls are recorded; all sizes are divided by `scale`.
    pub fn guest(&self, scale: u32, recordings: usize) -> Outcome<Guest> {
        let pages = |mib: u32| (mib * PAGES_PER_MIB / scale.max(1)).max(1);
        let (memory, used) = (pages(self.memory_mib), pages(self.working_set_mib));
        let mut random = StdRng::seed_from_u64(SEED);
        let mut runs = runs(memory, &mut random);
        if self.order == Order::Scattered {
            runs.shuffle(&mut random);
        }
        let writes: Vec<bool> = (0..memory).map(|_| random.random_ratio(WRITES_OF_TEN, 10)).collect();
        let visit = |page: u32| match self.access {
            Access::Allocate => Visit::fresh(page),
            Access::Mixed if writes.get(page as usize) == Some(&true) => Visit::write(page),
            Access::Mixed | Access::Read => Visit::read(page),
        };

        let mut length = 0;
        let within = |run: &&Range<u32>| {
            let room = length < used;
            length += run.end - run.start;
            room
        };
        let of_set = runs.iter().take_while(within).count();
        let (first, other) = runs.split_at(of_set);
        let mut other = other.iter();
        // Another call of the function: some of its runs are others.
        let mut varied = || -> Vec<Range<u32>> {
            let each = first.iter().enumerate().map(|(index, run)| {
                let changed = index % 10 < self.changed_of_ten;
                changed.then(|| other.next()).flatten().unwrap_or(run).clone()
            });
            each.collect()
        };
        let further: Vec<Vec<Range<u32>>> = (1..recordings).map(|_| varied()).collect();
        let last = varied();

        let mut touch = Touch::new(memory);
        if self.access != Access::Allocate {
            touch.fill(0..memory);
        }
        let pages = |runs: &[Range<u32>]| runs.iter().cloned().flatten().collect::<Vec<u32>>();
        let mut recorded = vec![touch.list(pages(first).into_iter().map(visit))?];
        for runs in &further {
            recorded.push(touch.list(pages(runs).into_iter().map(visit))?);
        }
        let tested = match (self.changed_of_ten, recorded.first()) {
            (0, Some(same)) => *same,
            _ => touch.list(pages(&last).into_iter().map(visit))?,
        };
        let settling = match self.access {
            Access::Allocate => Some(touch.list(pages(first).into_iter().map(Visit::zero))?),
            Access::Mixed | Access::Read => None,
        };
        // Recorded calls begin with the clean memory, what follows with what the first one left.
        let of_clean = |list: &List| Call { list: *list, answer: touch.model().visit(*list) };
        let calls = recorded.iter().map(of_clean).collect();
        let mut model = touch.model();
        if let Some(first) = recorded.first() {
            model.visit(*first);
        }
        let mut call = |list| Call { list, answer: model.visit(list) };
        Ok(Guest {
            image: touch.image()?,
            recorded: calls,
            settling: settling.map(&mut call),
            tested: call(tested),
        })
    }
}

/// `pages` pages in runs of random length, by address.
fn runs(pages: u32, random: &mut StdRng) -> Vec<Range<u32>> {
    let mut runs = Vec::new();
    let mut start = 0;
    while start < pages {
        let end = (start + random.random_range(RUN_PAGES)).min(pages);
        runs.push(start..end);
        start = end;
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_makes_a_guest() {
        for pattern in PATTERNS {
            let guest = pattern.guest(64, 3).unwrap();
            assert_eq!(guest.recorded.len(), 3);
            let tested_anew = guest.recorded.iter().all(|call| call.list != guest.tested.list);
            assert_eq!(tested_anew, pattern.changed_of_ten > 0);
            assert_eq!(guest.settling.is_some(), pattern.access == Access::Allocate);
            assert!(guest.image.memory_mib >= 16);
        }
    }

    #[test]
    fn runs_are_all_pages_once() {
        let mut random = StdRng::seed_from_u64(1);
        let all: Vec<u32> = runs(1000, &mut random).into_iter().flatten().collect();
        assert_eq!(all, (0..1000).collect::<Vec<u32>>());
    }
}
