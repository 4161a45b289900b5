//! Node-grained scheduling, to compare with: OpenWhisk's and what chapter 4 of Ao's dissertation tries in its place.
//!
//! The scheduler knows of each node only how much memory its running sandboxes leave. It binds a call to a node; the
//! node uses an idle sandbox of the function if it happens to have one, else it makes one and puts away the sandboxes
//! that idle longest: OpenWhisk's own, or the dissertation's four. A call which no node has memory for is refused.
//!
//! An idle sandbox is never put away for its age: in ten minutes none would be.

use std::collections::{BTreeMap, HashMap, VecDeque};

use num_traits::ToPrimitive;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::simulator::{Action, Cluster, Input, SandboxId, Scheduler, Shape, Time};

/// Weight of the distance from home against the load.
const ALPHA: f64 = 0.3;

/// How a node is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The function's home by its hash, or the first with memory at the function's own step from there.
    StickyRandom,
    /// Any with memory.
    Random,
    /// The one with most memory.
    MaxAvailable,
    /// Least `α × distance + (1 - α) × load`.
    StickyMaxAvailable,
}

#[derive(Debug, Default)]
struct Node {
    used_mb: u32,
    /// Idle sandboxes of each function, the longest first.
    idle: HashMap<u32, VecDeque<u64>>,
    /// Idle sandboxes by when they began to be.
    since: BTreeMap<u64, (SandboxId, u32)>,
}

#[derive(Debug, Clone, Copy)]
struct Sandbox {
    node: usize,
    function: u32,
    /// The call it was made for, until it gets it.
    call: u32,
}

/// A scheduler of this kind.
#[derive(Debug)]
pub struct NodeGrained {
    policy: Policy,
    node_mb: u32,
    shapes: Vec<Shape>,
    nodes: Vec<Node>,
    /// Memory of each node that its running sandboxes leave.
    available_mb: Vec<u32>,
    steps: Vec<usize>,
    sandboxes: HashMap<SandboxId, Sandbox>,
    random: StdRng,
    made: SandboxId,
    idled: u64,
}

impl NodeGrained {
    /// With everything empty.
    pub fn new(policy: Policy, cluster: &Cluster, shapes: &[Shape], seed: u64) -> Self {
        let nodes: Vec<Node> = (0..cluster.nodes).map(|_| Node::default()).collect();
        Self {
            policy,
            node_mb: cluster.node_mb,
            shapes: shapes.to_vec(),
            steps: (1..nodes.len().max(2)).filter(|step| coprime(*step, nodes.len().max(1))).collect(),
            available_mb: vec![cluster.node_mb; nodes.len()],
            nodes,
            sandboxes: HashMap::new(),
            random: StdRng::seed_from_u64(seed),
            made: 0,
            idled: 0,
        }
    }

