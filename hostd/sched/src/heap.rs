//! A heap that knows where everything is: changed and removed in logarithmic time, without garbage in it.
//!
//! Positions are kept outside, by id, so that many heaps of which a thing is in at most one share a table.

/// In no heap.
pub(crate) const NOWHERE: u32 = u32::MAX;

const ARITY: usize = 4;
/// Places a walk in ascending order keeps in mind.
const FRONTIER: usize = 64;

/// Least key first.
#[derive(Debug)]
pub(crate) struct Heap<K> {
    items: Vec<(K, u32)>,
}

impl<K> Default for Heap<K> {
    fn default() -> Self {
        Self { items: Vec::new() }
    }
}

impl<K: Copy + PartialOrd> Heap<K> {
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn peek(&self) -> Option<(K, u32)> {
        self.items.first().copied()
    }

    /// The key of `id`, if it is in here.
    pub(crate) fn key(&self, positions: &[u32], id: u32) -> Option<K> {
        self.find(positions, id).map(|at| self.items[at].0)
    }

    fn find(&self, positions: &[u32], id: u32) -> Option<usize> {
        let at = *positions.get(id as usize)? as usize;
        self.items.get(at).is_some_and(|item| item.1 == id).then_some(at)
    }

    /// Adds `id`, or changes its key. Ids beyond the table are ignored.
    pub(crate) fn set(&mut self, positions: &mut [u32], id: u32, key: K) {
        if id as usize >= positions.len() {
            return;
        }
        let at = match self.find(positions, id) {
            Some(at) => {
                self.items[at].0 = key;
                at
            }
            None => {
                self.items.push((key, id));
                self.items.len() - 1
            }
        };
        let at = self.up(positions, at);
        self.down(positions, at);
    }

    /// Whether it was in here.
    pub(crate) fn remove(&mut self, positions: &mut [u32], id: u32) -> bool {
        let Some(at) = self.find(positions, id) else { return false };
        self.items.swap_remove(at);
        positions[id as usize] = NOWHERE;
        if at < self.items.len() {
            let at = self.up(positions, at);
            self.down(positions, at);
        }
        true
    }

    fn up(&mut self, positions: &mut [u32], mut at: usize) -> usize {
        let item = self.items[at];
        while at > 0 {
            let parent = (at - 1) / ARITY;
            if self.items[parent].0 <= item.0 {
                break;
            }
            self.put(positions, at, self.items[parent]);
            at = parent;
        }
        self.put(positions, at, item);
        at
    }

    fn down(&mut self, positions: &mut [u32], mut at: usize) {
        let item = self.items[at];
        loop {
            let first = at * ARITY + 1;
            let Some(children) = self.items.get(first..self.items.len().min(first + ARITY)) else { break };
            let Some((least, child)) = children
                .iter()
                .enumerate()
                .reduce(|least, child| if child.1.0 < least.1.0 { child } else { least })
            else {
                break;
            };
            if child.0 >= item.0 {
                break;
            }
            let child = *child;
            self.put(positions, at, child);
            at = first + least;
        }
        self.put(positions, at, item);
    }

    fn put(&mut self, positions: &mut [u32], at: usize, item: (K, u32)) {
        self.items[at] = item;
        // Never beyond: there are no more items than ids of 32 bits.
        positions[item.1 as usize] = u32::try_from(at).unwrap_or(NOWHERE);
    }

    /// Shows items in ascending order, without a change, until `visit` says false. False if there were more than
    /// the walk can keep in mind.
    pub(crate) fn ascending(&self, mut visit: impl FnMut(K, u32) -> bool) -> bool {
        let mut frontier = [0usize; FRONTIER];
        let mut open = usize::from(!self.items.is_empty());
        while open > 0 {
            let mut least = 0;
            for at in 1..open {
                if self.items[frontier[at]].0 < self.items[frontier[least]].0 {
                    least = at;
                }
            }
            let at = frontier[least];
            open -= 1;
            frontier[least] = frontier[open];
            let (key, id) = self.items[at];
            if !visit(key, id) {
                return true;
            }
            for child in at * ARITY + 1..(at * ARITY + 1 + ARITY).min(self.items.len()) {
                if open == FRONTIER {
                    return false;
                }
                frontier[open] = child;
                open += 1;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        // Against an ordered map.
        #[test]
        fn always_gives_the_least(steps in prop::collection::vec((0u8..4, 0u32..40, 0u64..50), 1..300)) {
            let mut heap = Heap::default();
            let mut positions = [NOWHERE; 40];
            let mut model: BTreeMap<u32, u64> = BTreeMap::new();
            for (op, id, key) in steps {
                if op < 3 {
                    heap.set(&mut positions, id, key);
                    model.insert(id, key);
                } else {
                    prop_assert_eq!(heap.remove(&mut positions, id), model.remove(&id).is_some());
                }
                prop_assert_eq!(heap.len(), model.len());
                prop_assert_eq!(heap.key(&positions, id), model.get(&id).copied());
                prop_assert_eq!(heap.peek().map(|item| item.0), model.values().min().copied());
                let mut sorted: Vec<u64> = model.values().copied().collect();
                sorted.sort_unstable();
                sorted.truncate(12);
                let mut walked = Vec::new();
                heap.ascending(|key, _| { walked.push(key); walked.len() < 12 });
                prop_assert_eq!(walked, sorted);
            }
        }
    }

    #[test]
    fn ids_beyond_the_table_are_ignored() {
        let mut heap = Heap::default();
        heap.set(&mut [], 3, 1u64);
        assert!(heap.is_empty());
    }
}
