//! What is decided beforehand: policies and bounds; and what nodes, tenants and functions are like.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{ImageId, TenantId};
use crate::policy::{Eviction, KeepAlive, Placement, Warm};

/// One mebibyte.
pub const MIB: u64 = 1 << 20;

/// Policies and bounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Which idle sandbox of a function gets a call.
    pub warm: Warm,
    /// On which node a sandbox is started.
    pub placement: Placement,
    /// Which idle sandbox ends when there is no room.
    pub eviction: Eviction,
    /// How long an idle sandbox stays.
    pub keep_alive: KeepAlive,
    /// Who gets a call that waits for a sandbox to come up.
    pub binding: Binding,
    /// So many nodes, drawn at random, are looked at for a decision; 0: all that are in question.
    pub sample: u32,
    /// Decay of the worth of an idle sandbox, per second (`min-cost`).
    pub lambda: f64,
    /// Weight of the distance from the home node against its load (`sticky-max-available`).
    pub alpha: f64,
    /// Keep-alive of `fixed`.
    pub fixed_s: f64,
    /// The histogram of `hybrid-histogram`.
    pub histogram: HistogramConfig,
    /// Calls that wait at once, of all functions.
    pub max_queue: u32,
    /// A call that waited so long is a reason to take a sandbox from a function that has more than its share
    /// although calls wait for that too.
    pub fair_wait_ms: u64,
    /// The part of a node's memory that only tenants within their share get, so that others need not wait for the
    /// end of what a busy one started. No effect with one tenant.
    pub headroom: f64,
    /// Starts of a function that fail in a row until its waiting calls are refused.
    pub max_start_failures: u32,
    /// A start that takes longer does not count among those that a node makes at once any more.
    pub slow_start_ms: u64,
    /// Memory of a blank, bytes.
    pub blank_bytes: u64,
    /// Of what is drawn at random.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            warm: Warm::MaxAvailable,
            placement: Placement::MinCost,
            eviction: Eviction::GreedyDual,
            keep_alive: KeepAlive::HybridHistogram,
            binding: Binding::Late,
            sample: 10,
            lambda: 0.3,
            alpha: 0.3,
            fixed_s: 600.0,
            histogram: HistogramConfig::default(),
            max_queue: 10_000,
            fair_wait_ms: 500,
            headroom: 0.1,
            max_start_failures: 3,
            slow_start_ms: 2000,
            blank_bytes: 8 * MIB,
            seed: 1,
        }
    }
}

impl Config {
    /// At most an hour: it is multiplied.
    pub(crate) fn fair_wait(&self) -> Duration {
        Duration::from_millis(self.fair_wait_ms.clamp(1, 3_600_000))
    }

    /// At most a day.
    pub(crate) fn slow_start(&self) -> Duration {
        Duration::from_millis(self.slow_start_ms.clamp(1, 86_400_000))
    }
}

/// Who gets a call that waits for a sandbox to come up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Binding {
    /// The sandbox that was started for it, even if another is free before.
    Early,
    /// Whichever sandbox of its function is free first.
    Late,
}

/// How idle times are recorded and what is made of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HistogramConfig {
    /// Width of a bin, seconds.
    pub bin_s: f64,
    /// Number of bins; idle times beyond them are out of bounds.
    pub bins: u32,
    /// Idle times at least, before they are believed.
    pub min_samples: u32,
    /// Part of the idle times that may be out of bounds.
    pub max_out_of_bounds: f64,
    /// How uneven the bins are at least (standard deviation of their counts by the mean, without what is chance): a
    /// flat histogram foretells nothing.
    pub min_cv: f64,
    /// The part of idle times that are shorter than the pre-warm window.
    pub head: f64,
    /// The part of idle times that end within the keep-alive window.
    pub tail: f64,
    /// By how much either window is widened.
    pub margin: f64,
    /// Keep-alive where the history says nothing.
    pub fallback_s: f64,
}

impl Default for HistogramConfig {
    fn default() -> Self {
        Self {
            bin_s: 60.0,
            bins: 240,
            min_samples: 10,
            max_out_of_bounds: 0.5,
            // This and `fallback_s` were chosen with `bench sched`, on other traces than it shows: fewer cold starts than
            // ten minutes for all, and less memory for it.
            min_cv: 3.5,
            head: 0.05,
            tail: 0.99,
            margin: 0.1,
            fallback_s: 360.0,
        }
    }
}

/// A machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSpec {
    /// Memory for sandboxes, bytes: their own and what they share.
    pub memory: u64,
    /// Sandboxes alive at once.
    pub max_sandboxes: u32,
    /// Blanks kept ready.
    pub blanks: u32,
    /// Sandboxes it starts at once; further calls wait until one is up, or any other is free. Fresh calls do not.
    pub starts: u32,
}

/// A tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantSpec {
    /// Its share when memory is short, in relation to the others'. 0 is taken for 1.
    pub weight: u32,
    /// Calls at once, with sandboxes on their way up for calls.
    pub max_concurrency: u32,
    /// Memory of its own sandboxes that run or come up, bytes.
    pub max_memory: u64,
    /// Calls that wait at once.
    pub max_queue: u32,
}

impl Default for TenantSpec {
    fn default() -> Self {
        Self { weight: 1, max_concurrency: u32::MAX, max_memory: u64::MAX, max_queue: u32::MAX }
    }
}

/// How much of a function there may be at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Calls at once.
    pub concurrency: u32,
    /// Of the tenant's concurrency, so much is kept for this function.
    pub reserved: u32,
    /// Sandboxes that are always there.
    pub provisioned: u32,
    /// Calls that wait at once.
    pub max_queue: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { concurrency: u32::MAX, reserved: 0, provisioned: 0, max_queue: u32::MAX }
    }
}

/// A function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FunctionSpec {
    /// Whose it is.
    pub tenant: TenantId,
    /// Memory of its own that a sandbox may come to hold while it runs, bytes; its control group sees to that.
    pub private: u64,
    /// Page cache of its snapshot, shared by its sandboxes on a node; none while there is no snapshot: it starts
    /// cold.
    pub snapshot: Option<u64>,
    /// What its snapshot is layered over.
    pub base: Option<ImageId>,
    /// How many at once.
    #[serde(flatten)]
    pub limits: Limits,
    /// What its start takes, milliseconds, until it is known: what is lost with an idle sandbox (`greedy-dual`).
    pub start_ms: u32,
}

impl FunctionSpec {
    /// A function of a tenant that needs so much memory, without limits.
    pub fn new(tenant: TenantId, private: u64) -> Self {
        Self { tenant, private, snapshot: None, base: None, limits: Limits::default(), start_ms: 500 }
    }
}
