//! The sandboxes that are alive, and who is served by them: what the scheduler decides, done.
//!
//! ```text
//! calls, ends, deaths, timers ──> Ledger ──> mote_sched::Scheduler ──> decisions
//!    Start ──> an order, for whoever brings sandboxes up     Hand, Refuse ──> the call that waits
//!    Evict, Retire ──> the task that keeps the idle sandbox lets it end; its lease reports when it is gone
//! ```
//!
//! One lock. Nothing that reports its own end (a lease, a duty) is ever dropped while it is held.

mod blanks;
mod duties;
mod entry;
mod lease;
mod ledger;
mod parked;
mod refusal;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mote_api::{RestoreMode, ServedBy};
use mote_sched::{CallId, Event, SandboxId, TenantSpec};
use mote_store::SnapshotRecord;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::bases::Base;
use crate::bring_up::StartFailure;
use crate::record::Recorded;
use crate::sandbox::Sandbox;

pub use duties::{Build, Recording, Reservation};
pub use lease::{Lease, SandboxInfo};
pub use ledger::{Bounds, FunctionShape, Order, Standing, Task, Usage};

use ledger::{Ledger, Verdict};
pub use parked::{Kept, Parked};
pub use refusal::{Bound, Refusal, TenantBound};

/// Identifies what a sandbox was made of: function, code and configuration. A changed function is another key.
pub type Key = Arc<str>;

/// What a monitor process needs beside the guest's memory, MiB.
pub const MONITOR_OVERHEAD_MB: u64 = 8;

/// How long an attempt to start a sandbox for one call alone waits for room before it is made again.
const FRESH_STEP: Duration = Duration::from_millis(100);

/// A snapshot that can be restored.
#[derive(Debug)]
pub struct Snapshot {
    /// Its folder.
    pub dir: PathBuf,
    /// What it is layered over.
    pub base: Option<Base>,
    /// Its record.
    pub record: SnapshotRecord,
}

/// How a caller wants to be served. `Auto` is the rule; the others are for operators who measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Warm, else restore, else cold.
    Auto,
    /// Never a warm sandbox.
    Restore,
    /// A cold boot.
    Cold,
}

/// What a call asks for.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// In which way it wants to be served.
    pub want: Want,
    /// How memory comes back, if a sandbox is restored for it.
    pub mode: Option<RestoreMode>,
    /// The next call on a snapshot that is made for it is recorded, whatever the configuration says.
    pub record_next: bool,
    /// It is the call that recording is reserved for.
    pub reserved: bool,
    /// When waiting for its turn is of no use any more.
    pub deadline: Instant,
}

/// Where a sandbox came from.
#[derive(Debug)]
pub enum Origin {
    /// It was started.
    Cold,
    /// It was restored from this snapshot, perhaps to record its first call.
    Restored(Arc<Snapshot>, Option<Recorded>),
}

/// How a sandbox came to be: of interest to its first call.
#[derive(Debug)]
pub struct Birth {
    /// Where it came from.
    pub origin: Origin,
    /// How long each step took.
    pub laps: Vec<(&'static str, Duration)>,
    /// The end of what it printed meanwhile.
    pub tail: Vec<u8>,
}

impl Birth {
    /// As a caller who waited for it is told.
    pub fn by(&self) -> ServedBy {
        match self.origin {
            Origin::Cold => ServedBy::Cold,
            Origin::Restored(..) => ServedBy::Restore,
        }
    }
}

/// A sandbox for a call.
#[derive(Debug)]
pub struct Granted {
    /// The sandbox.
    pub sandbox: Box<Sandbox>,
    /// How it came to be, if no other call was served by it before.
    pub birth: Option<Birth>,
    /// Whether the call waited for that.
    pub waited: bool,
}

/// A tenant and its limits.
#[derive(Debug, Clone)]
pub struct TenantShape {
    /// Its name.
    pub name: String,
    /// Its share and limits.
    pub spec: TenantSpec,
    /// Whether its most calls at once are the places in its network.
    pub places: bool,
}

/// All sandboxes of this machine.
#[derive(Debug)]
pub struct Pool {
    ledger: Mutex<Ledger>,
    /// The next timer is due earlier than it was.
    due: Notify,
    /// Something was released.
    released: Notify,
    /// After so long without a call, a sandbox gives back memory it does not use.
    reclaim_after: Duration,
    runtime: tokio::runtime::Handle,
}

/// What a pool is made of.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Policies and bounds.
    pub scheduling: mote_sched::Config,
    /// MiB for microVMs.
    pub capacity_mb: u64,
    /// MicroVMs alive at once.
    pub max_sandboxes: usize,
    /// Monitors kept ready.
    pub blanks: u32,
    /// Sandboxes that come up at once.
    pub starts: u32,
    /// After so long without a call, a sandbox gives back memory it does not use.
    pub reclaim_after: Duration,
    /// Tenants; others have no limits.
    pub tenants: Vec<TenantShape>,
}

