//! Who goes first when not all can: limits, quotas and fair shares.
//!
//! Tenants that wait are ordered by the memory their calls hold at the moment, by weight, and among equals by who was
//! served longest ago; so are the functions of a tenant. Whoever holds least goes first, whatever the others are
//! called for: a slow function holds much and goes last.

use crate::config::TenantSpec;
use crate::heap::{Heap, NOWHERE};

/// Memory held (by weight), then when last served.
type Key = (u64, u64);

/// Keeps shares of small tenants apart when divided by their weights.
const WEIGHT_SCALE: u64 = 1 << 10;

#[derive(Debug)]
struct Tenant {
    spec: TenantSpec,
    usage: u64,
    /// Calls and starts for calls beyond what is reserved for their functions.
    unreserved: u32,
    reserved: u32,
    /// Calls that wait.
    queued: u32,
    /// Sandboxes on their way up for calls.
    starting: u32,
    functions: u32,
    last_served: u64,
    waiting: Heap<Key>,
}

/// What fairness knows of a function.
#[derive(Debug, Default)]
struct Share {
    tenant: u32,
    concurrency: u32,
    reserved: u32,
    bytes: u64,
    in_use: u32,
    usage: u64,
    last_served: u64,
}

/// Why a function may not have another sandbox in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// It has as many as it may.
    Function,
    /// Its tenant has as much as it may.
    Tenant,
}

#[derive(Debug, Default)]
pub(crate) struct Fair {
    tenants: Vec<Tenant>,
    shares: Vec<Share>,
    order: Heap<Key>,
    tenant_positions: Vec<u32>,
    function_positions: Vec<u32>,
    waits: Vec<bool>,
    /// Functions and tenants that cannot be helped at the moment.
    aside: Vec<u32>,
    aside_tenants: Vec<u32>,
    served: u64,
    /// Weights of tenants that have functions.
    weight: u64,
}

impl Fair {
    pub(crate) fn tenants(&self) -> usize {
        self.tenants.len()
    }

    pub(crate) fn add_tenant(&mut self, spec: TenantSpec) {
        self.tenants.push(Tenant {
            spec: TenantSpec { weight: spec.weight.max(1), ..spec },
            usage: 0,
            unreserved: 0,
            reserved: 0,
            queued: 0,
            starting: 0,
            functions: 0,
            last_served: 0,
            waiting: Heap::default(),
        });
        self.tenant_positions.push(NOWHERE);
    }

    pub(crate) fn tenant_spec(&self, tenant: u32) -> &TenantSpec {
        &self.tenants[tenant as usize].spec
    }

    /// Function `f`: a new number, or that of one that was removed and of which nothing is left.
    pub(crate) fn add_function(&mut self, f: u32, tenant: u32, concurrency: u32, reserved: u32, bytes: u64) {
        let owner = &mut self.tenants[tenant as usize];
        if owner.functions == 0 {
            self.weight += u64::from(owner.spec.weight);
        }
        owner.functions += 1;
        owner.reserved = owner.reserved.saturating_add(reserved);
        let share = Share { tenant, concurrency, reserved, bytes, ..Share::default() };
        if let Some(old) = self.shares.get_mut(f as usize) {
            *old = share;
            return;
        }
        self.shares.push(share);
        self.function_positions.push(NOWHERE);
        self.waits.push(false);
    }

    pub(crate) fn change_function(&mut self, f: u32, concurrency: u32, reserved: u32, bytes: u64) {
        let share = &mut self.shares[f as usize];
        let owner = &mut self.tenants[share.tenant as usize];
        owner.reserved = owner.reserved.saturating_sub(share.reserved).saturating_add(reserved);
        owner.unreserved = owner.unreserved.saturating_sub(share.in_use.saturating_sub(share.reserved))
            + share.in_use.saturating_sub(reserved);
        (share.concurrency, share.reserved, share.bytes) = (concurrency, reserved, bytes);
    }

    pub(crate) fn remove_function(&mut self, f: u32) {
        self.leave(f);
        self.change_function(f, 0, 0, self.shares[f as usize].bytes);
        let owner = &mut self.tenants[self.shares[f as usize].tenant as usize];
        owner.functions = owner.functions.saturating_sub(1);
        if owner.functions == 0 {
            self.weight = self.weight.saturating_sub(u64::from(owner.spec.weight));
        }
    }

    pub(crate) fn in_use(&self, f: u32) -> u32 {
        self.shares[f as usize].in_use
    }

    /// What stands against another sandbox of it in use, if anything.
    pub(crate) fn limit(&self, f: u32) -> Option<Limit> {
        let share = &self.shares[f as usize];
        if share.in_use >= share.concurrency {
            return Some(Limit::Function);
        }
        let owner = &self.tenants[share.tenant as usize];
        let over = owner.usage.saturating_add(share.bytes) > owner.spec.max_memory
            || share.in_use >= share.reserved
                && owner.unreserved >= owner.spec.max_concurrency.saturating_sub(owner.reserved);
        over.then_some(Limit::Tenant)
    }

