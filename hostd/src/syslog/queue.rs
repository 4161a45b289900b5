//! Lines that wait to be sent: bounded, the oldest go first, and how many that were is known. Pure.

use std::collections::VecDeque;

/// Lines that wait, and bytes of all of them.
pub const MOST_LINES: usize = 4096;
const MOST_BYTES: usize = 1 << 20;

/// How far the log was read when a line came: which file of the ring, and where in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// Number of the file.
    pub file: u64,
    /// Byte behind the line.
    pub end: u64,
}

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    lines: VecDeque<(Place, String)>,
    bytes: usize,
    /// Not told yet.
    dropped: u64,
    all_dropped: u64,
}

impl Queue {
    /// Adds a line; drops the oldest beyond the bounds.
    pub fn push(&mut self, place: Place, line: String) {
        self.bytes += line.len();
        self.lines.push_back((place, line));
        while self.lines.len() > MOST_LINES || self.bytes > MOST_BYTES {
            let Some((_, gone)) = self.lines.pop_front() else { break };
            self.bytes -= gone.len();
            self.drop_lines(1);
        }
    }

    /// The oldest line.
    pub fn pop(&mut self) -> Option<(Place, String)> {
        let (place, line) = self.lines.pop_front()?;
        self.bytes -= line.len();
        Some((place, line))
    }

    /// Puts back a line that could not be sent; it is the oldest.
    pub fn put_back(&mut self, place: Place, line: String) {
        if self.lines.len() < MOST_LINES && self.bytes + line.len() <= MOST_BYTES {
            self.bytes += line.len();
            self.lines.push_front((place, line));
        } else {
            self.drop_lines(1);
        }
    }

    /// Counts lines that were lost, here or elsewhere.
    pub fn drop_lines(&mut self, lines: u64) {
        self.dropped += lines;
        self.all_dropped += lines;
    }

    /// How many were dropped and the receiver does not know.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// How many were dropped in all.
    pub fn all_dropped(&self) -> u64 {
        self.all_dropped
    }

    /// The receiver knows of so many.
    pub fn told(&mut self, lines: u64) {
        self.dropped = self.dropped.saturating_sub(lines);
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.lines.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn nothing_is_lost_uncounted_and_the_order_stays(steps in prop::collection::vec((any::<bool>(), 1usize..4000), 0..900)) {
            let mut queue = Queue::default();
            let (mut pushed, mut popped, mut dropped, mut last) = (0_u64, 0_u64, 0_u64, None);
            for (push, size) in steps {
                if push {
                    queue.push(Place { file: 0, end: pushed }, "x".repeat(size));
                    pushed += 1;
                } else if let Some((place, line)) = queue.pop() {
                    if size % 5 == 0 {
                        queue.put_back(place, line);
                    } else {
                        prop_assert!(last.is_none_or(|last| last < place.end));
                        last = Some(place.end);
                        popped += 1;
                    }
                }
                dropped += queue.dropped();
                queue.told(queue.dropped());
                prop_assert_eq!(dropped, queue.all_dropped());
                prop_assert!(queue.len() <= MOST_LINES && queue.bytes <= MOST_BYTES);
                prop_assert_eq!(pushed, popped + dropped + u64::try_from(queue.len()).unwrap());
            }
        }
    }
}
