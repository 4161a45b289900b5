//! Restore modes: which pieces of which file are laid over the anonymous base, and who fills the rest.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mote_snapshot::layout::bytes;
use mote_snapshot::pages::{PageSet, Run};
use mote_snapshot::{Layout, LayoutError, Source};

use super::populate::{self, Extent};
use super::ram::{GuestRam, RamError, RamRange};
use super::reap::Paged;
use super::uffd::Uffd;
use crate::snapshot::{self, LOADING_FILE, MEMORY_FILE, SnapshotInfo};

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

/// What a layered snapshot needs beside its own files: the snapshot it was made from, and what of that it has.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    /// Its memory file, as it is mapped.
    pub(crate) file: Arc<File>,
    /// Checksum of its memory.
    pub(crate) checksum: String,
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
    /// What the next snapshot can be layered over.
    pub(crate) base: Option<Base>,
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
    /// The base is missing, is another one, or what it gives is not recorded.
    #[error("Cannot use base {path}: {what}")]
    Base { path: PathBuf, what: &'static str },
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
        matches!(self, Self::Open { .. } | Self::Layout(_) | Self::Base { .. } | Self::Prefetch(_))
    }
}

fn open(dir: &Path, name: &str) -> Result<Arc<File>, RestoreMemoryError> {
    let path = dir.join(name);
    match File::open(&path) {
        Ok(file) => Ok(Arc::new(file)),
        Err(source) => Err(RestoreMemoryError::Open { path, source }),
    }
}

/// Reads the layout in `dir` and makes sure that it is of this memory.
fn layout(dir: &Path, info: &SnapshotInfo) -> Result<Layout, RestoreMemoryError> {
    let layout = Layout::read(dir)?;
    if bytes(layout.memory_pages) != info.memory_bytes
        || format!("{:016x}", layout.memory_checksum) != info.memory_checksum
        || layout.inherited.is_empty() != info.base.is_none()
    {
        let path = dir.join(mote_snapshot::LAYOUT_FILE);
        return Err(LayoutError::Format { path, what: "it belongs to another memory" }.into());
    }
    Ok(layout)
}

/// Makes sure that a file is as long as the layout says: a missing page would be a SIGBUS.
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

/// The base `info` needs, or the snapshot itself where it is to be the base of others.
fn base(
    dir: &Path,
    info: &SnapshotInfo,
    memory: &Arc<File>,
    given: Option<&Path>,
) -> Result<Option<Base>, RestoreMemoryError> {
    let refuse = |path: &Path, what| RestoreMemoryError::Base { path: path.to_owned(), what };
    match (&info.base, given) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(refuse(dir, "the snapshot is layered over another and that is not given")),
        (None, Some(given)) if given == dir => {
            Ok(Some(Base { file: Arc::clone(memory), checksum: info.memory_checksum.clone() }))
        }
        (None, Some(given)) => Err(refuse(given, "the snapshot is not layered")),
        (Some(needed), Some(given)) => {
            let found = snapshot::verify_state(given).map_err(|_| refuse(given, "it has no sound state"))?;
            if found.memory_checksum != needed.memory_checksum || found.memory_bytes != info.memory_bytes {
                return Err(refuse(given, "it is not the one the snapshot is layered over"));
            }
            let file = open(given, MEMORY_FILE)?;
            Ok(Some(Base { file, checksum: found.memory_checksum }))
        }
    }
}

/// The pages a layered snapshot has from its base.
fn inherited(dir: &Path, info: &SnapshotInfo) -> Result<PageSet, RestoreMemoryError> {
    let Some(base) = &info.base else { return Ok(PageSet::default()) };
    let path = mote_snapshot::source::inherited_path(dir);
    let sound = mote_snapshot::build::file_checksum(&path);
    match sound {
        Err(source) => return Err(RestoreMemoryError::Open { path, source }),
        Ok(found) if found != base.inherited_checksum => {
            return Err(RestoreMemoryError::Base { path, what: "its checksum does not fit" });
        }
        Ok(_) => {}
    }
    let runs = mote_snapshot::source::read_runs(&path, info.memory_bytes / mote_snapshot::PAGE_SIZE);
    match runs {
        Err(source) => Err(RestoreMemoryError::Open { path, source }),
        Ok(runs) => Ok(runs.unwrap_or_default()),
    }
}

