//! Restore modes: which pieces of which file are laid over the anonymous base, and who fills the rest.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mote_snapshot::layout::bytes;
use mote_snapshot::pages::Run;
use mote_snapshot::{Layout, LayoutError};

use super::populate::{self, Extent};
use super::ram::{GuestRam, RamError, RamRange};
use super::reap::Paged;
use super::uffd::Uffd;
use crate::snapshot::{LOADING_FILE, MEMORY_FILE};

/// How guest memory is brought back. `bench` compares them; `faasnap` is the one for use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum RestoreMode {
    /// Map the whole memory file; the guest faults every page in when it touches it.
    Lazy,
    /// The same, of a memory file the caller has put into the page cache before.
    Cached,
    /// The same, with a loader that reads the loading set from the memory file meanwhile (concurrent paging).
    Concurrent,
    /// Only non-zero regions from the memory file, the rest anonymous (per-region mapping).
    Regions,
    /// Put the working set in place, then run; a thread of ours fills in what else the guest touches.
    Reap,
    /// Non-zero regions from the memory file, the loading set from its compact file, page tables filled behind the
    /// loader.
    Faasnap,
}

/// What beside the mode changes how memory is brought back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RestoreOptions {
    pub(crate) mode: RestoreMode,
    /// Have the page tables tell exactly what the guest touches.
    pub(crate) record: bool,
    /// Fill page tables in bulk (`faasnap`).
    pub(crate) populate: bool,
    /// Large pages for the anonymous base (`regions`, `faasnap`).
    pub(crate) large_pages: bool,
}

/// Restored memory and who works on it.
#[derive(Debug)]
pub(crate) struct RestoredRam {
    pub(crate) ram: GuestRam,
    /// Page faults to be served (`reap`).
    pub(crate) paged: Option<Paged>,
    /// What to map in bulk, in this order (`faasnap`).
    pub(crate) populate: Vec<Extent>,
    /// Lives as long as exact recording is wanted.
    pub(crate) exact: Option<Uffd>,
}

