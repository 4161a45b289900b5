//! The books: what the scheduler is told, and what is done of what it decides.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mote_sched::config::MIB;
use mote_sched::{
    CallId, Decision, Event, FunctionId, FunctionSpec, Limit, Limits, NodeId, NodeSpec, SandboxId, Scheduler,
    State, Stats, TenantId, TenantSpec, Time,
};
use mote_store::FunctionRecord;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::duties::{Build, Recording};
use super::entry::{Claim, Entry};
use super::lease::{Lease, SandboxInfo};
use super::parked::Parked;
use super::{
    Ask, Birth, Bound, Key, MONITOR_OVERHEAD_MB, Pool, Refusal, Shape, Snapshot, TenantBound, TenantShape,
    Want,
};
use crate::bring_up::StartFailure;

/// Size of a page, bytes.
const PAGE: u64 = 4096;

/// A function as it is registered.
#[derive(Debug, Clone)]
pub struct FunctionShape {
    /// The function.
    pub record: Arc<FunctionRecord>,
    /// Name of its tenant.
    pub tenant: String,
    /// How much of it there may be at once.
    pub limits: Limits,
}

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
    Restore(Arc<Snapshot>, Option<Recording>, Option<mote_api::RestoreMode>),
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

#[derive(Debug)]
struct Waiter {
    key: Key,
    ask: Ask,
    since: Instant,
    verdict: oneshot::Sender<Verdict>,
}

/// What there is of one sandbox beside the scheduler's books.
#[derive(Debug)]
pub struct Slot {
    info: SandboxInfo,
    /// It waits for a call.
    parked: Option<Parked>,
    /// No call has seen it yet.
    birth: Option<Birth>,
}

#[derive(Debug)]
struct Known {
    id: FunctionId,
    shape: FunctionShape,
    entry: Entry<Arc<Snapshot>>,
}

/// What must not be dropped while the books are locked.
#[derive(Debug)]
pub enum Leftover {
    /// Nobody takes orders any more.
    Order { _order: Box<Order> },
    /// A call's answer nobody waited for.
    Verdict { _verdict: Box<Verdict> },
}

/// The books.
#[derive(Debug)]
pub struct Ledger {
    scheduler: Scheduler,
    epoch: Instant,
    node: NodeId,
    budget: u64,
    max_sandboxes: u32,
    tenants: HashMap<String, (TenantId, TenantShape)>,
    functions: HashMap<Key, Known>,
    keys: HashMap<FunctionId, Key>,
    calls: HashMap<CallId, Waiter>,
    slots: BTreeMap<SandboxId, Slot>,
    next_call: u64,
    orders: mpsc::UnboundedSender<Order>,
    /// No sandbox is started any more.
    closed: bool,
    events: VecDeque<Event>,
    decisions: Vec<Decision>,
    /// When the timer goes off, if at all.
    armed: Option<Time>,
}

impl Ledger {
    pub(super) fn new(shape: Shape, orders: mpsc::UnboundedSender<Order>) -> Self {
        let mut scheduler = Scheduler::new(shape.scheduling);
        let budget = shape.capacity_mb * MIB;
        let max_sandboxes = u32::try_from(shape.max_sandboxes).unwrap_or(u32::MAX);
        let node = scheduler.add_node(NodeSpec { memory: budget, max_sandboxes, blanks: shape.blanks });
        let mut ledger = Self {
            scheduler,
            epoch: Instant::now(),
            node,
            budget,
            max_sandboxes,
            tenants: HashMap::new(),
            functions: HashMap::new(),
            keys: HashMap::new(),
            calls: HashMap::new(),
            slots: BTreeMap::new(),
            next_call: 0,
            orders,
            closed: false,
            events: VecDeque::new(),
            decisions: Vec::new(),
            armed: None,
        };
        shape.tenants.into_iter().for_each(|tenant| _ = ledger.add_tenant(tenant));
        ledger
    }

    fn add_tenant(&mut self, tenant: TenantShape) -> TenantId {
        let id = self.scheduler.add_tenant(tenant.spec);
        self.tenants.insert(tenant.name.clone(), (id, tenant));
        id
    }

    fn time(&self, at: Instant) -> Time {
        Time::default().after(at.saturating_duration_since(self.epoch))
    }

    /// To be handled before the lock is released.
    pub(super) fn tell(&mut self, event: Event) {
        self.events.push_back(event);
    }

    /// The same, of a function if it is known.
    pub(super) fn tell_of(&mut self, key: &Key, event: impl FnOnce(FunctionId) -> Event) {
        if let Some(known) = self.functions.get(key) {
            let event = event(known.id);
            self.tell(event);
        }
    }

