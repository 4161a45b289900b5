//! The loader (section 5.3.2): reads what a restored guest will want into the page cache while it runs.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};

use crate::cache;
use crate::layout::{Layout, LayoutError, bytes};
use crate::map::Map;
use crate::pages::{PageSet, Run};
use crate::regions::Region;
use crate::{LOADING_FILE, MEMORY_FILE};

/// How much is read at a time: large enough for the disk, small enough that the guest soon finds it.
const CHUNK: usize = 512 << 10;

/// Pages of a piece that is brought in from the far end of a long region: a large page.
const FAR_PAGES: u64 = 512;

/// What to read, and in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Loading-set regions in the memory file, by address (concurrent paging alone).
    Concurrent,
    /// Loading-set regions in the memory file, by group (with working-set groups).
    Regions,
    /// The loading-set file from start to end, then what stays in the memory file, from its far end: the guest's
    /// readahead comes towards it, and they meet once. Side by side they would wait for each other's pages. It comes in
    /// large pages, as the guest's readahead brings it: small ones cost a guest a nested page fault each.
    LoadingSet,
}

/// Loading failed. The guest is none the worse: it reads what it needs itself.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no table of regions.
    #[error("Cannot tell what to load")]
    Layout(#[from] LayoutError),
    /// A file cannot be read.
    #[error("Cannot load {path} at offset {offset}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Bytes read, from disk or the page cache.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
    /// False when it was stopped before the end.
    pub complete: bool,
}

/// Reads one snapshot's loading set into the page cache.
#[derive(Debug)]
pub struct Loader {
    memory: Opened,
    loading: Opened,
    /// The memory file, if anything of it is brought in from the far end.
    far: Option<Map>,
    /// Which file, and which pages of it.
    steps: Vec<(Access, Run)>,
}

/// The files, and how they are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Memory,
    LoadingSet,
    FarMemory,
}

#[derive(Debug)]
struct Opened {
    path: PathBuf,
    file: File,
}

impl Opened {
    fn new(dir: &Path, name: &str) -> Result<Self, LoadError> {
        let path = dir.join(name);
        match File::open(&path) {
            Ok(file) => {
                // Larger readahead than by default; a file that does not take the hint is only slower.
                let _ = fadvise(&file, 0, None, Advice::Sequential);
                Ok(Self { path, file })
            }
            Err(source) => Err(LoadError::Read { path, offset: 0, source }),
        }
    }

    fn failed(&self, offset: u64) -> impl FnOnce(io::Error) -> LoadError {
        let path = self.path.clone();
        move |source| LoadError::Read { path, offset, source }
    }

    /// Reads `run` until its end, the file's or `stop`; how much.
    fn read(&self, run: Run, buffer: &mut [u8], stop: &AtomicBool) -> Result<u64, LoadError> {
        let (mut at, end) = (bytes(run.page), bytes(run.end()));
        while at < end && !stop.load(Ordering::Relaxed) {
            let wanted = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            match self.file.read_at(buffer.get_mut(..wanted).unwrap_or_default(), at) {
                Ok(0) => break,
                Ok(read) => at += read as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(at)(error)),
            }
        }
        Ok(at - bytes(run.page))
    }
}

impl Loader {
    /// Opens the snapshot in `dir`.
    ///
    /// # Errors
    /// When the files are not there or not sound.
    pub fn open(dir: &Path, plan: Plan) -> Result<Self, LoadError> {
        let steps = steps(Layout::read(dir)?, plan);
        let (memory, loading) = (Opened::new(dir, MEMORY_FILE)?, Opened::new(dir, LOADING_FILE)?);
        let far = match steps.iter().any(|(access, _)| *access == Access::FarMemory) {
            true => Some(Map::new(&memory.file).map_err(memory.failed(0))?),
            false => None,
        };
        if let Some(far) = &far {
            far.want_large_pages();
        }
        Ok(Self { memory, loading, far, steps })
    }

