//! Doing what the scheduler decides.

use std::sync::Arc;
use std::time::Instant;

use mote_api::RestoreMode;
use mote_sched::{CallId, Decision, Event, FunctionId, SandboxId};
use mote_store::FunctionRecord;
use tokio::sync::mpsc;

use super::{Ledger, Slot, Waiter, private_mb};
use crate::pool::duties::{Build, Recording};
use crate::pool::entry::Claim;
use crate::pool::lease::{Lease, SandboxInfo};
use crate::pool::parked::Parked;
use crate::pool::{Birth, Key, Pool, Refusal, Snapshot, Want};

/// A sandbox to be brought up.
#[derive(Debug)]
pub struct Order {
    /// Its lease; with it dropped, the start has failed. None if it is to come up in a blank, which has it.
    pub lease: Option<Lease>,
    /// What it is to be; a blank, if nothing.
    pub function: Option<(Key, Arc<FunctionRecord>)>,
    /// For a function: how.
    pub task: Option<Task>,
    /// In which way the call that it is for wants to be served.
    pub want: Want,
    /// The blank it is to come up in.
    pub blank: Option<Parked>,
}

/// How a function's sandbox comes up.
#[derive(Debug)]
pub enum Task {
    /// By restoring this snapshot, perhaps with the duty to record its first call, with memory coming back in this way.
    Restore(Arc<Snapshot>, Option<Recording>, Option<RestoreMode>),
    /// Without a snapshot, perhaps with the duty to make it.
    Cold(Option<Build>),
}

/// What is said to a call that waits.
#[derive(Debug)]
pub enum Verdict {
    /// A sandbox, how it came to be if it is new, and whether the call waited for that.
    Hand { parked: Parked, birth: Option<Birth>, waited: bool },
    /// No sandbox of its own can be started now.
    NoRoom,
    /// None.
    Refuse(Refusal),
}

/// What must not be dropped while the books are locked.
#[derive(Debug)]
pub enum Leftover {
    /// Nobody takes orders any more.
    Order { _order: Box<Order> },
    /// A call's answer nobody waited for.
    Verdict { _verdict: Box<Verdict> },
}

impl Ledger {
    /// Handles all events and does what is decided.
    pub(in crate::pool) fn settle(&mut self, pool: &Arc<Pool>) -> Vec<Leftover> {
        let mut leftovers = Vec::new();
        loop {
            for decision in std::mem::take(&mut self.decisions) {
                self.act(pool, decision, &mut leftovers);
            }
            let Some(event) = self.events.pop_front() else {
                if self.decisions.is_empty() {
                    return leftovers;
                }
                continue;
            };
            let now = self.time(Instant::now());
            let about = match event {
                Event::Ready { sandbox } | Event::Ended { sandbox, .. } => Some(sandbox),
                _ => None,
            };
            if let Err(error) = self.scheduler.handle(now, event, &mut self.decisions) {
                tracing::debug!(%error, "Not noted");
                // Told to end meanwhile.
                if let Some(slot) = about.and_then(|sandbox| self.slots.get_mut(&sandbox)) {
                    slot.parked = None;
                }
            }
        }
    }

    pub(super) fn act(&mut self, pool: &Arc<Pool>, decision: Decision, leftovers: &mut Vec<Leftover>) {
        match decision {
            Decision::Start { sandbox, function, call, in_blank, .. } => {
                let Some(order) = self.order(pool, sandbox, function, call, in_blank) else { return };
                if self.closed {
                    leftovers.push(Leftover::Order { _order: Box::new(order) });
                } else if let Err(mpsc::error::SendError(order)) = self.orders.send(order) {
                    leftovers.push(Leftover::Order { _order: Box::new(order) });
                }
            }
            Decision::Hand { call, sandbox, at_once, .. } => self.hand(call, sandbox, !at_once, leftovers),
            Decision::Queue { .. } => {}
            Decision::Refuse { call, reason, retry_after } => {
                if let Some(waiter) = self.calls.remove(&call) {
                    let verdict = self.refusal(&waiter, reason, retry_after);
                    if let Err(verdict) = waiter.verdict.send(verdict) {
                        leftovers.push(Leftover::Verdict { _verdict: Box::new(verdict) });
                    }
                }
            }
            Decision::Evict { sandbox, .. } | Decision::Retire { sandbox, .. } => {
                if let Some(slot) = self.slots.get_mut(&sandbox) {
                    // The task that keeps it lets it end then.
                    slot.parked = None;
                }
            }
        }
    }

