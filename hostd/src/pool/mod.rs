//! The sandboxes that are alive: leases on memory, idle sandboxes and their end, calls that wait their turn.

mod book;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mote_store::SnapshotRecord;
use serde::Serialize;
use tokio::sync::{Notify, oneshot};

use book::{Book, Decision};
pub use book::{Key, Want};

use crate::bases::Base;
use crate::network::Place;
use crate::sandbox::Sandbox;

/// What a monitor process needs beside the guest's memory, MiB.
const MONITOR_OVERHEAD_MB: u64 = 8;

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

/// Books `memory_mb` of the machine, and a place in the tenant's network, until dropped.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    memory_mb: u64,
    number: u64,
    place: Option<Place>,
}

/// One sandbox as operators see it.
#[derive(Debug, Clone, Serialize)]
pub struct SandboxInfo {
    /// Its name, once it runs: the end of its host name.
    pub id: Option<String>,
    /// Function and a digest of its code and configuration.
    pub function: String,
    /// `starting`, `busy` or `idle`.
    pub state: &'static str,
    /// Memory booked for it, MiB.
    pub memory_mb: u64,
    /// Seconds since it was asked for.
    pub age_s: u64,
    /// Process id of its monitor, once it runs.
    pub pid: Option<u32>,
    /// Whose it is, if it is in a network.
    pub tenant: Option<String>,
    /// Its address there.
    pub v4: Option<Ipv4Addr>,
    /// The same, IPv6.
    pub v6: Option<Ipv6Addr>,
    #[serde(skip)]
    since: Instant,
}

impl Lease {
    fn note(&self, change: impl FnOnce(&mut SandboxInfo)) {
        if let Some(info) = self.pool.leases().get_mut(&self.number) {
            change(info);
        }
    }

    /// Keeps a place in the network with it.
    pub fn occupy(&mut self, place: Place) {
        let addresses = place.addresses();
        self.note(|info| {
            info.tenant = Some(place.tenant().to_owned());
            info.v4 = Some(addresses.v4);
            info.v6 = Some(addresses.v6);
        });
        self.place = Some(place);
    }

    /// The sandbox is up: it is found by its function's name.
    pub fn announce(&mut self, function: &str) {
        if let Some(place) = &mut self.place {
            place.announce(function);
        }
    }

    /// The place in the network.
    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// The sandbox serves a call.
    pub fn busy(&self, id: &str, pid: Option<u32>) {
        self.note(|info| {
            info.id = Some(id.to_owned());
            info.state = "busy";
            info.pid = pid;
        });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.leases().remove(&self.number);
        self.pool.book().released(self.memory_mb);
        self.pool.changed.notify_waiters();
    }
}

/// The duty to make a function's snapshot; given up when dropped.
#[derive(Debug)]
pub struct Build {
    pool: Arc<Pool>,
    key: Key,
    open: bool,
}

impl Build {
    /// The snapshot is there. False when the function is gone meanwhile.
    /// `record`: a call on it is still to be recorded.
    pub fn done(mut self, snapshot: Snapshot, record: bool) -> bool {
        self.open = false;
        let wanted = self.pool.book().built(&self.key, Arc::new(snapshot), record);
        self.pool.changed.notify_waiters();
        wanted
    }

    /// The snapshot is there, and who made it records a call on it. `None` when the function is gone meanwhile.
    pub fn done_to_record(mut self, snapshot: Snapshot) -> Option<Recording> {
        self.open = false;
        // In one step: no call must come between.
        let claimed = {
            let mut book = self.pool.book();
            book.built(&self.key, Arc::new(snapshot), true) && book.claim_recording(&self.key)
        };
        self.pool.changed.notify_waiters();
        claimed.then(|| Recording { pool: Arc::clone(&self.pool), key: Arc::clone(&self.key), open: true })
    }

    /// The function cannot be initialised; calls that wait for its snapshot fail likewise.
    pub fn failed(mut self, reason: Arc<str>) {
        self.open = false;
        self.pool.book().build_failed(&self.key, Instant::now(), Some(reason));
        self.pool.changed.notify_waiters();
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        if self.open {
            self.pool.book().build_failed(&self.key, Instant::now(), None);
            self.pool.changed.notify_waiters();
        }
    }
}

/// The duty to record a call; given up when dropped.
#[derive(Debug)]
pub struct Recording {
    pool: Arc<Pool>,
    key: Key,
    open: bool,
}

