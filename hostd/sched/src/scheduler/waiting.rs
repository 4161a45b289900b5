//! Those that wait: functions for memory, nodes for blanks, in fair order and with bounded work at a time.

use super::Scheduler;
use super::place::Found;
use crate::admission::Part;
use crate::events::{Decision, How, Why};
use crate::fair::Limit;
use crate::heap::NOWHERE;
use crate::states::State;
use crate::table::Sandbox;

/// Functions that are looked at in vain at a time.
const TRIES: u32 = 32;
/// Of these, functions of one tenant in a row, until others are looked at.
const TRIES_OF_ONE: u32 = 8;
/// So many times the patience without any call served, and a node is kept from all others.
const STARVED: u32 = 8;
/// So many times the patience it is kept then, at first.
const LONGER: u32 = 8;
/// That is doubled so often.
const MOST_DOUBLED: u32 = 5;

enum Step {
    Served,
    /// Nothing waits, or enough is on its way.
    Content,
    Limited(Limit),
    NoRoom,
}

impl Scheduler {
    /// It waits for its turn if it wants more than it has.
    pub(super) fn await_turn(&mut self, f: u32) {
        if self.fair.waits(f) || !self.wants(f) || self.at_own_limit(f) || !self.functions[f as usize].present
        {
            return;
        }
        let in_use = self.fair.in_use(f);
        let function = &mut self.functions[f as usize];
        function.unserved_since = self.now;
        if in_use == 0 {
            function.starved_since = self.now;
        }
        (function.claims, function.claim_after) = (0, self.now);
        self.fair.wait(f);
        self.try_again_later(f);
    }

    /// It waits no more if it does not want more.
    pub(super) fn check_turn(&mut self, f: u32) {
        if self.fair.waits(f) && !self.wants(f) {
            self.withdraw(f);
        }
    }

    pub(super) fn withdraw(&mut self, f: u32) {
        self.fair.leave(f);
        self.starved.remove(&mut self.starved_positions, f);
        self.unclaim(f);
    }

    pub(super) fn try_again_later(&mut self, f: u32) {
        let due = self.now.after(self.config.fair_wait());
        self.retries.set(&mut self.retry_positions, f, due);
    }

    /// Serves those that wait, whoever holds least first, as far as there is room.
    pub(super) fn dispatch(&mut self, out: &mut Vec<Decision>) {
        let (mut vain, mut same, mut tenant) = (0, 0, NOWHERE);
        while vain < TRIES
            && let Some(f) = self.fair.first()
        {
            if self.attempt(f, out) {
                continue;
            }
            vain += 1;
            self.fair.set_aside(f);
            let owner = self.functions[f as usize].spec.tenant.0;
            same = if owner == tenant { same + 1 } else { 1 };
            tenant = owner;
            if same == TRIES_OF_ONE {
                self.fair.set_tenant_aside(f);
            }
        }
        self.fair.together();
    }

    /// Looks at one that waits, out of turn: no crowd of others keeps it from being looked at for ever.
    pub(super) fn look(&mut self, f: u32, out: &mut Vec<Decision>) {
        if self.fair.waits(f) {
            self.attempt(f, out);
        }
    }

    /// Serves a call of one that waits. False if that cannot be and it goes on waiting.
    fn attempt(&mut self, f: u32, out: &mut Vec<Decision>) -> bool {
        match self.step(f, out) {
            Step::Served => {
                self.starved.remove(&mut self.starved_positions, f);
                self.unclaim(f);
                let function = &mut self.functions[f as usize];
                function.unserved_since = self.now;
                (function.claims, function.claim_after) = (0, self.now);
                self.check_turn(f);
                true
            }
            Step::Content | Step::Limited(Limit::Function) => {
                self.withdraw(f);
                true
            }
            Step::Limited(Limit::Tenant) => {
                self.starved.remove(&mut self.starved_positions, f);
                false
            }
            Step::NoRoom => {
                self.claim(f, out);
                false
            }
        }
    }

    fn step(&mut self, f: u32, out: &mut Vec<Decision>) -> Step {
        if !self.wants(f) {
            return Step::Content;
        }
        if let Some(limit) = self.fair.limit(f) {
            return Step::Limited(limit);
        }
        let served = match self.find(f, true) {
            Some(Found::Warm(slot)) => self.hand_next(slot, out),
            Some(Found::Start(n)) => self.start_for_call(f, n, out),
            None => false,
        };
        if served { Step::Served } else { Step::NoRoom }
    }

