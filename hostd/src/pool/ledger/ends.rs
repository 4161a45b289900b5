//! Sandboxes that come up, are put away and end.

use std::sync::Arc;
use std::time::Duration;

use mote_sched::{Event, SandboxId};

use super::{Ledger, Slot};
use crate::bring_up::StartFailure;
use crate::pool::lease::SandboxInfo;
use crate::pool::parked::Parked;
use crate::pool::{Birth, Key};

impl Ledger {
    /// A sandbox of a function is up.
    pub(in crate::pool) fn up(&mut self, sandbox: SandboxId, parked: Parked, mut birth: Birth) {
        if let Some(slot) = self.slots.get_mut(&sandbox) {
            if let Some(known) = self.functions.get_mut(slot.info.function.as_str()) {
                let vain = known.entry.up();
                birth.laps.splice(0..0, vain);
            }
            (slot.parked, slot.birth) = (Some(parked), Some(birth));
        }
        self.tell(Event::Ready { sandbox });
    }

    /// A blank is made.
    pub(in crate::pool) fn blank(&mut self, sandbox: SandboxId, parked: Parked) {
        if let Some(slot) = self.slots.get_mut(&sandbox) {
            slot.parked = Some(parked);
        }
        self.tell(Event::Ready { sandbox });
    }

    pub(in crate::pool) fn ended(&mut self, sandbox: SandboxId, parked: Parked) {
        if let Some(slot) = self.slots.get_mut(&sandbox) {
            slot.parked = Some(parked);
        }
        self.tell(Event::Ended { sandbox, healthy: true });
    }

    /// A sandbox is gone. What it leaves is to be dropped without the lock.
    pub(in crate::pool) fn gone(&mut self, sandbox: SandboxId, failed: Option<bool>) -> Option<Slot> {
        self.tell(match failed {
            Some(fatal) => Event::Failed { sandbox, fatal },
            None => Event::Gone { sandbox },
        });
        self.slots.remove(&sandbox)
    }

    /// A start failed: its calls are told why if no other succeeds.
    pub(in crate::pool) fn failed(&mut self, key: &Key, failure: Arc<StartFailure>, took: Duration) {
        if let Some(entry) = self.entry_mut(key) {
            entry.vain.push((failure.lap(), took));
            entry.failure = Some(failure);
        }
    }

    pub(in crate::pool) fn note(&mut self, sandbox: SandboxId, change: impl FnOnce(&mut SandboxInfo)) {
        if let Some(slot) = self.slots.get_mut(&sandbox) {
            change(&mut slot.info);
        }
    }

    /// Idle sandboxes that are `fit`. They report when they are gone; a call that is handed one meanwhile waits again.
    pub(in crate::pool) fn take_idle(&mut self, fit: impl Fn(&SandboxInfo) -> bool) -> Vec<Parked> {
        let fit = |slot: &&mut Slot| !slot.info.function.is_empty() && fit(&slot.info);
        self.slots.values_mut().filter(fit).filter_map(|slot| slot.parked.take()).collect()
    }

    pub(in crate::pool) fn take_blanks(&mut self) -> Vec<Parked> {
        let blank = |slot: &&mut Slot| slot.info.function.is_empty();
        self.slots.values_mut().filter(blank).filter_map(|slot| slot.parked.take()).collect()
    }

    pub(in crate::pool) fn take_longest_idle(&mut self, tenant: &str) -> Option<Parked> {
        let longest = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.parked.is_some() && slot.info.tenant.as_deref() == Some(tenant))
            .filter_map(|(id, _)| Some((self.scheduler.sandbox(*id)?, *id)))
            // In the place of one that is always to be there, another would come up.
            .filter(|(view, _)| !view.pinned)
            .map(|(view, id)| (view.since, id))
            .min()?;
        self.slots.get_mut(&longest.1)?.parked.take()
    }
}
