//! What can be seen from outside.

use serde::{Deserialize, Serialize};

use crate::ids::{FunctionId, NodeId, Time};
use crate::states::State;

/// A node's memory, bytes, and its sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct NodeView {
    /// All that may be used.
    pub budget: u64,
    /// Of it, what is not to be had for now.
    pub withheld: u64,
    /// Shared by sandboxes: snapshots and bases in the page cache, each once.
    pub shared: u64,
    /// Of sandboxes that run or come up, of blanks and of those that are always there.
    pub active: u64,
    /// Of sandboxes that are idle and may be evicted.
    pub idle: u64,
    /// Of sandboxes that were told to end.
    pub draining: u64,
    /// Promised to sandboxes that start when memory that is draining is back.
    pub promised: u64,
    /// Sandboxes alive, blanks among them.
    pub sandboxes: u32,
    /// Of these blanks.
    pub blanks: u32,
}

impl NodeView {
    /// Memory in use. Never more than the budget.
    pub fn used(&self) -> u64 {
        self.shared + self.active + self.idle + self.draining
    }
}

/// A sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SandboxView {
    /// What it is.
    pub state: State,
    /// Where.
    pub node: NodeId,
    /// Of which function; none for a blank.
    pub function: Option<FunctionId>,
    /// Memory of its own that is booked, bytes.
    pub booked: u64,
    /// When its state last changed.
    pub since: Time,
    /// Always there: neither evicted nor retired for want of calls.
    pub pinned: bool,
}

/// A function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct FunctionView {
    /// Calls that wait.
    pub waiting: u32,
    /// Sandboxes that serve a call.
    pub busy: u32,
    /// Sandboxes on their way up.
    pub starting: u32,
    /// Sandboxes that could serve a call at once.
    pub idle: u32,
}

/// What was decided so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Calls that came.
    pub arrived: u64,
    /// Calls handed to a sandbox as they came.
    pub warm: u64,
    /// Calls handed to a sandbox after a wait.
    pub waited: u64,
    /// Calls refused, expired ones not counted.
    pub refused: u64,
    /// Calls that waited until their deadline.
    pub expired: u64,
    /// Calls taken back.
    pub cancelled: u64,
    /// Sandboxes started from a snapshot.
    pub restores: u64,
    /// Sandboxes started without.
    pub colds: u64,
    /// Blanks made.
    pub blanks: u64,
    /// Of all starts, those that foresaw a call.
    pub prewarms: u64,
    /// Sandboxes that ended to make room.
    pub evictions: u64,
    /// Sandboxes that ended because nobody called.
    pub retirements: u64,
}
