//! The loader (section 5.3.2): reads what a restored guest will want into the page cache while it runs.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};

use crate::layout::{Layout, LayoutError, bytes};
use crate::pages::Run;
use crate::regions::Region;
use crate::{LOADING_FILE, MEMORY_FILE};

/// How much is read at a time: large enough for the disk, small enough that the guest soon finds it.
const CHUNK: usize = 512 << 10;

/// What to read, and in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Loading-set regions in the memory file, by address (concurrent paging alone).
    Concurrent,
    /// Loading-set regions in the memory file, by group (with working-set groups).
    Regions,
    /// The loading-set file from start to end.
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
    files: Vec<(PathBuf, File)>,
    /// Which file, and which pages of it.
    steps: Vec<(usize, Run)>,
}

impl Loader {
    /// Opens the snapshot in `dir`.
    ///
    /// # Errors
    /// When the files are not there or not sound.
    pub fn open(dir: &Path, plan: Plan) -> Result<Self, LoadError> {
        let steps = steps(Layout::read(dir)?, plan);
        let mut files = Vec::new();
        for name in [MEMORY_FILE, LOADING_FILE] {
            let path = dir.join(name);
            match File::open(&path) {
                Ok(file) => {
                    // Larger readahead than by default; a file that does not take the hint is only slower.
                    let _ = fadvise(&file, 0, None, Advice::Sequential);
                    files.push((path, file));
                }
                Err(source) => return Err(LoadError::Read { path, offset: 0, source }),
            }
        }
        Ok(Self { files, steps })
    }

    /// Reads until everything is there or `stop` is set. Blocks on the disk.
    ///
    /// # Errors
    /// When the disk does not give what it should.
    pub fn run(&self, stop: &AtomicBool) -> Result<Loaded, LoadError> {
        let begun = Instant::now();
        let mut loaded = Loaded { complete: true, ..Loaded::default() };
        let mut buffer = vec![0; CHUNK];
        'steps: for (index, run) in &self.steps {
            let Some((path, file)) = self.files.get(*index) else { continue };
            let (mut at, end) = (bytes(run.page), bytes(run.end()));
            while at < end {
                if stop.load(Ordering::Relaxed) {
                    loaded.complete = false;
                    break 'steps;
                }
                let wanted = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
                match file.read_at(buffer.get_mut(..wanted).unwrap_or_default(), at) {
                    Ok(0) => break,
                    Ok(read) => {
                        at += read as u64;
                        loaded.bytes += read as u64;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(source) => {
                        return Err(LoadError::Read { path: path.clone(), offset: at, source });
                    }
                }
            }
        }
        loaded.took = begun.elapsed();
        Ok(loaded)
    }
}

/// What to read, in order: index of the file (0 is memory, 1 the loading set) and pages.
fn steps(layout: Layout, plan: Plan) -> Vec<(usize, Run)> {
    let Layout { loading, in_place, .. } = layout;
    let mut at = 0;
    let compact = loading.into_iter().map(|region| {
        let run = Run { page: at, pages: region.run.pages };
        at += region.run.pages;
        // Read where they are: their place in memory is that in the memory file.
        if plan == Plan::LoadingSet { (region, 1, run) } else { (region, 0, region.run) }
    });
    let mut all: Vec<(Region, usize, Run)> = compact.collect();
    if plan != Plan::LoadingSet {
        all.extend(in_place.into_iter().map(|region| (region, 0, region.run)));
    }
    match plan {
        Plan::Concurrent => all.sort_by_key(|(region, ..)| region.run.page),
        Plan::Regions | Plan::LoadingSet => all.sort_by_key(|(region, ..)| region.group),
    }
    let mut steps: Vec<(usize, Run)> = Vec::new();
    for (_, file, run) in all {
        match steps.last_mut() {
            Some((last, before)) if *last == file && before.end() == run.page => before.pages += run.pages,
            _ => steps.push((file, run)),
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::{BuildOptions, build};
    use crate::cache::{drop_file, resident_pages};
    use crate::working_set::WorkingSet;

    #[test]
    fn long_regions_are_left_to_the_readahead() {
        let region = |page, pages, group| Region { run: Run { page, pages }, group };
        let layout = || Layout {
            loading: vec![region(500, 3, 1), region(40, 2, 2), region(90, 4, 4)],
            in_place: vec![region(1000, 600, 3)],
            ..Layout::default()
        };
        let run = |page, pages| Run { page, pages };
        assert_eq!(steps(layout(), Plan::LoadingSet), [(1, run(0, 9))]);
        assert_eq!(
            steps(layout(), Plan::Concurrent),
            [(0, run(40, 2)), (0, run(90, 4)), (0, run(500, 3)), (0, run(1000, 600))]
        );
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
            let stopped = Loader::open(dir.path(), plan).unwrap().run(&AtomicBool::new(true)).unwrap();
            assert!(!stopped.complete && stopped.bytes == 0);
        }
        let missing = dir.path().join("none");
        assert!(matches!(Loader::open(&missing, Plan::LoadingSet), Err(LoadError::Layout(_))));
        std::fs::remove_file(&loading).unwrap();
        assert!(matches!(Loader::open(dir.path(), Plan::LoadingSet), Err(LoadError::Read { .. })));
    }
}
