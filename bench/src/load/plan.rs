//! A synthetic trace scaled down to what one small machine can do. Pure.

use std::time::Duration;

use crate::sched::trace::{Call, Load, Population};
use crate::sched::{self};

/// Functions of the trace that is scaled down.
const POPULATION: u32 = 70_000;

/// Memory that functions have, MB: the nearer one to what the trace says.
const MEMORY_MB: [u32; 2] = [128, 256];

/// How much of a trace is left.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Functions: the most popular ones.
    pub functions: u32,
    /// Calls a second, of all of them.
    pub rate: f64,
    /// Seconds.
    pub length_s: f64,
    /// No call runs for longer.
    pub longest: Duration,
    /// What the trace is drawn from.
    pub seed: u64,
}

/// What is called when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Memory of the functions, MB, the most popular first.
    pub functions_mb: Vec<u32>,
    /// Calls by the time at which they come, in whole milliseconds of running.
    pub calls: Vec<Call>,
}

impl Plan {
    /// Draws a trace and scales it down.
    pub fn draw(scale: &Scale) -> Self {
        Self::of(&Population::draw(POPULATION, &sched::DEMAND, true, scale.seed), scale)
    }

    fn of(population: &Population, scale: &Scale) -> Self {
        let count = usize::try_from(scale.functions).unwrap_or(usize::MAX);
        let few = population.most_popular(count);
        let calls = few.sample(&Load::steady(scale.rate, scale.length_s), scale.seed);
        let longest = u64::try_from(scale.longest.as_millis()).unwrap_or(u64::MAX);
        let scaled = |call: Call| {
            let ms = call.run.div_ceil(1000).clamp(1, longest.max(1));
            Call { run: ms.saturating_mul(1000), ..call }
        };
        Self {
            functions_mb: few.functions.iter().map(|function| nearest(function.memory_mb)).collect(),
            calls: calls.into_iter().map(scaled).collect(),
        }
    }
}

fn nearest(memory_mb: u32) -> u32 {
    MEMORY_MB.into_iter().min_by_key(|size| size.abs_diff(memory_mb)).unwrap_or(memory_mb)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCALE: Scale =
        Scale { functions: 12, rate: 20.0, length_s: 200.0, longest: Duration::from_millis(700), seed: 3 };

    fn population() -> Population {
        Population::draw(3000, &sched::DEMAND, true, 3)
    }

    #[test]
    fn few_functions_keep_their_shares_of_calls() {
        let plan = Plan::of(&population(), &SCALE);
        assert_eq!(plan.functions_mb.len(), 12);
        assert!(plan.functions_mb.iter().all(|size| MEMORY_MB.contains(size)));
        let count = |function: u32| plan.calls.iter().filter(|call| call.function == function).count();
        let counts: Vec<usize> = (0..12).map(count).collect();
        assert_eq!(counts.iter().sum::<usize>(), plan.calls.len(), "calls of others");
        // A power law: the most popular quarter has most calls.
        let head: usize = counts.iter().take(3).sum();
        assert!(head * 2 > plan.calls.len() && head < plan.calls.len(), "{counts:?}");
        assert!((3500..4500).contains(&plan.calls.len()), "{}", plan.calls.len());
    }

    #[test]
    fn calls_come_in_order_within_the_time_and_none_is_too_long() {
        let plan = Plan::of(&population(), &SCALE);
        assert!(plan.calls.is_sorted_by_key(|call| call.at));
        let within = |call: &Call| {
            call.at < 200_000_000 && call.run.is_multiple_of(1000) && (1000..=700_000).contains(&call.run)
        };
        assert!(plan.calls.iter().all(within));
        assert!(plan.calls.iter().any(|call| call.run < 700_000));
        let short = Scale { longest: Duration::ZERO, ..SCALE };
        assert!(Plan::of(&population(), &short).calls.iter().all(|call| call.run == 1000));
    }

    #[test]
    fn the_same_seed_is_the_same_plan() {
        let population = population();
        assert_eq!(Plan::of(&population, &SCALE), Plan::of(&population, &SCALE));
        assert_ne!(Plan::of(&population, &SCALE), Plan::of(&population, &Scale { seed: 4, ..SCALE }));
    }

    #[test]
    fn memory_is_the_nearest() {
        assert_eq!([1, 128, 191, 193, 5000].map(nearest), [128, 128, 128, 256, 256]);
    }
}
