//! All books against what they are kept of.

use super::*;
use crate::admission::Image;

impl Scheduler {
    /// Panics if any sum is not that of its parts, or a bound is broken.
    pub(super) fn audit(&self) {
        let mut parts: HashMap<(u32, u8), u64> = HashMap::new();
        let mut users: HashMap<(u32, u32), u32> = HashMap::new();
        let mut bases: HashMap<(u32, u32), u32> = HashMap::new();
        let mut counts: HashMap<u32, [u32; 6]> = HashMap::new();
        let mut charged: HashMap<u32, (u32, u64)> = HashMap::new();
        let (mut starting, mut bound_calls) = (0, 0);
        let mut blanks: HashMap<u32, (usize, u32)> = HashMap::new();
        for (slot, sandbox) in self.sandboxes.iter() {
            *parts.entry((sandbox.node, self.part(slot) as u8)).or_default() += sandbox.booked;
            if sandbox.function == NOWHERE {
                let blanks = blanks.entry(sandbox.node).or_default();
                blanks.0 += usize::from(sandbox.state == State::Blank);
                blanks.1 += u32::from(sandbox.state == State::Restoring);
                continue;
            }
            if sandbox.uses_snapshot {
                *users.entry((sandbox.node, sandbox.function)).or_default() += 1;
            }
            if sandbox.base != NOWHERE {
                *bases.entry((sandbox.node, sandbox.base)).or_default() += 1;
            }
            let counts = counts.entry(sandbox.function).or_default();
            counts[0] += 1;
            counts[1] += u32::from(sandbox.state == State::Restoring);
            counts[2] += u32::from(sandbox.state == State::Busy);
            counts[3] += u32::from(sandbox.state.is_warm());
            counts[4] += u32::from(sandbox.pinned);
            counts[5] += u32::from(sandbox.bound.is_some());
            bound_calls += u32::from(sandbox.bound.is_some());
            assert!(sandbox.state == State::Restoring || sandbox.bound.is_none());
            assert_eq!(
                sandbox.charged,
                sandbox.charged && matches!(sandbox.state, State::Restoring | State::Busy)
            );
            if sandbox.charged {
                let charged = charged.entry(sandbox.function).or_default();
                charged.0 += 1;
                charged.1 += sandbox.booked;
                starting += u32::from(sandbox.state == State::Restoring);
            }
            let evictable = self.part(slot) == Part::Idle;
            let node = &self.nodes[sandbox.node as usize];
            assert_eq!(node.evictable.key(&self.evict_positions, slot).is_some(), evictable);
            assert!(!evictable || self.expiries.key(&self.expiry_positions, slot).is_some());
        }
        assert_eq!(self.starting, starting);
        let mut waiting = bound_calls;
        let mut tenants: HashMap<u32, (u64, u32, u32)> = HashMap::new();
        for (f, function) in (0..).zip(&self.functions) {
            let expected = counts.get(&f).copied().unwrap_or_default();
            let found = [
                function.alive,
                function.starting,
                function.busy,
                function.warm,
                function.pinned,
                function.bound,
            ];
            assert_eq!(found, expected, "function {f}");
            let usage = charged.get(&f).copied().unwrap_or_default();
            assert_eq!(self.fair.usage(f), usage, "function {f}");
            waiting += function.queue.len();
            let tenant = tenants.entry(function.spec.tenant.0).or_default();
            tenant.0 += usage.1;
            tenant.1 += function.queue.len() + function.bound;
            let reserved = if function.present { function.spec.limits.reserved } else { 0 };
            tenant.2 += usage.0.saturating_sub(reserved);
            assert!(
                !self.fair.waits(f) || function.present && self.wants(f),
                "function {f} waits for nothing"
            );
            if let Some(earliest) = function.queue.earliest() {
                assert!(self.deadlines.key(&self.deadline_positions, f).is_some_and(|key| key <= earliest));
                assert!(earliest > self.now, "an expired call waits");
            }
            let places: HashSet<u32> = function.places.iter().map(|(_, place)| *place).collect();
            assert_eq!(places.len(), function.places.len());
            let warm =
                function.places.iter().filter(|(_, place)| self.places[*place as usize].warm > 0).count();
            assert_eq!(function.warm_places.len(), warm);
            for (n, place) in &function.places {
                let place = &self.places[*place as usize];
                let users = users.get(&(*n, f)).copied().unwrap_or(0);
                assert_eq!(place.snapshot.total().0, users);
            }
            if function.claim != NOWHERE {
                assert_eq!(self.nodes[function.claim as usize].claim, f);
                assert!(self.fair.waits(f));
            }
        }
        assert_eq!(self.waiting, waiting);
        for (tenant, (usage, queued, unreserved)) in tenants {
            let found = self.fair.tenant_usage(tenant);
            assert_eq!((found.0, found.1, found.2), (usage, unreserved, queued), "tenant {tenant}");
        }
        for (n, node) in (0u32..).zip(&self.nodes) {
            let view = node.account.view(node.blanks.len());
            let part = |part: Part| parts.get(&(n, part as u8)).copied().unwrap_or(0);
            let mut images: Vec<Image> = node.bases.clone();
            for (base, image) in (0..).zip(&node.bases) {
                assert_eq!(image.total().0, bases.get(&(n, base)).copied().unwrap_or(0));
            }
            for function in &self.functions {
                images.extend(
                    function
                        .places
                        .iter()
                        .filter(|(at, _)| *at == n)
                        .map(|(_, place)| self.places[*place as usize].snapshot),
                );
            }
            let shared: u64 = images.iter().map(|image| image.total().1).sum();
            let promised: u64 = images.iter().map(|image| image.total().2).sum();
            assert_eq!(view.shared, shared);
            assert_eq!(view.active, part(Part::Active), "node {n}");
            assert_eq!(view.idle, part(Part::Idle), "node {n}");
            assert_eq!(view.draining, part(Part::Draining), "node {n}");
            assert_eq!(view.promised, part(Part::Promised) + promised, "node {n}");
            assert!(view.used() <= view.budget, "node {n}: {view:?}");
            assert!(view.used() + view.promised <= view.budget + view.draining, "node {n}: {view:?}");
            assert!(view.sandboxes <= node.spec.max_sandboxes);
            assert_eq!(
                (node.blanks.len(), node.blanks_starting),
                blanks.get(&n).copied().unwrap_or_default()
            );
            let on_their_way = self.sandboxes.iter().filter(|(_, sandbox)| {
                sandbox.node == n && sandbox.state == State::Restoring && sandbox.function != NOWHERE
            });
            let (starting, paced) = on_their_way
                .fold((0, 0), |(all, paced), (_, sandbox)| (all + 1, paced + u32::from(sandbox.paced)));
            assert_eq!((node.starting, node.paced), (starting, paced), "node {n}");
            if node.claim != NOWHERE {
                assert_eq!(self.functions[node.claim as usize].claim, n);
            }
        }
    }

