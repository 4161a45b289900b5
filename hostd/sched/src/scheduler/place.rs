//! Where a call is served: by a sandbox that is there, or on which node one is started.

use super::Scheduler;
use crate::admission::Image;
use crate::heap::NOWHERE;
use crate::policy::placement::{PlacementFacts, Search, Visit};
use crate::policy::warm::WarmFacts;

/// Nodes that are drawn at random until all are looked at in turn.
const DRAWS: usize = 8;

/// How a call can be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// By this sandbox.
    Warm(u32),
    /// By starting one on this node.
    Start(u32),
}

/// What counts of a node with room.
#[derive(Debug, Clone, Copy)]
struct Ask {
    /// It would make its tenant hold more than its share.
    beyond_share: bool,
    /// As many at once as the node starts, no more.
    paced: bool,
}

impl Scheduler {
    /// How a call of the function can be served now.
    pub(super) fn find(&mut self, f: u32, may_start: bool) -> Option<Found> {
        if self.warm.is_some() {
            if let Some(slot) = self.choose_warm(f) {
                return Some(Found::Warm(slot));
            }
            return if may_start { self.choose_node(f, true).map(Found::Start) } else { None };
        }
        let n = self.choose_node(f, may_start)?;
        let warm = self.find_place(f, n).map_or(NOWHERE, |place| self.places[place as usize].warmest);
        if warm != NOWHERE && self.can_wake(f, warm) {
            return Some(Found::Warm(warm));
        }
        may_start.then_some(Found::Start(n))
    }

    /// Whether the node is kept for a function that goes before this one.
    pub(super) fn closed(&self, n: u32, f: u32) -> bool {
        let claim = self.nodes[n as usize].claim;
        if claim == NOWHERE || claim == f {
            return false;
        }
        let claimer = &self.functions[claim as usize];
        self.now < claimer.claim_until && (claimer.firm || self.fair.ahead(claim, f))
    }

    /// Whether there is memory for what a warm sandbox may come to hold once it runs.
    fn can_wake(&self, f: u32, slot: u32) -> bool {
        let sandbox = &self.sandboxes[slot];
        let more = self.functions[f as usize].spec.private.saturating_sub(sandbox.booked);
        if more == 0 {
            return true;
        }
        let account = &self.nodes[sandbox.node as usize].account;
        account.coming() >= more && account.free() >= more
    }

    fn choose_warm(&mut self, f: u32) -> Option<u32> {
        let places = self.functions[f as usize].warm_places.len();
        if places == 0 {
            return None;
        }
        let sample = self.config.sample as usize;
        if sample == 0 || sample >= places {
            return self.least_warm(f, 0..places);
        }
        let mut least: Option<(u64, u32)> = None;
        for _ in 0..sample {
            let at = self.random.below(places);
            if let Some(found) = self.consider_warm(f, at)
                && least.is_none_or(|least| found.0 < least.0)
            {
                least = Some(found);
            }
        }
        // None of the sample can be used: seldom, but others may.
        least.map(|(_, slot)| slot).or_else(|| self.least_warm(f, 0..places))
    }

    fn least_warm(&self, f: u32, places: std::ops::Range<usize>) -> Option<u32> {
        places.filter_map(|at| self.consider_warm(f, at)).min_by_key(|(cost, _)| *cost).map(|(_, slot)| slot)
    }

    fn consider_warm(&self, f: u32, at: usize) -> Option<(u64, u32)> {
        let function = &self.functions[f as usize];
        let place = &self.places[*function.warm_places.get(at)? as usize];
        let node = &self.nodes[place.node as usize];
        if self.closed(place.node, f) || !self.can_wake(f, place.warmest) {
            return None;
        }
        let facts =
            WarmFacts { available: node.account.available(), node: place.node as usize, walk: function.walk };
        Some((self.warm.as_ref()?.cost(&facts), place.warmest))
    }

    /// Memory that another sandbox of the function takes on a node.
    pub(super) fn need(&self, f: u32, n: u32) -> u64 {
        let spec = &self.functions[f as usize].spec;
        let mut need = spec.private;
        if let Some(bytes) = spec.snapshot {
            let there = self.find_place(f, n).map(|place| self.places[place as usize].snapshot);
            need = need.saturating_add(there.unwrap_or_default().missing(bytes));
        }
        if let Some(base) = spec.base {
            need = need.saturating_add(self.base(n, base.0).missing(self.images[base.at()]));
        }
        need
    }

