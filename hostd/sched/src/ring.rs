//! Every function's own order of all nodes: from a home node, by steps coprime to their number.

use crate::random::{mix, scale};

#[derive(Debug, Default)]
pub(crate) struct Ring {
    nodes: usize,
    /// Steps coprime to the number of nodes, each with its inverse.
    steps: Vec<(usize, usize)>,
}

/// Where a function's order begins and how it goes on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Walk {
    nodes: usize,
    home: usize,
    step: usize,
    inverse: usize,
}

impl Ring {
    pub(crate) fn resize(&mut self, nodes: usize) {
        self.nodes = nodes;
        self.steps = (1..=nodes).filter_map(|step| Some((step, inverse(step, nodes)?))).collect();
    }

    /// The order of the function with this hash.
    pub(crate) fn walk(&self, hash: u64) -> Walk {
        let (step, inverse) =
            self.steps.get(scale(mix(hash ^ 0x5bd1_e995), self.steps.len())).copied().unwrap_or((1, 1));
        Walk { nodes: self.nodes, home: scale(hash, self.nodes), step, inverse }
    }
}

impl Walk {
    /// All nodes, nearest first.
    pub(crate) fn nodes(self) -> impl Iterator<Item = usize> {
        (0..self.nodes).map(move |steps| (self.home + steps * self.step) % self.nodes)
    }

    /// Steps from home to a node.
    pub(crate) fn distance(self, node: usize) -> usize {
        if self.nodes == 0 {
            return 0;
        }
        (node + self.nodes - self.home % self.nodes) % self.nodes * self.inverse % self.nodes
    }
}

impl Walk {
    /// Steps from home to a node by the number of nodes.
    pub(crate) fn part(self, node: usize) -> f64 {
        // Numbers of nodes.
        #[expect(clippy::cast_precision_loss)]
        let (steps, nodes) = (self.distance(node) as f64, self.nodes.max(1) as f64);
        steps / nodes
    }
}

/// `x` with `step * x = 1` modulo `modulus`, if there is one.
fn inverse(step: usize, modulus: usize) -> Option<usize> {
    let modulus = i64::try_from(modulus).ok()?;
    let (mut old, mut new) = ((i64::try_from(step).ok()?, 1i64), (modulus, 0i64));
    while new.0 != 0 {
        let quotient = old.0 / new.0;
        (old, new) = (new, (old.0 - quotient * new.0, old.1 - quotient * new.1));
    }
    if old.0 == 1 { usize::try_from(old.1.rem_euclid(modulus)).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_meets_every_node_once_and_knows_how_far_it_is() {
        for nodes in 1..60 {
            let mut ring = Ring::default();
            ring.resize(nodes);
            for hash in 0..20 {
                let walk = ring.walk(mix(hash));
                let met: Vec<usize> = walk.nodes().collect();
                let mut sorted = met.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, (0..nodes).collect::<Vec<_>>());
                for (steps, node) in met.into_iter().enumerate() {
                    assert_eq!(walk.distance(node), steps);
                }
            }
        }
        assert_eq!(Ring::default().walk(7).nodes().count(), 0);
        assert_eq!(Ring::default().walk(7).distance(3), 0);
    }
}
