//! What is compared, by name.

use mote_sched::Binding;
use mote_sched::Config;
use mote_sched::policy::{Eviction, KeepAlive, Placement, Warm};

use super::baseline::{NodeGrained, Policy};
use super::mote::Mote;
use super::simulator::{Cluster, Scheduler, Shape};
use crate::Outcome;

/// A scheduler with its policies.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Knows nodes only.
    Nodes(Policy),
    /// `mote-sched`.
    Mote(Box<Config>),
}

/// The schedulers of the dissertation, and the product's own choice.
pub fn all() -> Vec<(&'static str, Kind)> {
    let nodes = [
        ("sticky-random", Policy::StickyRandom),
        ("random", Policy::Random),
        ("max-available", Policy::MaxAvailable),
        ("sticky-max", Policy::StickyMaxAvailable),
    ];
    let pairs = [
        ("ma-ma", Warm::MaxAvailable, Placement::MaxAvailable),
        ("ma-mc", Warm::MaxAvailable, Placement::MinCost),
        ("sr-ma", Warm::Sticky, Placement::MaxAvailable),
        ("sr-mc", Warm::Sticky, Placement::MinCost),
    ];
    let mut all: Vec<_> = nodes.into_iter().map(|(name, policy)| (name, Kind::Nodes(policy))).collect();
    all.extend(pairs.map(|(name, warm, placement)| (name, Kind::Mote(Box::new(pair(warm, placement, 0))))));
    all.push(product());
    let greedy = Config { eviction: Eviction::GreedyDual, ..unlimited() };
    all.push(("greedy-dual", Kind::Mote(Box::new(greedy))));
    all
}

/// As it is delivered.
fn product() -> (&'static str, Kind) {
    ("mote", Kind::Mote(Box::new(unlimited())))
}

/// Those whose CPU time is measured.
pub fn timed() -> Vec<(&'static str, Kind)> {
    large().into_iter().chain([product()]).collect()
}

/// Those of larger clusters: with and without sampling.
pub fn large() -> Vec<(&'static str, Kind)> {
    let sampled = |sample| Kind::Mote(Box::new(pair(Warm::MaxAvailable, Placement::MinCost, sample)));
    vec![
        ("sticky-random", Kind::Nodes(Policy::StickyRandom)),
        ("ma-mc", sampled(0)),
        ("ma-mc-sampled", sampled(10)),
    ]
}

/// Ways to keep sandboxes alive.
pub fn keep_alive() -> Vec<(&'static str, Kind)> {
    let fixed = |fixed_s| Config { keep_alive: KeepAlive::Fixed, fixed_s, ..unlimited() };
    let histogram = Config { keep_alive: KeepAlive::HybridHistogram, ..unlimited() };
    let mut short = Config { fixed_s: 360.0, ..histogram.clone() };
    short.histogram.bin_s = 60.0;
    short.histogram.bins = 60;
    let ways = [
        ("fixed-10", fixed(600.0)),
        ("fixed-20", fixed(1200.0)),
        ("histogram", histogram),
        // Looks ahead for an hour at most, and is less patient where it knows nothing.
        ("histogram-1h", short),
    ];
    ways.map(|(name, config)| (name, Kind::Mote(Box::new(config)))).into()
}

/// As the dissertation has it: a sandbox belongs to the call it was made for, a node puts away what idles longest.
fn pair(warm: Warm, placement: Placement, sample: u32) -> Config {
    let eviction = Eviction::Lru;
    let (binding, keep_alive) = (Binding::Early, KeepAlive::Fixed);
    Config { warm, placement, eviction, binding, keep_alive, sample, ..unlimited() }
}

/// Everybody waits at the same door here: no call is refused.
fn unlimited() -> Config {
    Config { max_queue: u32::MAX, ..Config::default() }
}

impl Kind {
    /// One that has seen nothing yet.
    pub fn build(&self, cluster: &Cluster, shapes: &[Shape], seed: u64) -> Outcome<Box<dyn Scheduler>> {
        Ok(match self {
            Self::Nodes(policy) => Box::new(NodeGrained::new(*policy, cluster, shapes, seed)),
            Self::Mote(config) => {
                let config = Config { seed, ..config.as_ref().clone() };
                Box::new(Mote::new(config, cluster, shapes)?)
            }
        })
    }
}