impl Recording {
    /// The recorded snapshot is there. False when the function is gone meanwhile.
    pub fn done(mut self, snapshot: Snapshot) -> bool {
        self.open = false;
        self.pool.book().built(&self.key, Arc::new(snapshot), false)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if self.open {
            self.pool.book().recording_failed(&self.key);
        }
    }
}

/// How a call is to be served.
#[derive(Debug)]
pub enum Grant {
    /// By this sandbox.
    Warm(Box<Sandbox>),
    /// By restoring this snapshot, perhaps with the duty to record the call.
    Restore(Lease, Arc<Snapshot>, Option<Recording>),
    /// By a cold boot, perhaps with the duty to make the snapshot.
    Cold(Lease, Option<Build>),
}

/// Why a call cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Nothing became free in time.
    #[error("All memory for functions is in use and none became free within {0} s; try again later")]
    Busy(u64),
    /// The function needs more than the machine can ever give.
    #[error(
        "The function needs {needed_mb} MiB, this machine can give {capacity_mb} MiB; lower its MemorySize"
    )]
    TooBig {
        /// Memory of the function and its monitor.
        needed_mb: u64,
        /// What there is.
        capacity_mb: u64,
    },
    /// The snapshot this call waited for failed; the text is the error object of the initialisation.
    #[error("Initialisation failed")]
    Failed(Arc<str>),
    /// Changed or deleted meanwhile: look the function up again.
    #[error("The function was changed meanwhile")]
    Gone,
}

/// An idle sandbox lives in a task of its own, which watches it; this takes it out of there.
#[derive(Debug)]
struct Idle {
    /// Whose it is, if it is in a network.
    tenant: Option<String>,
    reclaim: oneshot::Sender<oneshot::Sender<Sandbox>>,
}

impl Idle {
    /// `None` when it died or was put away meanwhile.
    async fn take(self) -> Option<Sandbox> {
        let (give, taken) = oneshot::channel();
        self.reclaim.send(give).ok()?;
        taken.await.ok()
    }
}

/// All sandboxes of this machine.
#[derive(Debug)]
pub struct Pool {
    book: Mutex<Book<Idle, Arc<Snapshot>>>,
    leases: Mutex<BTreeMap<u64, SandboxInfo>>,
    leased: AtomicU64,
    changed: Notify,
    idle_timeout: Duration,
}

impl Pool {
    /// A pool that gives at most `capacity_mb` MiB to at most `max_sandboxes` microVMs.
    pub fn new(capacity_mb: u64, max_sandboxes: usize, idle_timeout: Duration) -> Arc<Self> {
        let book = Mutex::new(Book::new(capacity_mb, max_sandboxes));
        Arc::new(Self {
            book,
            leases: Mutex::default(),
            leased: AtomicU64::new(0),
            changed: Notify::new(),
            idle_timeout,
        })
    }

