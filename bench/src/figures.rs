//! Repetitions become medians, quartiles and ratios; those become a table or one line of JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// What one benchmark found. All modes were measured in the same run, in turn.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The benchmark.
    pub name: &'static str,
    /// Repetitions of each mode.
    pub n: u32,
    /// What it ran on.
    pub machine: String,
    /// Figures per mode.
    pub modes: BTreeMap<String, Mode>,
    /// `slow/fast`: how many times longer the first takes.
    pub ratios: BTreeMap<String, f64>,
}

/// Figures of one mode.
#[derive(Debug, Clone, Serialize)]
pub struct Mode {
    /// Median, milliseconds.
    pub median_ms: f64,
    /// Lower quartile, milliseconds.
    pub p25_ms: f64,
    /// Upper quartile, milliseconds.
    pub p75_ms: f64,
    /// Further figures: medians of counts, or of parts in milliseconds, by name.
    #[serde(flatten)]
    pub counts: BTreeMap<String, f64>,
}

/// The value below which `share` of the samples lie, between neighbours in proportion; 0 without samples.
pub fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let mut rank = share * count(last);
    let mut below = 0;
    while rank >= 1.0 && below < last {
        rank -= 1.0;
        below += 1;
    }
    let low = sorted.get(below).copied().unwrap_or_default();
    let high = sorted.get(below + 1).copied().unwrap_or(low);
    (high - low).mul_add(rank, low)
}

fn count(n: usize) -> f64 {
    u32::try_from(n).map_or(f64::MAX, f64::from)
}

impl Mode {
    /// Figures of repetitions in milliseconds.
    pub fn of(samples: &[f64]) -> Self {
        Self {
            median_ms: quantile(samples, 0.5),
            p25_ms: quantile(samples, 0.25),
            p75_ms: quantile(samples, 0.75),
            counts: BTreeMap::new(),
        }
    }
}

impl Report {
    /// An empty report.
    pub fn new(name: &'static str, n: u32) -> Self {
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let machine = format!("{} x {cores}", model.map_or("unknown CPU", |(_, name)| name));
        Self { name, n, machine, modes: BTreeMap::new(), ratios: BTreeMap::new() }
    }

    /// Adds the ratio of two modes' medians under `slow/fast`.
    pub fn ratio(&mut self, slow: &str, fast: &str) {
        if let (Some(above), Some(below)) = (self.modes.get(slow), self.modes.get(fast)) {
            self.ratios.insert(format!("{slow}/{fast}"), above.median_ms / below.median_ms);
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} runs of each mode on {}", self.name, self.n, self.machine)?;
        writeln!(f, "{:<14} {:>10} {:>10} {:>10}", "mode", "median ms", "p25 ms", "p75 ms")?;
        for (name, mode) in &self.modes {
            write!(f, "{name:<14} {:>10.3} {:>10.3} {:>10.3}", mode.median_ms, mode.p25_ms, mode.p75_ms)?;
            for (count, value) in &mode.counts {
                write!(f, "  {count} {value:.3}")?;
            }
            writeln!(f)?;
        }
        for (name, ratio) in &self.ratios {
            writeln!(f, "{name} = {ratio:.2}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_between_neighbours() {
        let samples = [4.0, 1.0, 3.0, 2.0, 5.0];
        assert_eq!(
            [0.0, 0.25, 0.5, 0.75, 1.0].map(|share| quantile(&samples, share)),
            [1.0, 2.0, 3.0, 4.0, 5.0]
        );
        assert!((quantile(&[1.0, 2.0], 0.5) - 1.5).abs() < 1e-12);
        assert_eq!(quantile(&[], 0.5).to_bits(), 0.0f64.to_bits());
    }

    #[test]
    fn a_ratio_is_how_many_times_the_first_takes() {
        let mut report = Report::new("test", 1);
        report.modes.insert("slow".to_owned(), Mode::of(&[30.0]));
        report.modes.insert("fast".to_owned(), Mode::of(&[10.0]));
        report.ratio("slow", "fast");
        report.ratio("slow", "absent");
        assert_eq!(report.ratios.len(), 1);
        assert!((report.ratios["slow/fast"] - 3.0).abs() < 1e-12);
    }
}
