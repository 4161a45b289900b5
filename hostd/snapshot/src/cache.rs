//! What of a file is in the page cache, and putting it there or out of there.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Advice, fadvise};

use crate::map::{Map, is_resident};
use crate::pages::Run;

/// How often dropping is tried: pages a reader holds at that moment stay.
const ATTEMPTS: u32 = 20;

/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(10);

/// How much is read at a time.
const CHUNK: usize = 1 << 20;

/// Pages of `path` in the page cache.
///
/// # Errors
/// When the file cannot be opened for writing (`mincore` would not tell the truth then) or mapped.
pub fn resident_pages(path: &Path) -> io::Result<u64> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    resident(&file)
}

fn resident(file: &File) -> io::Result<u64> {
    if file.metadata()?.len() == 0 {
        return Ok(0);
    }
    let mut flags = Vec::new();
    Map::new(file)?.residency(&mut flags)?;
    Ok(flags.iter().map(|flag| u64::from(is_resident(*flag))).sum())
}

/// Whether all pages in `runs` of `file` are in the page cache. The file is the caller's own: `mincore` says so of any
/// other.
pub(crate) fn has(file: &File, runs: impl Iterator<Item = Run>) -> io::Result<bool> {
    let mut runs = runs.filter(|run| run.pages > 0).peekable();
    if runs.peek().is_none() {
        return Ok(true);
    }
    let mut flags = Vec::new();
    Map::new(file)?.residency(&mut flags)?;
    Ok(runs.all(|run| {
        let range = usize::try_from(run.page).ok().zip(usize::try_from(run.end()).ok());
        range
            .and_then(|(from, to)| flags.get(from..to))
            .is_some_and(|flags| flags.iter().all(|flag| is_resident(*flag)))
    }))
}

/// Writes `path` out and drops it from the page cache; returns how many pages are still there, which a caller who
/// needs a cold file must check. Dirty pages, and pages mapped somewhere, cannot be dropped.
///
/// # Errors
/// As the system calls.
pub fn drop_file(path: &Path) -> io::Result<u64> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    rustix::fs::fdatasync(&file)?;
    let mut left = 0;
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            std::thread::sleep(PAUSE);
        }
        fadvise(&file, 0, None, Advice::DontNeed)?;
        left = resident(&file)?;
        if left == 0 {
            break;
        }
    }
    Ok(left)
}

/// Reads all of `path` into the page cache, holes left out.
///
/// # Errors
/// As reading.
pub fn load_file(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    let mut buffer = vec![0; CHUNK];
    for (start, end) in crate::checksum::data_ranges(&file, 0, file.metadata()?.len())? {
        let mut at = start;
        while at < end {
            let wanted = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            match file.read_at(buffer.get_mut(..wanted).unwrap_or_default(), at)? {
                0 => break,
                read => at += read as u64,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_and_go() {
        // Not a temporary folder: that may be a tmpfs, whose pages are the file.
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![1; 3 << 20]).unwrap();
        assert_eq!(drop_file(&path).unwrap(), 0);
        assert_eq!(resident_pages(&path).unwrap(), 0);
        load_file(&path).unwrap();
        assert_eq!(resident_pages(&path).unwrap(), 768);
        std::fs::write(&path, b"").unwrap();
        assert_eq!(drop_file(&path).unwrap(), 0);
    }
}