    fn leases(&self) -> MutexGuard<'_, BTreeMap<u64, SandboxInfo>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lease(self: &Arc<Self>, key: &Key, memory_mb: u64) -> Lease {
        let number = self.leased.fetch_add(1, Ordering::Relaxed);
        let info = SandboxInfo {
            id: None,
            function: key.to_string(),
            state: "starting",
            memory_mb,
            age_s: 0,
            pid: None,
            tenant: None,
            v4: None,
            v6: None,
            since: Instant::now(),
        };
        self.leases().insert(number, info);
        Lease { pool: Arc::clone(self), memory_mb, number, place: None }
    }

    /// Every sandbox, oldest first.
    pub fn sandboxes(&self) -> Vec<SandboxInfo> {
        let mut all: Vec<SandboxInfo> = self.leases().values().cloned().collect();
        for info in &mut all {
            info.age_s = info.since.elapsed().as_secs();
        }
        all
    }

    fn book(&self) -> MutexGuard<'_, Book<Idle, Arc<Snapshot>>> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a function callable.
    /// `record`: a call on its snapshot is still to be recorded.
    pub fn register(&self, key: &Key, snapshot: Option<Snapshot>, record: bool) {
        self.book().register(key, snapshot.map(Arc::new), record);
    }

    /// The snapshot of a function, if it can be restored.
    pub fn snapshot(&self, key: &Key) -> Option<Arc<Snapshot>> {
        self.book().snapshot(key)
    }

    /// Forgets a function and puts its idle sandboxes away. Busy ones end with their call.
    pub async fn forget(&self, key: &Key) {
        let idle = self.book().forget(key);
        self.changed.notify_waiters();
        put_away(idle).await;
    }

    /// Puts all idle sandboxes away; how many there were.
    pub async fn evict_all(&self) -> usize {
        let idle = self.book().unpark_all(None);
        put_away(idle).await
    }

    /// Puts the longest idle sandbox of a tenant away; false if there is none.
    pub async fn make_room(&self, tenant: &str) -> bool {
        let idle = self.book().least_recently_used(|idle| idle.tenant.as_deref() == Some(tenant));
        put_away(idle.into_iter().collect()).await > 0
    }

    /// The snapshot in folder `dir` (any, if `None`) turned out to be of no use: the next call makes another.
    pub fn forget_snapshot(&self, key: &Key, dir: Option<&Path>) {
        self.book().forget_snapshot(key, |snapshot| dir.is_none_or(|dir| snapshot.dir == dir));
        self.changed.notify_waiters();
    }

    /// (sandboxes alive, of them idle, memory given in MiB, memory that can be given in MiB)
    pub fn usage(&self) -> (usize, usize, u64, u64) {
        self.book().usage()
    }

    /// Waits for the right to be served.
    ///
    /// # Errors
    /// When that cannot be, or not within `patience`.
    pub async fn acquire(
        self: &Arc<Self>,
        key: &Key,
        guest_mb: u32,
        want: Want,
        patience: Duration,
    ) -> Result<Grant, Refusal> {
        let arrived = Instant::now();
        let deadline = arrived + patience;
        let memory_mb = u64::from(guest_mb) + MONITOR_OVERHEAD_MB;
        loop {
            // Listening before looking: a change between the two is not missed.
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let decision = self.book().decide(key, memory_mb, want, arrived);
            let lease = || self.lease(key, memory_mb);
            match decision {
                Decision::Warm(idle) => {
                    if let Some(sandbox) = idle.take().await {
                        return Ok(Grant::Warm(Box::new(sandbox)));
                    }
                }
                Decision::Evict(idle) => {
                    put_away(vec![idle]).await;
                }
                Decision::Restore { snapshot, record } => {
                    let recording = record.then(|| Recording {
                        pool: Arc::clone(self),
                        key: Arc::clone(key),
                        open: true,
                    });
                    return Ok(Grant::Restore(lease(), snapshot, recording));
                }
                Decision::Cold { build } => {
                    let lease = lease();
                    let build =
                        build.then(|| Build { pool: Arc::clone(self), key: Arc::clone(key), open: true });
                    return Ok(Grant::Cold(lease, build));
                }
                Decision::Wait => {
                    if tokio::time::timeout_at(deadline.into(), changed).await.is_err() {
                        return Err(Refusal::Busy(patience.as_secs()));
                    }
                }
                Decision::TooBig { capacity_mb } => {
                    return Err(Refusal::TooBig { needed_mb: memory_mb, capacity_mb });
                }
                Decision::Failed(reason) => return Err(Refusal::Failed(reason)),
                Decision::Gone => return Err(Refusal::Gone),
            }
        }
    }

    /// Keeps a sandbox for the next call: until one takes it, it dies, or its time is up.
    pub fn park(self: &Arc<Self>, key: &Key, mut sandbox: Sandbox) {
        sandbox.lease().note(|info| info.state = "idle");
        let (reclaim, mut reclaimed) = oneshot::channel();
        let tenant = sandbox.lease().place().map(|place| place.tenant().to_owned());
        let parked = self.book().park(key, Instant::now(), Idle { tenant, reclaim });
        self.changed.notify_waiters();
        let (pool, key) = (Arc::clone(self), Arc::clone(key));
        tokio::spawn(async move {
            let Some(id) = parked else { return sandbox.destroy().await };
            let alive = tokio::select! {
                biased;
                claim = &mut reclaimed => return hand_over(claim, sandbox).await,
                () = sandbox.idle() => false,
                () = tokio::time::sleep(pool.idle_timeout) => true,
            };
            let ours = pool.book().unpark(&key, id).is_some();
            if alive && !ours {
                // A call took it at the very same moment.
                hand_over(reclaimed.await, sandbox).await;
            } else {
                sandbox.destroy().await;
            }
        });
    }
}

async fn hand_over(claim: Result<oneshot::Sender<Sandbox>, oneshot::error::RecvError>, sandbox: Sandbox) {
    let unwanted = match claim {
        Ok(give) => give.send(sandbox).err(),
        Err(_) => Some(sandbox),
    };
    if let Some(sandbox) = unwanted {
        sandbox.destroy().await;
    }
}

async fn put_away(idle: Vec<Idle>) -> usize {
    let mut count = 0;
    for one in idle {
        if let Some(sandbox) = one.take().await {
            sandbox.destroy().await;
            count += 1;
        }
    }
    count
}
