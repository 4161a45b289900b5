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

use crate::text::printable;

/// Lines kept before the consoles are open.
const EARLY_LINES: usize = 200;

/// Folder of the ring.
pub const FOLDER: &str = "/run/mote";

struct Log {
    early: Vec<(String, bool)>,
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
    for (text, important) in std::mem::take(&mut log.early) {
        log.emit(&text, important);
    }
    names
}

/// Something a person at the console should see.
pub fn line(text: &str) {
    say(&format!("mote: {text}"), true);
}

/// Something of interest only when looking for it: on the consoles unless booted with `quiet`.
pub fn note(text: &str) {
    say(&format!("mote: {text}"), false);
}

/// A line of a program we run, already bounded.
pub fn forward(program: &str, text: &str) {
    say(&format!("{program}: {text}"), true);
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

fn say(text: &str, important: bool) {
    let text = printable(text);
    let mut log = lock();
    if log.open {
        log.emit(&text, important);
    } else if log.early.len() < EARLY_LINES {
        log.early.push((text, important));
    }
}

impl Log {
    fn emit(&mut self, text: &str, important: bool) {
        if let Some(ring) = &mut self.ring {
            ring.write(text);
        }
        if important || !self.quiet {
            for console in &self.consoles {
                console.write(text);
            }
        }
    }
}

fn lock() -> MutexGuard<'static, Log> {
    // A panic while holding the lock leaves at worst half a line.
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}
