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

    /// Ends a phase during which something else went through laps of its own: those count instead of its time, as far
    /// as it saw them; before them it just waited.
    pub fn lap_over(&mut self, name: &'static str, laps: &[(&'static str, Duration)]) {
        let now = Instant::now();
        let mut left = now - self.last;
        let at = self.laps.len();
        for (name, duration) in laps.iter().rev() {
            let seen = left.min(*duration);
            left -= seen;
            if !seen.is_zero() {
                self.laps.insert(at, (name, seen));
            }
        }
        self.laps.insert(at, (name, left));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_of_others_laps_is_told_and_adds_up() {
        let mut phases = Phases::start();
        phases.last -= Duration::from_millis(100);
        let ms = Duration::from_millis;
        phases.lap_over("wait", &[("spawn", ms(30)), ("boot", ms(40))]);
        let laps = phases.into_laps();
        assert_eq!(laps[1..], [("spawn", ms(30)), ("boot", ms(40))]);
        assert!(laps[0].0 == "wait" && laps[0].1 >= ms(30));

        let mut phases = Phases::start();
        phases.last -= ms(50);
        phases.lap_over("wait", &[("spawn", ms(900)), ("boot", ms(900)), ("init", ms(20))]);
        let laps = phases.into_laps();
        assert_eq!(laps.iter().map(|lap| lap.0).collect::<Vec<_>>(), ["wait", "boot", "init"]);
        assert!(laps[0].1.is_zero() && laps[1].1 >= ms(30) && laps[1].1 < ms(900));
    }
}
