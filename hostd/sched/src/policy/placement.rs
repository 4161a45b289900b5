//! On which node a sandbox is started.

use std::fmt::Debug;

use super::Placement;
use crate::config::Config;
use crate::ring::Walk;

/// In which order nodes are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search {
    /// From the function's home node; the first with room.
    FromHome,
    /// From anywhere; the first with room.
    Random,
    /// All, or a sample; the one of least cost.
    Least,
}

/// What a start costs for every other that is under way on its node, as they hold each other up. So much is an idle
/// sandbox worth that was not used for 15 s (at the usual λ): among older ones, those on quiet nodes go first.
const CROWD: f64 = 0.01;

/// Is shown how many seconds each of several sandboxes was idle, until it says false.
pub type Visit<'a> = dyn FnMut(f64) -> bool + 'a;

/// A node with room.
pub struct PlacementFacts<'a> {
    /// Memory not in use for calls, bytes.
    pub available: u64,
    /// Memory there is at all, bytes.
    pub budget: u64,
    /// Sandboxes on their way up there.
    pub starting: u32,
    pub(crate) node: usize,
    pub(crate) walk: Walk,
    /// Shows the idle sandboxes that would end for the start, as seconds they were idle, until told to stop. None
    /// if there is room without.
    pub victims: &'a mut dyn FnMut(&mut Visit<'_>),
}

impl PlacementFacts<'_> {
    /// Steps from the function's home node, by the number of nodes.
    pub fn distance(&self) -> f64 {
        self.walk.part(self.node)
    }
}

impl Debug for PlacementFacts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlacementFacts").field("available", &self.available).finish_non_exhaustive()
    }
}

/// Chooses a node.
pub trait PlacementPolicy: Debug + Send + Sync {
    /// Where to look.
    fn search(&self) -> Search;

    /// With [`Search::Least`], the least is chosen; among equals that with the most available memory. Costs above
    /// `limit` need not be told exactly.
    fn cost(&self, facts: &mut PlacementFacts<'_>, limit: f64) -> f64;
}

#[derive(Debug)]
struct MaxAvailable;

impl PlacementPolicy for MaxAvailable {
    fn search(&self) -> Search {
        Search::Least
    }

    // All are equal: the most available memory decides.
    fn cost(&self, _: &mut PlacementFacts<'_>, _: f64) -> f64 {
        0.0
    }
}

#[derive(Debug)]
struct MinCost {
    lambda: f64,
}

impl PlacementPolicy for MinCost {
    fn search(&self) -> Search {
        Search::Least
    }

    fn cost(&self, facts: &mut PlacementFacts<'_>, limit: f64) -> f64 {
        let mut sum = CROWD * f64::from(facts.starting);
        (facts.victims)(&mut |idle_s| {
            sum += (-self.lambda * idle_s).exp();
            sum <= limit
        });
        sum
    }
}

#[derive(Debug)]
struct First(Search);

impl PlacementPolicy for First {
    fn search(&self) -> Search {
        self.0
    }

    fn cost(&self, _: &mut PlacementFacts<'_>, _: f64) -> f64 {
        0.0
    }
}

#[derive(Debug)]
struct StickyMaxAvailable {
    alpha: f64,
}

impl PlacementPolicy for StickyMaxAvailable {
    fn search(&self) -> Search {
        Search::Least
    }

    fn cost(&self, facts: &mut PlacementFacts<'_>, _: f64) -> f64 {
        let load = 1.0 - ratio(facts.available, facts.budget);
        self.alpha * facts.distance() + (1.0 - self.alpha) * load
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    // Bytes as floating point: 53 bits of them are plenty.
    #[expect(clippy::cast_precision_loss)]
    let (part, whole) = (part as f64, whole.max(1) as f64);
    part / whole
}

/// The policy of that name.
pub fn by_name(name: Placement, config: &Config) -> Box<dyn PlacementPolicy> {
    match name {
        Placement::MaxAvailable => Box::new(MaxAvailable),
        Placement::MinCost => Box::new(MinCost { lambda: config.lambda }),
        Placement::StickyRandom => Box::new(First(Search::FromHome)),
        Placement::Random => Box::new(First(Search::Random)),
        Placement::StickyMaxAvailable => Box::new(StickyMaxAvailable { alpha: config.alpha }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Ring;

    /// At the node so many steps of ten from home.
    fn cost(name: Placement, available: u64, steps: usize, idle: &[f64]) -> f64 {
        crowded(name, available, steps, idle, 0)
    }

    fn crowded(name: Placement, available: u64, steps: usize, idle: &[f64], starting: u32) -> f64 {
        let policy = by_name(name, &Config::default());
        let mut ring = Ring::default();
        ring.resize(10);
        let walk = ring.walk(77);
        let node = walk.nodes().nth(steps).unwrap();
        let mut victims = |visit: &mut Visit<'_>| {
            let _ = idle.iter().all(|idle_s| visit(*idle_s));
        };
        let mut facts =
            PlacementFacts { available, budget: 100, starting, node, walk, victims: &mut victims };
        policy.cost(&mut facts, f64::INFINITY)
    }

    #[test]
    fn min_cost_spares_what_was_used_lately() {
        let none = cost(Placement::MinCost, 50, 0, &[]);
        let old = cost(Placement::MinCost, 50, 0, &[60.0, 60.0]);
        let fresh = cost(Placement::MinCost, 50, 0, &[1.0]);
        assert!(none.abs() < f64::EPSILON && none < old && old < fresh);
        assert!((fresh - (-0.3f64).exp()).abs() < 1e-12);
    }

    #[test]
    fn min_cost_avoids_crowds_but_not_for_what_was_used_lately() {
        let beside = |idle: &[f64], starting| crowded(Placement::MinCost, 50, 0, idle, starting);
        assert!(beside(&[], 0) < beside(&[], 1) && beside(&[], 1) < beside(&[], 2));
        assert!(beside(&[60.0], 0) < beside(&[90.0], 1), "nothing is lost by either");
        assert!(beside(&[90.0], 1) < beside(&[5.0], 0));
    }

    #[test]
    fn sticky_max_available_weighs_distance_and_load() {
        let at = |available, steps| cost(Placement::StickyMaxAvailable, available, steps, &[]);
        assert!(at(100, 1) < at(100, 9), "nearer");
        assert!(at(90, 0) < at(10, 0), "roomier");
        assert!(at(90, 9) < at(10, 0), "load weighs more at 0.3");
    }
}
