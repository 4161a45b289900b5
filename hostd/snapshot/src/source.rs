//! A snapshot's memory wherever its pages lie: a layered snapshot has only those that differ from its base.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::layout::bytes;
use crate::pages::{PageSet, Run};
use crate::{INHERITED_FILE, MEMORY_FILE};

/// Largest list of runs that is read, in bytes.
const LIMIT: u64 = 64 << 20;

/// Guest memory to be read.
#[derive(Debug)]
pub struct Source {
    /// The snapshot's own memory file.
    pub own: File,
    /// The base's memory file, and which pages come from there.
    pub base: Option<(File, PageSet)>,
}

impl Source {
    /// The memory of the snapshot in `dir`, whose base, if it has one, is the snapshot in `base`.
    ///
    /// # Errors
    /// When a file is missing, or the snapshot needs a base and none is given.
    pub fn open(dir: &Path, base: Option<&Path>) -> io::Result<Self> {
        let own = File::open(dir.join(MEMORY_FILE))?;
        let pages = own.metadata()?.len() / crate::PAGE_SIZE;
        let base = match read_runs(&dir.join(INHERITED_FILE), pages)? {
            None => None,
            Some(inherited) => {
                let base = base.ok_or_else(|| io::Error::other("The snapshot needs its base"))?;
                Some((File::open(base.join(MEMORY_FILE))?, inherited))
            }
        };
        Ok(Self { own, base })
    }

    /// Fills `buffer`, whole pages, with memory from byte `at` on.
    ///
    /// # Errors
    /// When a file ends early or cannot be read.
    pub fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> io::Result<()> {
        self.own.read_exact_at(buffer, at)?;
        let Some((base, inherited)) = &self.base else { return Ok(()) };
        let first = at / crate::PAGE_SIZE;
        let wanted = Run { page: first, pages: (buffer.len() as u64).div_ceil(crate::PAGE_SIZE) };
        for run in inherited.within(wanted) {
            let skip = usize::try_from(bytes(run.page) - at).unwrap_or(usize::MAX);
            let length = usize::try_from(bytes(run.pages)).unwrap_or(usize::MAX);
            let part = buffer.get_mut(skip..skip.saturating_add(length));
            let part = part.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
            base.read_exact_at(part, bytes(run.page))?;
        }
        Ok(())
    }
}

/// Writes runs of pages as pairs of 64-bit numbers, first page and count, into a new file at `path`.
///
/// # Errors
/// When it cannot be written or is there already.
pub fn write_runs(path: &Path, pages: &PageSet) -> io::Result<()> {
    let words = pages.runs().iter().flat_map(|run| [run.page, run.pages]);
    let content: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    io::Write::write_all(&mut crate::build::create(path)?, &content)
}

/// Reads what [`write_runs`] wrote, within `memory_pages`; `None` if there is no such file.
///
/// # Errors
/// When it cannot be read.
pub fn read_runs(path: &Path, memory_pages: u64) -> io::Result<Option<PageSet>> {
    let mut content = Vec::new();
    match File::open(path).and_then(|file| file.take(LIMIT).read_to_end(&mut content)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    let (words, _) = content.as_chunks::<8>();
    let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    let (pairs, _) = words.as_chunks::<2>();
    let runs = pairs.iter().map(|[page, pages]| {
        let page = (*page).min(memory_pages);
        Run { page, pages: (*pages).min(memory_pages - page) }
    });
    Ok(Some(PageSet::from_runs(runs.filter(|run| run.pages > 0).collect())))
}

/// Path of a snapshot's list of inherited runs.
#[must_use]
pub fn inherited_path(dir: &Path) -> PathBuf {
    dir.join(INHERITED_FILE)
}
