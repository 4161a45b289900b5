//! What all parts of hostd share: configuration, store, pool, logs.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use mote_api::Wishes;
use mote_sched::Limits;
use mote_store::{FunctionRecord, Store, StoreError};

use crate::bases::Bases;
use crate::boot::BootFacts;
use crate::bring_up;
use crate::census::meminfo;
use crate::config::Config;
use crate::function::{self, Settings};
use crate::loaders::Loaders;
use crate::logs::Logs;
use crate::network::Networks;
use crate::pool::{FunctionShape, Pool, Shape};
use crate::pressure;
use crate::snapshots;
use crate::text::chain;

/// The running service.
#[derive(Debug)]
pub struct Service {
    /// Configuration.
    pub config: Config,
    /// What init found.
    pub facts: BootFacts,
    /// Functions and snapshots.
    pub store: Store,
    /// Sandboxes.
    pub pool: Arc<Pool>,
    /// Tenants' networks.
    pub networks: Networks,
    /// What functions printed.
    pub logs: Logs,
    /// Bases being made.
    pub bases: Bases,
    /// Loading sets on their way into the page cache.
    pub loaders: Arc<Loaders>,
    /// Digest of the system image: a snapshot made by another is not restored.
    pub system: String,
    /// Packages unpacked at once: each is bound by the CPU and holds its zip.
    pub deploys: tokio::sync::Semaphore,
    /// Held from checking what functions may have reserved and provisioned until that is stored.
    pub shares: Arc<tokio::sync::Mutex<()>>,
    /// Held from reading a function's limits until the pool knows them.
    limiting: Mutex<()>,
}

/// Packages unpacked at once.
const DEPLOYS_AT_ONCE: usize = 2;