/// Memory of a snapshot cannot be brought back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreMemoryError {
    /// A file cannot be opened.
    #[error("Cannot open {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The table of regions is missing or not sound, or belongs to another memory.
    #[error("Cannot use the snapshot's layout")]
    Layout(#[from] LayoutError),
    /// Mapping failed.
    #[error("Cannot map the snapshot's files")]
    Ram(#[from] RamError),
    /// userfaultfd.
    #[error("Cannot serve page faults of the guest")]
    Paged(#[source] std::io::Error),
    /// The working set.
    #[error("Cannot prefetch the working set")]
    Prefetch(#[source] std::io::Error),
}

impl RestoreMemoryError {
    /// Whether the snapshot is at fault.
    pub(crate) fn is_incompatible(&self) -> bool {
        matches!(self, Self::Open { .. } | Self::Layout(_) | Self::Prefetch(_))
    }
}

fn open(dir: &Path, name: &str) -> Result<Arc<File>, RestoreMemoryError> {
    let path = dir.join(name);
    match File::open(&path) {
        Ok(file) => Ok(Arc::new(file)),
        Err(source) => Err(RestoreMemoryError::Open { path, source }),
    }
}

/// Reads the layout in `dir` and makes sure that it is of this memory, and its files as long as it says: a missing
/// page would be a SIGBUS.
fn layout(dir: &Path, memory_bytes: u64, memory_checksum: &str) -> Result<Layout, RestoreMemoryError> {
    let layout = Layout::read(dir)?;
    let wrong = |what| LayoutError::Format { path: dir.join(mote_snapshot::LAYOUT_FILE), what };
    if bytes(layout.memory_pages) != memory_bytes
        || format!("{:016x}", layout.memory_checksum) != memory_checksum
    {
        return Err(wrong("it belongs to another memory").into());
    }
    Ok(layout)
}

fn check_length(dir: &Path, name: &str, file: &File, pages: u64) -> Result<(), RestoreMemoryError> {
    let path = dir.join(name);
    match file.metadata() {
        Err(source) => Err(RestoreMemoryError::Open { path, source }),
        Ok(metadata) if metadata.len() != bytes(pages) => {
            Err(LayoutError::Format { path, what: "it has another length than the layout says" }.into())
        }
        Ok(_) => Ok(()),
    }
}

/// Maps `memory_bytes` of guest memory with the snapshot in `dir` laid over it, whose state records
/// `memory_checksum`.
pub(crate) fn restore(
    dir: &Path,
    memory_bytes: u64,
    memory_checksum: &str,
    options: RestoreOptions,
) -> Result<RestoredRam, RestoreMemoryError> {
    let memory = open(dir, MEMORY_FILE)?;
    let mut ram = GuestRam::new(memory_bytes)?;
    let mut paged = None;
    let mut extents = Vec::new();
    match options.mode {
        RestoreMode::Lazy | RestoreMode::Cached | RestoreMode::Concurrent => {
            let whole = Run { page: 0, pages: memory_bytes / mote_snapshot::PAGE_SIZE };
            ram.lay(whole, &memory, 0)?;
        }
        RestoreMode::Regions | RestoreMode::Faasnap => {
            let layout = layout(dir, memory_bytes, memory_checksum)?;
            if options.large_pages {
                populate::large_pages(ram.ranges());
            }
            for run in layout.non_zero.runs() {
                ram.lay(*run, &memory, bytes(run.page))?;
            }
            if options.mode == RestoreMode::Faasnap {
                let loading = open(dir, LOADING_FILE)?;
                check_length(dir, LOADING_FILE, &loading, layout.loading_pages())?;
                let mut at = 0;
                for region in &layout.loading {
                    ram.lay(region.run, &loading, at)?;
                    at += bytes(region.run.pages);
                    if options.populate {
                        extents.extend(extents_of(ram.ranges(), region.run));
                    }
                }
            }
        }
        RestoreMode::Reap => {
            let layout = layout(dir, memory_bytes, memory_checksum)?;
            let pages = Paged::new(&ram, &memory).map_err(RestoreMemoryError::Paged)?;
            pages.prefetch(dir, &layout).map_err(RestoreMemoryError::Prefetch)?;
            ram.note_paged(&memory);
            paged = Some(pages);
        }
    }
    let exact = match options.record {
        // Without it (an older kernel) the pages around a touched one count as touched too.
        true => Uffd::exact(ram.ranges()).ok(),
        false => None,
    };
    Ok(RestoredRam { ram, paged, populate: extents, exact })
}

/// Where in this process the pages of `run` are.
fn extents_of(ranges: &[RamRange], run: Run) -> Vec<Extent> {
    super::ram::split(ranges, run).into_iter().map(|(host, length)| Extent { host, length }).collect()
}

impl From<RestoreMemoryError> for crate::machine::StartError {
    fn from(error: RestoreMemoryError) -> Self {
        if error.is_incompatible() {
            Self::SnapshotMemory(crate::error_chain(&error))
        } else {
            Self::Memory(crate::error_chain(&error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Handler, Populator, dump, touched_pages};
    use mote_snapshot::{BuildOptions, WorkingSet, build};
    use vm_memory::{Bytes, GuestAddress};

    const SIZE: u64 = 32 << 20;
    const MODES: [RestoreMode; 6] = [
        RestoreMode::Lazy,
        RestoreMode::Cached,
        RestoreMode::Concurrent,
        RestoreMode::Regions,
        RestoreMode::Reap,
        RestoreMode::Faasnap,
    ];

    /// A snapshot's memory with every kind of page, and its checksum.
    fn snapshot(dir: &Path) -> (Vec<u8>, String) {
        let ram = GuestRam::new(SIZE).unwrap();
        let mut content = vec![0u8; SIZE as usize];
        let mut set = WorkingSet::new((SIZE / 4096) as usize);
        let in_use = |page: u64| page % 7 < 3 || (2000..3000).contains(&page);
        for page in (0..SIZE / 4096).filter(|page| in_use(*page)) {
            content[(page * 4096) as usize] = (page % 251) as u8 + 1;
            content[(page * 4096) as usize + 4095] = 1;
        }
        ram.memory().write_slice(&content, GuestAddress(0)).unwrap();
        let dumped = dump(&ram, &dir.join(MEMORY_FILE)).unwrap();
        set.absorb((0..SIZE / 4096).map(|page| page % 200 < 60));
        let runs = (0..40).map(|at| Run { page: at * 200, pages: 60 }).collect();
        mote_snapshot::build::write_touched(dir, &mote_snapshot::pages::PageSet::from_runs(runs)).unwrap();
        let built = build(dir, &set, &BuildOptions::default()).unwrap();
        assert!(built.loading_pages > 0 && built.working_pages == 2400);
        (content, dumped.checksum)
    }

    fn options(mode: RestoreMode) -> RestoreOptions {
        RestoreOptions { mode, record: false, populate: true, large_pages: true }
    }

    /// Restores, with all helpers at work.
    fn start(dir: &Path, checksum: &str, mode: RestoreMode) -> (GuestRam, Option<Handler>, Populator) {
        let restored = restore(dir, SIZE, checksum, options(mode)).unwrap();
        let handler = restored.paged.map(|paged| paged.serve(|error| panic!("{error}")).unwrap());
        (restored.ram, handler, Populator::start(restored.populate).unwrap())
    }

    #[test]
    fn every_mode_brings_the_same_memory_and_a_copy_of_it_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let (content, checksum) = snapshot(dir.path());
        for mode in MODES {
            let (ram, _handler, _populator) = start(dir.path(), &checksum, mode);
            let mut read = vec![0u8; SIZE as usize];
            ram.memory().read_slice(&mut read, GuestAddress(0)).unwrap();
            assert!(read == content, "{mode:?}");
            // Written privately, whatever lies beneath.
            ram.memory().write_slice(&[42; 8192], GuestAddress(1234 * 4096 + 5)).unwrap();
            let path = dir.path().join(format!("{mode:?}"));
            let again = dump(&ram, &path).unwrap();
            assert_ne!(again.checksum, checksum);
            let (other, _handler, _populator) = start(dir.path(), &checksum, mode);
            let untouched = dump(&other, &path.with_extension("untouched")).unwrap();
            assert_eq!(untouched.checksum, checksum, "{mode:?}");
        }
    }

    #[test]
    fn recording_tells_exactly_what_was_touched() {
        let dir = tempfile::tempdir().unwrap();
        let (_, checksum) = snapshot(dir.path());
        let wanted = RestoreOptions { record: true, ..options(RestoreMode::Lazy) };
        let restored = restore(dir.path(), SIZE, &checksum, wanted).unwrap();
        let Some(_exact) = restored.exact else {
            eprintln!("skipped: this kernel has no asynchronous write protection");
            return;
        };
        let mut byte = [0u8];
        for page in [3u64, 100, 101, 5000] {
            restored.ram.memory().read_slice(&mut byte, GuestAddress(page * 4096)).unwrap();
        }
        restored.ram.memory().write_slice(&[1], GuestAddress(7000 * 4096)).unwrap();
        let touched: Vec<u64> = touched_pages(&restored.ram).unwrap().iter().collect();
        assert_eq!(touched, [3, 100, 101, 5000, 7000]);
    }

    #[test]
    fn files_of_another_snapshot_or_missing_ones_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (_, checksum) = snapshot(dir.path());
        let refused = |checksum: &str, bytes, mode| {
            let error = restore(dir.path(), bytes, checksum, options(mode)).unwrap_err();
            assert!(error.is_incompatible(), "{error}");
            crate::error_chain(&error)
        };
        for mode in [RestoreMode::Regions, RestoreMode::Reap, RestoreMode::Faasnap] {
            assert!(refused("0123456789abcdef", SIZE, mode).contains("another memory"));
            assert!(refused(&checksum, SIZE * 2, mode).contains("another memory"));
        }
        let loading = std::fs::OpenOptions::new().write(true).open(dir.path().join(LOADING_FILE)).unwrap();
        loading.set_len(4096).unwrap();
        assert!(refused(&checksum, SIZE, RestoreMode::Faasnap).contains("another length"));
        let working = dir.path().join(mote_snapshot::WORKING_FILE);
        std::fs::write(&working, [0; 4096]).unwrap();
        assert!(refused(&checksum, SIZE, RestoreMode::Reap).contains("working set"));
        std::fs::remove_file(dir.path().join(mote_snapshot::LAYOUT_FILE)).unwrap();
        assert!(refused(&checksum, SIZE, RestoreMode::Faasnap).contains("Cannot read"));
    }
}