    pub(super) fn base(&self, n: u32, base: u32) -> Image {
        self.nodes[n as usize].bases.get(base as usize).copied().unwrap_or_default()
    }

    /// What it takes there, if there is room, perhaps after evictions.
    fn room(&self, f: u32, n: u32, ask: Ask) -> Option<u64> {
        if self.closed(n, f) || ask.paced && !self.may_start(n) {
            return None;
        }
        let node = &self.nodes[n as usize];
        let need = self.need(f, n);
        // Headroom is for those that have little: one that was starved has nothing.
        let starved = node.claim == f && self.functions[f as usize].firm;
        let kept = if ask.beyond_share && !starved { node.headroom } else { 0 };
        (node.account.could_fit(need) && node.account.available() - need >= kept).then_some(need)
    }

    /// Whether it would make its tenant hold more than its share.
    fn beyond_share(&self, f: u32) -> bool {
        self.config.headroom > 0.0 && self.fair.beyond_share(f, self.memory)
    }

    /// A node with room for another sandbox of the function, as the policy says; `paced`: that starts no more than it
    /// is to start at once.
    pub(super) fn choose_node(&mut self, f: u32, paced: bool) -> Option<u32> {
        let ask = Ask { beyond_share: self.beyond_share(f), paced };
        let count = super::number(self.nodes.len());
        match self.placement.search() {
            Search::FromHome => self.functions[f as usize]
                .walk
                .nodes()
                .map(super::number)
                .find(|n| self.room(f, *n, ask).is_some()),
            Search::Random => {
                for _ in 0..DRAWS {
                    let n = super::number(self.random.below(count as usize));
                    if n < count && self.room(f, n, ask).is_some() {
                        return Some(n);
                    }
                }
                self.first_from_anywhere(f, ask)
            }
            Search::Least if self.config.sample == 0 || self.config.sample >= count => {
                let mut least = None;
                for n in 0..count {
                    self.consider_node(f, n, ask, &mut least);
                }
                least.map(|(.., n)| n)
            }
            Search::Least => {
                let mut least = None;
                for _ in 0..self.config.sample {
                    let n = super::number(self.random.below(count as usize));
                    self.consider_node(f, n, ask, &mut least);
                }
                least.map(|(.., n)| n).or_else(|| self.first_from_anywhere(f, ask))
            }
        }
    }

    fn first_from_anywhere(&mut self, f: u32, ask: Ask) -> Option<u32> {
        let count = super::number(self.nodes.len());
        let start = super::number(self.random.below(count as usize));
        (start..count).chain(0..start).find(|n| self.room(f, *n, ask).is_some())
    }

    /// Keeps the node if it is better than the one before: of less cost, or with more available.
    fn consider_node(&self, f: u32, n: u32, ask: Ask, least: &mut Option<(f64, u64, u32)>) {
        let Some(need) = self.room(f, n, ask) else { return };
        let node = &self.nodes[n as usize];
        let available = node.account.available();
        let mut victims = |visit: &mut Visit<'_>| {
            if node.account.will_fit(need) {
                return;
            }
            let mut short = need.saturating_sub(node.account.coming());
            node.evictable.ascending(|_, slot| {
                let victim = &self.sandboxes[slot];
                let more = visit(self.now.since(victim.since).as_secs_f64());
                short = short.saturating_sub(victim.booked);
                more && short > 0
            });
        };
        let mut facts = PlacementFacts {
            available,
            budget: node.account.budget(),
            starting: node.starting,
            node: n as usize,
            walk: self.functions[f as usize].walk,
            victims: &mut victims,
        };
        let limit = least.map_or(f64::INFINITY, |least| least.0);
        let cost = self.placement.cost(&mut facts, limit);
        let better =
            least.is_none_or(|(least, roomiest, _)| cost < least || cost <= least && available > roomiest);
        if better {
            *least = Some((cost, available, n));
        }
    }
}
