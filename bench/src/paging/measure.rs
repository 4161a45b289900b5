//! One call, served from a cold snapshot.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use mote_snapshot::{LoadError, Loader, MEMORY_FILE, PAGE_SIZE, Plan, cache};

use super::prepare::{Prepared, chill, restore_arguments};
use super::vm::{Vm, check};
use super::{Way, probe};
use crate::Outcome;

/// How often a file is read until all of it stays in the page cache.
const WARM_UP_ATTEMPTS: u32 = 5;

const MIB: f64 = 1024.0 * 1024.0;

/// What one call cost.
#[derive(Clone, Debug)]
pub struct Sample {
    /// From the request to the answer, milliseconds.
    pub total_ms: f64,
    /// Everything else, by name. What the disk says is missing where files do not lie on one disk.
    pub counts: Vec<(&'static str, f64)>,
}

/// A call that was served. The monitor still runs: once it has ended, what it read counts as ours.
struct Served {
    vm: Vm,
    setup: Duration,
    total: Duration,
    faults: probe::Faults,
    read_bytes: u64,
}

/// Restores the snapshot one way and takes the time until the guest has answered, rightly.
pub fn measure(monitor: &Path, snapshot: &Prepared, way: &Way) -> Outcome<Sample> {
    chill(&snapshot.dir)?;
    if way.cached {
        warm_up(&snapshot.dir.join(MEMORY_FILE))?;
    }
    let arguments = restore_arguments(&snapshot.dir, way);
    let disk_before = probe::disk_read_bytes(&snapshot.dir);
    let own_before = probe::read_bytes("self")?;
    let stop = AtomicBool::new(false);
    let (served, loaded) = std::thread::scope(|scope| {
        let begun = Instant::now();
        // As in the daemon: the request is what starts the loader, which does not wait for the monitor.
        let loader = way.plan.map(|plan| {
            let stop = &stop;
            scope.spawn(move || load(&snapshot.dir, plan, stop))
        });
        let served = serve(monitor, &arguments, snapshot, begun);
        stop.store(true, Ordering::Relaxed);
        (served, loader.map(ScopedJoinHandle::join))
    });
    if let Some(loaded) = loaded {
        loaded.map_err(|_| "The loader panicked")??;
    }
    let served = served?;
    let loader_read_bytes = probe::read_bytes("self")?.saturating_sub(own_before);
    let disk = probe::disk_read_bytes(&snapshot.dir).zip(disk_before);
    drop(served.vm);
    let mut counts = vec![
        ("setup_ms", milliseconds(served.setup)),
        ("exec_ms", milliseconds(served.total - served.setup)),
        ("minor_faults", number(served.faults.minor)),
        ("major_faults", number(served.faults.major)),
        ("read_mib", mebibytes(served.read_bytes + loader_read_bytes)),
    ];
    counts.extend(disk.map(|(after, before)| ("disk_mib", mebibytes(after.saturating_sub(before)))));
    Ok(Sample { total_ms: milliseconds(served.total), counts })
}

fn serve(monitor: &Path, arguments: &[OsString], snapshot: &Prepared, begun: Instant) -> Outcome<Served> {
    let mut vm = Vm::start(monitor, arguments, &[snapshot.call.list.digit()])?;
    vm.running()?;
    let setup = begun.elapsed();
    let answer = vm.line()?;
    let total = begun.elapsed();
    check(&answer, snapshot.call.answer)?;
    let faults = probe::faults(vm.pid())?;
    let read_bytes = probe::read_bytes(&vm.pid().to_string())?;
    Ok(Served { vm, setup, total, faults, read_bytes })
}

fn load(dir: &Path, plan: Plan, stop: &AtomicBool) -> Result<(), LoadError> {
    Loader::open(dir, plan)?.run(stop).map(drop)
}

/// Reads all of a file into the page cache: holes, too, or the guest would find less than everything there. The
/// kernel may take pages away again while the rest is read, so this is tried more than once.
fn warm_up(path: &Path) -> Outcome<()> {
    let pages = std::fs::metadata(path)?.len().div_ceil(PAGE_SIZE);
    let mut resident = 0;
    for _ in 0..WARM_UP_ATTEMPTS {
        io::copy(&mut File::open(path)?, &mut io::sink())?;
        resident = cache::resident_pages(path)?;
        if resident == pages {
            return Ok(());
        }
    }
    Err(format!("{resident} of {pages} pages of {} are in the page cache", path.display()).into())
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Exact for everything that is counted here.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
pub fn number(count: u64) -> f64 {
    count as f64
}

fn mebibytes(bytes: u64) -> f64 {
    number(bytes) / MIB
}