impl Service {
    /// Makes every stored function callable.
    pub fn new(
        config: Config,
        facts: BootFacts,
        store: Store,
        networks: Networks,
        system: String,
    ) -> Arc<Self> {
        let capacity_mb = (meminfo("MemTotal:") / 1024).saturating_sub(config.sandbox.memory_reserve_mb);
        let processors = std::thread::available_parallelism()
            .map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX));
        let (pool, orders) = Pool::new(Shape {
            scheduling: config.scheduling(),
            capacity_mb,
            max_sandboxes: config.sandbox.max_sandboxes,
            blanks: config.sandbox.blanks,
            starts: config.scheduling.starts_at_once(processors),
            reclaim_after: config.sandbox.reclaim_after(),
            tenants: config.network.shares(),
        });
        let service = Arc::new(Self {
            logs: Logs::new(config.log.function_lines),
            bases: Bases::default(),
            loaders: Arc::default(),
            deploys: tokio::sync::Semaphore::new(DEPLOYS_AT_ONCE),
            shares: Arc::default(),
            limiting: Mutex::default(),
            config,
            facts,
            store,
            pool,
            networks,
            system,
        });
        tokio::spawn(bring_up::serve_orders(Arc::clone(&service), orders));
        let reserve_mb = service.config.sandbox.memory_reserve_mb;
        tokio::spawn(pressure::watch(Arc::downgrade(&service.pool), capacity_mb, reserve_mb));
        // There from the start: what comes and goes below it is the sandboxes' own.
        let folder = service.config.paths.sandboxes();
        // What a hostd that crashed has left; its microVMs ended with it.
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(path = %folder.display(), %error, "Cannot clear the folder of the sandboxes");
            }
            _ => {}
        }
        if let Err(error) = std::fs::create_dir_all(&folder) {
            tracing::error!(path = %folder.display(), %error, "Cannot make the folder of the sandboxes");
        }
        match service.store.functions() {
            Ok(records) => records.iter().for_each(|record| service.register(record)),
            Err(error) => tracing::error!(error = %chain(&error), "Cannot read the functions"),
        }
        service
    }

    /// Makes the networks of tenants with functions, and that of functions without a tenant, before they are called.
    pub async fn prepare_networks(self: Arc<Self>) {
        let functions = self.store.functions().unwrap_or_default();
        let mut tenants: BTreeSet<String> =
            functions.iter().map(|record| self.settings(record).tenant).collect();
        tenants.insert(Wishes::default().tenant().to_owned());
        for tenant in tenants {
            self.networks.prepare(&tenant).await;
        }
    }

    /// Digest of everything a snapshot of this function depends on.
    pub fn fingerprint(&self, record: &FunctionRecord) -> String {
        function::fingerprint(record, &self.config, &self.system)
    }

    /// In which network this function runs, and how its snapshots are taken and restored.
    pub fn settings(&self, record: &FunctionRecord) -> Settings {
        Settings::of(record, &self.config)
    }

    /// Makes a function callable, from its snapshot if that fits.
    pub fn register(&self, record: &FunctionRecord) {
        let fingerprint = self.fingerprint(record);
        let key = function::key(record, &fingerprint);
        let snapshot = snapshots::usable(self, record, &fingerprint);
        let unrecorded = snapshot.as_ref().is_some_and(|snapshot| snapshot.record.paging.is_none());
        let record_due = unrecorded && self.settings(record).records;
        let tenant = self.settings(record).tenant;
        let _turn = self.limiting.lock().unwrap_or_else(PoisonError::into_inner);
        // They may have been changed since, by somebody who did not find it registered.
        let latest = self.store.function(&record.name).ok().flatten();
        let limits = self.limits(latest.as_ref().unwrap_or(record));
        let shape = FunctionShape { record: Arc::new(record.clone()), tenant, limits };
        self.pool.register(&key, shape, snapshot, record_due);
    }

    /// A function's limits hold as they are stored. Blocks.
    pub fn limit(&self, name: &str) {
        let _turn = self.limiting.lock().unwrap_or_else(PoisonError::into_inner);
        match self.store.function(name) {
            Ok(Some(record)) => {
                let key = function::key(&record, &self.fingerprint(&record));
                self.pool.limit(&key, self.limits(&record));
            }
            Ok(None) => {}
            Err(error) => tracing::error!(function = %name, error = %chain(&error), "Cannot read its limits"),
        }
    }

    /// How much of a function there may be at once. What is reserved is both: kept for it, and all it may have.
    fn limits(&self, record: &FunctionRecord) -> Limits {
        let reserved = record.config.reserved_concurrency;
        Limits {
            concurrency: reserved.unwrap_or(Limits::default().concurrency),
            reserved: reserved.unwrap_or(0),
            provisioned: record.config.provisioned_concurrency.unwrap_or(0),
            max_queue: self.config.scheduling.max_queue_function,
        }
    }

    /// A function is another from now on.
    pub async fn replace(&self, before: &FunctionRecord, record: &FunctionRecord) {
        self.register(record);
        if self.fingerprint(before) != self.fingerprint(record) {
            self.forget(before).await;
        }
    }

    /// Forgets how the function was; its idle sandboxes are put away.
    pub async fn forget(&self, record: &FunctionRecord) {
        self.pool.forget(&function::key(record, &self.fingerprint(record))).await;
    }

    /// Makes room on the data disk by removing snapshots, never one of `keep`; their functions boot cold at the
    /// next call. Blocks.
    ///
    /// # Errors
    /// As the store says.
    fn evict(&self, bytes: u64, keep: &str) -> Result<(), StoreError> {
        let keep = std::iter::once(keep.to_owned()).collect();
        for name in self.store.evict(bytes, &keep)? {
            if let Some(record) = self.store.function(&name)? {
                self.pool.forget_snapshot(&function::key(&record, &self.fingerprint(&record)), None);
                tracing::info!(function = %name, "Snapshot removed to make room");
            }
        }
        Ok(())
    }

    /// Prepares something of about `bytes` on the data disk with `stage`, with room made by [`Self::evict`] if need
    /// be. Blocks.
    ///
    /// # Errors
    /// As the store says.
    pub fn stage<T>(
        &self,
        bytes: u64,
        keep: &str,
        stage: impl Fn(&Store, u64) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match stage(&self.store, bytes) {
            Err(StoreError::NoSpace { .. }) => {
                self.evict(bytes, keep)?;
                stage(&self.store, bytes)
            }
            staged => staged,
        }
    }

    /// A function's record. An unreadable one counts as absent and is logged.
    pub async fn look_up(&self, name: &str) -> Option<FunctionRecord> {
        let (store, name) = (self.store.clone(), name.to_owned());
        blocking(move || store.function(&name)).await.unwrap_or_else(|error| {
            tracing::error!(error = %chain(&error), "Cannot read a function");
            None
        })
    }
}

/// Runs blocking work off the event loop. The work is never cancelled; a panic in it goes on here.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime cancels blocking work only while it is being dropped: nobody is left to be answered.
            Err(_) => std::future::pending().await,
        },
    }
}
