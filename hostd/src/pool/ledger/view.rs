//! What can be seen of the books.

use std::sync::Arc;

use mote_sched::config::MIB;
use mote_sched::{State, Stats, TenantSpec};
use serde::Serialize;

use super::{Known, Ledger};
use crate::bring_up::StartFailure;
use crate::pool::Key;
use crate::pool::lease::SandboxInfo;

/// Figures of all sandboxes, for operators.
#[derive(Debug, Clone, Serialize)]
pub struct Usage {
    /// Sandboxes alive; blanks are none yet.
    pub alive: usize,
    /// Of them without a call.
    pub idle: usize,
    /// Of them with one.
    pub busy: usize,
    /// Of them on their way up.
    pub starting: usize,
    /// Monitors ready to become sandboxes.
    pub blanks: u32,
    /// Memory booked, MiB.
    pub memory_mb: u64,
    /// Of it page cache that sandboxes share, each part once.
    pub shared_mb: u64,
    /// Memory that can be booked, MiB.
    pub capacity_mb: u64,
    /// Of it not to be had for now, because the machine is short of memory, MiB.
    pub withheld_mb: u64,
    /// Calls that wait.
    pub waiting: u32,
    /// What was decided since the start.
    pub decided: Stats,
}

/// What the machine and one tenant can hold.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Memory for sandboxes, MiB.
    pub capacity_mb: u64,
    /// Sandboxes at once.
    pub sandboxes: u32,
    /// Memory the tenant may have in use, MiB.
    pub tenant_mb: u64,
    /// Sandboxes the tenant may have in use at once.
    pub tenant_sandboxes: u32,
}

/// How far the sandboxes of a function are that are always to be there.
#[derive(Debug, Clone, Default)]
pub struct Standing {
    /// They come up or are up.
    pub there: u32,
    /// Of them those that are up.
    pub up: u32,
    /// Why the last start failed, if none has succeeded since.
    pub failure: Option<Arc<StartFailure>>,
}

impl Ledger {
    pub(in crate::pool) fn bounds(&self, tenant: &str) -> Bounds {
        let spec = self.tenants.get(tenant).map_or(TenantSpec::default(), |(_, tenant)| tenant.spec);
        Bounds {
            capacity_mb: self.budget / MIB,
            sandboxes: self.max_sandboxes,
            tenant_mb: spec.max_memory / MIB,
            tenant_sandboxes: spec.max_concurrency,
        }
    }

    pub(in crate::pool) fn provisioned(&self, key: &Key) -> Standing {
        let mut standing = Standing {
            failure: self.entry(key).and_then(|entry| entry.failure.clone()),
            ..Standing::default()
        };
        for (id, slot) in &self.slots {
            let view = (*slot.info.function == **key).then(|| self.scheduler.sandbox(*id)).flatten();
            let Some(view) = view.filter(|view| view.pinned) else { continue };
            standing.there += 1;
            // One that is idle and not parked is being put away.
            let idle = matches!(view.state, State::Ready | State::Idle) && slot.parked.is_some();
            standing.up += u32::from(idle || view.state == State::Busy);
        }
        standing
    }

    pub(in crate::pool) fn is_coming_up(&self, key: &Key) -> bool {
        let starting =
            |known: &Known| self.scheduler.function(known.id).is_some_and(|view| view.starting > 0);
        self.functions.get(key).is_some_and(|known| known.entry.is_building() || starting(known))
    }

    pub(in crate::pool) fn sandboxes(&self) -> Vec<SandboxInfo> {
        let mut all: Vec<SandboxInfo> = self
            .slots
            .iter()
            .filter(|(_, slot)| !slot.info.function.is_empty())
            .map(|(id, slot)| slot.info.seen(self.scheduler.sandbox(*id).as_ref()))
            .collect();
        all.sort_by_key(|info| std::cmp::Reverse(info.age()));
        all
    }

    pub(in crate::pool) fn booked_mb(&self) -> u64 {
        self.scheduler.node(self.node).unwrap_or_default().used() / MIB
    }

    pub(in crate::pool) fn usage(&self) -> Usage {
        let node = self.scheduler.node(self.node).unwrap_or_default();
        let mut usage = Usage {
            alive: 0,
            idle: 0,
            busy: 0,
            starting: 0,
            blanks: node.blanks,
            memory_mb: node.used() / MIB,
            shared_mb: node.shared / MIB,
            capacity_mb: node.budget / MIB,
            withheld_mb: node.withheld / MIB,
            waiting: self.scheduler.waiting(),
            decided: self.scheduler.stats(),
        };
        for (id, slot) in &self.slots {
            if slot.info.function.is_empty() {
                continue;
            }
            usage.alive += 1;
            match self.scheduler.sandbox(*id).map(|sandbox| sandbox.state) {
                Some(State::Ready | State::Idle) => usage.idle += 1,
                Some(State::Busy) => usage.busy += 1,
                Some(State::Blank | State::Restoring) => usage.starting += 1,
                Some(State::Draining | State::Dead) | None => {}
            }
        }
        usage
    }
}
