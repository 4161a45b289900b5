//! Versions that failed: a bounded list that forgets none.

use std::collections::BTreeSet;

use crate::version::Version;

/// Most versions listed one by one: what fits into a sector beside the rest.
pub const MAX_FAILED: usize = 6;

/// Versions that failed. When there are too many, the oldest stands for all that are older still: rather a good
/// version is refused, which can be forced, than a bad one tried again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Failed {
    up_to: Option<Version>,
    versions: BTreeSet<Version>,
}

impl Failed {
    /// Whether a version failed, or counts as one that did.
    pub fn contains(&self, version: Version) -> bool {
        self.up_to.is_some_and(|up_to| version <= up_to) || self.versions.contains(&version)
    }

    /// All up to this one count as failed.
    pub fn up_to(&self) -> Option<Version> {
        self.up_to
    }

    /// Those listed one by one.
    pub fn versions(&self) -> impl Iterator<Item = Version> {
        self.versions.iter().copied()
    }

    /// Of what the block says; `None` if there are too many.
    pub(super) fn of(up_to: Option<Version>, versions: BTreeSet<Version>) -> Option<Self> {
        (versions.len() <= MAX_FAILED).then_some(Self { up_to, versions })
    }

    pub(super) fn insert(&mut self, version: Version) {
        if self.contains(version) {
            return;
        }
        self.versions.insert(version);
        while self.versions.len() > MAX_FAILED {
            self.up_to = self.up_to.max(self.versions.pop_first());
        }
    }

    /// Takes back one listed by itself. One that counts as failed for being old goes on doing so.
    pub(super) fn remove(&mut self, version: Version) {
        self.versions.remove(&version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a set without a bound: whatever is in it is in ours.
        #[test]
        fn nothing_is_forgotten(versions in prop::collection::vec(0..40_u32, 0..40)) {
            let mut failed = Failed::default();
            let mut all = BTreeSet::new();
            for patch in versions {
                let version = Version::new(1, 0, patch);
                failed.insert(version);
                all.insert(version);
                prop_assert!(all.iter().all(|version| failed.contains(*version)));
                prop_assert!(failed.versions().count() <= MAX_FAILED);
                // None newer than the oldest that was folded is refused for nothing.
                for patch in 0..40 {
                    let version = Version::new(1, 0, patch);
                    let folded = failed.up_to().is_some_and(|up_to| version <= up_to);
                    prop_assert!(folded || failed.contains(version) == all.contains(&version));
                }
                prop_assert_eq!(failed.up_to().is_some(), all.len() > MAX_FAILED);
            }
        }
    }

    #[test]
    fn one_is_taken_back() {
        let mut failed = Failed::default();
        failed.insert(Version::new(1, 0, 0));
        failed.insert(Version::new(1, 0, 1));
        failed.remove(Version::new(1, 0, 0));
        assert!(!failed.contains(Version::new(1, 0, 0)) && failed.contains(Version::new(1, 0, 1)));
    }
}
