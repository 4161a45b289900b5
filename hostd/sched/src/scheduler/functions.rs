//! Functions: registered, changed, removed.

use std::time::Duration;

use super::{Scheduler, number};
use crate::config::{FunctionSpec, Limits};
use crate::events::{Decision, EventError, Refusal, Retirement};
use crate::heap::NOWHERE;
use crate::ids::{FunctionId, Time};
use crate::policy::histogram::Histogram;
use crate::policy::keepalive::Window;
use crate::queue::CallQueue;
use crate::random::mix;
use crate::ring::Walk;
use crate::states::State;

#[derive(Debug)]
pub(super) struct Function {
    pub(super) spec: FunctionSpec,
    /// Not removed.
    pub(super) present: bool,
    /// Its snapshot is being made: calls wait for that.
    pub(super) building: bool,
    pub(super) hash: u64,
    /// Its own order of nodes.
    pub(super) walk: Walk,
    pub(super) queue: CallQueue,
    /// Sandboxes: all; on their way up; serving; warm; those that are always there, on their way up or up.
    pub(super) alive: u32,
    pub(super) starting: u32,
    pub(super) busy: u32,
    pub(super) warm: u32,
    pub(super) pinned: u32,
    /// Of those on their way up, those bound to a call.
    pub(super) bound: u32,
    /// First of its sandboxes.
    pub(super) first: u32,
    /// (node, place) wherever it has sandboxes, and the places with warm ones.
    pub(super) places: Vec<(u32, u32)>,
    pub(super) warm_places: Vec<u32>,
    /// The node kept for it.
    pub(super) claim: u32,
    /// Kept from all others, not only from those with more than it.
    pub(super) firm: bool,
    pub(super) claim_until: Time,
    /// When it may have another, and how many firm ones it had in vain.
    pub(super) claim_after: Time,
    pub(super) claims: u32,
    /// When it last got something while it waited, or began to wait.
    pub(super) unserved_since: Time,
    /// When a call of it was last handed over, or it began to wait without any.
    pub(super) starved_since: Time,
    pub(super) history: Option<Box<Histogram>>,
    pub(super) window: Window,
    /// Idle times known when the window is to be computed again.
    pub(super) window_due: u32,
    /// When its last call ended, while there is none.
    pub(super) quiet_since: Option<Time>,
    /// What a call takes, microseconds, of late.
    pub(super) mean: u64,
    /// What a start takes, microseconds, of late.
    pub(super) start: u64,
    /// Calls since it last had no sandbox.
    pub(super) frequency: u64,
    /// Starts that failed in a row since calls that waited were last refused; and in all, and until when none is made
    /// that no call waits for.
    pub(super) failures: u32,
    pub(super) vain: u32,
    pub(super) held_until: Time,
}

