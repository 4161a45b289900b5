//! The scheduler itself: what it knows, and what it is told.

mod calls;
mod ends;
mod functions;
mod node;
mod pace;
mod place;
mod start;
#[cfg(test)]
mod tests;
mod timers;
mod waiting;

use std::collections::VecDeque;

use crate::config::{Config, FunctionSpec, NodeSpec, TenantSpec};
use crate::events::{Decision, Event, EventError};
use crate::fair::{Fair, Limit};
use crate::heap::{Heap, NOWHERE};
use crate::ids::{FunctionId, ImageId, NodeId, SandboxId, TenantId, Time};
use crate::policy::eviction::EvictionPolicy;
use crate::policy::keepalive::KeepAlivePolicy;
use crate::policy::placement::PlacementPolicy;
use crate::policy::warm::WarmPolicy;
use crate::policy::{eviction, keepalive, placement, warm};
use crate::random::Random;
use crate::ring::Ring;
use crate::table::Table;
use crate::view::{FunctionView, NodeView, SandboxView, Stats};

use functions::Function;
use node::{Node, Place};
use pace::Paced;

/// Looks at those that wait, per event.
const MOST_ROUNDS: u32 = 4;

/// Decides. See the crate's documentation.
#[derive(Debug)]
pub struct Scheduler {
    config: Config,
    warm: Option<Box<dyn WarmPolicy>>,
    placement: Box<dyn PlacementPolicy>,
    eviction: Box<dyn EvictionPolicy>,
    keep_alive: Box<dyn KeepAlivePolicy>,
    random: Random,
    now: Time,
    stats: Stats,

    nodes: Vec<Node>,
    ring: Ring,
    /// Memory of all nodes, and of the largest.
    memory: u64,
    largest: u64,
    images: Vec<u64>,

    functions: Vec<Function>,
    /// Numbers of functions that were removed and of which nothing is left.
    vacant: Vec<u32>,
    fair: Fair,
    sandboxes: Table,
    /// Sandboxes of a function on a node.
    places: Vec<Place>,
    free_places: Vec<u32>,

    /// Calls that wait, and starts that are under way for calls.
    waiting: u32,
    starting: u32,
    /// Starts that have a place, the first to lose it first.
    paced: VecDeque<Paced>,
    /// Number of the call that came last.
    order: u64,

    /// Where sandboxes are in their node's order of eviction.
    evict_positions: Vec<u32>,
    /// When warm sandboxes end, and calls bound to those that come up.
    expiries: Heap<Time>,
    expiry_positions: Vec<u32>,
    /// When the first call of a function that waits has its deadline.
    deadlines: Heap<Time>,
    deadline_positions: Vec<u32>,
    /// When a function's sandbox is to be there again.
    prewarms: Heap<Time>,
    prewarm_positions: Vec<u32>,
    /// When what was not possible is tried again.
    retries: Heap<Time>,
    retry_positions: Vec<u32>,

    /// Functions that are starved and would keep a node for themselves, the longest starved first.
    starved: Heap<Time>,
    starved_positions: Vec<u32>,

    /// Something became free: those that wait may have a chance.
    released: bool,
    /// Functions that have fewer sandboxes than they always are to have.
    short: Vec<u32>,
    /// Nodes that have fewer blanks than they are to have.
    refill: Vec<u32>,
}

impl Scheduler {
    /// One without nodes, tenants and functions. Bounds that make no sense are taken for the nearest that do.
    pub fn new(mut config: Config) -> Self {
        config.headroom = sensible(config.headroom, 0.0, 0.9);
        config.lambda = sensible(config.lambda, 0.0, 1e6);
        config.alpha = sensible(config.alpha, 0.0, 1.0);
        config.max_start_failures = config.max_start_failures.max(1);
        Self {
            warm: warm::by_name(config.warm),
            placement: placement::by_name(config.placement, &config),
            eviction: eviction::by_name(config.eviction, config.lambda),
            keep_alive: keepalive::by_name(config.keep_alive, &config),
            random: Random::new(config.seed),
            config,
            now: Time::default(),
            stats: Stats::default(),
            nodes: Vec::new(),
            ring: Ring::default(),
            memory: 0,
            largest: 0,
            images: Vec::new(),
            functions: Vec::new(),
            vacant: Vec::new(),
            fair: Fair::default(),
            sandboxes: Table::default(),
            places: Vec::new(),
            free_places: Vec::new(),
            waiting: 0,
            starting: 0,
            paced: VecDeque::new(),
            order: 0,
            evict_positions: Vec::new(),
            expiries: Heap::default(),
            expiry_positions: Vec::new(),
            deadlines: Heap::default(),
            deadline_positions: Vec::new(),
            prewarms: Heap::default(),
            prewarm_positions: Vec::new(),
            retries: Heap::default(),
            retry_positions: Vec::new(),
            starved: Heap::default(),
            starved_positions: Vec::new(),
            released: false,
            short: Vec::new(),
            refill: Vec::new(),
        }
    }