    /// A sandbox of it serves a call or comes up for one from now on.
    pub(crate) fn charge(&mut self, f: u32, bytes: u64) {
        self.served += 1;
        let share = &mut self.shares[f as usize];
        let owner = &mut self.tenants[share.tenant as usize];
        if share.in_use >= share.reserved {
            owner.unreserved += 1;
        }
        share.in_use += 1;
        share.usage += bytes;
        share.last_served = self.served;
        owner.usage += bytes;
        owner.last_served = self.served;
        self.reorder(f);
    }

    /// Not any more.
    pub(crate) fn release(&mut self, f: u32, bytes: u64) {
        let share = &mut self.shares[f as usize];
        let owner = &mut self.tenants[share.tenant as usize];
        share.in_use = share.in_use.saturating_sub(1);
        if share.in_use >= share.reserved {
            owner.unreserved = owner.unreserved.saturating_sub(1);
        }
        share.usage = share.usage.saturating_sub(bytes);
        owner.usage = owner.usage.saturating_sub(bytes);
        self.reorder(f);
    }

    /// Counts calls that wait, and sandboxes that come up for them.
    pub(crate) fn count(&mut self, f: u32, queued: i8, starting: i8) {
        let owner = &mut self.tenants[self.shares[f as usize].tenant as usize];
        owner.queued = owner.queued.saturating_add_signed(i32::from(queued));
        owner.starting = owner.starting.saturating_add_signed(i32::from(starting));
    }

    /// Whether another call of its tenant may wait.
    pub(crate) fn may_queue(&self, f: u32) -> bool {
        let owner = &self.tenants[self.shares[f as usize].tenant as usize];
        owner.queued.saturating_sub(owner.starting) < owner.spec.max_queue
    }

    fn tenant_key(&self, tenant: u32) -> Key {
        let owner = &self.tenants[tenant as usize];
        (owner.usage.saturating_mul(WEIGHT_SCALE) / u64::from(owner.spec.weight), owner.last_served)
    }

    fn function_key(&self, f: u32) -> Key {
        (self.shares[f as usize].usage, self.shares[f as usize].last_served)
    }

    fn reorder(&mut self, f: u32) {
        let tenant = self.shares[f as usize].tenant;
        if self.function_positions[f as usize] != NOWHERE {
            let key = self.function_key(f);
            self.tenants[tenant as usize].waiting.set(&mut self.function_positions, f, key);
        }
        if self.tenant_positions[tenant as usize] != NOWHERE {
            let key = self.tenant_key(tenant);
            self.order.set(&mut self.tenant_positions, tenant, key);
        }
    }

    /// Whether it is among those that wait for memory or for their tenant's limit.
    pub(crate) fn waits(&self, f: u32) -> bool {
        self.waits[f as usize]
    }

    /// Whether any does.
    pub(crate) fn any_waits(&self) -> bool {
        !self.order.is_empty()
    }

    /// It waits from now on.
    pub(crate) fn wait(&mut self, f: u32) {
        if !self.waits[f as usize] {
            self.waits[f as usize] = true;
            self.enter(f);
        }
    }

    fn enter(&mut self, f: u32) {
        let tenant = self.shares[f as usize].tenant;
        let key = self.function_key(f);
        self.tenants[tenant as usize].waiting.set(&mut self.function_positions, f, key);
        let key = self.tenant_key(tenant);
        self.order.set(&mut self.tenant_positions, tenant, key);
    }

    /// It waits no more.
    pub(crate) fn leave(&mut self, f: u32) {
        self.waits[f as usize] = false;
        self.withdraw(f);
    }

    fn withdraw(&mut self, f: u32) {
        let tenant = self.shares[f as usize].tenant;
        self.tenants[tenant as usize].waiting.remove(&mut self.function_positions, f);
        if self.tenants[tenant as usize].waiting.is_empty() {
            self.order.remove(&mut self.tenant_positions, tenant);
        }
    }

    /// Who goes first.
    pub(crate) fn first(&self) -> Option<u32> {
        let (_, tenant) = self.order.peek()?;
        self.tenants[tenant as usize].waiting.peek().map(|(_, f)| f)
    }

    /// Who is next after this one, until [`Fair::together`].
    pub(crate) fn set_aside(&mut self, f: u32) {
        self.withdraw(f);
        self.aside.push(f);
    }

    /// The same for all of its tenant.
    pub(crate) fn set_tenant_aside(&mut self, f: u32) {
        let tenant = self.shares[f as usize].tenant;
        self.order.remove(&mut self.tenant_positions, tenant);
        self.aside_tenants.push(tenant);
    }