    /// All nodes in the order in which the function tries them.
    fn sequence(&self, function: u32) -> impl Iterator<Item = usize> + use<> {
        let hash = (u64::from(function) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let count = self.nodes.len().max(1);
        let part = |hash: u64, of: usize| (hash >> 33).to_usize().unwrap_or(0) % of.max(1);
        let home = part(hash, count);
        let step = self.steps.get(part(hash.wrapping_mul(0xD134_2543_DE82_EF95), self.steps.len()));
        let step = step.copied().unwrap_or(1);
        let mut at = home;
        (0..count).map(move |_| {
            let node = at;
            at += step;
            if at >= count {
                at -= count;
            }
            node
        })
    }

    fn choose(&mut self, function: u32, memory_mb: u32) -> Option<usize> {
        // The most common answer under load.
        if self.available_mb.iter().max().is_none_or(|most| *most < memory_mb) {
            return None;
        }
        let available = |node: usize| self.available_mb.get(node).copied().unwrap_or(0);
        let fits = |node: &usize| available(*node) >= memory_mb;
        let all = 0..self.nodes.len();
        match self.policy {
            Policy::StickyRandom => self.sequence(function).find(fits),
            Policy::Random => {
                let fitting: Vec<usize> = all.filter(fits).collect();
                let at = self.random.random_range(0..fitting.len().max(1));
                fitting.get(at).copied()
            }
            Policy::MaxAvailable => all.filter(fits).max_by_key(|node| available(*node)),
            Policy::StickyMaxAvailable => {
                let count = self.nodes.len().to_f64().unwrap_or(1.0);
                let cost = |&(distance, node): &(usize, usize)| {
                    let distance = distance.to_f64().unwrap_or(0.0) / count;
                    let load = 1.0 - f64::from(available(node)) / f64::from(self.node_mb);
                    ALPHA.mul_add(distance, (1.0 - ALPHA) * load)
                };
                let tried = self.sequence(function).enumerate().filter(|(_, node)| fits(node));
                tried.min_by(|a, b| cost(a).total_cmp(&cost(b))).map(|(_, node)| node)
            }
        }
    }

    /// Whether a node took the call.
    fn place(&mut self, call: u32, function: u32, actions: &mut Vec<Action>) -> bool {
        let Some(memory_mb) = self.memory(function) else { return false };
        let Some(index) = self.choose(function, memory_mb) else { return false };
        let Some(node) = self.nodes.get_mut(index) else { return false };
        if let Some(available) = self.available_mb.get_mut(index) {
            *available -= memory_mb;
        }
        let warm = node.idle.get_mut(&function).and_then(VecDeque::pop_back);
        if let Some((sandbox, _)) = warm.and_then(|since| node.since.remove(&since)) {
            actions.push(Action::Run { call, sandbox });
            return true;
        }
        while node.used_mb + memory_mb > self.node_mb {
            let Some((_, (sandbox, function))) = node.since.pop_first() else { return false };
            if let Some(idle) = node.idle.get_mut(&function) {
                idle.pop_front();
            }
            node.used_mb -= self.shapes.get(number(function)).map_or(0, |shape| shape.memory_mb);
            self.sandboxes.remove(&sandbox);
            actions.push(Action::Stop { sandbox });
        }
        node.used_mb += memory_mb;
        self.made += 1;
        self.sandboxes.insert(self.made, Sandbox { node: index, function, call });
        let node = index.to_u32().unwrap_or(u32::MAX);
        actions.push(Action::Create { sandbox: self.made, function, node });
        true
    }

    fn memory(&self, function: u32) -> Option<u32> {
        self.shapes.get(number(function)).map(|shape| shape.memory_mb)
    }

    /// A sandbox ended its call: its memory is available, and it stays until that is needed.
    fn idle(&mut self, id: SandboxId) {
        let Some(sandbox) = self.sandboxes.get(&id) else { return };
        let memory_mb = self.memory(sandbox.function).unwrap_or(0);
        let Some(node) = self.nodes.get_mut(sandbox.node) else { return };
        self.idled += 1;
        if let Some(available) = self.available_mb.get_mut(sandbox.node) {
            *available += memory_mb;
        }
        node.since.insert(self.idled, (id, sandbox.function));
        node.idle.entry(sandbox.function).or_default().push_back(self.idled);
    }
}

impl Scheduler for NodeGrained {
    fn step(&mut self, _: Time, input: Input, actions: &mut Vec<Action>) {
        match input {
            // It knows nodes only, and books what a sandbox may hold.
            Input::Wake | Input::Rested { .. } => (),
            Input::Call { call, function } => {
                if !self.place(call, function, actions) {
                    actions.push(Action::Refuse { call });
                }
            }
            Input::Ready { sandbox } => {
                if let Some(&Sandbox { call, .. }) = self.sandboxes.get(&sandbox) {
                    actions.push(Action::Run { call, sandbox });
                }
            }
            Input::Done { sandbox } => self.idle(sandbox),
        }
    }
}

fn coprime(a: usize, b: usize) -> bool {
    let (mut a, mut b) = (a, b);
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a == 1
}

fn number(function: u32) -> usize {
    function.to_usize().unwrap_or(usize::MAX)
}
