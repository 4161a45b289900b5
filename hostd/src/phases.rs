//! How long each phase of a call took: what the response header and the log line are made of.

use std::fmt;
use std::time::{Duration, Instant};

/// A stopwatch with named laps.
#[derive(Debug)]
pub struct Phases {
    last: Instant,
    laps: Vec<(&'static str, Duration)>,
}

impl Phases {
    /// Starts the watch.
    pub fn start() -> Self {
        Self { last: Instant::now(), laps: Vec::new() }
    }

    /// Ends a phase: its time is that since the last lap.
    pub fn lap(&mut self, name: &'static str) {
        let now = Instant::now();
        self.laps.push((name, now - self.last));
        self.last = now;
    }

    /// Splits the time since the last lap: `first` up to `at`, `second` from there.
    pub fn lap_two(&mut self, first: (&'static str, Duration), second: &'static str) {
        let now = Instant::now();
        self.laps.push(first);
        self.laps.push((second, (now - self.last).saturating_sub(first.1)));
        self.last = now;
    }

    /// The phases in order.
    pub fn into_laps(self) -> Vec<(&'static str, Duration)> {
        self.laps
    }
}

impl fmt::Display for Phases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, duration)) in self.laps.iter().enumerate() {
            let comma = if at == 0 { "" } else { " " };
            write!(f, "{comma}{name}={:.1}ms", duration.as_secs_f64() * 1000.0)?;
        }
        Ok(())
    }
}
