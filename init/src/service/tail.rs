//! The end of what a program said, for a record of its crash.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Lines kept, and bytes of all of them together.
const LINES: usize = 400;
const BYTES: usize = 64 * 1024;

/// The last lines.
#[derive(Debug, Default)]
pub struct Tail {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<String>,
    bytes: usize,
}

impl Tail {
    /// Adds a line, which is bounded already.
    pub fn add(&self, line: &str) {
        let mut kept = self.lock();
        kept.bytes += line.len() + 1;
        kept.lines.push_back(line.to_owned());
        while kept.lines.len() > LINES || kept.bytes > BYTES {
            let Some(gone) = kept.lines.pop_front() else { break };
            kept.bytes = kept.bytes.saturating_sub(gone.len() + 1);
        }
    }

    /// All that is kept, a line each.
    pub fn last(&self) -> String {
        self.lock().lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_end_is_kept_within_the_bounds(lengths in prop::collection::vec(0usize..2048, 0..600)) {
            let tail = Tail::default();
            let mut all = String::new();
            for (number, length) in lengths.iter().enumerate() {
                let line = format!("{number} {}", "x".repeat(*length));
                tail.add(&line);
                all.push_str(&line);
                all.push('\n');
            }
            let last = tail.last();
            prop_assert!(last.len() <= BYTES && last.lines().count() <= LINES);
            prop_assert!(all.ends_with(&last));
            prop_assert!(lengths.is_empty() || !last.is_empty());
        }
    }
}
