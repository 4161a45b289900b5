//! What a sandbox has booked, and what is known of it while it has.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use mote_sched::config::MIB;
use mote_sched::{SandboxId, SandboxView, State};
use serde::Serialize;

use super::{Key, Pool};
use crate::bring_up::StartFailure;
use crate::network::Place;

/// Books memory of the machine, and a place in the tenant's network, until dropped.
#[derive(Debug)]
pub struct Lease {
    // Before the report: a place is free again when the scheduler hears of it.
    place: Option<Place>,
    report: Arc<Report>,
}

/// Tells the scheduler that the sandbox is gone, when nobody holds it any more.
#[derive(Debug)]
pub struct Report {
    pool: Arc<Pool>,
    id: SandboxId,
    /// It did not come up; whether another attempt is of no use.
    failed: OnceLock<bool>,
}

/// One sandbox as operators see it.
#[derive(Debug, Clone, Serialize)]
pub struct SandboxInfo {
    /// Its name, once it runs: the end of its host name.
    pub id: Option<String>,
    /// Function and a digest of its code and configuration.
    pub function: String,
    /// `starting`, `busy`, `idle` or `ending`.
    pub state: &'static str,
    /// Memory booked for it, MiB.
    pub memory_mb: u64,
    /// Seconds since it was asked for.
    pub age_s: u64,
    /// Process id of its monitor, once it runs.
    pub pid: Option<u32>,
    /// Whose it is.
    pub tenant: Option<String>,
    /// Its address in the tenant's network, if it is in one.
    pub v4: Option<Ipv4Addr>,
    /// The same, IPv6.
    pub v6: Option<Ipv6Addr>,
    /// One of those that are always to be there.
    pub provisioned: bool,
    #[serde(skip)]
    since: Instant,
}

impl SandboxInfo {
    pub(super) fn new(function: String, tenant: Option<String>, memory_mb: u64) -> Self {
        Self {
            id: None,
            function,
            state: "starting",
            memory_mb,
            age_s: 0,
            pid: None,
            tenant,
            v4: None,
            v6: None,
            provisioned: false,
            since: Instant::now(),
        }
    }

    /// With what the scheduler knows of it.
    pub(super) fn seen(&self, view: Option<&SandboxView>) -> Self {
        let state = match view.map(|view| view.state) {
            Some(State::Blank | State::Restoring) => "starting",
            Some(State::Ready | State::Idle) => "idle",
            Some(State::Busy) => "busy",
            Some(State::Draining | State::Dead) | None => "ending",
        };
        Self {
            state,
            memory_mb: view.map_or(self.memory_mb, |view| view.booked.div_ceil(MIB)),
            age_s: self.since.elapsed().as_secs(),
            provisioned: view.is_some_and(|view| view.pinned),
            ..self.clone()
        }
    }

    pub(super) fn age(&self) -> Duration {
        self.since.elapsed()
    }
}

impl Lease {
    pub(super) fn new(pool: &Arc<Pool>, id: SandboxId) -> Self {
        let report = Report { pool: Arc::clone(pool), id, failed: OnceLock::new() };
        Self { place: None, report: Arc::new(report) }
    }

    pub(super) fn id(&self) -> SandboxId {
        self.report.id
    }

    fn note(&self, change: impl FnOnce(&mut SandboxInfo)) {
        self.report.pool.ledger().note(self.report.id, change);
    }

    /// Keeps a place in the network with it.
    pub fn occupy(&mut self, place: Place) {
        let addresses = place.addresses();
        self.note(|info| {
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

    /// What it is in is known by this name and runs in this process.
    pub fn name(&self, id: &str, pid: Option<u32>) {
        self.note(|info| {
            info.id = Some(id.to_owned());
            info.pid = pid;
        });
    }

    /// What reports its end, to be held until that can be told.
    pub fn report(&self) -> Arc<Report> {
        Arc::clone(&self.report)
    }
}

impl Report {
    /// It was a blank, and could not be made: the next is tried a little later.
    pub(super) fn failed_blank(&self) {
        let _ = self.failed.set(false);
    }

    /// The sandbox did not come up, after `took`: calls that wait for it are told why if no other attempt succeeds.
    pub fn fail(&self, key: &Key, failure: StartFailure, took: Duration) {
        let _ = self.failed.set(failure.is_fatal());
        self.pool.ledger().failed(key, Arc::new(failure), took);
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let (id, failed) = (self.id, self.failed.get().copied());
        let slot = self.pool.change(|ledger| ledger.gone(id, failed));
        drop(slot);
    }
}
