//! Which idle sandbox of a function gets a call. On a node it is always the one used last: the others age.

use std::fmt::Debug;

use super::Warm;
use crate::ring::Walk;

/// A node with idle sandboxes of the function.
#[derive(Debug, Clone, Copy)]
pub struct WarmFacts {
    /// Memory there that is not in use for calls, bytes.
    pub available: u64,
    pub(crate) node: usize,
    pub(crate) walk: Walk,
}

impl WarmFacts {
    /// Steps from the function's home node.
    pub fn distance(&self) -> usize {
        self.walk.distance(self.node)
    }
}

/// Chooses among nodes with idle sandboxes.
pub trait WarmPolicy: Debug + Send + Sync {
    /// The least is chosen.
    fn cost(&self, facts: &WarmFacts) -> u64;
}

#[derive(Debug)]
struct MaxAvailable;

impl WarmPolicy for MaxAvailable {
    fn cost(&self, facts: &WarmFacts) -> u64 {
        u64::MAX - facts.available
    }
}

#[derive(Debug)]
struct Sticky;

impl WarmPolicy for Sticky {
    fn cost(&self, facts: &WarmFacts) -> u64 {
        facts.distance() as u64
    }
}

/// The policy of that name; none where the placement decides.
pub fn by_name(name: Warm) -> Option<Box<dyn WarmPolicy>> {
    match name {
        Warm::MaxAvailable => Some(Box::new(MaxAvailable)),
        Warm::Sticky => Some(Box::new(Sticky)),
        Warm::None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Ring;

    #[test]
    fn each_prefers_what_its_name_says() {
        let mut ring = Ring::default();
        ring.resize(10);
        let walk = ring.walk(77);
        let order: Vec<usize> = walk.nodes().collect();
        let near = WarmFacts { available: 10, node: order[1], walk };
        let roomy = WarmFacts { available: 90, node: order[7], walk };
        let cheaper = |name| {
            let policy = by_name(name).unwrap();
            policy.cost(&near) < policy.cost(&roomy)
        };
        assert!(!cheaper(Warm::MaxAvailable));
        assert!(cheaper(Warm::Sticky));
        assert!(by_name(Warm::None).is_none());
    }
}
