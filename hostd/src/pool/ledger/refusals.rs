//! Why calls are not served, in words people can do something with.

use std::time::Duration;

use mote_sched::Limit;
use mote_sched::config::MIB;

use super::act::Verdict;
use super::{Known, Ledger, Waiter, private_mb};
use crate::pool::{Bound, Refusal, TenantBound};

impl Ledger {
    pub(super) fn refusal(
        &self,
        waiter: &Waiter,
        reason: mote_sched::Refusal,
        retry_after: Duration,
    ) -> Verdict {
        use mote_sched::Refusal as Why;
        let known = self.functions.get(&waiter.key);
        let full = |what: String, limit| Refusal::Full { what, limit, retry_after };
        let waiting = self.scheduler.waiting();
        Verdict::Refuse(match reason {
            Why::NoRoom => return Verdict::NoRoom,
            Why::FunctionQueueFull => {
                let waits = known.and_then(|known| self.scheduler.function(known.id)).unwrap_or_default();
                full(
                    format!("{} calls of the function wait already", waits.waiting),
                    "scheduling.max_queue_function",
                )
            }
            Why::TenantQueueFull => full(
                "As many calls of the tenant wait already as may".to_owned(),
                "max_queue of network.tenants",
            ),
            Why::QueueFull => full(format!("{waiting} calls wait already"), "scheduling.max_queue"),
            Why::Hopeless => Refusal::Hopeless {
                bound: known.map_or(Bound::Memory, |known| self.bound(known)),
                waiting: known
                    .and_then(|known| self.scheduler.function(known.id))
                    .unwrap_or_default()
                    .waiting,
                retry_after,
            },
            Why::Expired => Refusal::Expired {
                bound: known.map_or(Bound::Memory, |known| self.bound(known)),
                waited_s: waiter.since.elapsed().as_secs(),
                retry_after,
            },
            Why::TooBig => {
                let needed_mb = known.map_or(0, |known| private_mb(&known.shape.record));
                let most = known.and_then(|known| self.tenants.get(&known.shape.tenant));
                let most = most.map_or(u64::MAX, |(_, tenant)| tenant.spec.max_memory);
                Refusal::TooBig { needed_mb, capacity_mb: self.budget.min(most) / MIB }
            }
            Why::Forbidden => match known.map(|known| (known.shape.limits.concurrency, self.bound(known))) {
                // It is the tenant that may have none.
                Some((1.., bound)) => Refusal::Expired { bound, waited_s: 0, retry_after },
                _ => Refusal::Forbidden,
            },
            Why::StartFailed => match known.and_then(|known| known.entry.failure.clone()) {
                Some(failure) => Refusal::Failed(failure),
                None => Refusal::Gone,
            },
            Why::Gone => Refusal::Gone,
        })
    }

    /// What calls of a function wait for.
    pub(super) fn bound(&self, known: &Known) -> Bound {
        let tenant = self.tenants.get(&known.shape.tenant).map(|(_, tenant)| tenant);
        match (self.scheduler.limit(known.id), tenant) {
            (Some(Limit::Function), _) => Bound::Function(known.shape.limits.concurrency),
            (Some(Limit::Tenant), Some(tenant)) => Bound::Tenant(TenantBound {
                tenant: tenant.name.clone(),
                limit: tenant.spec.max_concurrency,
                places: tenant.places,
            }),
            _ => Bound::Memory,
        }
    }
}