    /// Nobody waits for what is there: with neither claims nor shares in the way, whoever waits for memory finds
    /// none on any node.
    pub(super) fn nothing_lies_idle(&self) {
        if self.nodes.iter().any(|node| node.claim != NOWHERE) || self.config.headroom > 0.0 {
            return;
        }
        for (f, function) in (0u32..).zip(&self.functions) {
            if !function.present || !self.wants(f) || self.fair.limit(f).is_some() {
                continue;
            }
            for n in 0..number(self.nodes.len()) {
                let fits = self.may_start(n) && self.nodes[n as usize].account.could_fit(self.need(f, n));
                assert!(!fits, "function {f} waits and node {n} has room");
            }
        }
    }

    /// The nodes `min-cost` and `max-available` may choose, by looking at everything.
    pub(super) fn best_nodes(&self, f: u32) -> Vec<u32> {
        let mut best: Vec<(f64, u64, u32)> = Vec::new();
        for n in 0..number(self.nodes.len()) {
            let (need, node) = (self.need(f, n), &self.nodes[n as usize]);
            if self.closed(n, f) || !self.may_start(n) || !node.account.could_fit(need) {
                continue;
            }
            let mut cost = 0.0;
            if self.config.placement == Placement::MinCost {
                cost += 0.01 * f64::from(node.starting);
            }
            if self.config.placement == Placement::MinCost && !node.account.will_fit(need) {
                let mut idle: Vec<((f64, u32), u32)> = self
                    .sandboxes
                    .iter()
                    .filter(|(slot, sandbox)| sandbox.node == n && self.part(*slot) == Part::Idle)
                    .map(|(slot, _)| (node.evictable.key(&self.evict_positions, slot).unwrap(), slot))
                    .collect();
                idle.sort_by(|a, b| a.partial_cmp(b).unwrap());
                let mut room = node.account.coming();
                for (_, slot) in idle {
                    let idle_s = self.now.since(self.sandboxes[slot].since).as_secs_f64();
                    cost += (-self.config.lambda * idle_s).exp();
                    room += self.sandboxes[slot].booked;
                    if room >= need {
                        break;
                    }
                }
            }
            best.push((cost, node.account.available(), n));
        }
        let least = best.iter().map(|best| best.0).fold(f64::INFINITY, f64::min);
        best.retain(|best| best.0 <= least + 1e-9);
        let most = best.iter().map(|best| best.1).max().unwrap_or(0);
        // Costs as good as equal may be ordered by rounding.
        if best.iter().all(|best| best.0 <= least) {
            best.retain(|best| best.1 == most);
        }
        best.into_iter().map(|best| best.2).collect()
    }
}
