//! Making the files a quick restore needs, from a warm snapshot and the working set recorded before it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use crate::checksum::is_zero;
use crate::layout::{Layout, bytes};
use crate::pages::{PageSet, Run};
use crate::regions::{IN_PLACE_PAGES, LOADING_GAP, MERGE_GAP, Region, fitting, loading_set};
use crate::source::{Source, read_runs};
use crate::working_set::WorkingSet;
use crate::{
    LAYOUT_FILE, LOADING_FILE, MEMORY_FILE, PAGE_SIZE, TOUCHED_FILE, WORKING_FILE, WRITTEN_FILE, zero,
};

/// How much is copied at a time.
const CHUNK: usize = 1 << 20;

/// Which recorded pages make the loading set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Host pages: everything that was in the page cache after the recorded call, readahead included (the paper).
    Host,
    /// The pages the guest touched; host pages where that was not recorded.
    Touched,
    /// The pages the guest touched, and behind them, in groups of their own, the other host pages.
    Tiered,
}

/// How to build.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// Which recorded pages are loaded.
    pub selection: Selection,
    /// Loading-set regions closer than this many pages are merged.
    pub loading_gap: u64,
    /// Non-zero regions closer than this many pages are mapped as one: the hole between them reads as zeros from the
    /// file as well, only a little slower.
    pub mapping_gap: u64,
    /// Regions of the loading set at least this long stay in the memory file.
    pub in_place_pages: u64,
    /// Pages of the loading set between two the guest wrote to count as written to if they are fewer than this;
    /// `u64::MAX`: all of the loading set does.
    pub written_gap: u64,
    /// Whether to write the working-set file, which only the mode `reap` needs.
    pub working: bool,
    /// Folder of the snapshot a layered one is based on.
    pub base: Option<PathBuf>,
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self {
            selection: Selection::Touched,
            loading_gap: LOADING_GAP,
            mapping_gap: MERGE_GAP,
            in_place_pages: IN_PLACE_PAGES,
            written_gap: u64::MAX,
            working: true,
            base: None,
        }
    }
}

/// What was built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Built {
    /// Pages of the memory that are not zero.
    pub non_zero_pages: u64,
    /// Of these the snapshot's own; the others are its base's.
    pub own_pages: u64,
    /// Regions mapped from the memory file.
    pub non_zero_regions: u64,
    /// Pages of the recorded working set.
    pub working_set_pages: u64,
    /// Pages of the loading set as recorded.
    pub loading_set_pages: u64,
    /// Pages of the loading-set file: the loading set and what merging added.
    pub loading_pages: u64,
    /// Regions mapped from it.
    pub loading_regions: u64,
    /// Pages of the loading set that stay in the memory file.
    pub in_place_pages: u64,
    /// Pages of the working-set file.
    pub working_pages: u64,
}

/// The files cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A file cannot be read.
    #[error("Cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("Cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The working set is of another memory.
    #[error("The working set is of {recorded} pages, {path} has {found}")]
    Size {
        /// The memory file.
        path: PathBuf,
        /// Pages of the memory that was recorded.
        recorded: u64,
        /// Pages of the file.
        found: u64,
    },
}

