//! What can be decided in several ways: small traits, chosen by name.
//!
//! | name in `placement` | with `warm` | is |
//! |---|---|---|
//! | `max-available`, `min-cost` | `max-available`, `sticky` | Sophon's four pairs |
//! | `sticky-random` | `none` | OpenWhisk |
//! | `random`, `max-available`, `sticky-max-available` | `none` | other schedulers that know nodes only |
//!
//! With `warm = "none"` the node is chosen first, for every call, without regard to where sandboxes are; one that is
//! idle there is used.

pub mod eviction;
pub mod histogram;
pub mod keepalive;
pub mod placement;
pub mod warm;

use serde::{Deserialize, Serialize};

/// Which idle sandbox of a function gets a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Warm {
    /// One on the node with the most memory not in use.
    MaxAvailable,
    /// One as near as possible to the function's home node.
    Sticky,
    /// The placement decides.
    None,
}

/// On which node a sandbox is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// That with the most memory not in use.
    MaxAvailable,
    /// That where the least is lost by evictions, each `exp(-λ · idle seconds)`, and few other starts are under way.
    MinCost,
    /// Home node by hash, then by steps coprime to the number of nodes: the first with memory.
    StickyRandom,
    /// Any with memory.
    Random,
    /// The least of α · distance from home + (1 - α) · load.
    StickyMaxAvailable,
}

/// Which idle sandbox ends when there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Eviction {
    /// Where the least is lost: `exp(-λ · idle seconds)`.
    MinCost,
    /// The least of frequency × cost of a start / size, aged.
    GreedyDual,
    /// The longest idle.
    Lru,
}

/// How long an idle sandbox stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeepAlive {
    /// Always the same time.
    Fixed,
    /// By a histogram of the function's idle times: gone at once, there again before the next call, or kept.
    HybridHistogram,
}