impl Scheduler {
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
        self.advance(now, out);
        if spec.tenant.at() >= self.fair.tenants() {
            return Err(EventError::UnknownTenant(spec.tenant));
        }
        let spec = self.known_base(spec);
        let f = self.vacant.pop().unwrap_or_else(|| number(self.functions.len()));
        let hash = mix(u64::from(f) ^ self.config.seed.rotate_left(32));
        self.fair.add_function(f, spec.tenant.0, spec.limits.concurrency, spec.limits.reserved, spec.private);
        let function = Function {
            start: u64::from(spec.start_ms) * 1000,
            spec,
            present: true,
            building: false,
            hash,
            walk: self.ring.walk(hash),
            queue: CallQueue::default(),
            alive: 0,
            starting: 0,
            busy: 0,
            warm: 0,
            pinned: 0,
            bound: 0,
            first: NOWHERE,
            places: Vec::new(),
            warm_places: Vec::new(),
            claim: NOWHERE,
            firm: false,
            claim_until: Time::default(),
            claim_after: Time::default(),
            claims: 0,
            unserved_since: Time::default(),
            starved_since: Time::default(),
            history: None,
            window: Window { prewarm: Duration::ZERO, keep: Duration::ZERO },
            window_due: 0,
            quiet_since: None,
            mean: 0,
            frequency: 0,
            failures: 0,
            vain: 0,
            held_until: Time::default(),
        };
        self.seat(f, function);
        self.want_provisioned(f);
        self.settle(out);
        Ok(FunctionId(f))
    }

    /// Puts it where its number says. Nothing is due for it yet.
    fn seat(&mut self, f: u32, function: Function) {
        let due = [
            (&mut self.deadlines, &mut self.deadline_positions),
            (&mut self.prewarms, &mut self.prewarm_positions),
            (&mut self.retries, &mut self.retry_positions),
            (&mut self.starved, &mut self.starved_positions),
        ];
        if let Some(old) = self.functions.get_mut(f as usize) {
            *old = function;
            for (heap, positions) in due {
                heap.remove(positions, f);
            }
            return;
        }
        self.functions.push(function);
        for (_, positions) in due {
            positions.push(NOWHERE);
        }
    }

    /// A base nobody told of is none.
    fn known_base(&self, mut spec: FunctionSpec) -> FunctionSpec {
        spec.base = spec.base.filter(|base| base.at() < self.images.len());
        spec
    }

    /// The number of a function that is not removed.
    pub(super) fn present(&self, function: FunctionId) -> Result<u32, EventError> {
        match self.functions.get(function.at()) {
            Some(known) if known.present => Ok(function.0),
            _ => Err(EventError::UnknownFunction(function)),
        }
    }

    pub(super) fn snapshot(&mut self, function: FunctionId, shared: Option<u64>) -> Result<(), EventError> {
        let f = self.present(function)?;
        let function = &mut self.functions[f as usize];
        function.spec.snapshot = shared;
        self.released = true;
        if std::mem::take(&mut function.building) {
            self.want_provisioned(f);
            self.await_turn(f);
        }
        Ok(())
    }

    pub(super) fn building(&mut self, function: FunctionId) -> Result<(), EventError> {
        let f = self.present(function)?;
        self.functions[f as usize].building = true;
        self.check_turn(f);
        Ok(())
    }

    pub(super) fn limited(
        &mut self,
        function: FunctionId,
        limits: Limits,
        out: &mut Vec<Decision>,
    ) -> Result<(), EventError> {
        let f = self.present(function)?;
        let function = &mut self.functions[f as usize];
        function.spec.limits = limits;
        // Whoever says so wants to see whether they come up now.
        (function.vain, function.held_until) = (0, self.now);
        let private = function.spec.private;
        self.fair.change_function(f, limits.concurrency, limits.reserved, private);
        if let Some(reason) = self.never(f) {
            self.refuse_all(f, reason, out);
        }
        let mut slot = self.functions[f as usize].first;
        while slot != NOWHERE && self.functions[f as usize].pinned > limits.provisioned {
            if self.sandboxes[slot].pinned {
                self.unpin(slot);
            }
            slot = self.sandboxes[slot].next;
        }
        self.want_provisioned(f);
        self.released = true;
        self.await_turn(f);
        Ok(())
    }

    pub(super) fn changed(
        &mut self,
        function: FunctionId,
        spec: FunctionSpec,
        out: &mut Vec<Decision>,
    ) -> Result<(), EventError> {
        let f = self.present(function)?;
        let mut spec = self.known_base(spec);
        spec.tenant = self.functions[f as usize].spec.tenant;
        self.end_all(f, true, out);
        self.fair.change_function(f, spec.limits.concurrency, spec.limits.reserved, spec.private);
        let function = &mut self.functions[f as usize];
        function.start = u64::from(spec.start_ms) * 1000;
        function.spec = spec;
        function.building = false;
        (function.failures, function.vain, function.held_until) = (0, 0, self.now);
        if let Some(reason) = self.never(f) {
            self.refuse_all(f, reason, out);
        }
        self.prewarms.remove(&mut self.prewarm_positions, f);
        self.want_provisioned(f);
        self.released = true;
        self.await_turn(f);
        Ok(())
    }

    pub(super) fn removed(
        &mut self,
        function: FunctionId,
        out: &mut Vec<Decision>,
    ) -> Result<(), EventError> {
        let f = self.present(function)?;
        let function = &mut self.functions[f as usize];
        function.present = false;
        // Else when the last sandbox is gone.
        if function.alive == 0 {
            self.vacant.push(f);
        }
        self.end_all(f, true, out);
        self.refuse_all(f, Refusal::Gone, out);
        self.withdraw(f);
        self.fair.remove_function(f);
        self.prewarms.remove(&mut self.prewarm_positions, f);
        self.deadlines.remove(&mut self.deadline_positions, f);
        let function = &mut self.functions[f as usize];
        function.history = None;
        function.quiet_since = None;
        self.released = true;
        Ok(())
    }

    /// Ends all sandboxes of a function; those that serve end with their call. Calls that were bound wait again.
    fn end_all(&mut self, f: u32, outdated: bool, out: &mut Vec<Decision>) {
        let mut slot = self.functions[f as usize].first;
        while slot != NOWHERE {
            let sandbox = &mut self.sandboxes[slot];
            let next = sandbox.next;
            if sandbox.pending {
                self.abandon(slot);
            } else if sandbox.state == State::Busy {
                sandbox.doomed |= outdated;
            } else if sandbox.state != State::Draining {
                self.retire(slot, Retirement::Outdated, out);
            }
            slot = next;
        }
    }
}