    pub(super) fn order(
        &mut self,
        pool: &Arc<Pool>,
        sandbox: SandboxId,
        function: Option<FunctionId>,
        call: Option<CallId>,
        in_blank: bool,
    ) -> Option<Order> {
        let ask = call.and_then(|call| self.calls.get(&call)).map(|waiter| waiter.ask);
        let want = ask.map_or(Want::Auto, |ask| ask.want);
        let key = function.and_then(|function| self.keys.get(&function)).cloned();
        let blank = self.slots.remove(&sandbox).and_then(|slot| slot.parked);
        if in_blank && blank.is_none() {
            // It is being put away, and reports when it is gone: another start follows.
            return None;
        }
        let known = key.as_ref().and_then(|key| self.functions.get(key));
        let name = key.as_deref().unwrap_or("").to_owned();
        let memory_mb = known.map_or(0, |known| private_mb(&known.shape.record));
        let tenant = known.map(|known| known.shape.tenant.clone());
        let info = SandboxInfo::new(name, tenant, memory_mb);
        self.slots.insert(sandbox, Slot { info, parked: None, birth: None });
        let function = key.zip(known.map(|known| Arc::clone(&known.shape.record)));
        let reserved = ask.is_some_and(|ask| ask.reserved);
        let mode = ask.and_then(|ask| ask.mode);
        let mut task = function.as_ref().and_then(|(key, _)| self.claim(pool, key, want, reserved));
        if let Some(Task::Restore(_, _, chosen)) = &mut task
            && mode.is_some()
        {
            *chosen = mode;
        }
        let lease = blank.is_none().then(|| Lease::new(pool, sandbox));
        Some(Order { lease, function, task, want, blank })
    }

    /// What a start of a function does.
    pub(in crate::pool) fn claim(
        &mut self,
        pool: &Arc<Pool>,
        key: &Key,
        want: Want,
        reserved: bool,
    ) -> Option<Task> {
        let known = self.functions.get_mut(key)?;
        let mode = known.entry.mode.take();
        let id = known.id;
        Some(match known.entry.claim(want, reserved) {
            Claim::Restore(snapshot, record) => {
                Task::Restore(snapshot, record.then(|| Recording::new(pool, key)), mode)
            }
            Claim::Cold(false) => Task::Cold(None),
            Claim::Cold(true) => {
                self.tell(Event::Building { function: id });
                Task::Cold(Some(Build::new(pool, key)))
            }
        })
    }

    pub(super) fn hand(
        &mut self,
        call: CallId,
        sandbox: SandboxId,
        waited: bool,
        leftovers: &mut Vec<Leftover>,
    ) {
        let Some(waiter) = self.calls.remove(&call) else {
            self.tell(Event::Ended { sandbox, healthy: true });
            return;
        };
        let slot = self.slots.get_mut(&sandbox);
        let Some((slot, parked)) = slot.and_then(|slot| slot.parked.take().map(|parked| (slot, parked)))
        else {
            // It is being put away, and reports when it is gone: the call waits for another.
            self.arrive_again(call, waiter);
            return;
        };
        let verdict = Verdict::Hand { parked, birth: slot.birth.take(), waited };
        match waiter.verdict.send(verdict) {
            Ok(()) => {}
            Err(Verdict::Hand { parked, birth, .. }) => {
                (slot.parked, slot.birth) = (Some(parked), birth);
                self.tell(Event::Ended { sandbox, healthy: true });
            }
            Err(verdict) => leftovers.push(Leftover::Verdict { _verdict: Box::new(verdict) }),
        }
    }

    pub(super) fn arrive_again(&mut self, call: CallId, waiter: Waiter) {
        let (deadline, fresh) = (self.time(waiter.ask.deadline), waiter.ask.want != Want::Auto);
        self.tell_of(&waiter.key.clone(), |function| Event::Arrived { call, function, deadline, fresh });
        self.calls.insert(call, waiter);
    }
}
