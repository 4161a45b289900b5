//! Which idle sandbox ends when there is no room.

use std::fmt::Debug;

use super::Eviction;
use crate::config::MIB;
use crate::ids::Time;

/// A sandbox that becomes idle.
#[derive(Debug, Clone, Copy)]
pub struct IdleFacts {
    /// When it was last used.
    pub last_used: Time,
    /// Memory it gives back, bytes.
    pub bytes: u64,
    /// Calls of its function since it last had no sandbox.
    pub frequency: u64,
    /// What another start of it takes, milliseconds.
    pub start_us: u64,
    /// Key of the sandbox that was evicted last on this node.
    pub inflation: f64,
}

/// Orders idle sandboxes.
pub trait EvictionPolicy: Debug + Send + Sync {
    /// The least is evicted first. Told once, when the sandbox becomes idle: time must not change the order.
    fn key(&self, facts: &IdleFacts) -> f64;
}

// Bytes and microseconds as floating point: 53 bits of them are plenty.
#[expect(clippy::cast_precision_loss)]
fn float(value: u64) -> f64 {
    value as f64
}

#[derive(Debug)]
struct Lru;

impl EvictionPolicy for Lru {
    fn key(&self, facts: &IdleFacts) -> f64 {
        float(facts.last_used.0)
    }
}

/// Least `exp(-λt)` per byte given back. Its logarithm is `-λ · now` plus something that does not change.
#[derive(Debug)]
struct MinCost {
    lambda: f64,
}

impl EvictionPolicy for MinCost {
    fn key(&self, facts: &IdleFacts) -> f64 {
        self.lambda * float(facts.last_used.0) / 1e6 - float(facts.bytes.max(1)).ln()
    }
}

#[derive(Debug)]
struct GreedyDual;

impl EvictionPolicy for GreedyDual {
    fn key(&self, facts: &IdleFacts) -> f64 {
        let size = float(facts.bytes.max(MIB)) / float(MIB);
        facts.inflation + float(facts.frequency) * float(facts.start_us) / 1000.0 / size
    }
}

/// The policy of that name.
pub fn by_name(name: Eviction, lambda: f64) -> Box<dyn EvictionPolicy> {
    match name {
        Eviction::MinCost => Box::new(MinCost { lambda }),
        Eviction::GreedyDual => Box::new(GreedyDual),
        Eviction::Lru => Box::new(Lru),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: IdleFacts = IdleFacts {
        last_used: Time(9_000_000),
        bytes: 100 * MIB,
        frequency: 4,
        start_us: 100_000,
        inflation: 0.0,
    };

    #[test]
    fn lru_and_min_cost_spare_the_recent_and_min_cost_the_small() {
        let later = IdleFacts { last_used: Time(10_000_000), ..FACTS };
        let small = IdleFacts { bytes: MIB, ..FACTS };
        for name in [Eviction::Lru, Eviction::MinCost] {
            let policy = by_name(name, 0.3);
            assert!(policy.key(&FACTS) < policy.key(&later), "{name:?}");
        }
        let policy = by_name(Eviction::MinCost, 0.3);
        assert!(policy.key(&FACTS) < policy.key(&small));
        // What is 10 s older costs e³ times less: that outweighs tenfold, not hundredfold size.
        let old = IdleFacts { last_used: Time(0), bytes: 10 * MIB, ..FACTS };
        assert!(policy.key(&old) < policy.key(&FACTS));
    }

    #[test]
    fn greedy_dual_spares_the_frequent_and_costly_and_ages() {
        let policy = by_name(Eviction::GreedyDual, 0.3);
        let key = |facts| policy.key(&facts);
        assert!(key(FACTS) < key(IdleFacts { frequency: 5, ..FACTS }));
        assert!(key(FACTS) < key(IdleFacts { start_us: 500_000, ..FACTS }));
        assert!(key(IdleFacts { bytes: 900 * MIB, ..FACTS }) < key(FACTS));
        assert!(key(IdleFacts { frequency: 50, ..FACTS }) < key(IdleFacts { inflation: 99.0, ..FACTS }));
    }
}
