//! The section `[scheduling]` of the appliance's configuration: a flat table, for options of the kernel command line.

use std::time::Duration;

use serde::Deserialize;

use crate::config::{Binding, Config, HistogramConfig};
use crate::policy::{Eviction, KeepAlive, Placement, Warm};

/// A start waits for the disk and for others about as long as it computes, a cold one longer: with so many, no processor
/// waits for work.
const STARTS_OF_A_PROCESSOR: u32 = 4;

/// What an operator can choose.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    warm: Warm,
    placement: Placement,
    eviction: Eviction,
    keep_alive: KeepAlive,
    binding: Binding,
    lambda: f64,
    alpha: f64,
    histogram_bin_s: f64,
    histogram_bins: u32,
    max_queue: u32,
    /// Calls of one function that wait at once.
    pub max_queue_function: u32,
    starts_at_once: u32,
    fair_wait_ms: u64,
    headroom: f64,
}

impl Settings {
    /// Sandboxes that a machine with so many processors starts at once.
    pub fn starts_at_once(&self, processors: u32) -> u32 {
        match self.starts_at_once {
            0 => processors.saturating_mul(STARTS_OF_A_PROCESSOR).max(1),
            starts => starts,
        }
    }

    /// As the scheduler takes it. `idle`: keep-alive where no policy says otherwise.
    pub fn config(&self, idle: Duration) -> Config {
        let idle_s = idle.as_secs_f64();
        let defaults = Config::default();
        Config {
            warm: self.warm,
            placement: self.placement,
            eviction: self.eviction,
            keep_alive: self.keep_alive,
            binding: self.binding,
            lambda: self.lambda,
            alpha: self.alpha,
            fixed_s: idle_s,
            histogram: HistogramConfig {
                fallback_s: idle_s,
                bin_s: self.histogram_bin_s,
                bins: self.histogram_bins,
                ..defaults.histogram
            },
            max_queue: self.max_queue,
            fair_wait_ms: self.fair_wait_ms,
            headroom: self.headroom,
            ..defaults
        }
    }
}