    /// Another node. Its blanks are started with the next event.
    pub fn add_node(&mut self, spec: NodeSpec) -> NodeId {
        let id = number(self.nodes.len());
        self.nodes.push(Node::new(spec, self.config.headroom));
        self.memory = self.memory.saturating_add(spec.memory);
        self.largest = self.largest.max(spec.memory);
        self.ring.resize(self.nodes.len());
        for function in &mut self.functions {
            function.walk = self.ring.walk(function.hash);
        }
        self.want_blanks(id);
        self.released = true;
        NodeId(id)
    }

    /// Another tenant.
    pub fn add_tenant(&mut self, spec: TenantSpec) -> TenantId {
        let id = TenantId(number(self.fair.tenants()));
        self.fair.add_tenant(spec);
        id
    }

    /// Another base of `shared` bytes, which functions can be layered over.
    pub fn add_image(&mut self, shared: u64) -> ImageId {
        let id = ImageId(number(self.images.len()));
        self.images.push(shared);
        id
    }

    /// Takes note of what happened and adds to `out` what is to be done, in this order.
    ///
    /// # Errors
    /// When that cannot have happened. What is due at `now` is decided all the same; the event changes nothing.
    pub fn handle(&mut self, now: Time, event: Event, out: &mut Vec<Decision>) -> Result<(), EventError> {
        self.advance(now, out);
        let result = match event {
            Event::Arrived { call, function, deadline, fresh } => {
                self.arrived(call, function, deadline, fresh, out)
            }
            Event::Cancelled { call, function } => self.cancelled(call, function),
            Event::Ready { sandbox } => self.ready(sandbox, out),
            Event::Failed { sandbox, fatal } => self.failed(sandbox, fatal, out),
            Event::Ended { sandbox, healthy } => self.ended(sandbox, healthy, out),
            Event::Gone { sandbox } => self.gone(sandbox, out),
            Event::Measured { sandbox, private } => self.measured(sandbox, private, out),
            Event::Withheld { node, bytes } => self.withheld(node, bytes, out),
            Event::Timer => Ok(()),
            Event::Building { function } => self.building(function),
            Event::Snapshot { function, shared } => self.snapshot(function, shared),
            Event::Limited { function, limits } => self.limited(function, limits, out),
            Event::Changed { function, spec } => self.changed(function, *spec, out),
            Event::Removed { function } => self.removed(function, out),
        };
        self.settle(out);
        result
    }

    fn advance(&mut self, now: Time, out: &mut Vec<Decision>) {
        self.now = self.now.max(now);
        self.timers(out);
    }

    /// What follows from what happened.
    fn settle(&mut self, out: &mut Vec<Decision>) {
        // A node that is not kept for one any more may be another's turn.
        for _ in 0..MOST_ROUNDS {
            if std::mem::take(&mut self.released) {
                self.dispatch(out);
            }
            if !self.short.is_empty() {
                self.provision(out);
            }
            if !self.released {
                break;
            }
        }
        if !self.refill.is_empty() {
            self.refill(out);
        }
    }

    /// When [`Event::Timer`] is due, if at all. Earlier or later does no harm.
    pub fn next_timer(&self) -> Option<Time> {
        [&self.expiries, &self.deadlines, &self.prewarms, &self.retries]
            .into_iter()
            .filter_map(|heap| heap.peek())
            .map(|(time, _)| time)
            .chain(self.slow_due())
            .min()
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
        self.waiting
    }

    /// A node's memory.
    pub fn node(&self, node: NodeId) -> Option<NodeView> {
        let node = self.nodes.get(node.at())?;
        Some(node.account.view(node.blanks.len()))
    }

    /// A sandbox that is alive and that the caller was told of.
    pub fn sandbox(&self, sandbox: SandboxId) -> Option<SandboxView> {
        let sandbox = &self.sandboxes[self.sandboxes.alive(sandbox).ok()?];
        Some(SandboxView {
            state: sandbox.state,
            node: NodeId(sandbox.node),
            function: (sandbox.function != NOWHERE).then_some(FunctionId(sandbox.function)),
            booked: sandbox.booked,
            since: sandbox.since,
            pinned: sandbox.pinned,
        })
    }

    /// A function, gone ones too.
    pub fn function(&self, function: FunctionId) -> Option<FunctionView> {
        let function = self.functions.get(function.at())?;
        Some(FunctionView {
            waiting: function.queue.len() + function.bound,
            busy: function.busy,
            starting: function.starting,
            idle: function.warm,
        })
    }

    /// What stands against another call of a function at once, if it is not memory.
    pub fn limit(&self, function: FunctionId) -> Option<Limit> {
        self.functions.get(function.at()).and_then(|_| self.fair.limit(function.0))
    }

    /// What a function is.
    pub fn spec(&self, function: FunctionId) -> Option<&FunctionSpec> {
        self.functions.get(function.at()).map(|function| &function.spec)
    }
}

/// A count as a dense number. There are never so many.
fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(NOWHERE)
}

fn sensible(value: f64, least: f64, most: f64) -> f64 {
    if value.is_finite() { value.clamp(least, most) } else { least }
}