    /// Whether all of it is in the page cache; not known is no.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        let is_there = |file: &File, wanted: fn(Access) -> bool| {
            let runs = self.steps.iter().filter(|(access, _)| wanted(*access)).map(|(_, run)| *run);
            cache::has(file, runs).unwrap_or(false)
        };
        is_there(&self.loading.file, |access| access == Access::LoadingSet)
            && is_there(&self.memory.file, |access| access != Access::LoadingSet)
    }

    /// Reads until everything is there or `stop` is set. Blocks on the disk.
    ///
    /// # Errors
    /// When the disk does not give what it should.
    pub fn run(&self, stop: &AtomicBool) -> Result<Loaded, LoadError> {
        let begun = Instant::now();
        let mut loaded = Loaded::default();
        let mut buffer = vec![0; CHUNK];
        for (access, run) in &self.steps {
            loaded.bytes += match (access, &self.far) {
                (Access::LoadingSet, _) => self.loading.read(*run, &mut buffer, stop)?,
                (Access::FarMemory, Some(far)) if !stop.load(Ordering::Relaxed) => {
                    far.bring_in(*run).map_err(self.memory.failed(bytes(run.page)))?;
                    bytes(run.pages)
                }
                (Access::FarMemory, _) => 0,
                (Access::Memory, _) => self.memory.read(*run, &mut buffer, stop)?,
            };
        }
        loaded.complete = !stop.load(Ordering::Relaxed);
        loaded.took = begun.elapsed();
        Ok(loaded)
    }
}

/// What to read, in order.
fn steps(layout: Layout, plan: Plan) -> Vec<(Access, Run)> {
    match plan {
        Plan::Concurrent => from_memory(layout, |region| (0, region.run.page)),
        Plan::Regions => from_memory(layout, |region| (region.group, region.run.page)),
        Plan::LoadingSet => {
            let loading = Run { page: 0, pages: layout.loading_pages() };
            let mut steps = vec![(Access::LoadingSet, loading)];
            for region in &layout.in_place {
                // What is inherited is in another file, which all functions of a runtime share.
                let own = PageSet::from_runs(vec![region.run]).without(&layout.inherited);
                let far_first = own.runs().iter().rev().flat_map(|run| pieces(*run).rev());
                steps.extend(far_first.map(|piece| (Access::FarMemory, piece)));
            }
            steps
        }
    }
}

/// All regions where they are, in the order of `key`, adjoining ones as one.
fn from_memory<K: Ord>(layout: Layout, key: impl Fn(&Region) -> K) -> Vec<(Access, Run)> {
    let mut all = layout.loading;
    all.extend(layout.in_place);
    all.sort_by_key(key);
    let mut steps: Vec<(Access, Run)> = Vec::new();
    for Region { run, .. } in all {
        match steps.last_mut() {
            Some((_, before)) if before.end() == run.page => before.pages += run.pages,
            _ => steps.push((Access::Memory, run)),
        }
    }
    steps
}

