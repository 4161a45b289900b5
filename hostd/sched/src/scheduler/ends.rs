//! What becomes of sandboxes: they come up, serve, rest, fail and go.

use super::Scheduler;
use crate::admission::Part;
use crate::events::{Decision, EventError, Refusal, Retirement};
use crate::heap::NOWHERE;
use crate::ids::{NodeId, SandboxId, micros};
use crate::states::State;

/// Mean durations move by one part in so many with every call, or start.
const MEAN_OVER: u64 = 8;
/// So often the pause before a start that no call waits for is doubled, while starts fail: to about a minute.
const PAUSES_DOUBLED: u32 = 7;

impl Scheduler {
    fn untimely(&self, slot: u32, event: &'static str) -> EventError {
        EventError::Untimely { sandbox: self.sandboxes.id(slot), state: self.sandboxes[slot].state, event }
    }

    pub(super) fn ready(&mut self, id: SandboxId, out: &mut Vec<Decision>) -> Result<(), EventError> {
        let slot = self.sandboxes.alive(id)?;
        if self.sandboxes[slot].state != State::Restoring {
            return Err(self.untimely(slot, "ready"));
        }
        let f = self.sandboxes[slot].function;
        if f == NOWHERE {
            self.turn(slot, State::Blank)?;
            let node = &mut self.nodes[self.sandboxes[slot].node as usize];
            node.blanks_starting -= 1;
            node.blanks.push(slot);
            return Ok(());
        }
        let bound = self.unbind(slot);
        self.leave_restoring(slot);
        let took = micros(self.now.since(self.sandboxes[slot].since));
        self.turn(slot, State::Ready)?;
        let function = &mut self.functions[f as usize];
        function.start = mean(function.start, took);
        (function.failures, function.vain) = (0, 0);
        if let Some(waiting) = bound {
            self.hand_bound(slot, waiting, out);
            return Ok(());
        }
        let may = self.sandboxes[slot].charged || self.fair.limit(f).is_none();
        if !may || !self.hand_next(slot, out) {
            self.uncharge(slot);
            self.put_warm(slot);
            let keep = self.window(f).keep;
            self.expire(slot, keep);
        }
        self.check_turn(f);
        self.await_turn(f);
        Ok(())
    }

    pub(super) fn failed(
        &mut self,
        id: SandboxId,
        fatal: bool,
        out: &mut Vec<Decision>,
    ) -> Result<(), EventError> {
        let slot = self.sandboxes.alive(id)?;
        match self.sandboxes[slot].state {
            State::Restoring => {}
            State::Draining => return self.gone(id, out),
            _ => return Err(self.untimely(slot, "failed")),
        }
        let (n, f) = (self.sandboxes[slot].node, self.sandboxes[slot].function);
        self.bury(slot);
        if f == NOWHERE {
            let pause = self.config.fair_wait();
            self.nodes[n as usize].blanks_after = self.now.after(pause);
        } else {
            let function = &mut self.functions[f as usize];
            function.failures += 1;
            let pause = self.config.fair_wait() * (1 << function.vain.min(PAUSES_DOUBLED));
            function.vain = function.vain.saturating_add(1);
            function.held_until = self.now.after(pause);
            if fatal || function.failures >= self.config.max_start_failures {
                function.failures = 0;
                self.refuse_all(f, Refusal::StartFailed, out);
            }
            self.try_again_later(f);
            self.await_turn(f);
        }
        self.begin_pending(n, out);
        Ok(())
    }

    pub(super) fn ended(
        &mut self,
        id: SandboxId,
        healthy: bool,
        out: &mut Vec<Decision>,
    ) -> Result<(), EventError> {
        let slot = self.sandboxes.alive(id)?;
        let sandbox = &self.sandboxes[slot];
        if sandbox.state != State::Busy {
            return Err(self.untimely(slot, "done with a call"));
        }
        let (n, f, doomed) = (sandbox.node, sandbox.function, sandbox.doomed);
        let took = micros(self.now.since(sandbox.since));
        let function = &mut self.functions[f as usize];
        function.mean = mean(function.mean, took);
        self.released = true;
        if !healthy || doomed {
            let why = if healthy { Retirement::Outdated } else { Retirement::Unhealthy };
            self.retire(slot, why, out);
            self.check_quiet(f, out);
        } else {
            function.busy -= 1;
            self.uncharge(slot);
            self.turn(slot, State::Idle)?;
            let next = !self.closed(n, f) && self.fair.limit(f).is_none() && self.hand_next(slot, out);
            if !next {
                self.put_warm(slot);
                let keep = self.window(f).keep;
                self.expire(slot, keep);
                self.check_quiet(f, out);
                self.make_room(n, out);
            }
        }
        self.check_turn(f);
        self.await_turn(f);
        Ok(())
    }