    /// One that waited long gets a node kept for it, and makes room there bit by bit. Not for long, as others wait
    /// meanwhile: as long again it is theirs; then, if it is starved, for twice as long its.
    fn claim(&mut self, f: u32, out: &mut Vec<Decision>) {
        let patience = self.config.fair_wait();
        let function = &self.functions[f as usize];
        let starved =
            self.fair.in_use(f) == 0 && self.now.since(function.starved_since) >= patience * STARVED;
        if function.claim == NOWHERE {
            if self.now.since(function.unserved_since) < patience || self.now < function.claim_after {
                let due = function.claim_after.max(function.unserved_since.after(patience));
                self.retries.set(&mut self.retry_positions, f, due);
                return;
            }
            if starved {
                let since = function.starved_since;
                self.starved.set(&mut self.starved_positions, f, since);
            }
            if self.released {
                // A node was just given up, or memory: others, who were kept away, are looked at first.
                self.try_again_later(f);
                return;
            }
            let times = if starved { LONGER << function.claims.min(MOST_DOUBLED) } else { 1 };
            let until = self.now.after(patience * times);
            self.try_again_later(f);
            // In line: who is starved longest is next.
            if starved && self.starved.peek().is_some_and(|(_, next)| next != f) {
                return;
            }
            let Some(n) = self.claimable(f, starved) else { return };
            self.starved.remove(&mut self.starved_positions, f);
            let other = std::mem::replace(&mut self.nodes[n as usize].claim, f);
            if other != NOWHERE {
                self.functions[other as usize].claim = NOWHERE;
            }
            let function = &mut self.functions[f as usize];
            (function.claim, function.claim_until, function.firm) = (n, until, starved);
            function.claims += u32::from(starved);
            // What it lasts, it pauses.
            function.claim_after = until.after(until.since(self.now));
        } else if self.now >= function.claim_until {
            self.try_again_later(f);
            self.unclaim(f);
            return;
        }
        self.press(f, out);
        self.try_again_later(f);
    }

    /// Of the nodes that are not kept for others that go first, the one with the most available memory. Whoever is
    /// starved goes before all that are not.
    fn claimable(&self, f: u32, starved: bool) -> Option<u32> {
        let count = super::number(self.nodes.len());
        let need = self.functions[f as usize].spec.private;
        (0..count)
            .filter(|n| {
                let node = &self.nodes[*n as usize];
                let firm = self.functions.get(node.claim as usize).is_some_and(|claimer| claimer.firm);
                node.spec.memory >= need && (!self.closed(*n, f) || starved && !firm)
            })
            .max_by_key(|n| self.nodes[*n as usize].account.available())
    }

    pub(super) fn unclaim(&mut self, f: u32) {
        let claim = std::mem::replace(&mut self.functions[f as usize].claim, NOWHERE);
        if let Some(node) = self.nodes.get_mut(claim as usize) {
            node.claim = NOWHERE;
            // Others were kept away.
            self.released = true;
        }
    }

    /// What is idle gives back memory that is not its own too, and so do blanks: none of them stands in the way of
    /// one that waited long.
    fn press(&mut self, f: u32, out: &mut Vec<Decision>) {
        let n = self.functions[f as usize].claim;
        let node = &self.nodes[n as usize];
        if node.account.could_fit(self.need(f, n)) || node.account.drains() {
            return;
        }
        if self.evict(n, out).is_none()
            && let Some(blank) = self.nodes[n as usize].blanks.last().copied()
        {
            self.retire(blank, crate::events::Retirement::Surplus, out);
        }
    }

    /// The function is to be looked at for sandboxes that are always there.
    pub(super) fn want_provisioned(&mut self, f: u32) {
        let function = &self.functions[f as usize];
        if function.present && function.pinned < function.spec.limits.provisioned && !self.short.contains(&f)
        {
            self.short.push(f);
        }
    }

    /// Starts sandboxes that are always to be there; where there is no room, another attempt follows.
    pub(super) fn provision(&mut self, out: &mut Vec<Decision>) {
        for _ in 0..self.short.len() {
            let Some(f) = self.short.pop() else { return };
            loop {
                let function = &self.functions[f as usize];
                if !function.present
                    || function.building
                    || function.pinned >= function.spec.limits.provisioned
                {
                    break;
                }
                // The others may come from the snapshot that is made of the first.
                let alone = function.spec.snapshot.is_none();
                // One that failed is not tried again at once.
                let started = self.now >= function.held_until
                    && self
                        .choose_node(f, true)
                        .is_some_and(|n| self.start(f, n, Why::Provisioned, None, out).is_some());
                self.check_turn(f);
                if !started || alone {
                    self.try_again_later(f);
                    break;
                }
            }
        }
    }

    /// The node is to be looked at for blanks.
    pub(super) fn want_blanks(&mut self, n: u32) {
        if self.nodes[n as usize].spec.blanks > 0 && !self.refill.contains(&n) {
            self.refill.push(n);
        }
    }

    /// Starts blanks in memory nobody waits for.
    pub(super) fn refill(&mut self, out: &mut Vec<Decision>) {
        if self.fair.any_waits() {
            return;
        }
        let mut at = 0;
        while let Some(n) = self.refill.get(at).copied() {
            if self.refill_node(n, out) {
                self.refill.swap_remove(at);
            } else {
                at += 1;
            }
        }
    }

    /// Whether the node needs no further look until something changes there.
    fn refill_node(&mut self, n: u32, out: &mut Vec<Decision>) -> bool {
        loop {
            let node = &self.nodes[n as usize];
            if super::number(node.blanks.len()) + node.blanks_starting >= node.spec.blanks {
                return true;
            }
            if self.now < node.blanks_after {
                return false;
            }
            let bytes = self.config.blank_bytes;
            if !node.account.fits(bytes, 0) {
                return true;
            }
            let blank = Sandbox::new(n, NOWHERE, NOWHERE, bytes, How::Blank, Why::Refill, self.now);
            debug_assert_eq!(blank.state, State::Restoring);
            let Some(slot) = self.new_slot(blank) else { return true };
            let node = &mut self.nodes[n as usize];
            node.account.add(Part::Active, bytes);
            node.blanks_starting += 1;
            self.begin(slot, false, out);
        }
    }
}
