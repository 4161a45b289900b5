//! The scheduler itself.

use crate::config::{Config, FunctionSpec, NodeSpec, TenantSpec};
use crate::events::{Decision, Event, EventError};
use crate::ids::{FunctionId, ImageId, NodeId, SandboxId, TenantId, Time};
use crate::view::{FunctionView, NodeView, SandboxView, Stats};

/// Decides. See the crate's documentation.
#[derive(Debug)]
pub struct Scheduler {
    config: Config,
    stats: Stats,
}

impl Scheduler {
    /// One without nodes, tenants and functions. Bounds that make no sense are taken for the nearest that do.
    pub fn new(config: Config) -> Self {
        Self { config, stats: Stats::default() }
    }

    /// Another node.
    pub fn add_node(&mut self, spec: NodeSpec) -> NodeId {
        let _ = spec;
        NodeId(0)
    }

    /// Another tenant.
    pub fn add_tenant(&mut self, spec: TenantSpec) -> TenantId {
        let _ = spec;
        TenantId(0)
    }

    /// Another base of `shared` bytes, which functions can be layered over.
    pub fn add_image(&mut self, shared: u64) -> ImageId {
        let _ = shared;
        ImageId(0)
    }

    /// Another function. Decisions (provisioned sandboxes) are added to `out`.
    ///
    /// # Errors
    /// When there is no such tenant.
    pub fn register(
        &mut self,
        now: Time,
        spec: FunctionSpec,
        out: &mut Vec<Decision>,
    ) -> Result<FunctionId, EventError> {
        let _ = (now, spec, out);
        Ok(FunctionId(0))
    }

    /// Takes note of what happened and adds to `out` what is to be done, in this order.
    ///
    /// # Errors
    /// When that cannot have happened. What is due at `now` is decided all the same; the event changes nothing.
    pub fn handle(&mut self, now: Time, event: Event, out: &mut Vec<Decision>) -> Result<(), EventError> {
        let _ = (now, event, out);
        Ok(())
    }

    /// When [`Event::Timer`] is due, if at all. Earlier or later does no harm.
    pub fn next_timer(&self) -> Option<Time> {
        None
    }

    /// Policies and bounds.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What was decided so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Calls that wait, of all functions.
    pub fn waiting(&self) -> u32 {
        0
    }

    /// A node's memory.
    pub fn node(&self, node: NodeId) -> Option<NodeView> {
        let _ = node;
        None
    }

    /// A sandbox that is alive.
    pub fn sandbox(&self, sandbox: SandboxId) -> Option<SandboxView> {
        let _ = sandbox;
        None
    }

    /// A function.
    pub fn function(&self, function: FunctionId) -> Option<FunctionView> {
        let _ = function;
        None
    }
}
