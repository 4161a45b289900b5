//! Bringing sandboxes up, as the pool orders: from a snapshot, from a base, from nothing; and what is tried when one is
//! lost on the way.

use std::sync::Arc;
use std::time::Instant;

use mote_api::RestoreMode;
use mote_snapshot::WORKING_FILE;
use mote_store::FunctionRecord;
use tokio::sync::mpsc;

use crate::bases;
use crate::function;
use crate::logs::{FunctionLog, Tail};
use crate::network::JoinError;
use crate::phases::Phases;
use crate::pool::{Birth, Build, Kept, Key, Lease, Order, Origin, Recording, Snapshot, Task, Want};
use crate::record::Recorded;
use crate::sandbox::{self, Blank, Restoring, Sandbox, Snapshotting, StartError, StartSpec};
use crate::service::Service;
use crate::snapshots::{self, Written};
use crate::text::chain;

/// How often a start waits for a place in the tenant's network.
const PLACE_ATTEMPTS: usize = 4;

/// Why a function's sandbox did not come up.
#[derive(Debug, thiserror::Error)]
pub enum StartFailure {
    /// The function's own initialisation failed; the body is its error object.
    #[error("The function's initialisation failed")]
    Init(Vec<u8>),
    /// It did not end in time.
    #[error("Initialisation timed out after {seconds} s")]
    InitTimeout {
        /// The bound.
        seconds: u64,
    },
    /// No place in the tenant's network.
    #[error(transparent)]
    Network(JoinError),
    /// Not by the function's fault.
    #[error("The function's sandbox did not start")]
    Start(#[source] StartError),
    /// The same, from its base.
    #[error("The function's sandbox did not start from its base")]
    Base(#[source] StartError),
    /// It did not come back from its snapshot.
    #[error("The function's sandbox did not come back from its snapshot")]
    Restore(#[source] StartError),
}

impl StartFailure {
    /// Whether another attempt would end likewise.
    pub fn is_fatal(&self) -> bool {
        matches!(
            self,
            Self::Init(_)
                | Self::InitTimeout { .. }
                | Self::Network(JoinError::Unknown { .. })
                | Self::Start(StartError::BootTimeout { .. })
        )
    }

    /// Name of the phase a call lost by it.
    pub fn lap(&self) -> &'static str {
        match self {
            Self::Init(_) | Self::InitTimeout { .. } => "failed-init",
            Self::Network(_) => "failed-network",
            Self::Start(_) => "failed-boot",
            Self::Base(_) => "failed-base",
            Self::Restore(_) => "failed-restore",
        }
    }
}

/// Brings up what is ordered, each in a task of its own.
pub async fn serve_orders(service: Arc<Service>, mut orders: mpsc::UnboundedReceiver<Order>) {
    while let Some(order) = orders.recv().await {
        tokio::spawn(bring_up(Arc::clone(&service), order));
    }
}

async fn bring_up(service: Arc<Service>, order: Order) {
    let Order { lease, function, task, want, blank } = order;
    let (lease, blank) = match (lease, blank) {
        (Some(lease), _) => (lease, None),
        (None, Some(parked)) => match parked.take().await {
            Some(Kept::Blank(blank, lease)) => (lease, Some(*blank)),
            // It died at the very same moment, and has reported that.
            _ => return,
        },
        (None, None) => return,
    };
    let (Some((key, record)), Some(task)) = (function, task) else {
        let (run, vcpus) = (service.config.paths.sandboxes(), service.config.sandbox.vcpus);
        service.pool.bring_up_blank(lease, &run, vcpus).await;
        return;
    };
    let began = Instant::now();
    // Until the end of this: what a start that failed was about is told before it is reported.
    let report = lease.report();
    let spec = function::start_spec(&record, &service.config, &service.store);
    let start = Start {
        service: &service,
        key: &key,
        record: &record,
        spec: &spec,
        log: service.logs.of(&record.name),
        phases: Phases::start(),
        tail: Tail::default(),
        blank,
        build: None,
    };
    let (ended, build) = start.run(lease, task, want).await;
    if let Err(failure) = ended {
        tracing::warn!(function = %record.name, error = %chain(&failure), "No sandbox");
        report.fail(&key, failure, began.elapsed());
    }
    drop(report);
    // Last: with it given up, the calls that wait may have another start.
    drop(build);
}

/// One start under way.
struct Start<'a> {
    service: &'a Arc<Service>,
    key: &'a Key,
    record: &'a FunctionRecord,
    spec: &'a StartSpec,
    log: Arc<FunctionLog>,
    phases: Phases,
    tail: Tail,
    /// What it comes up in.
    blank: Option<Blank>,
    /// The duty to make the snapshot.
    build: Option<Build>,
}

impl Start<'_> {
    async fn run(
        mut self,
        lease: Lease,
        task: Task,
        want: Want,
    ) -> (Result<(), StartFailure>, Option<Build>) {
        let ended = match self.task(lease, task, want).await {
            Ok(Some((sandbox, origin))) => {
                let birth = Birth { origin, laps: self.phases.into_laps(), tail: self.tail.into_bytes() };
                self.service.pool.up(sandbox, birth);
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(failure) => Err(failure),
        };
        (ended, self.build)
    }

    /// `None`: nobody wants the sandbox any more.
    async fn task(
        &mut self,
        lease: Lease,
        task: Task,
        want: Want,
    ) -> Result<Option<(Sandbox, Origin)>, StartFailure> {
        let mut lease = self.place(lease).await.map_err(StartFailure::Network)?;
        let mut task = Some(task);
        loop {
            match task {
                None => return Ok(None),
                Some(Task::Restore(snapshot, recording, mode)) => {
                    match self.sound(lease, &snapshot).await {
                        Ok(lease) => return self.restore(lease, snapshot, recording, mode).await.map(Some),
                        Err(unused) => lease = unused,
                    }
                    task = self.service.pool.claim(self.key, want);
                }
                Some(Task::Cold(build)) => {
                    self.build = build;
                    return self.boot(lease).await.map(Some);
                }
            }
        }
    }

    /// It is to have a place in its tenant's network, an idle one's if there is no other.
    async fn place(&mut self, mut lease: Lease) -> Result<Lease, JoinError> {
        let service = self.service;
        let tenant = service.settings(self.record).tenant;
        let mut attempts = PLACE_ATTEMPTS;
        let place = loop {
            match service.networks.join(&tenant).await {
                Ok(place) => break place,
                Err(error @ JoinError::Unknown { .. }) => return Err(error),
                Err(error) => {
                    attempts -= 1;
                    if attempts == 0 || !service.pool.make_room(&tenant).await {
                        return Err(error);
                    }
                    if matches!(error, JoinError::Full { .. }) {
                        tokio::time::sleep(service.networks.quarantine()).await;
                    }
                }
            }
        };
        if let Some(place) = place {
            lease.occupy(place);
        }
        Ok(lease)
    }

    /// Verifies a snapshot at its first use; the lease comes back as an error when the snapshot is damaged and was given
    /// up.
    async fn sound(&mut self, lease: Lease, snapshot: &Arc<Snapshot>) -> Result<Lease, Lease> {
        match snapshots::verify_once(self.service, snapshot, &mut self.phases).await {
            Ok(()) => Ok(lease),
            Err(problem) => {
                tracing::warn!(function = %self.record.name, problem, "Snapshot is damaged: rebuilding it");
                snapshots::give_up(self.service, self.key, snapshot).await;
                Err(lease)
            }
        }
    }

    async fn restore(
        &mut self,
        lease: Lease,
        snapshot: Arc<Snapshot>,
        recording: Option<Recording>,
        mode: Option<RestoreMode>,
    ) -> Result<(Sandbox, Origin), StartFailure> {
        let (service, spec) = (self.service, self.spec);
        let watch = match recording {
            Some(recording) => snapshots::watch(&snapshot).await.map(|watch| (watch, recording)),
            None => None,
        };
        let mode = mode.unwrap_or_else(|| service.settings(self.record).mode);
        // Without a recorded call there is nothing to restore by but the memory file itself.
        let recorded = match mode {
            RestoreMode::Reap => snapshot.record.files.contains_key(WORKING_FILE),
            _ => snapshot.record.paging.is_some(),
        };
        let mode = if recorded { mode } else { RestoreMode::Lazy };
        snapshots::prepare(service, &snapshot, mode, &mut self.phases).await;
        let base = snapshot.base.as_ref().map(|base| base.dir.as_path());
        let restoring = Restoring { snapshot: &snapshot.dir, base, mode, record: watch.is_some() };
        let log = Arc::clone(&self.log);
        let blank = self.blank.take();
        match sandbox::restore(spec, blank, restoring, log, lease, &mut self.phases).await {
            Ok(sandbox) => {
                service.store.touch_snapshot(&snapshot.record);
                let tape = watch.map(|(watch, recording)| {
                    watch.of(sandbox.pid());
                    Recorded { snapshot: Arc::clone(&snapshot), watch, recording }
                });
                Ok((sandbox, Origin::Restored(snapshot, tape)))
            }
            Err(error) => {
                let misfit = matches!(error, StartError::Incompatible(_));
                if misfit || service.pool.lost(self.key) {
                    tracing::warn!(function = %self.record.name, misfit, "Snapshot is of no use: rebuilding it");
                    snapshots::give_up(service, self.key, &snapshot).await;
                }
                Err(StartFailure::Restore(error))
            }
        }
    }

    async fn boot(&mut self, lease: Lease) -> Result<(Sandbox, Origin), StartFailure> {
        let (service, record, spec) = (self.service, self.record, self.spec);
        let base = match service.pool.starts_unlayered(self.key) {
            true => None,
            false => {
                bases::obtain(service, record, spec, &mut self.phases).await.map_err(StartFailure::Start)?
            }
        };
        let (log, phases, tail) = (Arc::clone(&self.log), &mut self.phases, &mut self.tail);
        let blank = self.blank.take();
        let cold = match &base {
            Some(base) => sandbox::cold_from_base(spec, blank, &base.dir, log, lease, phases, tail).await,
            None => sandbox::cold(spec, blank, log, lease, phases, tail).await,
        };
        let cold = match cold {
            Ok(cold) => cold,
            Err(StartError::Init { body }) => return Err(StartFailure::Init(body)),
            Err(StartError::InitTimeout { seconds }) => return Err(StartFailure::InitTimeout { seconds }),
            Err(error) => {
                let Some(base) = base else { return Err(StartFailure::Start(error)) };
                if let StartError::Incompatible(_) = &error {
                    bases::give_up(service, &base.reference).await;
                }
                // The next attempt does without.
                service.pool.unlayer(self.key);
                return Err(StartFailure::Base(error));
            }
        };
        let staged = match &self.build {
            Some(_) => snapshots::stage(service, record).await,
            None => None,
        };
        let into = staged.as_ref().map_or(Snapshotting::No, |staged| Snapshotting::Into(staged.path()));
        let resumed = sandbox::resume(cold, spec, into, &mut self.phases).await;
        let (sandbox, written) = resumed.map_err(StartFailure::Start)?;
        if let (Some(build), Some(staged)) = (self.build.take(), staged) {
            match written {
                Ok(memory_checksum) => {
                    let recording = service.pool.records_next(self.key) || service.settings(record).records;
                    let written = Written { memory_checksum, base: base.map(|base| base.reference) };
                    snapshots::commit(service, record, written, staged, build, recording);
                }
                Err(error) => {
                    tracing::warn!(function = %record.name, error = %chain(&error), "No snapshot could be written");
                }
            }
        }
        Ok((sandbox, Origin::Cold))
    }
}