    /// Handles all events and does what is decided.
    pub(super) fn settle(&mut self, pool: &Arc<Pool>) -> Vec<Leftover> {
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

    fn act(&mut self, pool: &Arc<Pool>, decision: Decision, leftovers: &mut Vec<Leftover>) {
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

    fn order(
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
    pub(super) fn claim(&mut self, pool: &Arc<Pool>, key: &Key, want: Want, reserved: bool) -> Option<Task> {
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

    fn hand(&mut self, call: CallId, sandbox: SandboxId, waited: bool, leftovers: &mut Vec<Leftover>) {
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

    fn arrive_again(&mut self, call: CallId, waiter: Waiter) {
        let (deadline, fresh) = (self.time(waiter.ask.deadline), waiter.ask.want != Want::Auto);
        self.tell_of(&waiter.key.clone(), |function| Event::Arrived { call, function, deadline, fresh });
        self.calls.insert(call, waiter);
    }

    fn refusal(&self, waiter: &Waiter, reason: mote_sched::Refusal, retry_after: Duration) -> Verdict {
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
    fn bound(&self, known: &Known) -> Bound {
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

    /// When the timer is to go off.
    pub(super) fn arm(&mut self) -> Option<Instant> {
        self.armed = self.scheduler.next_timer();
        self.armed.map(|time| self.epoch + time.since(Time::default()))
    }

    /// Whether the timer has to go off earlier than it was armed for.
    pub(super) fn is_due_earlier(&self) -> bool {
        match (self.scheduler.next_timer(), self.armed) {
            (Some(next), Some(armed)) => next < armed,
            (next, armed) => next.is_some() && armed.is_none(),
        }
    }

    pub(super) fn register(
        &mut self,
        key: &Key,
        shape: FunctionShape,
        snapshot: Option<Arc<Snapshot>>,
        recording: bool,
    ) {
        let tenant = match self.tenants.get(&shape.tenant) {
            Some((id, _)) => *id,
            None => {
                let (name, spec) = (shape.tenant.clone(), TenantSpec::default());
                self.add_tenant(TenantShape { name, spec, places: false })
            }
        };
        if let Some(known) = self.functions.get_mut(key) {
            let limits = shape.limits;
            known.shape = FunctionShape { limits: known.shape.limits, ..shape };
            self.limit(key, limits);
            return;
        }
        let private = private_mb(&shape.record) * MIB;
        let mut spec = FunctionSpec::new(tenant, private);
        spec.limits = shape.limits;
        spec.snapshot = snapshot.as_ref().map(|snapshot| self.shared(snapshot, private));
        let now = self.time(Instant::now());
        let entry = Entry::new(snapshot, recording);
        // Known before its first sandbox is decided on.
        match self.scheduler.register(now, spec, &mut self.decisions) {
            Ok(id) => {
                self.keys.insert(id, Arc::clone(key));
                self.functions.insert(Arc::clone(key), Known { id, shape, entry });
            }
            Err(error) => tracing::error!(function = %key, %error, "Not registered"),
        }
    }

    /// A function's limits are others from now on.
    pub(super) fn limit(&mut self, key: &Key, limits: Limits) {
        let Some(known) = self.functions.get_mut(key) else { return };
        if limits.provisioned > known.shape.limits.provisioned {
            // What failed before says nothing of those that come up now.
            known.entry.failure = None;
        }
        known.shape.limits = limits;
        let function = known.id;
        self.tell(Event::Limited { function, limits });
    }

    pub(super) fn bounds(&self, tenant: &str) -> Bounds {
        let spec = self.tenants.get(tenant).map_or(TenantSpec::default(), |(_, tenant)| tenant.spec);
        Bounds {
            capacity_mb: self.budget / MIB,
            sandboxes: self.max_sandboxes,
            tenant_mb: spec.max_memory / MIB,
            tenant_sandboxes: spec.max_concurrency,
        }
    }

    pub(super) fn provisioned(&self, key: &Key) -> Standing {
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

    /// Page cache that all sandboxes of a function share: what its recorded call used, else all there is of the
    /// snapshot. It can be reclaimed: it never makes a function too big for the machine.
    fn shared(&self, snapshot: &Snapshot, private: u64) -> u64 {
        let record = &snapshot.record;
        let bytes = record.paging.map_or(record.stored_bytes, |paging| paging.loading_pages * PAGE);
        bytes.min(self.budget.saturating_sub(private))
    }

    pub(super) fn entry(&self, key: &Key) -> Option<&Entry<Arc<Snapshot>>> {
        self.functions.get(key).map(|known| &known.entry)
    }

    pub(super) fn entry_mut(&mut self, key: &Key) -> Option<&mut Entry<Arc<Snapshot>>> {
        self.functions.get_mut(key).map(|known| &mut known.entry)
    }

    /// A call waits from now on; `None` when there is no such function.
    pub(super) fn arrive(&mut self, key: &Key, ask: Ask) -> Option<(CallId, oneshot::Receiver<Verdict>)> {
        let entry = self.entry_mut(key)?;
        entry.record_next |= ask.record_next;
        if ask.mode.is_some() {
            entry.mode = ask.mode;
        }
        let (verdict, told) = oneshot::channel();
        let call = CallId(self.next_call);
        self.next_call += 1;
        // One that is to be restored waits for the snapshot that is made of it.
        let waits = ask.want == Want::Restore && self.entry(key).is_some_and(Entry::is_building);
        if waits {
            let _ = verdict.send(Verdict::NoRoom);
            return Some((call, told));
        }
        self.arrive_again(call, Waiter { key: Arc::clone(key), ask, since: Instant::now(), verdict });
        Some((call, told))
    }

    /// Nobody waits for this call any more.
    pub(super) fn cancel(&mut self, key: &Key, call: CallId) {
        self.calls.remove(&call);
        self.tell_of(key, |function| Event::Cancelled { call, function });
    }

    /// A sandbox of a function is up.
    pub(super) fn up(&mut self, sandbox: SandboxId, parked: Parked, mut birth: Birth) {
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
    pub(super) fn blank(&mut self, sandbox: SandboxId, parked: Parked) {
        if let Some(slot) = self.slots.get_mut(&sandbox) {
            slot.parked = Some(parked);
        }
        self.tell(Event::Ready { sandbox });
    }

    pub(super) fn ended(&mut self, sandbox: SandboxId, parked: Parked) {
        if let Some(slot) = self.slots.get_mut(&sandbox) {
            slot.parked = Some(parked);
        }
        self.tell(Event::Ended { sandbox, healthy: true });
    }

    /// A sandbox is gone. What it leaves is to be dropped without the lock.
    pub(super) fn gone(&mut self, sandbox: SandboxId, failed: Option<bool>) -> Option<Slot> {
        self.tell(match failed {
            Some(fatal) => Event::Failed { sandbox, fatal },
            None => Event::Gone { sandbox },
        });
        self.slots.remove(&sandbox)
    }

    /// A start failed: its calls are told why if no other succeeds.
    pub(super) fn failed(&mut self, key: &Key, failure: Arc<StartFailure>, took: Duration) {
        if let Some(entry) = self.entry_mut(key) {
            entry.vain.push((failure.lap(), took));
            entry.failure = Some(failure);
        }
    }

    pub(super) fn note(&mut self, sandbox: SandboxId, change: impl FnOnce(&mut SandboxInfo)) {
        if let Some(slot) = self.slots.get_mut(&sandbox) {
            change(&mut slot.info);
        }
    }

    /// A function has a snapshot from now on. False when the function is gone: it is of no use.
    pub(super) fn built(
        &mut self,
        key: &Key,
        snapshot: Arc<Snapshot>,
        recording: bool,
        reserved: bool,
    ) -> bool {
        let Some(known) = self.functions.get(key) else { return false };
        let (function, private) = (known.id, private_mb(&known.shape.record) * MIB);
        let shared = Some(self.shared(&snapshot, private));
        if let Some(entry) = self.entry_mut(key) {
            entry.built(snapshot, recording, reserved);
        }
        self.tell(Event::Snapshot { function, shared });
        true
    }

    pub(super) fn not_built(&mut self, key: &Key) {
        if let Some(entry) = self.entry_mut(key) {
            entry.not_built();
        }
        self.tell_of(key, |function| Event::Snapshot { function, shared: None });
    }

    pub(super) fn forget_snapshot(&mut self, key: &Key, is_it: impl FnOnce(&Snapshot) -> bool) {
        let forgotten = self.entry_mut(key).is_some_and(|entry| entry.forget_snapshot(|own| is_it(own)));
        if forgotten {
            self.tell_of(key, |function| Event::Snapshot { function, shared: None });
        }
    }

    /// Its idle sandboxes, to be put away, and what was known of it.
    pub(super) fn forget(&mut self, key: &Key) -> (Vec<Parked>, Option<impl Sized + use<>>) {
        let idle = self.take_idle(|info| info.function == **key);
        let known = self.functions.remove(key);
        if let Some(known) = &known {
            self.keys.remove(&known.id);
            self.tell(Event::Removed { function: known.id });
        }
        (idle, known)
    }

    /// Idle sandboxes that are `fit`. They report when they are gone; a call that is handed one meanwhile waits again.
    pub(super) fn take_idle(&mut self, fit: impl Fn(&SandboxInfo) -> bool) -> Vec<Parked> {
        let fit = |slot: &&mut Slot| !slot.info.function.is_empty() && fit(&slot.info);
        self.slots.values_mut().filter(fit).filter_map(|slot| slot.parked.take()).collect()
    }

    pub(super) fn take_blanks(&mut self) -> Vec<Parked> {
        let blank = |slot: &&mut Slot| slot.info.function.is_empty();
        self.slots.values_mut().filter(blank).filter_map(|slot| slot.parked.take()).collect()
    }

    pub(super) fn take_longest_idle(&mut self, tenant: &str) -> Option<Parked> {
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

    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    pub(super) fn sandboxes(&self) -> Vec<SandboxInfo> {
        let mut all: Vec<SandboxInfo> = self
            .slots
            .iter()
            .filter(|(_, slot)| !slot.info.function.is_empty())
            .map(|(id, slot)| slot.info.seen(self.scheduler.sandbox(*id).as_ref()))
            .collect();
        all.sort_by_key(|info| std::cmp::Reverse(info.age()));
        all
    }

    pub(super) fn usage(&self) -> Usage {
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

/// Memory of its own that a sandbox may come to hold, MiB.
fn private_mb(record: &FunctionRecord) -> u64 {
    u64::from(record.config.memory_mb) + MONITOR_OVERHEAD_MB
}