    pub(super) fn gone(&mut self, id: SandboxId, out: &mut Vec<Decision>) -> Result<(), EventError> {
        let slot = self.sandboxes.alive(id)?;
        let (n, f, state) =
            (self.sandboxes[slot].node, self.sandboxes[slot].function, self.sandboxes[slot].state);
        if state == State::Restoring {
            return self.failed(id, false, out);
        }
        self.bury(slot);
        self.begin_pending(n, out);
        if f != NOWHERE {
            if state == State::Busy {
                self.check_quiet(f, out);
            }
            self.check_turn(f);
            self.await_turn(f);
        }
        Ok(())
    }

    /// Only what cannot grow counts as measured.
    pub(super) fn measured(
        &mut self,
        id: SandboxId,
        private: u64,
        out: &mut Vec<Decision>,
    ) -> Result<(), EventError> {
        let slot = self.sandboxes.alive(id)?;
        let sandbox = &mut self.sandboxes[slot];
        if !sandbox.state.is_warm() || sandbox.pinned {
            return Ok(());
        }
        let node = &mut self.nodes[sandbox.node as usize];
        // Its control group allows no more than it was booked with when it ran; what is promised stays.
        let ceiling = sandbox.booked.saturating_add(node.account.coming().min(node.account.free()));
        let booked = private.min(self.functions[sandbox.function as usize].spec.private).min(ceiling);
        node.account.resize(Part::Idle, sandbox.booked, booked);
        if booked < sandbox.booked {
            self.released = true;
        }
        sandbox.booked = booked;
        let n = sandbox.node;
        self.begin_pending(n, out);
        Ok(())
    }

    /// What is in use and cannot be had back at once stays: nothing begins meanwhile.
    pub(super) fn withheld(
        &mut self,
        node: NodeId,
        bytes: u64,
        out: &mut Vec<Decision>,
    ) -> Result<(), EventError> {
        let (n, account) = match self.nodes.get_mut(node.at()) {
            Some(found) => (node.0, &mut found.account),
            None => return Err(EventError::UnknownNode(node)),
        };
        let before = account.available();
        account.withhold(bytes);
        self.released |= account.available() > before;
        self.make_room(n, out);
        self.begin_pending(n, out);
        Ok(())
    }

    /// Idle ones go while more is in use than may be.
    fn make_room(&mut self, n: u32, out: &mut Vec<Decision>) {
        while self.nodes[n as usize].account.is_over() && self.evict(n, out).is_some() {}
    }

    /// After the last call of a function under way: what its history says.
    fn check_quiet(&mut self, f: u32, out: &mut Vec<Decision>) {
        let function = &self.functions[f as usize];
        if !function.present
            || function.busy > 0
            || function.starting > 0
            || !function.queue.is_empty()
            || function.quiet_since.is_some()
        {
            return;
        }
        self.functions[f as usize].quiet_since = Some(self.now);
        let window = self.window(f);
        if window.prewarm.is_zero() {
            return;
        }
        let mut slot = self.functions[f as usize].first;
        while slot != NOWHERE {
            let next = self.sandboxes[slot].next;
            if self.part(slot) == Part::Idle {
                self.retire(slot, Retirement::Expired, out);
            }
            slot = next;
        }
        if self.functions[f as usize].pinned == 0 {
            let due = self.now.after(window.prewarm);
            self.prewarms.set(&mut self.prewarm_positions, f, due);
        }
    }
}

/// The mean of late, microseconds, with one more; 0 is none.
fn mean(before: u64, took: u64) -> u64 {
    if before == 0 { took } else { before - before / MEAN_OVER + took / MEAN_OVER }
}