/// Maps guest memory with the snapshot in `dir`, of which `info` tells, laid over it; `given` is the folder of its
/// base, or its own if the next snapshot shall be layered over it.
pub(crate) fn restore(
    dir: &Path,
    info: &SnapshotInfo,
    given: Option<&Path>,
    options: RestoreOptions,
) -> Result<RestoredRam, RestoreMemoryError> {
    let memory = open(dir, MEMORY_FILE)?;
    let base = base(dir, info, &memory, given)?;
    let mut ram = GuestRam::new(info.memory_bytes)?;
    let mut paged = None;
    let mut extents = Vec::new();
    let lay_inherited = |ram: &mut GuestRam, pages: &PageSet| match &base {
        Some(base) => pages.runs().iter().try_for_each(|run| ram.lay(*run, &base.file, bytes(run.page))),
        None => Ok(()),
    };
    match options.mode {
        RestoreMode::Lazy | RestoreMode::Cached | RestoreMode::Concurrent => {
            let whole = Run { page: 0, pages: info.memory_bytes / mote_snapshot::PAGE_SIZE };
            ram.lay(whole, &memory, 0)?;
            lay_inherited(&mut ram, &inherited(dir, info)?)?;
        }
        RestoreMode::Regions | RestoreMode::Faasnap => {
            let layout = layout(dir, info)?;
            if options.large_pages {
                populate::large_pages(ram.ranges());
            }
            for run in layout.non_zero.runs() {
                ram.lay(*run, &memory, bytes(run.page))?;
            }
            lay_inherited(&mut ram, &layout.inherited)?;
            if options.mode == RestoreMode::Faasnap {
                let loading = open(dir, LOADING_FILE)?;
                check_length(dir, LOADING_FILE, &loading, layout.loading_pages())?;
                let mut at = 0;
                for region in &layout.loading {
                    ram.lay(region.run, &loading, at)?;
                    at += bytes(region.run.pages);
                    if options.populate {
                        extents.extend(extents_of(ram.ranges(), region.run, &layout.written));
                    }
                }
            }
        }
        RestoreMode::Reap => {
            let layout = layout(dir, info)?;
            let source = source(&memory, base.as_ref(), inherited(dir, info)?);
            let source = source.map_err(RestoreMemoryError::Prefetch)?;
            let pages = Paged::new(&ram, source).map_err(RestoreMemoryError::Paged)?;
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
    Ok(RestoredRam { ram, paged, populate: extents, exact, base })
}

/// The files that are mapped, to be read as one memory.
fn source(own: &File, base: Option<&Base>, inherited: PageSet) -> std::io::Result<Source> {
    let base = match base {
        Some(base) => Some((base.file.try_clone()?, inherited)),
        None => None,
    };
    Ok(Source { own: own.try_clone()?, base })
}

/// Where in this process the pages of `run` are, those in `written` apart from the others.
fn extents_of(ranges: &[RamRange], run: Run, written: &PageSet) -> Vec<Extent> {
    let mut extents = Vec::new();
    let mut add = |run: Range<u64>, write: bool| {
        if !run.is_empty() {
            let pieces = super::ram::split(ranges, Run::new(run)).into_iter();
            extents.extend(pieces.map(|(host, length)| Extent { host, length, write }));
        }
    };
    let mut from = run.page;
    for own in written.within(run) {
        add(from..own.page, false);
        add(own.page..own.end(), true);
        from = own.end();
    }
    add(from..run.end(), false);
    extents
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
#[expect(clippy::cast_possible_truncation, reason = "the tests' sizes are small")]
pub(crate) mod tests {
    use super::*;
    use crate::memory::{Handler, Populator, dump, touched_pages};
    use mote_snapshot::{BuildOptions, WorkingSet, build};
    use vm_memory::{Bytes, GuestAddress};

    pub(crate) const SIZE: u64 = 32 << 20;
    pub(crate) const MODES: [RestoreMode; 6] = [
        RestoreMode::Lazy,
        RestoreMode::Cached,
        RestoreMode::Concurrent,
        RestoreMode::Regions,
        RestoreMode::Reap,
        RestoreMode::Faasnap,
    ];

    pub(crate) fn info(memory_bytes: u64, memory_checksum: &str) -> SnapshotInfo {
        SnapshotInfo {
            monitor_version: String::new(),
            host_kernel: String::new(),
            cpu: snapshot::HostFacts::gather().cpu,
            tsc_khz: 1,
            cpuid_hash: String::new(),
            vcpus: 1,
            memory_bytes,
            stored_bytes: 0,
            memory_checksum: memory_checksum.to_owned(),
            base: None,
            drives: Vec::new(),
            cid: 3,
        }
    }

    /// A snapshot's memory with every kind of page, and its checksum.
    pub(crate) fn snapshot(dir: &Path) -> (Vec<u8>, String) {
        let ram = GuestRam::new(SIZE).unwrap();
        let mut content = vec![0u8; SIZE as usize];
        let mut set = WorkingSet::new((SIZE / 4096) as usize);
        let in_use = |page: u64| page % 7 < 3 || (2000..3000).contains(&page);
        for page in (0..SIZE / 4096).filter(|page| in_use(*page)) {
            content[(page * 4096) as usize] = (page % 251) as u8 + 1;
            content[(page * 4096) as usize + 4095] = 1;
        }
        ram.memory().write_slice(&content, GuestAddress(0)).unwrap();
        let dumped = dump(&ram, &dir.join(MEMORY_FILE), None).unwrap();
        set.absorb((0..SIZE / 4096).map(|page| page % 200 < 60));
        let runs = (0..40).map(|at| Run { page: at * 200, pages: 60 }).collect();
        mote_snapshot::source::write_runs(&dir.join(mote_snapshot::TOUCHED_FILE), &PageSet::from_runs(runs))
            .unwrap();
        let built = build(dir, &set, &BuildOptions::default()).unwrap();
        assert!(built.loading_pages > 0 && built.working_pages == 2400);
        (content, dumped.checksum)
    }

    pub(crate) fn options(mode: RestoreMode) -> RestoreOptions {
        RestoreOptions { mode, record: false, populate: true, large_pages: true }
    }

    /// Restores, with all helpers at work.
    fn start(dir: &Path, checksum: &str, mode: RestoreMode) -> (GuestRam, Option<Handler>, Populator) {
        let restored = restore(dir, &info(SIZE, checksum), None, options(mode)).unwrap();
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
            let again = dump(&ram, &path, None).unwrap();
            assert_ne!(again.checksum, checksum);
            let (other, _handler, _populator) = start(dir.path(), &checksum, mode);
            let untouched = dump(&other, &path.with_extension("untouched"), None).unwrap();
            assert_eq!(untouched.checksum, checksum, "{mode:?}");
        }
    }

    /// A layered snapshot has only what differs from its base, and comes back whole in every mode.
    #[test]
    fn layers_make_the_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (base, layer) = (dir.path().join("base"), dir.path().join("layer"));
        std::fs::create_dir(&base).unwrap();
        std::fs::create_dir(&layer).unwrap();
        let (mut content, checksum) = snapshot(&base);
        let restored =
            restore(&base, &info(SIZE, &checksum), Some(&base), options(RestoreMode::Lazy)).unwrap();
        let basis = restored.base.unwrap();
        // Some pages change, some become zero, some zero ones become something, one changes back.
        for (page, value) in [(2100usize, 7u8), (2101, 7), (2500, 0), (2501, 0), (5, 9), (6, 9), (3000, 3)] {
            content[page * 4096..(page + 1) * 4096].fill(value);
            restored.ram.memory().write_slice(&[value; 4096], GuestAddress(page as u64 * 4096)).unwrap();
        }
        let dumped = dump(&restored.ram, &layer.join(MEMORY_FILE), Some(&basis.file)).unwrap();
        assert_eq!(dumped.stored_bytes, 5 * 4096);
        let path = mote_snapshot::source::inherited_path(&layer);
        mote_snapshot::source::write_runs(&path, &dumped.inherited).unwrap();
        let mut set = WorkingSet::new((SIZE / 4096) as usize);
        set.absorb((0..SIZE / 4096).map(|page| (2000..2600).contains(&page)));
        let options_of_build = BuildOptions { base: Some(base.clone()), ..BuildOptions::default() };
        let built = build(&layer, &set, &options_of_build).unwrap();
        assert_eq!((built.own_pages, built.loading_set_pages), (5, 598));
        let layered = SnapshotInfo {
            base: Some(snapshot::BaseInfo {
                memory_checksum: checksum,
                inherited_checksum: mote_snapshot::build::file_checksum(&path).unwrap(),
            }),
            ..info(SIZE, &dumped.checksum)
        };
        // As `base` finds it, which reads the base's state; there is none here.
        let ways = |mode| match mode {
            RestoreMode::Reap => None,
            mode => Some(mode),
        };
        for mode in MODES.into_iter().filter_map(ways) {
            let mut ram = GuestRam::new(SIZE).unwrap();
            let memory = open(&layer, MEMORY_FILE).unwrap();
            let layout = layout(&layer, &layered).unwrap();
            let pages = match mode {
                RestoreMode::Regions | RestoreMode::Faasnap => {
                    layout
                        .non_zero
                        .runs()
                        .iter()
                        .for_each(|run| ram.lay(*run, &memory, bytes(run.page)).unwrap());
                    layout.inherited.clone()
                }
                _ => {
                    ram.lay(Run { page: 0, pages: SIZE / 4096 }, &memory, 0).unwrap();
                    inherited(&layer, &layered).unwrap()
                }
            };
            pages.runs().iter().for_each(|run| ram.lay(*run, &basis.file, bytes(run.page)).unwrap());
            let mut read = vec![0u8; SIZE as usize];
            ram.memory().read_slice(&mut read, GuestAddress(0)).unwrap();
            assert!(read == content, "{mode:?}");
        }
        let source = Source::open(&layer, Some(&base)).unwrap();
        let mut read = vec![0u8; SIZE as usize];
        source.read_exact_at(&mut read, 0).unwrap();
        assert!(read == content);
        let error = restore(&layer, &layered, None, options(RestoreMode::Lazy)).unwrap_err();
        assert!(error.is_incompatible() && error.to_string().contains("not given"), "{error}");
        std::fs::write(&path, [1; 32]).unwrap();
        let error = inherited(&layer, &layered).unwrap_err();
        assert!(error.to_string().contains("checksum"), "{error}");
    }

    #[test]
    fn recording_tells_exactly_what_was_touched() {
        let dir = tempfile::tempdir().unwrap();
        let (_, checksum) = snapshot(dir.path());
        let wanted = RestoreOptions { record: true, ..options(RestoreMode::Lazy) };
        let restored = restore(dir.path(), &info(SIZE, &checksum), None, wanted).unwrap();
        let Some(_exact) = restored.exact else {
            eprintln!("skipped: this kernel has no asynchronous write protection");
            return;
        };
        let mut byte = [0u8];
        for page in [3u64, 100, 101, 5000] {
            restored.ram.memory().read_slice(&mut byte, GuestAddress(page * 4096)).unwrap();
        }
        restored.ram.memory().write_slice(&[1], GuestAddress(7000 * 4096)).unwrap();
        let touched = touched_pages(&restored.ram).unwrap();
        assert_eq!(touched.all.iter().collect::<Vec<_>>(), [3, 100, 101, 5000, 7000]);
        assert_eq!(touched.written.iter().collect::<Vec<_>>(), [7000]);
    }

    #[test]
    fn files_of_another_snapshot_or_missing_ones_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (_, checksum) = snapshot(dir.path());
        let refused = |checksum: &str, bytes, mode| {
            let error = restore(dir.path(), &info(bytes, checksum), None, options(mode)).unwrap_err();
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
