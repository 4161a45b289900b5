//! A snapshot to restore, made as the daemon makes it: clean snapshot, one recorded call, warm snapshot, its files.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mote_snapshot::pages::PageSet;
use mote_snapshot::working_set::GROUP_PAGES;
use mote_snapshot::{
    BuildOptions, Built, MEMORY_FILE, Recorder, TOUCHED_FILE, WorkingSet, build, cache, source,
};

use super::pattern::{Call, Guest};
use super::vm::{Vm, check};
use super::{Way, probe};
use crate::Outcome;

/// How often the size of the recorded monitor is looked at.
const LOOK: Duration = Duration::from_millis(1);

/// How the recorded call is served.
const RECORDED: Way = Way { name: "record", mode: "lazy", flags: &["--record"], plan: None, cached: false };

/// A warm snapshot with everything the ways of restoring it need.
#[derive(Debug)]
pub struct Prepared {
    /// Its folder.
    pub dir: PathBuf,
    /// What to have it do.
    pub call: Call,
    /// What its files hold.
    pub built: Built,
}

/// Arguments of a monitor that restores the snapshot in `dir`.
pub fn restore_arguments(dir: &Path, way: &Way) -> Vec<OsString> {
    let words = ["restore", "--mode", way.mode, "--snapshot"];
    let mut arguments: Vec<OsString> = words.map(OsString::from).into();
    arguments.push(dir.into());
    arguments.extend(way.flags.iter().map(OsString::from));
    arguments
}

/// Drops every file in `dir` from the page cache.
///
/// # Errors
/// When something of them stays there, too: what is measured then would not be what it seems.
pub fn chill(dir: &Path) -> Outcome<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let left = cache::drop_file(&path)?;
        if left > 0 {
            return Err(format!("{left} pages of {} stay in the page cache", path.display()).into());
        }
    }
    Ok(())
}

/// Makes the snapshot of a guest below `folder`. Of several recorded calls, pages that at least `share` of them touched
/// are what counts as touched.
pub fn prepare(
    monitor: &Path,
    guest: &Guest,
    folder: &Path,
    share: usize,
    options: &BuildOptions,
) -> Outcome<Prepared> {
    let (clean, warm) = (folder.join("clean"), folder.join("warm"));
    boot(monitor, guest, &folder.join("kernel"), &clean)?;
    let Some((first, further)) = guest.recorded.split_first() else {
        return Err("Nothing is recorded".into());
    };
    let mut working_set = record(monitor, first, guest.settling.as_ref(), &clean, &warm)?;
    let pages = working_set.memory_pages();
    let touched =
        |dir: &Path| source::read_runs(&dir.join(TOUCHED_FILE), pages).map(Option::unwrap_or_default);
    let mut seen = vec![touched(&warm)?];
    for call in further {
        let other = folder.join("other");
        let set = record(monitor, call, None, &clean, &other)?;
        working_set.absorb((0..pages).map(|page| set.group(page).is_some()));
        seen.push(touched(&other)?);
        std::fs::remove_dir_all(&other)?;
    }
    if !further.is_empty() {
        std::fs::remove_file(warm.join(TOUCHED_FILE))?;
        source::write_runs(&warm.join(TOUCHED_FILE), &learned(&seen, pages, share))?;
    }
    std::fs::remove_dir_all(&clean)?;
    let built = build(&warm, &working_set, options)?;
    Ok(Prepared { dir: warm, call: guest.tested, built })
}

/// Pages that are in at least `share` of the sets.
fn learned(seen: &[PageSet], pages: u64, share: usize) -> PageSet {
    let mut counts = vec![0; usize::try_from(pages).unwrap_or(0)];
    for page in seen.iter().flat_map(PageSet::iter) {
        if let Some(count) = usize::try_from(page).ok().and_then(|page| counts.get_mut(page)) {
            *count += 1;
        }
    }
    PageSet::from_flags(counts.into_iter().map(|count| count >= share))
}

fn boot(monitor: &Path, guest: &Guest, kernel: &Path, clean: &Path) -> Outcome<()> {
    std::fs::write(kernel, &guest.image.elf)?;
    let memory = guest.image.memory_mib.to_string();
    let mut arguments = ["boot", "--mem", &memory, "--kernel"].map(OsStr::new).to_vec();
    arguments.push(kernel.as_os_str());
    let mut vm = Vm::start(monitor, &arguments, b"")?;
    match vm.line()?.as_str() {
        "ready" => vm.save(clean),
        other => Err(format!("The guest said {other} instead of that it is ready").into()),
    }
}

/// Serves a call that is recorded, from `clean`, and saves what is left of it as `warm`.
fn record(
    monitor: &Path,
    call: &Call,
    settling: Option<&Call>,
    clean: &Path,
    warm: &Path,
) -> Outcome<WorkingSet> {
    chill(clean)?;
    let mut recorder = Recorder::new(&clean.join(MEMORY_FILE))?;
    let mut vm = Vm::start(monitor, &restore_arguments(clean, &RECORDED), &[call.list.digit()])?;
    vm.running()?;
    let mut looked_at = probe::resident(vm.pid())?;
    let answer = loop {
        if let Some(line) = vm.line_within(LOOK)? {
            break line;
        }
        let resident = probe::resident(vm.pid())?;
        if resident >= looked_at + GROUP_PAGES {
            recorder.poll()?;
            looked_at = resident;
        }
    };
    recorder.poll()?;
    check(&answer, call.answer)?;
    if let Some(settling) = settling {
        vm.tell(settling)?;
        check(&vm.line()?, settling.answer)?;
    }
    vm.save(warm)?;
    Ok(recorder.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_learned_by_how_many_calls_touched_them() {
        let set = |pages: &[u64]| PageSet::from_flags((0..8).map(|page| pages.contains(&page)));
        let seen = [set(&[1, 2, 3]), set(&[2, 3, 7]), set(&[3, 4])];
        assert_eq!(learned(&seen, 8, 1), set(&[1, 2, 3, 4, 7]));
        assert_eq!(learned(&seen, 8, 2), set(&[2, 3]));
    }
}