/// Large pages, as far as they are in `run`.
fn pieces(run: Run) -> impl DoubleEndedIterator<Item = Run> {
    (run.page / FAR_PAGES..run.end().div_ceil(FAR_PAGES)).map(move |at| {
        let page = at * FAR_PAGES;
        Run::new(page.max(run.page)..(page + FAR_PAGES).min(run.end()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::{BuildOptions, build};
    use crate::cache::{drop_file, resident_pages};
    use crate::working_set::WorkingSet;

    #[test]
    fn long_regions_are_read_from_their_far_end() {
        let region = |page, pages, group| Region { run: Run { page, pages }, group };
        let layout = || Layout {
            loading: vec![region(500, 3, 1), region(40, 2, 2), region(90, 4, 4)],
            in_place: vec![region(1000, 600, 3)],
            ..Layout::default()
        };
        let run = |page, pages| Run { page, pages };
        let far = |page, pages| (Access::FarMemory, run(page, pages));
        let loading = (Access::LoadingSet, run(0, 9));
        assert_eq!(
            steps(layout(), Plan::LoadingSet),
            [loading, far(1536, 64), far(1024, 512), far(1000, 24)]
        );
        let inherited = PageSet::from_runs(vec![run(1100, 450)]);
        let layered = Layout { inherited, ..layout() };
        assert_eq!(steps(layered, Plan::LoadingSet), [loading, far(1550, 50), far(1024, 76), far(1000, 24)]);
        let near = |page, pages| (Access::Memory, run(page, pages));
        assert_eq!(
            steps(layout(), Plan::Concurrent),
            [near(40, 2), near(90, 4), near(500, 3), near(1000, 600)]
        );
        assert_eq!(steps(layout(), Plan::Regions), [near(500, 3), near(40, 2), near(1000, 600), near(90, 4)]);
    }

    #[test]
    fn every_plan_brings_the_loading_set_in() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let memory = dir.path().join(MEMORY_FILE);
        std::fs::write(&memory, vec![5; 2000 << 12]).unwrap();
        let mut set = WorkingSet::new(2000);
        set.absorb((0..2000).map(|page| (1500..1600).contains(&page)));
        set.absorb((0..2000).map(|page| (100..200).contains(&page)));
        build(dir.path(), &set, &BuildOptions::default()).unwrap();
        let loading = dir.path().join(LOADING_FILE);
        for (plan, file) in
            [(Plan::LoadingSet, &loading), (Plan::Regions, &memory), (Plan::Concurrent, &memory)]
        {
            assert_eq!(drop_file(file).unwrap(), 0);
            let loaded = Loader::open(dir.path(), plan).unwrap().run(&AtomicBool::new(false)).unwrap();
            assert!(loaded.complete && loaded.bytes == 200 << 12, "{plan:?}: {loaded:?}");
            assert!(resident_pages(file).unwrap() >= 200, "{plan:?}");
            assert!(Loader::open(dir.path(), plan).unwrap().is_loaded());
            drop_file(file).unwrap();
            assert!(!Loader::open(dir.path(), plan).unwrap().is_loaded());
            let stopped = Loader::open(dir.path(), plan).unwrap().run(&AtomicBool::new(true)).unwrap();
            assert!(!stopped.complete && stopped.bytes == 0);
        }
        let missing = dir.path().join("none");
        assert!(matches!(Loader::open(&missing, Plan::LoadingSet), Err(LoadError::Layout(_))));
        std::fs::remove_file(&loading).unwrap();
        assert!(matches!(Loader::open(dir.path(), Plan::LoadingSet), Err(LoadError::Read { .. })));
    }

    #[test]
    fn long_regions_come_in_where_they_are() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let memory = dir.path().join(MEMORY_FILE);
        std::fs::write(&memory, vec![5; 3000 << 12]).unwrap();
        let mut set = WorkingSet::new(3000);
        set.absorb((0..3000).map(|page| page < 10 || (1000..2999).contains(&page)));
        build(dir.path(), &set, &BuildOptions::default()).unwrap();
        assert_eq!(drop_file(&memory).unwrap(), 0);
        let loader = Loader::open(dir.path(), Plan::LoadingSet).unwrap();
        assert!(!loader.is_loaded());
        let loaded = loader.run(&AtomicBool::new(false)).unwrap();
        assert!(loaded.complete && loaded.bytes == 2009 << 12, "{loaded:?}");
        assert!(loader.is_loaded() && resident_pages(&memory).unwrap() >= 1999);
        drop(loader);
        // Cut off: what is not there is an error with its place, not the end of this process.
        assert_eq!(drop_file(&memory).unwrap(), 0);
        std::fs::OpenOptions::new().write(true).open(&memory).unwrap().set_len(1000 << 12).unwrap();
        let error =
            Loader::open(dir.path(), Plan::LoadingSet).unwrap().run(&AtomicBool::new(false)).unwrap_err();
        assert!(matches!(error, LoadError::Read { offset, .. } if offset == 2560 << 12), "{error}");
    }
}
