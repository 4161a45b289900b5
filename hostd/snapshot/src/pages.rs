//! Sets of pages as sorted, disjoint runs.

use std::ops::Range;

/// A run of pages: guest page frame numbers counted as they lie in the memory file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Run {
    /// First page.
    pub page: u64,
    /// How many; never zero in a [`PageSet`].
    pub pages: u64,
}

impl Run {
    /// The run of `range`.
    #[must_use]
    pub fn new(range: Range<u64>) -> Self {
        Self { page: range.start, pages: range.end.saturating_sub(range.start) }
    }

    /// First page behind it.
    #[must_use]
    pub fn end(self) -> u64 {
        self.page.saturating_add(self.pages)
    }
}

/// Pages as runs: in ascending order, no two of them touching.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageSet {
    runs: Vec<Run>,
}

impl PageSet {
    /// The set of all pages of these runs, which may come in any order and overlap.
    #[must_use]
    pub fn from_runs(mut runs: Vec<Run>) -> Self {
        runs.sort_unstable();
        let mut set = Self::default();
        for run in runs {
            set.push(run);
        }
        set
    }

    /// The pages whose flag is set.
    #[must_use]
    pub fn from_flags(flags: impl IntoIterator<Item = bool>) -> Self {
        let mut set = Self::default();
        for (page, flag) in (0..).zip(flags) {
            if flag {
                set.push(Run { page, pages: 1 });
            }
        }
        set
    }

    /// Appends a run that starts no earlier than the last one.
    pub fn push(&mut self, run: Run) {
        if run.pages == 0 {
            return;
        }
        match self.runs.last_mut() {
            Some(last) if run.page <= last.end() => {
                last.pages = last.pages.max(run.end().saturating_sub(last.page));
            }
            _ => self.runs.push(run),
        }
    }

    /// The runs.
    #[must_use]
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// How many pages.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.runs.iter().map(|run| run.pages).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Every page, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.runs.iter().flat_map(|run| run.page..run.end())
    }

    /// Pages in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut set = Self::default();
        let (mut a, mut b) = (self.runs.iter().peekable(), other.runs.iter().peekable());
        while let (Some(one), Some(two)) = (a.peek(), b.peek()) {
            let (start, end) = (one.page.max(two.page), one.end().min(two.end()));
            let first_ends = one.end() <= two.end();
            if start < end {
                set.push(Run::new(start..end));
            }
            if first_ends {
                a.next()
            } else {
                b.next()
            };
        }
        set
    }

    /// The parts of its runs that lie in `range`.
    pub fn within(&self, range: Run) -> impl Iterator<Item = Run> + '_ {
        let first = self.runs.partition_point(|run| run.end() <= range.page);
        let runs = self.runs.get(first..).unwrap_or_default().iter();
        runs.take_while(move |run| run.page < range.end())
            .map(move |run| Run::new(run.page.max(range.page)..run.end().min(range.end())))
    }

    /// Pages of this set that are not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut set = Self::default();
        for run in &self.runs {
            let mut from = run.page;
            for hole in other.within(*run) {
                set.push(Run::new(from..hole.page));
                from = hole.end();
            }
            set.push(Run::new(from..run.end()));
        }
        set
    }

    /// Pages in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::from_runs(self.runs.iter().chain(&other.runs).copied().collect())
    }

    /// Pages of this set and those of every gap shorter than `gap` between two of its runs.
    #[must_use]
    pub fn bridged(&self, gap: u64) -> Self {
        let mut set = Self::default();
        for run in &self.runs {
            let start = match set.runs.last() {
                Some(last) if run.page - last.end() < gap => last.end(),
                _ => run.page,
            };
            set.push(Run::new(start..run.end()));
        }
        set
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Any set of pages below 300.
    pub(crate) fn any_set() -> impl Strategy<Value = PageSet> {
        prop::collection::vec((0u64..300, 1u64..12), 0..30).prop_map(|runs| {
            PageSet::from_runs(runs.into_iter().map(|(page, pages)| Run { page, pages }).collect())
        })
    }

    pub(crate) fn naive(set: &PageSet) -> BTreeSet<u64> {
        set.iter().collect()
    }

    proptest! {
        #[test]
        fn sets_are_as_a_tree_has_them(a in any_set(), b in any_set(), gap in 0u64..40) {
            for set in [&a, &b, &a.union(&b), &a.intersection(&b), &a.bridged(gap)] {
                let sorted = set.runs().windows(2).all(|pair| pair[0].end() < pair[1].page);
                prop_assert!(sorted && set.runs().iter().all(|run| run.pages > 0), "{set:?}");
                prop_assert_eq!(set.len(), naive(set).len() as u64);
            }
            let (left, right) = (naive(&a), naive(&b));
            prop_assert_eq!(naive(&a.union(&b)), left.union(&right).copied().collect());
            prop_assert_eq!(naive(&a.intersection(&b)), left.intersection(&right).copied().collect());
            prop_assert_eq!(naive(&a.without(&b)), left.difference(&right).copied().collect());
            let bridged = naive(&a.bridged(gap));
            for page in 0..400 {
                let before = left.range(..page).next_back();
                let after = left.range(page..).next();
                let inside = match (before, after) {
                    (Some(before), Some(after)) => after - before - 1 < gap,
                    _ => false,
                };
                prop_assert_eq!(bridged.contains(&page), left.contains(&page) || inside, "page {}", page);
            }
            let range = Run { page: 20, pages: gap * 5 };
            let within: BTreeSet<u64> = a.within(range).flat_map(|run| run.page..run.end()).collect();
            prop_assert_eq!(within, left.iter().copied().filter(|page| (20..range.end()).contains(page)).collect());
            let flags = (0..400).map(|page| left.contains(&page));
            prop_assert_eq!(PageSet::from_flags(flags), a);
        }
    }
}
