//! Sandboxes begin and end: memory is promised, taken and given back.

use super::Scheduler;
use crate::admission::Part;
use crate::events::{Decision, How, Retirement, Why};
use crate::heap::NOWHERE;
use crate::ids::{FunctionId, NodeId, Time};
use crate::policy::eviction::IdleFacts;
use crate::queue::Waiting;
use crate::states::{State, TransitionError};
use crate::table::Sandbox;

impl Scheduler {
    pub(super) fn turn(&mut self, slot: u32, to: State) -> Result<(), TransitionError> {
        self.sandboxes.turn(slot, to, self.now)
    }

    /// What its memory counts as.
    pub(super) fn part(&self, slot: u32) -> Part {
        let sandbox = &self.sandboxes[slot];
        match sandbox.state {
            _ if sandbox.pending => Part::Promised,
            State::Draining => Part::Draining,
            State::Ready | State::Idle if !sandbox.pinned => Part::Idle,
            _ => Part::Active,
        }
    }

    /// Starts a sandbox on a node that has room for it once enough is evicted. It begins now, in a blank if one is
    /// there, or when that memory is back. A call it is for is bound to it.
    pub(super) fn start(
        &mut self,
        f: u32,
        n: u32,
        why: Why,
        waiting: Option<Waiting>,
        out: &mut Vec<Decision>,
    ) -> Option<u32> {
        let spec = &self.functions[f as usize].spec;
        let how = if spec.snapshot.is_some() { How::Restore } else { How::Cold };
        let (private, snapshot, base) = (spec.private, spec.snapshot, spec.base);
        let need = self.need(f, n);
        let node = &self.nodes[n as usize];
        let blank = node.blanks.last().copied().filter(|_| {
            let there = self.config.blank_bytes.min(private);
            node.account.fits(need - there, self.promised(f, n))
        });
        while blank.is_none() && !self.nodes[n as usize].account.will_fit(need) {
            self.evict(n, out)?;
        }
        let place = self.place(f, n);
        let mut sandbox = Sandbox::new(n, f, place, private, how, why, self.now);
        sandbox.uses_snapshot = snapshot.is_some();
        sandbox.base = base.map_or(NOWHERE, |base| base.0);
        sandbox.pending = true;
        let slot = match blank {
            Some(slot) => self.use_blank(slot, sandbox)?,
            None => self.new_slot(sandbox)?,
        };
        self.link(slot);
        self.take_pace(slot);
        let node = &mut self.nodes[n as usize];
        node.starting += 1;
        if let Some(bytes) = snapshot {
            node.account.promise_image(&mut self.places[place as usize].snapshot, bytes);
        }
        if let Some(base) = base {
            if node.bases.len() <= base.at() {
                node.bases.resize(base.at() + 1, crate::admission::Image::default());
            }
            node.account.promise_image(&mut node.bases[base.at()], self.images[base.at()]);
        }
        let function = &mut self.functions[f as usize];
        function.starting += 1;
        if let Some(waiting) = waiting {
            function.bound += 1;
            self.sandboxes[slot].bound = Some(waiting);
            self.expiries.set(&mut self.expiry_positions, slot, waiting.deadline);
        }
        if why == Why::Provisioned {
            function.pinned += 1;
            self.sandboxes[slot].pinned = true;
        }
        if blank.is_some() {
            self.begin(slot, true, out);
        } else {
            let node = &mut self.nodes[n as usize];
            node.account.add(Part::Promised, private);
            node.pending.push_back(slot);
            self.begin_pending(n, out);
        }
        Some(slot)
    }

    /// What is promised on a node for images of the function and not taken: by a start that was given up.
    fn promised(&self, f: u32, n: u32) -> u64 {
        let base = self.functions[f as usize].spec.base.map_or(0, |base| self.base(n, base.0).promised());
        let place = self.find_place(f, n);
        base + place.map_or(0, |place| self.places[place as usize].snapshot.promised())
    }

    pub(super) fn new_slot(&mut self, sandbox: Sandbox) -> Option<u32> {
        let slot = self.sandboxes.insert(sandbox)?;
        if self.evict_positions.len() < self.sandboxes.len() {
            self.evict_positions.resize(self.sandboxes.len(), NOWHERE);
            self.expiry_positions.resize(self.sandboxes.len(), NOWHERE);
        }
        Some(slot)
    }

    /// A blank becomes this sandbox.
    fn use_blank(&mut self, slot: u32, mut sandbox: Sandbox) -> Option<u32> {
        self.turn(slot, State::Restoring).ok()?;
        let node = &mut self.nodes[sandbox.node as usize];
        node.blanks.pop();
        node.account.resize(Part::Active, self.sandboxes[slot].booked, sandbox.booked);
        // It may need less than a blank.
        self.released |= self.sandboxes[slot].booked > sandbox.booked;
        sandbox.generation = self.sandboxes[slot].generation;
        let n = sandbox.node;
        self.sandboxes[slot] = sandbox;
        self.want_blanks(n);
        Some(slot)
    }

