//! What the simulator says of the same calls on a machine of the same size.

use std::time::Duration;

use mote_sched::{Config, Settings, Stats};
use num_traits::ToPrimitive;
use serde::Deserialize;

use crate::Outcome;
use crate::load::place::Alone;
use crate::load::plan::Plan;
use crate::sched::mote::Mote;
use crate::sched::simulator::{self, Cluster, Outcome as Simulated, Rest, Shape, Time};
use crate::sched::trace::Call;

/// What a microVM takes beside the function's memory, MB, as the appliance books it.
const MONITOR_MB: u32 = 8;

/// The appliance's processors.
const PROCESSORS: u32 = 2;

const SECOND: Time = 1_000_000;

/// The appliance's configuration, as far as it decides who is served: config/mote.toml.
#[derive(Debug, Clone, Deserialize)]
pub struct Configured {
    sandbox: Sandbox,
    scheduling: Settings,
}

#[derive(Debug, Clone, Deserialize)]
struct Sandbox {
    queue_s: u64,
    reclaim_s: u64,
}

impl Configured {
    /// Reads it.
    pub fn parse(text: &str) -> Outcome<Self> {
        Ok(toml::from_str(text)?)
    }

    /// After so long without a call sandboxes give back what they do not use, seconds.
    pub fn reclaim_s(&self) -> u64 {
        self.sandbox.reclaim_s
    }

    fn config(&self, idle_timeout_s: f64) -> Outcome<Config> {
        Ok(self.scheduling.config(Duration::try_from_secs_f64(idle_timeout_s)?))
    }
}

/// Runs the calls of a plan on one node like the appliance, each as long as it was told to and what the appliance takes
/// besides.
pub fn predict(
    plan: &Plan,
    alone: &Alone,
    configured: &Configured,
    idle_timeout_s: f64,
) -> Outcome<(Simulated, Stats)> {
    let extra = time(alone.extra_ms);
    let calls: Vec<Call> =
        plan.calls.iter().map(|call| Call { run: call.run.saturating_add(extra), ..*call }).collect();
    let create = time(alone.restore_ms);
    let shape = |size: &u32| Shape { memory_mb: size.saturating_add(MONITOR_MB), create };
    let shapes: Vec<Shape> = plan.functions_mb.iter().map(shape).collect();
    let rest =
        Rest { after: configured.sandbox.reclaim_s.saturating_mul(SECOND), memory_mb: alone.resting_mb };
    let cluster = Cluster {
        nodes: 1,
        node_mb: alone.capacity_mb.saturating_sub(alone.taken_mb),
        creators: PROCESSORS,
        dispatch: time(alone.dispatch_ms),
        rest: Some(rest),
        horizon: calls.last().map_or(0, |last| last.at + SECOND),
    };
    let starts = configured.scheduling.starts_at_once(PROCESSORS);
    let patience = configured.sandbox.queue_s.saturating_mul(SECOND);
    let mut scheduler = Mote::new(configured.config(idle_timeout_s)?, &cluster, &shapes, starts)?
        .restoring(patience, alone.shared_mb)?;
    let outcome = simulator::simulate(&cluster, &shapes, &calls, &mut scheduler)?;
    Ok((outcome, scheduler.stats()))
}

fn time(ms: f64) -> Time {
    (ms * 1000.0).round().to_u64().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use mote_sched::Binding;
    use mote_sched::policy::{KeepAlive, Placement, Warm};

    use super::*;

    const ALONE: Alone = Alone {
        restore_ms: 400.0,
        dispatch_ms: 20.0,
        extra_ms: 10.0,
        capacity_mb: 300,
        taken_mb: 16,
        shared_mb: 4,
        resting_mb: 40,
    };

    fn configured() -> Configured {
        Configured::parse(include_str!("../../../config/mote.toml")).unwrap()
    }

    fn plan(rows: &[(u64, u32, u64)]) -> Plan {
        let call = |&(at, function, run): &(u64, u32, u64)| Call { at: at * 1000, function, run: run * 1000 };
        Plan { functions_mb: vec![128, 128, 256], calls: rows.iter().map(call).collect() }
    }

    fn close(found: &[f64], expected: &[f64]) {
        let equal = found.len() == expected.len()
            && found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-9);
        assert!(equal, "{found:?}, not {expected:?}");
    }

    #[test]
    fn the_delivered_configuration_is_what_is_simulated() {
        let config = configured().config(20.0).unwrap();
        assert_eq!((config.warm, config.placement), (Warm::MaxAvailable, Placement::MinCost));
        assert_eq!((config.binding, config.keep_alive), (Binding::Late, KeepAlive::HybridHistogram));
        assert!((config.histogram.fallback_s - 20.0).abs() < 1e-9);
        assert_eq!(configured().reclaim_s(), 2);
    }

    #[test]
    fn keep_alive_rest_and_eviction_are_those_of_the_appliance() {
        // Restored, warm, restored again after the time-out.
        let (outcome, stats) =
            predict(&plan(&[(0, 0, 100), (1000, 0, 100), (30_000, 0, 100)]), &ALONE, &configured(), 20.0)
                .unwrap();
        assert_eq!(outcome.begun, [(0, true), (1, false), (2, true)]);
        close(&outcome.latencies_s, &[0.42, 0.02, 0.42]);
        assert_eq!((stats.restores, stats.colds, stats.evictions), (2, 0, 0));
        // Two rest while the third, which needs nearly all, comes.
        let (outcome, stats) =
            predict(&plan(&[(0, 0, 1), (0, 1, 1), (9000, 2, 1)]), &ALONE, &configured(), 20.0).unwrap();
        assert_eq!((outcome.cold, stats.evictions), (3, 2));
    }

    #[test]
    fn whose_turn_comes_too_late_is_refused() {
        let (outcome, stats) =
            predict(&plan(&[(0, 2, 60_000), (1000, 2, 10)]), &ALONE, &configured(), 20.0).unwrap();
        assert_eq!((outcome.answered, outcome.refused, stats.refused + stats.expired), (1, 1, 1));
    }
}