/// Writes `loading`, `working` and, last, `layout` beside the `memory` in `dir`. None of them may exist yet.
///
/// Reads all of the memory file; best done while it is in the page cache from being written.
///
/// # Errors
/// When a file cannot be read or written, or the working set does not belong to the memory.
pub fn build(dir: &Path, working_set: &WorkingSet, options: &BuildOptions) -> Result<Built, BuildError> {
    let path = dir.join(MEMORY_FILE);
    let read = |source| BuildError::Read { path: path.clone(), source };
    let memory = Source::open(dir, options.base.as_deref()).map_err(read)?;
    let scan = zero::scan(&memory.own).map_err(read)?;
    // Of the base only pages that are not zero are inherited.
    let inherited = memory.base.as_ref().map(|(_, inherited)| inherited.clone()).unwrap_or_default();
    let all_non_zero = scan.non_zero.union(&inherited);
    if scan.pages != working_set.memory_pages() {
        return Err(BuildError::Size { path, recorded: working_set.memory_pages(), found: scan.pages });
    }
    let touched = recorded(&dir.join(TOUCHED_FILE), scan.pages)?.unwrap_or_default();
    let regions = select(working_set, &touched, &all_non_zero, options);
    let (in_place, loading): (Vec<Region>, Vec<Region>) =
        regions.into_iter().partition(|region| region.run.pages >= options.in_place_pages);
    let non_zero = fitting(&scan.non_zero, options.mapping_gap);
    let working = if options.working { touched } else { PageSet::default() };

    let runs: Vec<Run> = loading.iter().map(|region| region.run).collect();
    let covered = PageSet::from_runs(runs.clone());
    let written = match recorded(&dir.join(WRITTEN_FILE), scan.pages)? {
        Some(written) if options.written_gap < u64::MAX => {
            written.bridged(options.written_gap).intersection(&covered)
        }
        // Wished so, or not recorded.
        _ => covered,
    };
    let loading_checksum = copy(&memory, &path, &runs, &dir.join(LOADING_FILE))?;
    let working_checksum =
        if options.working { copy(&memory, &path, working.runs(), &dir.join(WORKING_FILE))? } else { 0 };
    let built = Built {
        non_zero_pages: all_non_zero.len(),
        own_pages: scan.non_zero.len(),
        non_zero_regions: non_zero.runs().len() as u64,
        working_set_pages: working_set.len(),
        loading_set_pages: working_set.pages().intersection(&all_non_zero).len(),
        loading_pages: runs.iter().map(|run| run.pages).sum(),
        loading_regions: runs.len() as u64,
        in_place_pages: in_place.iter().map(|region| region.run.pages).sum(),
        working_pages: working.len(),
    };
    let layout = Layout {
        memory_pages: scan.pages,
        // Always 16 hexadecimal digits.
        memory_checksum: u64::from_str_radix(&scan.checksum, 16).unwrap_or_default(),
        loading_checksum,
        working_checksum,
        non_zero,
        inherited,
        loading,
        in_place,
        working,
        written,
    };
    let path = dir.join(LAYOUT_FILE);
    create(&path)
        .and_then(|mut file| file.write_all(&layout.encode()))
        .map_err(|source| BuildError::Write { path, source })?;
    Ok(built)
}

/// The loading set's regions.
fn select(
    working_set: &WorkingSet,
    touched: &PageSet,
    non_zero: &PageSet,
    options: &BuildOptions,
) -> Vec<Region> {
    if touched.is_empty() || options.selection == Selection::Host {
        return loading_set(working_set, non_zero, options.loading_gap);
    }
    let wanted = touched.intersection(non_zero);
    let mut regions = loading_set(working_set, &wanted, options.loading_gap);
    if options.selection == Selection::Tiered {
        let covered = PageSet::from_runs(regions.iter().map(|region| region.run).collect());
        let rest = non_zero.without(&covered);
        let last = regions.iter().map(|region| region.group).max().unwrap_or(0);
        let later = loading_set(working_set, &rest, 1);
        regions.extend(
            later.into_iter().map(|region| Region { group: region.group.saturating_add(last), ..region }),
        );
    }
    regions
}

/// A new file, readable by its owner only: it holds a tenant's memory.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Copies `runs` of `memory` one after the other into a new file, zero pages as holes; returns its checksum.
fn copy(memory: &Source, memory_path: &Path, runs: &[Run], path: &Path) -> Result<u64, BuildError> {
    let write = |source| BuildError::Write { path: path.to_owned(), source };
    let file = create(path).map_err(write)?;
    let mut hash = Xxh3::new();
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    for run in runs {
        let (mut from, end) = (bytes(run.page), bytes(run.end()));
        while from < end {
            let wanted = usize::try_from(end - from).unwrap_or(CHUNK).min(CHUNK);
            let chunk = buffer.get_mut(..wanted).unwrap_or_default();
            memory
                .read_exact_at(chunk, from)
                .map_err(|source| BuildError::Read { path: memory_path.to_owned(), source })?;
            hash.update(chunk);
            write_pages(&file, chunk, at).map_err(write)?;
            from += wanted as u64;
            at += wanted as u64;
        }
    }
    file.set_len(at).map_err(write)?;
    Ok(hash.digest())
}

/// Writes the pages of `chunk` that are not zero, neighbours together.
fn write_pages(file: &File, chunk: &[u8], offset: u64) -> io::Result<()> {
    let page = usize::try_from(PAGE_SIZE).unwrap_or(usize::MAX);
    let pages: Vec<&[u8]> = chunk.chunks(page).collect();
    let mut at = 0;
    for same in pages.chunk_by(|left, right| is_zero(left) == is_zero(right)) {
        let length: usize = same.iter().map(|page| page.len()).sum();
        let start = at;
        at += length;
        if same.first().is_some_and(|first| !is_zero(first)) {
            file.write_all_at(chunk.get(start..at).unwrap_or_default(), offset + start as u64)?;
        }
    }
    Ok(())
}