    /// Those whose memory is back begin, in order.
    pub(super) fn begin_pending(&mut self, n: u32, out: &mut Vec<Decision>) {
        while let Some(slot) = self.nodes[n as usize].pending.front().copied() {
            let sandbox = &self.sandboxes[slot];
            let node = &self.nodes[n as usize];
            let snapshot = if sandbox.uses_snapshot {
                self.places[sandbox.place as usize].snapshot.promised()
            } else {
                0
            };
            let base = if sandbox.base == NOWHERE { 0 } else { self.base(n, sandbox.base).promised() };
            if !node.account.begins(sandbox.booked + snapshot + base) {
                return;
            }
            let booked = sandbox.booked;
            let node = &mut self.nodes[n as usize];
            node.pending.pop_front();
            node.account.shift(Part::Promised, Part::Active, booked);
            self.begin(slot, false, out);
        }
    }

    pub(super) fn begin(&mut self, slot: u32, in_blank: bool, out: &mut Vec<Decision>) {
        let sandbox = &mut self.sandboxes[slot];
        sandbox.pending = false;
        sandbox.since = self.now;
        let node = &mut self.nodes[sandbox.node as usize];
        if sandbox.uses_snapshot {
            node.account.take_image(&mut self.places[sandbox.place as usize].snapshot);
        }
        if let Some(base) = node.bases.get_mut(sandbox.base as usize) {
            node.account.take_image(base);
        }
        match sandbox.how {
            How::Restore => self.stats.restores += 1,
            How::Cold => self.stats.colds += 1,
            How::Blank => self.stats.blanks += 1,
        }
        if sandbox.why == Why::Prewarm {
            self.stats.prewarms += 1;
        }
        let (node, function, how, why) = (sandbox.node, sandbox.function, sandbox.how, sandbox.why);
        let call = sandbox.bound.map(|waiting| waiting.call);
        out.push(Decision::Start {
            sandbox: self.sandboxes.id(slot),
            node: NodeId(node),
            function: (function != NOWHERE).then_some(FunctionId(function)),
            how,
            why,
            call,
            in_blank,
        });
    }

    /// Evicts the idle sandbox on a node that is worth the least.
    pub(super) fn evict(&mut self, n: u32, out: &mut Vec<Decision>) -> Option<()> {
        let ((key, _), slot) = self.nodes[n as usize].evictable.peek()?;
        self.nodes[n as usize].inflation = key;
        self.drain(slot)?;
        self.stats.evictions += 1;
        out.push(Decision::Evict { sandbox: self.sandboxes.id(slot), node: NodeId(n) });
        Some(())
    }

    pub(super) fn retire(&mut self, slot: u32, why: Retirement, out: &mut Vec<Decision>) {
        let n = self.sandboxes[slot].node;
        if self.drain(slot).is_some() {
            self.stats.retirements += 1;
            out.push(Decision::Retire { sandbox: self.sandboxes.id(slot), node: NodeId(n), why });
        }
    }

    /// A sandbox somebody was told of is to end, whatever it does.
    fn drain(&mut self, slot: u32) -> Option<()> {
        let part = self.part(slot);
        let state = self.sandboxes[slot].state;
        if !state.may_become(State::Draining) {
            return None;
        }
        self.leave_state(slot);
        self.turn(slot, State::Draining).ok()?;
        // What is idle could be had before.
        self.released |= part != Part::Idle;
        let sandbox = &self.sandboxes[slot];
        let from = if part == Part::Idle { Part::Active } else { part };
        self.nodes[sandbox.node as usize].account.shift(from, Part::Draining, sandbox.booked);
        Some(())
    }

    /// It is not any more what it was: ready, idle, busy, on its way up or a blank. Its memory counts as active.
    fn leave_state(&mut self, slot: u32) {
        let (state, f, n) = {
            let sandbox = &self.sandboxes[slot];
            (sandbox.state, sandbox.function, sandbox.node)
        };
        match state {
            State::Ready | State::Idle => self.take_warm(slot),
            State::Busy => self.functions[f as usize].busy -= 1,
            State::Restoring if f == NOWHERE => self.nodes[n as usize].blanks_starting -= 1,
            State::Restoring => self.leave_restoring(slot),
            State::Blank => self.nodes[n as usize].blanks.retain(|blank| *blank != slot),
            State::Draining | State::Dead => {}
        }
        if f == NOWHERE {
            self.want_blanks(n);
            return;
        }
        self.uncharge(slot);
        let sandbox = &mut self.sandboxes[slot];
        if std::mem::take(&mut sandbox.pinned) {
            self.functions[f as usize].pinned -= 1;
            self.want_provisioned(f);
        }
    }