    /// Nobody is set aside any more.
    pub(crate) fn together(&mut self) {
        while let Some(f) = self.aside.pop() {
            if self.waits[f as usize] {
                self.enter(f);
            }
        }
        while let Some(tenant) = self.aside_tenants.pop() {
            if !self.tenants[tenant as usize].waiting.is_empty() {
                let key = self.tenant_key(tenant);
                self.order.set(&mut self.tenant_positions, tenant, key);
            }
        }
    }

    /// Whether another sandbox of `a` is fairer than another of `b`: its tenant would hold less, by weight, or as
    /// much, and `a` has none at all. The same for two of one tenant.
    pub(crate) fn ahead(&self, a: u32, b: u32) -> bool {
        let (share_a, share_b) = (&self.shares[a as usize], &self.shares[b as usize]);
        let (then_a, then_b) = if share_a.tenant == share_b.tenant {
            (share_a.usage.saturating_add(share_a.bytes), share_b.usage.saturating_add(share_b.bytes))
        } else {
            (self.tenant_with(share_a), self.tenant_with(share_b))
        };
        then_a < then_b || then_a == then_b && share_a.in_use == 0
    }

    /// What the function's tenant would hold with another sandbox of it, by weight.
    fn tenant_with(&self, share: &Share) -> u64 {
        let owner = &self.tenants[share.tenant as usize];
        owner.usage.saturating_add(share.bytes).saturating_mul(WEIGHT_SCALE) / u64::from(owner.spec.weight)
    }

    /// Whether its tenant would hold more than its share of so much memory with another sandbox of it. One that holds
    /// nothing may always have one.
    pub(crate) fn beyond_share(&self, f: u32, memory: u64) -> bool {
        let share = &self.shares[f as usize];
        let owner = &self.tenants[share.tenant as usize];
        let wanted = u128::from(owner.usage.saturating_add(share.bytes)) * u128::from(self.weight);
        owner.usage > 0 && wanted > u128::from(memory) * u128::from(owner.spec.weight)
    }

    #[cfg(test)]
    pub(crate) fn usage(&self, f: u32) -> (u32, u64) {
        (self.shares[f as usize].in_use, self.shares[f as usize].usage)
    }

    #[cfg(test)]
    pub(crate) fn tenant_usage(&self, tenant: u32) -> (u64, u32, u32, u32) {
        let owner = &self.tenants[tenant as usize];
        (owner.usage, owner.unreserved, owner.queued, owner.starting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fair(weights: &[u32]) -> Fair {
        let mut fair = Fair::default();
        for (tenant, weight) in (0..).zip(weights) {
            fair.add_tenant(TenantSpec { weight: *weight, ..TenantSpec::default() });
            fair.add_function(tenant, tenant, 9, 0, 10);
        }
        fair
    }

    #[test]
    fn who_holds_least_by_weight_goes_first_then_who_was_served_longest_ago() {
        let mut fair = fair(&[1, 3]);
        fair.charge(1, 10);
        fair.charge(1, 10);
        fair.charge(0, 10);
        fair.wait(0);
        fair.wait(1);
        assert_eq!(fair.first(), Some(1), "20 of 3 are less than 10 of 1");
        fair.charge(1, 10);
        assert_eq!(fair.first(), Some(0), "30 of 3 are as much, served later");
        fair.set_aside(0);
        assert_eq!(fair.first(), Some(1));
        fair.set_tenant_aside(1);
        assert_eq!(fair.first(), None);
        fair.together();
        assert_eq!(fair.first(), Some(0));
        fair.leave(0);
        fair.leave(1);
        assert!(!fair.any_waits());
    }

    #[test]
    fn what_is_reserved_for_one_is_not_for_others() {
        let mut fair = Fair::default();
        fair.add_tenant(TenantSpec { max_concurrency: 3, ..TenantSpec::default() });
        fair.add_function(0, 0, 9, 2, 10);
        fair.add_function(1, 0, 9, 0, 10);
        fair.charge(1, 10);
        assert_eq!(fair.limit(1), Some(Limit::Tenant));
        assert_eq!(fair.limit(0), None);
        fair.charge(0, 10);
        fair.charge(0, 10);
        assert_eq!(fair.limit(0), Some(Limit::Tenant));
        fair.release(1, 10);
        assert_eq!((fair.limit(0), fair.limit(1)), (None, None));
        fair.change_function(0, 2, 0, 10);
        assert_eq!((fair.limit(0), fair.limit(1)), (Some(Limit::Function), None));
        fair.charge(1, 10);
        assert_eq!(fair.limit(1), Some(Limit::Tenant));
    }

    #[test]
    fn shares_are_by_weight_of_those_that_have_functions() {
        let mut fair = fair(&[1, 3]);
        fair.add_tenant(TenantSpec { weight: 100, ..TenantSpec::default() });
        assert!(!fair.beyond_share(0, 1), "it holds nothing");
        fair.charge(0, 10);
        assert!(!fair.beyond_share(0, 80) && fair.beyond_share(0, 79));
        fair.remove_function(1);
        assert!(!fair.beyond_share(0, 20));
    }
}
