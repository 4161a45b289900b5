//! What a person sees while something takes long: one rewritten line on a terminal, a plain line now and
//! then anywhere else (a CI log, a file).

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

/// How often a plain line is written when there is no terminal.
const PLAIN_EVERY: Duration = Duration::from_secs(15);

/// Progress of one task.
#[derive(Debug)]
pub struct Progress {
    task: String,
    start: Instant,
    last: Option<Instant>,
    terminal: bool,
}

impl Progress {
    /// Starts a task and says so.
    #[must_use]
    pub fn start(task: &str) -> Self {
        say(&format!("{task} …"));
        Self { task: task.to_owned(), start: Instant::now(), last: None, terminal: stderr().is_terminal() }
    }

    /// Reports that `done` of about `of` steps are done; cheap, may be called often.
    pub fn at(&mut self, done: usize, of: usize) {
        let now = Instant::now();
        let every = if self.terminal { Duration::from_millis(500) } else { PLAIN_EVERY };
        if now.duration_since(self.last.unwrap_or(self.start)) < every {
            return;
        }
        self.last = Some(now);
        let line = line(&self.task, done, of, self.start.elapsed());
        if self.terminal {
            let mut out = stderr();
            let _ = write!(out, "\r\x1b[K{line}");
            let _ = out.flush();
        } else {
            say(&line);
        }
    }

    /// Ends the task with how long it took.
    pub fn done(self) {
        let clear = if self.terminal && self.last.is_some() { "\r\x1b[K" } else { "" };
        let _ = writeln!(stderr(), "{clear}  {} done in {}", self.task, elapsed(self.start.elapsed()));
    }
}

/// Tells the person in front something. That nobody listens any more, a closed terminal, is no failure: what runs
/// is still to be ended in order.
pub fn say(line: &str) {
    let _ = writeln!(stderr(), "  {line}");
}

/// A share can only be estimated: the number of steps differs between kernel versions. 100 is never shown
/// before the end.
fn line(task: &str, done: usize, of: usize, time: Duration) -> String {
    let percent = (done * 100 / of.max(1)).min(99);
    format!("{task}: {percent:2} %, {done} of about {of} steps, {}", elapsed(time))
}

/// A duration for people: `7.3 s`, `4 m 09 s`.
#[must_use]
pub fn elapsed(time: Duration) -> String {
    let s = time.as_secs();
    if s < 60 { format!("{:.1} s", time.as_secs_f64()) } else { format!("{} m {:02} s", s / 60, s % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        assert_eq!(elapsed(Duration::from_millis(7340)), "7.3 s");
        assert_eq!(elapsed(Duration::from_secs(249)), "4 m 09 s");
    }

    #[test]
    fn a_task_is_never_done_before_its_end() {
        let text = line("Kernel", 5000, 1800, Duration::from_secs(61));
        assert_eq!(text, "Kernel: 99 %, 5000 of about 1800 steps, 1 m 01 s");
        assert!(line("Kernel", 0, 0, Duration::ZERO).starts_with("Kernel:  0 %"));
    }
}