impl Pool {
    /// A pool, and the orders for sandboxes to be brought up. To be called in the runtime its tasks are to run in.
    pub fn new(shape: Shape) -> (Arc<Self>, mpsc::UnboundedReceiver<Order>) {
        // As many as there are sandboxes.
        let (orders, orderly) = mpsc::unbounded_channel();
        let reclaim_after = shape.reclaim_after;
        let pool = Arc::new(Self {
            ledger: Mutex::new(Ledger::new(shape, orders)),
            due: Notify::new(),
            released: Notify::new(),
            reclaim_after,
            runtime: tokio::runtime::Handle::current(),
        });
        tokio::spawn(keep_time(Arc::clone(&pool)));
        (pool, orderly)
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the books and does what is decided. What has to be dropped is dropped when the lock is free again.
    fn change<T>(self: &Arc<Self>, change: impl FnOnce(&mut Ledger) -> T) -> T {
        let (result, leftovers, earlier) = {
            let mut ledger = self.ledger();
            let result = change(&mut ledger);
            let leftovers = ledger.settle(self);
            (result, leftovers, ledger.is_due_earlier())
        };
        drop(leftovers);
        if earlier {
            self.due.notify_one();
        }
        self.released.notify_waiters();
        result
    }

    /// Makes a function callable. `recording`: a call on its snapshot is still to be recorded.
    pub fn register(
        self: &Arc<Self>,
        key: &Key,
        shape: FunctionShape,
        snapshot: Option<Snapshot>,
        recording: bool,
    ) {
        self.change(|ledger| ledger.register(key, shape, snapshot.map(Arc::new), recording));
    }

    /// A function's limits are others from now on.
    pub fn limit(self: &Arc<Self>, key: &Key, limits: mote_sched::Limits) {
        self.change(|ledger| ledger.limit(key, limits));
    }

    /// What the machine and a tenant can hold.
    pub fn bounds(&self, tenant: &str) -> Bounds {
        self.ledger().bounds(tenant)
    }

    /// How far the sandboxes of a function are that are always to be there.
    pub fn provisioned(&self, key: &Key) -> Standing {
        self.ledger().provisioned(key)
    }

    /// Whether a sandbox of the function is on its way up.
    pub fn is_coming_up(&self, key: &Key) -> bool {
        self.ledger().is_coming_up(key)
    }

    /// The snapshot of a function, if it can be restored.
    pub fn snapshot(&self, key: &Key) -> Option<Arc<Snapshot>> {
        self.ledger().entry(key)?.snapshot().cloned()
    }

    /// Forgets a function and puts its idle sandboxes away. Busy ones end with their call.
    pub async fn forget(self: &Arc<Self>, key: &Key) {
        let (idle, forgotten) = self.change(|ledger| ledger.forget(key));
        drop(forgotten);
        put_away(idle).await;
    }

    /// Puts all idle sandboxes away; how many there were.
    pub async fn evict_all(self: &Arc<Self>) -> usize {
        let idle = self.ledger().take_idle(|_| true);
        put_away(idle).await
    }

    /// Starts no further sandbox, and puts all that are idle away; how many there were.
    pub async fn close(self: &Arc<Self>) -> usize {
        let blanks = {
            let mut ledger = self.ledger();
            ledger.close();
            ledger.take_blanks()
        };
        put_away(blanks).await;
        self.evict_all().await
    }

    /// Puts the longest idle sandbox of a tenant away; false if there is none.
    pub async fn make_room(self: &Arc<Self>, tenant: &str) -> bool {
        let idle = self.ledger().take_longest_idle(tenant);
        put_away(idle.into_iter().collect()).await > 0
    }

    /// The snapshot in folder `dir` (any, if `None`) turned out to be of no use: the next start makes another.
    pub fn forget_snapshot(self: &Arc<Self>, key: &Key, dir: Option<&Path>) {
        self.change(|ledger| {
            ledger.forget_snapshot(key, |snapshot| dir.is_none_or(|dir| snapshot.dir == dir));
        });
    }

    /// What there is, for operators.
    pub fn usage(&self) -> Usage {
        self.ledger().usage()
    }

    /// Memory booked, MiB.
    pub fn booked_mb(&self) -> u64 {
        self.ledger().booked_mb()
    }

    /// So much memory, MiB, is not to be had for microVMs until this is told again: idle ones make room.
    pub fn withhold(self: &Arc<Self>, mb: u64) {
        self.change(|ledger| ledger.withhold(mb));
    }

    /// Every sandbox, oldest first; blanks are none yet.
    pub fn sandboxes(&self) -> Vec<SandboxInfo> {
        self.ledger().sandboxes()
    }

    /// Waits for a sandbox, as long as `caller` does not end.
    ///
    /// # Errors
    /// When there is none to be had, or not in time.
    pub async fn acquire(
        self: &Arc<Self>,
        key: &Key,
        ask: Ask,
        caller: &mut oneshot::Receiver<()>,
    ) -> Result<Granted, Refusal> {
        let began = Instant::now();
        loop {
            let mut released = std::pin::pin!(self.released.notified());
            released.as_mut().enable();
            let (call, verdict) = self.change(|ledger| ledger.arrive(key, ask)).ok_or(Refusal::Gone)?;
            let waiting = Waiting { pool: self, key, call };
            let verdict = tokio::select! {
                biased;
                verdict = verdict => verdict,
                _ = &mut *caller => return Err(Refusal::HungUp),
            };
            waiting.over();
            match verdict {
                Ok(Verdict::Hand { parked, birth, waited }) => {
                    // None: it died at the very same moment.
                    if let Some(Kept::Sandbox(sandbox)) = parked.take().await {
                        return Ok(Granted { sandbox, birth, waited });
                    }
                }
                Ok(Verdict::NoRoom) => {
                    if Instant::now() >= ask.deadline {
                        let waited_s = began.elapsed().as_secs();
                        return Err(Refusal::Expired {
                            bound: Bound::Memory,
                            waited_s,
                            retry_after: FRESH_STEP,
                        });
                    }
                    let _ = tokio::time::timeout(FRESH_STEP, released).await;
                }
                Ok(Verdict::Refuse(refusal)) => return Err(refusal),
                Err(_) => return Err(Refusal::Gone),
            }
        }
    }

    /// A sandbox came up: it waits for a call from now on.
    pub fn up(self: &Arc<Self>, sandbox: Sandbox, birth: Birth) {
        let id = sandbox.lease().id();
        sandbox.lease().name(sandbox.id(), sandbox.pid());
        let parked = parked::keep(self, Kept::Sandbox(Box::new(sandbox)));
        self.change(|ledger| ledger.up(id, parked, birth));
    }

    /// A sandbox has answered its call and can serve another.
    pub fn park(self: &Arc<Self>, sandbox: Sandbox) {
        let id = sandbox.lease().id();
        let parked = parked::keep(self, Kept::Sandbox(Box::new(sandbox)));
        self.change(|ledger| ledger.ended(id, parked));
    }

    /// What a start does after all: its snapshot was of no use. `None` when the function is gone.
    pub fn claim(self: &Arc<Self>, key: &Key, want: Want) -> Option<Task> {
        self.change(|ledger| ledger.claim(self, key, want, false))
    }

    /// The function's next start does without a base.
    pub fn unlayer(&self, key: &Key) {
        if let Some(entry) = self.ledger().entry_mut(key) {
            entry.unlayered = true;
        }
    }

    /// Whether this start is to do without a base, because one with it failed.
    pub fn starts_unlayered(&self, key: &Key) -> bool {
        self.ledger().entry_mut(key).is_some_and(|entry| std::mem::take(&mut entry.unlayered))
    }

    /// Whether the next call on a snapshot that is made now is to be recorded at any rate.
    pub fn records_next(&self, key: &Key) -> bool {
        self.ledger().entry(key).is_some_and(|entry| entry.record_next)
    }

    /// A sandbox was lost on its way back from its snapshot. True if that is not by chance.
    pub fn lost(&self, key: &Key) -> bool {
        self.ledger().entry_mut(key).is_some_and(entry::Entry::lost)
    }

    fn measured(self: &Arc<Self>, sandbox: SandboxId, private: u64) {
        self.change(|ledger| ledger.tell(Event::Measured { sandbox, private }));
    }
}

/// A call that waits: taken back if nobody waits for it any more.
struct Waiting<'a> {
    pool: &'a Arc<Pool>,
    key: &'a Key,
    call: CallId,
}

impl Waiting<'_> {
    /// It was answered.
    fn over(self) {
        std::mem::forget(self);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.pool.change(|ledger| ledger.cancel(self.key, self.call));
    }
}

/// Tells the scheduler when something is due.
async fn keep_time(pool: Arc<Pool>) {
    loop {
        let mut earlier = std::pin::pin!(pool.due.notified());
        earlier.as_mut().enable();
        let due = pool.ledger().arm();
        let sleep = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep => pool.change(|ledger| ledger.tell(Event::Timer)),
            () = earlier => {}
        }
    }
}

async fn put_away(idle: Vec<Parked>) -> usize {
    let mut count = 0;
    for one in idle {
        if let Some(kept) = one.take().await {
            kept.destroy().await;
            count += 1;
        }
    }
    count
}
