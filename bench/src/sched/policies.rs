//! What is compared, by name.

use mote_sched::Binding;
use mote_sched::Config;
use mote_sched::policy::{Eviction, KeepAlive, Placement, Warm};

use super::baseline::{NodeGrained, Policy};
use super::clients::Clients;
use super::mote::Mote;
use super::simulator::{Cluster, Scheduler, Shape};
use crate::Outcome;

/// A scheduler with its policies.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Knows nodes only. Calls wait with their clients.
    Nodes(Policy),
    /// `mote-sched`. Calls wait in it.
    Mote(Box<Config>, Starts),
    /// `mote-sched` that keeps no calls waiting but for the start of their own sandbox: others wait with their clients.
    Clients(Box<Config>),
}

/// How many sandboxes `mote-sched` starts on a node at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Starts {
    /// As many as memory allows: they wait for each other on the node.
    Unbounded,
    /// As many as a node makes at once.
    AsMade,
}

/// A kind and what it is called.
pub type Named = (&'static str, Kind);

/// So many clients of those who wait try again when a call ends.
pub const TRIES: usize = 1024;

/// OpenWhisk's.
const STICKY_RANDOM: Named = ("sticky-random", Kind::Nodes(Policy::StickyRandom));

/// The schedulers of the dissertation, the product's own choice, and what lies between them.
pub fn all() -> Vec<Named> {
    let evicting = |eviction| mote(Config { eviction, ..unlimited() });
    let own = [
        ("mote", mote(unlimited())),
        ("mote-lru", evicting(Eviction::Lru)),
        ("mote-min-cost", evicting(Eviction::MinCost)),
    ];
    dissertation().into_iter().chain(own).collect()
}

/// The schedulers of the dissertation, and what lies between OpenWhisk's and the recommended pair.
pub fn dissertation() -> Vec<Named> {
    let nodes = [
        ("random", Policy::Random),
        ("max-available", Policy::MaxAvailable),
        ("sticky-max", Policy::StickyMaxAvailable),
    ];
    let pairs = [
        ("ma-ma", Warm::MaxAvailable, Placement::MaxAvailable),
        ("sr-ma", Warm::Sticky, Placement::MaxAvailable),
        ("sr-mc", Warm::Sticky, Placement::MinCost),
    ];
    let mut all = steps();
    all.extend(nodes.map(|(name, policy)| (name, Kind::Nodes(policy))));
    all.extend(pairs.map(|(name, warm, placement)| (name, mote(pair(warm, placement)))));
    all
}

/// From OpenWhisk's to the recommended pair as a user of the product gets it, one step at a time.
fn steps() -> Vec<Named> {
    let recommended = || pair(Warm::MaxAvailable, Placement::MinCost);
    let early = || Config { binding: Binding::Early, ..recommended() };
    let clients = Config { max_queue: 0, ..early() };
    vec![
        STICKY_RANDOM,
        // The same choice of nodes with the product's queue, late binding and bound on starts.
        ("sticky-random-queue", mote(pair(Warm::None, Placement::StickyRandom))),
        // The dissertation's: what is started for a call gets that call, others wait with their clients.
        ("ma-mc-clients", Kind::Clients(Box::new(clients))),
        // The same with the product's queue.
        ("ma-mc-early", Kind::Mote(Box::new(early()), Starts::Unbounded)),
        // The same, and whatever sandbox is free first gets the call.
        ("ma-mc-late", Kind::Mote(Box::new(recommended()), Starts::Unbounded)),
        // The same, and no node starts more at once than it makes.
        ("ma-mc", mote(recommended())),
    ]
}

/// Those whose CPU time is measured.
pub fn timed() -> Vec<Named> {
    large().into_iter().chain([("mote", mote(unlimited()))]).collect()
}

/// Those of larger clusters: with and without sampling.
pub fn large() -> Vec<Named> {
    let sampled = |sample| mote(Config { sample, ..pair(Warm::MaxAvailable, Placement::MinCost) });
    vec![STICKY_RANDOM, ("ma-mc", sampled(0)), ("ma-mc-sampled", sampled(10))]
}

/// Ways to keep sandboxes alive.
pub fn keep_alive() -> Vec<Named> {
    let fixed = |fixed_s| mote(Config { keep_alive: KeepAlive::Fixed, fixed_s, ..unlimited() });
    vec![("fixed-10", fixed(600.0)), ("fixed-20", fixed(1200.0)), ("histogram", mote(unlimited()))]
}

/// One of the dissertation's pairs, or a policy of OpenWhisk's kind, in the product. A node puts away what idles
/// longest, and nothing idles longer than ten minutes.
fn pair(warm: Warm, placement: Placement) -> Config {
    let (eviction, keep_alive) = (Eviction::Lru, KeepAlive::Fixed);
    Config { warm, placement, eviction, keep_alive, fixed_s: 600.0, sample: 0, ..unlimited() }
}

/// As it is delivered, but everybody waits at the same door here: no call is refused.
fn unlimited() -> Config {
    Config { max_queue: u32::MAX, ..Config::default() }
}

fn mote(config: Config) -> Kind {
    Kind::Mote(Box::new(config), Starts::AsMade)
}

impl Kind {
    /// One that has seen nothing yet.
    pub fn build(
        &self,
        cluster: &Cluster,
        shapes: &[Shape],
        seed: u64,
        tries: usize,
    ) -> Outcome<Box<dyn Scheduler>> {
        let seeded = |config: &Config| Config { seed, ..config.clone() };
        let clients = |scheduler| {
            let memory = shapes.iter().map(|shape| shape.memory_mb).collect();
            Box::new(Clients::new(scheduler, memory, tries))
        };
        Ok(match self {
            Self::Nodes(policy) => clients(Box::new(NodeGrained::new(*policy, cluster, shapes, seed))),
            Self::Mote(config, starts) => {
                let starts = if *starts == Starts::AsMade { cluster.creators } else { u32::MAX };
                Box::new(Mote::new(seeded(config), cluster, shapes, starts)?)
            }
            Self::Clients(config) => clients(Box::new(Mote::new(seeded(config), cluster, shapes, u32::MAX)?)),
        })
    }
}