/// xxh3-64 of a whole file, as the layout records it.
///
/// # Errors
/// When it cannot be read.
pub fn file_checksum(path: &Path) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let mut hash = Xxh3::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hash.digest()),
            Ok(read) => hash.update(buffer.get(..read).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Pages in a list the monitor recorded, if it did.
fn recorded(path: &Path, memory_pages: u64) -> Result<Option<PageSet>, BuildError> {
    read_runs(path, memory_pages).map_err(|source| BuildError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "the tests' sizes are small")]
mod tests {
    use super::*;
    use crate::pages::tests::{any_set, naive};
    use proptest::prelude::*;

    const PAGES: u64 = 400;

    /// A memory file whose non-zero pages carry their number.
    fn memory(dir: &Path, non_zero: &PageSet) -> Vec<u8> {
        let mut content = vec![0; bytes(PAGES) as usize];
        for page in non_zero.iter() {
            let at = bytes(page) as usize;
            content[at..at + 8].copy_from_slice(&(page + 1).to_le_bytes());
            content[at + 4095] = 9;
        }
        let file = create(&dir.join(MEMORY_FILE)).unwrap();
        file.set_len(bytes(PAGES)).unwrap();
        write_pages(&file, &content, 0).unwrap();
        content
    }

    fn any_selection() -> impl Strategy<Value = Selection> {
        prop_oneof![Just(Selection::Host), Just(Selection::Touched), Just(Selection::Tiered)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Laying the files over each other as the table says gives the snapshot's memory, byte for byte.
        #[test]
        fn the_pieces_make_the_whole(selection in any_selection(), non_zero in any_set(), used in any_set(), touched in any_set(), gap in 1u64..33) {
            let dir = tempfile::tempdir().unwrap();
            let content = memory(dir.path(), &non_zero);
            let mut set = WorkingSet::new(PAGES as usize);
            let pages = naive(&used);
            set.absorb((0..PAGES).map(|page| pages.contains(&page)));
            crate::source::write_runs(&dir.path().join(TOUCHED_FILE), &touched).unwrap();
            let options = BuildOptions { selection, loading_gap: gap, mapping_gap: gap, in_place_pages: 20, written_gap: gap, working: true, base: None };
            let built = build(dir.path(), &set, &options).unwrap();
            prop_assert_eq!(built.non_zero_pages, non_zero.len());
            prop_assert_eq!(built.working_pages, touched.len());

            let layout = Layout::read(dir.path()).unwrap();
            let file = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
            let (memory, loading, working) = (file(MEMORY_FILE), file(LOADING_FILE), file(WORKING_FILE));
            let mut restored = vec![0; bytes(PAGES) as usize];
            let mut lay = |run: Run, from: &[u8], offset: u64| {
                let (to, length) = (bytes(run.page) as usize, bytes(run.pages) as usize);
                restored[to..to + length].copy_from_slice(&from[offset as usize..offset as usize + length]);
            };
            layout.non_zero.runs().iter().for_each(|run| lay(*run, &memory, bytes(run.page)));
            let mut at = 0;
            for region in &layout.loading {
                lay(region.run, &loading, at);
                at += bytes(region.run.pages);
            }
            prop_assert!(restored == content);
            prop_assert_eq!(at, loading.len() as u64);
            prop_assert_eq!(layout.written.len(), layout.loading_pages());
            prop_assert_eq!(file_checksum(&dir.path().join(LOADING_FILE)).unwrap(), layout.loading_checksum);
            let mut expected = Vec::new();
            for page in touched.iter().filter(|page| *page < PAGES) {
                expected.extend_from_slice(&content[bytes(page) as usize..bytes(page + 1) as usize]);
            }
            prop_assert!(working == expected);
        }
    }

    #[test]
    fn nothing_is_overwritten_and_another_memory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        memory(dir.path(), &PageSet::from_runs(vec![Run { page: 3, pages: 2 }]));
        let set = WorkingSet::new(PAGES as usize);
        assert!(matches!(
            build(dir.path(), &WorkingSet::new(10), &BuildOptions::default()),
            Err(BuildError::Size { recorded: 10, found: PAGES, .. })
        ));
        build(dir.path(), &set, &BuildOptions::default()).unwrap();
        assert!(matches!(build(dir.path(), &set, &BuildOptions::default()), Err(BuildError::Write { .. })));
    }
}
