//! A cluster that exists only as events: calls come, sandboxes are made, run and end, memory is held. Whom a call goes
//! to and what is put away for it, a scheduler decides; that its decisions are possible is checked at every one.
//!
//! Sandboxes on one node are made a few at a time, in order: what comes in a burst waits. Processors are never short.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use num_traits::ToPrimitive;

use super::trace::Call;
pub use terms::{Action, Cluster, Input, Rest, SandboxId, Scheduler, Shape, Time, Violation};

mod terms;

const SECOND: Time = 1_000_000;

/// Throughput is a mean over this time, as the dissertation has it.
const WINDOW: Time = 10 * SECOND;

/// What happened.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// From a call's coming until it runs, seconds, in the order in which they began.
    pub latencies_s: Vec<f64>,
    /// The calls in this order, and whether the sandbox of each was made after it came.
    pub begun: Vec<(u32, bool)>,
    /// Answered calls.
    pub answered: u32,
    /// Refused calls.
    pub refused: u32,
    /// Calls whose sandbox was made after they came.
    pub cold: u32,
    /// Sandboxes made, for whatever reason.
    pub created: u32,
    /// Most answers a second in ten seconds.
    pub throughput: f64,
    /// The same among those ten seconds at whose end not more calls wait than are answered in one second: what is
    /// offered is served, all of it and not only what is quick.
    pub sustained: f64,
    /// Memory of sandboxes that are made or run, share of all; mean over the seconds.
    pub memory: f64,
    /// Standard deviation of the same across nodes; mean over the seconds.
    pub imbalance: f64,
    /// Memory of sandboxes that wait for calls, GB·s.
    pub waste_gb_s: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Made(SandboxId),
    Answered(SandboxId),
    /// If it is idle since then.
    Rest(SandboxId, Time),
    Wake,
    Second,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Making,
    Idle { since: Time },
    Busy,
}

#[derive(Debug, Clone, Copy)]
struct Sandbox {
    node: usize,
    function: u32,
    /// Memory it has now.
    held_mb: u32,
    state: State,
    /// When it was made; none once it has run a call.
    fresh: Option<Time>,
}

#[derive(Debug, Clone, Default)]
struct Node {
    used_mb: u32,
    active_mb: u32,
    making: u32,
    queue: VecDeque<SandboxId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    NotCome,
    Waits,
    Given,
}

/// Runs a trace to its end.
pub fn simulate(
    cluster: &Cluster,
    shapes: &[Shape],
    calls: &[Call],
    scheduler: &mut dyn Scheduler,
) -> Result<Outcome, Violation> {
    run(cluster, shapes, calls, scheduler, &mut |_, _| ())
}

/// The same, and tells every input the scheduler got, so that it can be replayed to it alone.
pub fn run(
    cluster: &Cluster,
    shapes: &[Shape],
    calls: &[Call],
    scheduler: &mut dyn Scheduler,
    seen: &mut dyn FnMut(Time, Input),
) -> Result<Outcome, Violation> {
    let mut world = World {
        cluster: *cluster,
        shapes,
        calls,
        now: 0,
        order: 0,
        events: BinaryHeap::new(),
        sandboxes: BTreeMap::new(),
        nodes: vec![Node::default(); index(cluster.nodes)],
        answers: vec![Answer::NotCome; calls.len()],
        waiting: 0,
        window: (0, 0),
        seconds: 0.0,
        outcome: Outcome::default(),
    };
    let mut actions = Vec::new();
    let mut woken = None;
    // Between the seconds, at which a test's events may be.
    world.at(SECOND / 2, Event::Second);
    let mut coming = (0..).zip(calls).peekable();
    loop {
        let next = world.events.peek().map(|Reverse((at, _, _))| *at);
        let input = match coming.peek() {
            Some(&(call, &Call { at, function, .. })) if next.is_none_or(|next| at < next) => {
                coming.next();
                world.now = at;
                world.comes(call)?;
                Some(Input::Call { call, function })
            }
            _ => {
                let Some(Reverse((at, _, event))) = world.events.pop() else { break };
                world.now = at;
                if event == Event::Wake && woken == Some(at) {
                    woken = None;
                }
                world.happens(event)?
            }
        };
        if let Some(input) = input {
            seen(world.now, input);
            scheduler.step(world.now, input, &mut actions);
            for action in actions.drain(..) {
                world.does(action)?;
            }
        }
        // What is only kept alive after the end is nobody's concern, and a scheduler that always wants to be woken
        // would never end.
        let matters = |at: &Time| *at <= cluster.horizon || world.waiting > 0;
        if let Some(at) = scheduler.wake().map(|at| at.max(world.now + 1)).filter(matters)
            && woken.is_none_or(|woken| at < woken)
        {
            woken = Some(at);
            world.at(at, Event::Wake);
        }
    }
    match scheduler.complaint() {
        Some(complaint) => Err(Violation::Unbelievable(complaint)),
        None => world.ends(),
    }
}

