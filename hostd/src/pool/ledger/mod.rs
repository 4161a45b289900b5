//! The books: what the scheduler is told, and what is done of what it decides.

mod act;
mod ends;
mod refusals;
mod view;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use mote_sched::config::MIB;
use mote_sched::{
    CallId, Decision, Event, FunctionId, FunctionSpec, Limits, NodeId, NodeSpec, SandboxId, Scheduler,
    TenantId, TenantSpec, Time,
};
use mote_store::FunctionRecord;
use tokio::sync::{mpsc, oneshot};

use super::entry::Entry;
use super::lease::SandboxInfo;
use super::parked::Parked;
use super::{Ask, Birth, Key, MONITOR_OVERHEAD_MB, Shape, Snapshot, TenantShape, Want};

pub use act::{Order, Task, Verdict};
pub use view::{Bounds, Standing, Usage};

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
        let Shape { blanks, starts, .. } = shape;
        let node = scheduler.add_node(NodeSpec { memory: budget, max_sandboxes, blanks, starts });
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

    /// So much memory, MiB, is not to be had until this is told again.
    pub(super) fn withhold(&mut self, mb: u64) {
        let event = Event::Withheld { node: self.node, bytes: mb.saturating_mul(MIB) };
        self.tell(event);
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

    pub(super) fn close(&mut self) {
        self.closed = true;
    }
}

/// Memory of its own that a sandbox may come to hold, MiB.
fn private_mb(record: &FunctionRecord) -> u64 {
    u64::from(record.config.memory_mb) + MONITOR_OVERHEAD_MB
}
