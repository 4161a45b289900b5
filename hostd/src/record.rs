//! Recording a call on a snapshot (FaaSnap, Fig. 5.5): the working set while it runs, then the warm snapshot and the
//! files for its quick restore.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use mote_snapshot::working_set::GROUP_PAGES;
use mote_snapshot::{
    BuildError, BuildOptions, Built, INHERITED_FILE, MEMORY_FILE, RecordError, Recorder, WorkingSet, build,
};
use mote_store::{FunctionRecord, NewSnapshot, PagingRecord, SnapshotKind, StagedDir, StoreError};

use crate::bases::Base;
use crate::phases::Phases;
use crate::pool::{Recording, Snapshot};
use crate::sandbox::{self, Sandbox, Snapshotting, StartError, StartSpec};
use crate::service::{Service, blocking};
use crate::snapshots;

/// How often the growth of the guest's resident memory is looked at.
const STEP: Duration = Duration::from_millis(5);

/// Name of the state file in a snapshot's folder.
const STATE_FILE: &str = mote_monitor::snapshot::STATE_FILE;

/// Why a call could not be recorded. The call itself is none the worse.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The page cache cannot be watched.
    #[error("Cannot watch the memory file")]
    Watch(#[source] RecordError),
    /// The thread that watches.
    #[error("Cannot watch the memory file in a thread of its own")]
    Thread(#[source] std::io::Error),
    /// The thread broke.
    #[error("The thread that watched the memory file broke")]
    Lost,
    /// The sandbox did not settle or go on.
    #[error("The sandbox did not take its snapshot")]
    Sandbox(#[source] StartError),
    /// The monitor did not write it.
    #[error("The recorded snapshot could not be written")]
    Snapshot(#[source] crate::sandbox::MonitorError),
    /// No room.
    #[error("There is no room for the recorded snapshot")]
    NoRoom,
    /// Its files cannot be made.
    #[error("The files for its quick restore could not be made")]
    Build(#[source] BuildError),
    /// A file of the clean snapshot cannot be taken over.
    #[error("Cannot take over {path}")]
    Link {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The store.
    #[error("The recorded snapshot could not be stored")]
    Store(#[source] StoreError),
}

/// Watches a memory file while a microVM restored from it serves a call. Ends when dropped.
#[derive(Debug)]
pub struct Watch {
    pid: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<WorkingSet, RecordError>>>,
}

impl Watch {
    /// Begins to watch the memory of the snapshot in `dir`, layered over that in `base`. What of it is in the page cache
    /// counts as used from the start; the monitor's own record tells which of it the guest really touched.
    ///
    /// # Errors
    /// When it cannot be watched.
    pub fn start(dir: &Path, base: Option<&Path>) -> Result<Self, RecordingError> {
        let recorder = match base {
            None => Recorder::new(&dir.join(MEMORY_FILE)),
            Some(base) => Recorder::layered(dir, base),
        };
        let recorder = recorder.map_err(RecordingError::Watch)?;
        let (pid, stop) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let (watched, told) = (Arc::clone(&pid), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("record".to_owned())
            .spawn(move || watch(recorder, &watched, &told))
            .map_err(RecordingError::Thread)?;
        Ok(Self { pid, stop, thread: Some(thread) })
    }

    /// Tells whose memory it is.
    pub fn of(&self, pid: Option<u32>) {
        self.pid.store(pid.unwrap_or(0), Ordering::Relaxed);
    }

    /// Looks once more and says what was used. Blocks for a moment.
    fn finish(mut self) -> Result<WorkingSet, RecordingError> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().ok_or(RecordingError::Lost)?;
        thread.join().map_err(|_| RecordingError::Lost)?.map_err(RecordingError::Watch)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The thread sees it within a step and ends by itself; nobody waits for what it found.
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Looks whenever the guest's resident memory has grown by a group (section 5.4), and at the end.
fn watch(mut recorder: Recorder, pid: &AtomicU32, stop: &AtomicBool) -> Result<WorkingSet, RecordError> {
    let mut seen = 0;
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(STEP);
        let resident = resident_pages(pid.load(Ordering::Relaxed));
        if resident >= seen + GROUP_PAGES {
            recorder.poll()?;
            seen = resident;
        }
    }
    recorder.poll()?;
    Ok(recorder.finish())
}

fn resident_pages(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    text.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0)
}

/// A recorded call whose sandbox has answered.
#[derive(Debug)]
pub struct Recorded {
    /// What it was restored from.
    pub snapshot: Arc<Snapshot>,
    /// What watched it.
    pub watch: Watch,
    /// The duty.
    pub recording: Recording,
}

/// What a recorded call used, and the folder its snapshot is made in.
#[derive(Debug)]
pub struct Used {
    snapshot: Arc<Snapshot>,
    recording: Recording,
    set: WorkingSet,
    staged: StagedDir,
    working: bool,
}

/// Ends the recording of a call: what comes after it is no part of its working set. A few milliseconds. `working`: the
/// working-set file is wanted as well, which only the mode `reap` reads.
///
/// # Errors
/// When it was not recorded, or there is no room for what is made of it. The sandbox is none the worse.
pub async fn end(
    service: &Arc<Service>,
    function: &FunctionRecord,
    sandbox: &mut Sandbox,
    recorded: Recorded,
    working: bool,
) -> Result<Used, RecordingError> {
    let Recorded { snapshot, watch, recording } = recorded;
    let set = blocking(move || watch.finish()).await?;
    let staged = snapshots::stage(service, function).await.ok_or(RecordingError::NoRoom)?;
    if service.settings(function).kind == SnapshotKind::Init {
        sandbox.touched(staged.path()).await.map_err(RecordingError::Snapshot)?;
    }
    Ok(Used { snapshot, recording, set, staged, working })
}

/// Makes the quick files for the snapshot the recorded call was restored from.
///
/// # Errors
/// When they cannot be made.
pub async fn keep_init(
    service: &Arc<Service>,
    function: &FunctionRecord,
    used: Used,
) -> Result<PagingRecord, RecordingError> {
    let Used { snapshot, recording, set, staged, working } = used;
    let inherited = snapshot.base.as_ref().map(|_| INHERITED_FILE);
    for name in [MEMORY_FILE, STATE_FILE].into_iter().chain(inherited) {
        let (from, to) = (snapshot.dir.join(name), staged.path().join(name));
        std::fs::hard_link(&from, to).map_err(|source| RecordingError::Link { path: from, source })?;
    }
    let made = Made {
        kind: SnapshotKind::Init,
        memory_checksum: snapshot.record.memory_checksum.clone(),
        base: snapshot.base.clone(),
        staged,
        working,
    };
    store(service, function, made, set, recording).await
}

/// Takes the warm snapshot and gives the sandbox back, if it is still of use, with what was made or why nothing.
pub async fn keep_warm(
    service: &Arc<Service>,
    function: &FunctionRecord,
    spec: &StartSpec,
    sandbox: Sandbox,
    used: Used,
) -> (Option<Sandbox>, Result<PagingRecord, RecordingError>) {
    let Used { snapshot, recording, set, staged, working } = used;
    let (sandbox, taken) = warm(service, spec, sandbox, &staged).await;
    let made = match taken {
        Ok(memory_checksum) => {
            let base = snapshot.base.clone();
            let made = Made { kind: SnapshotKind::Warm, memory_checksum, base, staged, working };
            store(service, function, made, set, recording).await
        }
        Err(error) => Err(error),
    };
    (sandbox, made)
}

/// Settles the sandbox, takes the warm snapshot, lets the sandbox go on. The checksum of its memory.
async fn warm(
    service: &Arc<Service>,
    spec: &StartSpec,
    sandbox: Sandbox,
    staged: &StagedDir,
) -> (Option<Sandbox>, Result<String, RecordingError>) {
    let scrub_ms = service.config.snapshot.scrub_ms();
    let settled = match sandbox.settle(scrub_ms).await {
        Ok(settled) => settled,
        Err(error) => return (None, Err(RecordingError::Sandbox(error))),
    };
    let mut phases = Phases::start();
    match sandbox::resume(settled, spec, Snapshotting::Into(staged.path()), &mut phases).await {
        Ok((sandbox, Ok(checksum))) => (Some(sandbox), Ok(checksum)),
        Ok((sandbox, Err(error))) => (Some(sandbox), Err(RecordingError::Snapshot(error))),
        Err(error) => (None, Err(RecordingError::Sandbox(error))),
    }
}

/// A snapshot to be stored with the files for its quick restore.
struct Made {
    kind: SnapshotKind,
    memory_checksum: String,
    base: Option<Base>,
    staged: StagedDir,
    working: bool,
}

async fn store(
    service: &Arc<Service>,
    function: &FunctionRecord,
    made: Made,
    used: WorkingSet,
    recording: Recording,
) -> Result<PagingRecord, RecordingError> {
    let Made { kind, memory_checksum, base, staged, working } = made;
    let options = BuildOptions {
        base: base.as_ref().map(|base| base.dir.clone()),
        written_gap: service.config.snapshot.own_pages.written_gap(),
        working,
        ..BuildOptions::default()
    };
    let mut new = NewSnapshot {
        function: function.name.clone(),
        code_image: function.code.image.clone(),
        fingerprint: service.fingerprint(function),
        memory_checksum,
        kind,
        paging: None,
        base: base.map(|base| base.reference),
    };
    let store = service.store.clone();
    let stored = blocking(move || {
        let built = build(staged.path(), &used, &options).map_err(RecordingError::Build)?;
        let paging = paging(&built);
        new.paging = Some(paging);
        let record = store.put_snapshot(new, staged).map_err(RecordingError::Store)?;
        Ok((record, paging))
    });
    let (record, paging) = stored.await?;
    tracing::info!(function = %function.name, ?kind, ?paging, "Snapshot recorded");
    if !recording.done(snapshots::handle(service, record)) {
        tracing::info!(function = %function.name, "Recorded snapshot is of a function since changed");
    }
    Ok(paging)
}

fn paging(built: &Built) -> PagingRecord {
    PagingRecord {
        non_zero_pages: built.non_zero_pages,
        working_set_pages: built.working_set_pages,
        loading_set_pages: built.loading_set_pages,
        loading_pages: built.loading_pages,
        loading_regions: built.loading_regions,
        non_zero_regions: built.non_zero_regions,
    }
}