struct World<'a> {
    cluster: Cluster,
    shapes: &'a [Shape],
    calls: &'a [Call],
    now: Time,
    order: u64,
    events: BinaryHeap<Reverse<(Time, u64, Event)>>,
    sandboxes: BTreeMap<SandboxId, Sandbox>,
    nodes: Vec<Node>,
    answers: Vec<Answer>,
    waiting: u32,
    /// Which ten seconds, and the answers in them.
    window: (Time, u32),
    seconds: f64,
    outcome: Outcome,
}

impl World<'_> {
    fn at(&mut self, at: Time, event: Event) {
        self.order += 1;
        self.events.push(Reverse((at, self.order, event)));
    }

    fn comes(&mut self, call: u32) -> Result<(), Violation> {
        self.turns(call, Answer::NotCome, Answer::Waits)?;
        self.waiting += 1;
        Ok(())
    }

    fn answers(&mut self, call: u32) -> Result<Call, Violation> {
        self.turns(call, Answer::Waits, Answer::Given)?;
        self.waiting -= 1;
        self.calls.get(index(call)).copied().ok_or(Violation::Call(call))
    }

    fn turns(&mut self, call: u32, from: Answer, to: Answer) -> Result<(), Violation> {
        let answer = self.answers.get_mut(index(call)).filter(|answer| **answer == from);
        *answer.ok_or(Violation::Call(call))? = to;
        Ok(())
    }

    /// A sandbox with its node and needs.
    fn find(&mut self, id: SandboxId) -> Result<(&mut Sandbox, &mut Node, Shape), Violation> {
        let sandbox = self.sandboxes.get_mut(&id).ok_or(Violation::Sandbox(id))?;
        let node = self.nodes.get_mut(sandbox.node).ok_or(Violation::Sandbox(id))?;
        let shape = self.shapes.get(index(sandbox.function)).ok_or(Violation::Sandbox(id))?;
        Ok((sandbox, node, *shape))
    }

    fn happens(&mut self, event: Event) -> Result<Option<Input>, Violation> {
        let now = self.now;
        match event {
            Event::Wake => Ok(Some(Input::Wake)),
            Event::Second => {
                self.sample();
                if now + SECOND < self.cluster.horizon {
                    self.at(now + SECOND, Event::Second);
                }
                Ok(None)
            }
            Event::Made(id) => {
                let (sandbox, node, shape) = self.find(id)?;
                sandbox.state = State::Idle { since: now };
                sandbox.fresh = Some(now);
                node.active_mb -= shape.memory_mb;
                node.making -= 1;
                if let Some(next) = node.queue.pop_front() {
                    self.makes(next)?;
                }
                self.idles(id);
                Ok(Some(Input::Ready { sandbox: id }))
            }
            Event::Answered(id) => {
                let (sandbox, node, shape) = self.find(id)?;
                sandbox.state = State::Idle { since: now };
                node.active_mb -= shape.memory_mb;
                self.outcome.answered += 1;
                self.counts();
                self.idles(id);
                Ok(Some(Input::Done { sandbox: id }))
            }
            Event::Rest(id, began) => {
                let Some(rest) = self.cluster.rest else { return Ok(None) };
                if !self.sandboxes.get(&id).is_some_and(|one| one.state == State::Idle { since: began }) {
                    return Ok(None);
                }
                let (sandbox, node, shape) = self.find(id)?;
                let memory_mb = rest.memory_mb.min(shape.memory_mb);
                node.used_mb -= sandbox.held_mb - memory_mb;
                sandbox.held_mb = memory_mb;
                Ok(Some(Input::Rested { sandbox: id, memory_mb }))
            }
        }
    }

    fn does(&mut self, action: Action) -> Result<(), Violation> {
        let now = self.now;
        match action {
            Action::Refuse { call } => {
                self.answers(call)?;
                self.outcome.refused += 1;
            }
            Action::Create { sandbox: id, function, node } => {
                let shape = *self.shapes.get(index(function)).ok_or(Violation::Sandbox(id))?;
                let (limit, creators) = (self.cluster.node_mb, self.cluster.creators);
                let at = self.nodes.get_mut(index(node)).ok_or(Violation::Memory(node))?;
                if at.used_mb + shape.memory_mb > limit {
                    return Err(Violation::Memory(node));
                }
                at.used_mb += shape.memory_mb;
                at.active_mb += shape.memory_mb;
                let waits = at.making >= creators;
                if waits {
                    at.queue.push_back(id);
                }
                let (state, held_mb) = (State::Making, shape.memory_mb);
                let made = Sandbox { node: index(node), function, held_mb, state, fresh: None };
                if self.sandboxes.insert(id, made).is_some() {
                    return Err(Violation::Sandbox(id));
                }
                self.outcome.created += 1;
                if !waits {
                    self.makes(id)?;
                }
            }
            Action::Stop { sandbox: id } => {
                let (sandbox, node, shape) = self.find(id)?;
                let State::Idle { since } = sandbox.state else { return Err(Violation::Sandbox(id)) };
                node.used_mb -= sandbox.held_mb;
                self.wastes(since, now, shape);
                self.sandboxes.remove(&id);
            }
            Action::Run { call, sandbox: id } => {
                let came = self.answers(call)?;
                let limit = self.cluster.node_mb;
                let (sandbox, node, shape) = self.find(id)?;
                let State::Idle { since } = sandbox.state else { return Err(Violation::Sandbox(id)) };
                if sandbox.function != came.function {
                    return Err(Violation::Function(call));
                }
                if node.used_mb - sandbox.held_mb + shape.memory_mb > limit {
                    return Err(Violation::Memory(u32::try_from(sandbox.node).unwrap_or(u32::MAX)));
                }
                node.used_mb += shape.memory_mb - sandbox.held_mb;
                sandbox.held_mb = shape.memory_mb;
                sandbox.state = State::Busy;
                node.active_mb += shape.memory_mb;
                let cold = sandbox.fresh.take().is_some_and(|made| made > came.at);
                self.wastes(since, now, shape);
                let begins = now + self.cluster.dispatch;
                self.outcome.cold += u32::from(cold);
                self.outcome.latencies_s.push(seconds(begins - came.at));
                self.outcome.begun.push((call, cold));
                self.at(begins + came.run, Event::Answered(id));
            }
        }
        Ok(())
    }

    /// A sandbox has no call from now on.
    fn idles(&mut self, id: SandboxId) {
        if let Some(rest) = self.cluster.rest {
            self.at(self.now + rest.after, Event::Rest(id, self.now));
        }
    }

    fn makes(&mut self, id: SandboxId) -> Result<(), Violation> {
        let (_, node, shape) = self.find(id)?;
        node.making += 1;
        self.at(self.now + shape.create, Event::Made(id));
        Ok(())
    }

    fn wastes(&mut self, since: Time, until: Time, shape: Shape) {
        let horizon = self.cluster.horizon;
        let idle = until.min(horizon).saturating_sub(since);
        self.outcome.waste_gb_s += seconds(idle) * f64::from(shape.memory_mb) / 1024.0;
    }

    /// An answer is given now.
    fn counts(&mut self) {
        let window = self.now / WINDOW;
        if self.window.0 != window {
            self.closes();
            self.window = (window, 0);
        }
        self.window.1 += 1;
    }

    fn closes(&mut self) {
        if (self.window.0 + 1) * WINDOW <= self.cluster.horizon {
            let rate = f64::from(self.window.1) / seconds(WINDOW);
            self.outcome.throughput = self.outcome.throughput.max(rate);
            if f64::from(self.waiting) <= rate {
                self.outcome.sustained = self.outcome.sustained.max(rate);
            }
        }
    }

    fn sample(&mut self) {
        let all = f64::from(self.cluster.node_mb);
        let shares: Vec<f64> = self.nodes.iter().map(|node| f64::from(node.active_mb) / all).collect();
        let count = f64::from(self.cluster.nodes.max(1));
        let mean = shares.iter().sum::<f64>() / count;
        let variance = shares.iter().map(|share| (share - mean).powi(2)).sum::<f64>() / count;
        self.outcome.memory += mean;
        self.outcome.imbalance += variance.sqrt();
        self.seconds += 1.0;
    }

    fn ends(mut self) -> Result<Outcome, Violation> {
        if self.waiting > 0 {
            return Err(Violation::Unanswered(self.waiting));
        }
        self.closes();
        let left: Vec<Sandbox> = self.sandboxes.values().copied().collect();
        for sandbox in left {
            let shape = self.shapes.get(index(sandbox.function)).copied();
            if let (State::Idle { since }, Some(shape)) = (sandbox.state, shape) {
                self.wastes(since, self.cluster.horizon, shape);
            }
        }
        self.outcome.memory /= self.seconds.max(1.0);
        self.outcome.imbalance /= self.seconds.max(1.0);
        Ok(self.outcome)
    }
}

fn index(number: u32) -> usize {
    number.to_usize().unwrap_or(usize::MAX)
}

/// Of microseconds.
pub fn seconds(time: Time) -> f64 {
    time.to_f64().unwrap_or(f64::MAX) / 1e6
}

#[cfg(test)]
mod tests;
