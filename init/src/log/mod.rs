//! Where everything said on this machine goes: every console there is, and a ring of files.
//!
//! Saying something never blocks and never fails. Until [`open`] was called, lines are kept.

mod console;
mod ring;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use console::Console;
use ring::Ring;

use crate::clock;
use crate::text::printable;

/// Lines kept before the consoles are open.
const EARLY_LINES: usize = 200;

/// Folder of the ring.
pub const FOLDER: &str = "/run/mote";

/// How init signs its lines.
const OURSELVES: &str = "mote";

struct Line {
    /// As on a console.
    shown: String,
    /// As in the ring: always with the time.
    kept: String,
    important: bool,
    /// Said by init, not by a program.
    ours: bool,
}

struct Log {
    early: Vec<Line>,
    consoles: Vec<Console>,
    ring: Option<Ring>,
    quiet: bool,
    open: bool,
}

static LOG: Mutex<Log> =
    Mutex::new(Log { early: Vec::new(), consoles: Vec::new(), ring: None, quiet: false, open: false });

/// Opens the consoles the kernel uses and the ring, and passes on what was said before. `quiet` keeps
/// [`note`]s from the consoles. Returns the names of the consoles.
pub fn open(quiet: bool) -> Vec<String> {
    let names = console::active();
    let consoles: Vec<Console> = names.iter().filter_map(|name| Console::open(name).ok()).collect();
    let mut log = lock();
    log.quiet = quiet;
    log.consoles = consoles;
    log.ring = Ring::open(Path::new(FOLDER)).ok();
    log.open = true;
    for line in std::mem::take(&mut log.early) {
        log.emit(&line);
    }
    names
}

/// Something a person at the console should see.
pub fn line(text: &str) {
    say(OURSELVES, text, true, false);
}

/// Something of interest only when looking for it: on the consoles unless booted with `quiet`.
pub fn note(text: &str) {
    say(OURSELVES, text, false, false);
}

/// A step of boot or shutdown, shown with the time since boot; a failed one even when booted with
/// `quiet`.
pub fn step(text: &str, failed: bool) {
    say(OURSELVES, text, failed, true);
}

/// A line of a program we run, already bounded.
pub fn forward(program: &str, text: &str) {
    say(program, text, true, false);
}

/// The status of the machine: `rows`, for the columns it has, at the top of every console that is a screen; `lines`
/// on the others and in the ring.
pub fn board(rows: impl Fn(usize) -> Vec<String>, lines: &[String]) {
    let mut log = lock();
    for console in &log.consoles {
        console.board(&rows);
    }
    let stamp = clock::since_boot_text();
    for text in lines {
        let text = printable(text);
        if let Some(ring) = &mut log.ring {
            ring.write(&format!("{stamp} {OURSELVES}: {text}"));
        }
        for console in log.consoles.iter().filter(|console| !console.is_screen()) {
            console.write(&format!("{OURSELVES}: {text}"), true);
        }
    }
}

/// Waits until the consoles have taken what was said, but no longer than `bound`.
pub fn drain(bound: Duration) {
    let end = Instant::now() + bound;
    let waits: Vec<_> = lock().consoles.iter().filter_map(Console::flush).collect();
    for wait in waits {
        // A console that does not answer in time has lost its last words, not our time.
        let _ = wait.recv_timeout(end.saturating_duration_since(Instant::now()));
    }
}

fn say(speaker: &str, text: &str, important: bool, timed: bool) {
    let stamp = clock::since_boot_text();
    let text = printable(text);
    let shown = if timed { format!("{speaker}: {stamp} {text}") } else { format!("{speaker}: {text}") };
    let kept = format!("{stamp} {speaker}: {text}");
    let line = Line { shown, kept, important, ours: speaker == OURSELVES };
    let mut log = lock();
    if log.open {
        log.emit(&line);
    } else if log.early.len() < EARLY_LINES {
        log.early.push(line);
    }
}

impl Log {
    fn emit(&mut self, line: &Line) {
        if let Some(ring) = &mut self.ring {
            ring.write(&line.kept);
        }
        if line.important || !self.quiet {
            for console in &self.consoles {
                console.write(&line.shown, line.ours);
            }
        }
    }
}

fn lock() -> MutexGuard<'static, Log> {
    // A panic while holding the lock leaves at worst half a line.
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}