    /// It is up, or will not be. A call that was bound to it waits again.
    pub(super) fn leave_restoring(&mut self, slot: u32) {
        let f = self.sandboxes[slot].function;
        if let Some(waiting) = self.unbind(slot) {
            self.put_back(f, waiting);
        }
        self.leave_pace(slot);
        self.functions[f as usize].starting -= 1;
        self.nodes[self.sandboxes[slot].node as usize].starting -= 1;
        if self.sandboxes[slot].charged {
            self.starting = self.starting.saturating_sub(1);
            self.fair.count(f, 0, -1);
        }
    }

    /// It is not in use any more.
    pub(super) fn uncharge(&mut self, slot: u32) {
        let sandbox = &mut self.sandboxes[slot];
        if std::mem::take(&mut sandbox.charged) {
            let (f, booked) = (sandbox.function, sandbox.booked);
            self.fair.release(f, booked);
            self.released = true;
        }
    }

    /// It began to be warm: others may have it, or its memory.
    pub(super) fn put_warm(&mut self, slot: u32) {
        self.link_warm(slot);
        self.released = true;
        let sandbox = &mut self.sandboxes[slot];
        let (n, f) = (sandbox.node, sandbox.function);
        let function = &mut self.functions[f as usize];
        if !sandbox.pinned && function.pinned < function.spec.limits.provisioned {
            function.pinned += 1;
            sandbox.pinned = true;
        }
        if sandbox.pinned {
            return;
        }
        let node = &mut self.nodes[n as usize];
        let key = self.eviction.key(&IdleFacts {
            last_used: sandbox.since,
            bytes: sandbox.booked,
            frequency: function.frequency,
            start_us: function.start,
            inflation: node.inflation,
        });
        node.account.shift(Part::Active, Part::Idle, sandbox.booked);
        node.evictable.set(&mut self.evict_positions, slot, (key, slot));
    }

    /// It is not one of those that are always there any more.
    pub(super) fn unpin(&mut self, slot: u32) {
        let warm = self.sandboxes[slot].state.is_warm();
        if warm {
            self.take_warm(slot);
        }
        let f = self.sandboxes[slot].function;
        self.sandboxes[slot].pinned = false;
        self.functions[f as usize].pinned -= 1;
        if warm {
            self.put_warm(slot);
            let keep = self.window(f).keep;
            self.expire(slot, keep);
        }
    }

    /// The reverse, if it is warm and in the lists.
    pub(super) fn take_warm(&mut self, slot: u32) {
        let sandbox = &self.sandboxes[slot];
        let place = &self.places[sandbox.place as usize];
        if !sandbox.state.is_warm() || sandbox.warmer == NOWHERE && place.warmest != slot {
            return;
        }
        self.unlink_warm(slot);
        let sandbox = &self.sandboxes[slot];
        if !sandbox.pinned {
            let node = &mut self.nodes[sandbox.node as usize];
            node.account.shift(Part::Idle, Part::Active, sandbox.booked);
            node.evictable.remove(&mut self.evict_positions, slot);
        }
    }

    /// A start nobody was told of is not to be. A call that was bound to it waits again.
    pub(super) fn abandon(&mut self, slot: u32) {
        let n = self.sandboxes[slot].node;
        self.nodes[n as usize].pending.retain(|pending| *pending != slot);
        self.bury(slot);
    }

    /// A sandbox is gone, whatever it was; its memory is free.
    pub(super) fn bury(&mut self, slot: u32) {
        let part = self.part(slot);
        self.leave_state(slot);
        let from = if part == Part::Idle { Part::Active } else { part };
        let (n, f, place, booked, uses_snapshot, base) = {
            let sandbox = &self.sandboxes[slot];
            (
                sandbox.node,
                sandbox.function,
                sandbox.place,
                sandbox.booked,
                sandbox.uses_snapshot,
                sandbox.base,
            )
        };
        let node = &mut self.nodes[n as usize];
        node.account.take(from, booked);
        if uses_snapshot {
            node.account.leave_image(&mut self.places[place as usize].snapshot);
        }
        if let Some(base) = node.bases.get_mut(base as usize) {
            node.account.leave_image(base);
        }
        if f != NOWHERE {
            self.unlink(slot);
        }
        self.expiries.remove(&mut self.expiry_positions, slot);
        let sandbox = &mut self.sandboxes[slot];
        sandbox.state = State::Dead;
        sandbox.pending = false;
        sandbox.expires = Time::NEVER;
        self.sandboxes.free(slot);
        self.released = true;
        self.want_blanks(n);
    }
}
