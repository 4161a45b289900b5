//! Repetitions become medians, quartiles and ratios; those become a table or one line of JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What one benchmark found. All modes were measured in the same run, in turn.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// The benchmark.
    pub name: String,
    /// Repetitions of each mode.
    pub n: u32,
    /// What it ran on.
    pub machine: String,
    /// What has to be known of all figures, if anything.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// Figures per mode.
    pub modes: BTreeMap<String, Mode>,
    /// `slow/fast`: how many times longer the first takes. The geometric mean where there are parts.
    pub ratios: BTreeMap<String, f64>,
    /// The same for each function or pattern, when there are several.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<String, Part>,
}

/// What a benchmark found for one of several functions or patterns.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Part {
    /// Figures per mode.
    pub modes: BTreeMap<String, Mode>,
    /// `slow/fast`: how many times longer the first takes.
    pub ratios: BTreeMap<String, f64>,
}

/// Figures of one mode.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    pub fn new(name: &str, n: u32) -> Self {
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let machine = format!("{} x {cores}", model.map_or("unknown CPU", |(_, name)| name));
        let name = name.to_owned();
        let (modes, ratios, parts) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { name, n, machine, note: String::new(), modes, ratios, parts }
    }

    /// Adds the ratio of two modes' medians under `slow/fast`: to each part that has both, and for all of them
    /// together. Without parts: of the report's own modes.
    pub fn ratio(&mut self, slow: &str, fast: &str) {
        let key = format!("{slow}/{fast}");
        let of =
            |modes: &BTreeMap<String, Mode>| Some(modes.get(slow)?.median_ms / modes.get(fast)?.median_ms);
        if self.parts.is_empty() {
            self.ratios.extend(of(&self.modes).map(|ratio| (key, ratio)));
            return;
        }
        let mut all = Vec::new();
        for part in self.parts.values_mut() {
            let ratio = of(&part.modes);
            part.ratios.extend(ratio.map(|ratio| (key.clone(), ratio)));
            all.extend(ratio);
        }
        self.ratios.extend(geometric_mean(&all).map(|mean| (key, mean)));
    }

    /// Adds every ratio once more under `slow/fast@pair`, over the parts whose name ends with this pair of inputs.
    pub fn ratios_of(&mut self, pair: &str) {
        let ending = format!(" {pair}");
        let mut found: BTreeMap<&String, Vec<f64>> = BTreeMap::new();
        for (_, part) in self.parts.iter().filter(|(key, _)| key.ends_with(&ending)) {
            for (key, ratio) in &part.ratios {
                found.entry(key).or_default().push(*ratio);
            }
        }
        let means =
            found.into_iter().filter_map(|(key, all)| Some((format!("{key}@{pair}"), geometric_mean(&all)?)));
        self.ratios.extend(means);
    }

    /// Fills in the report's own modes from those of its parts: geometric means over the parts that have the mode.
    pub fn sum_up(&mut self) {
        let mut modes: BTreeMap<&String, Vec<&Mode>> = BTreeMap::new();
        for (name, mode) in self.parts.values().flat_map(|part| &part.modes) {
            modes.entry(name).or_default().push(mode);
        }
        let mean = |modes: &[&Mode], of: fn(&Mode) -> f64| {
            geometric_mean(&modes.iter().map(|mode| of(mode)).collect::<Vec<_>>()).unwrap_or_default()
        };
        self.modes = modes
            .into_iter()
            .map(|(name, modes)| {
                let mode = Mode {
                    median_ms: mean(&modes, |mode| mode.median_ms),
                    p25_ms: mean(&modes, |mode| mode.p25_ms),
                    p75_ms: mean(&modes, |mode| mode.p75_ms),
                    counts: BTreeMap::new(),
                };
                (name.clone(), mode)
            })
            .collect();
    }
}

/// Of positive numbers; none of none.
pub fn geometric_mean(values: &[f64]) -> Option<f64> {
    let sum: f64 = values.iter().map(|value| value.ln()).sum();
    (!values.is_empty()).then(|| (sum / count(values.len())).exp())
}

/// A ratio with two digits after the point, or four if it would seem to be none.
pub fn shown(ratio: f64) -> String {
    if (ratio - 1.0).abs() < 0.005 { format!("{ratio:.4}") } else { format!("{ratio:.2}") }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} runs of each mode on {}", self.name, self.n, self.machine)?;
        if !self.note.is_empty() {
            writeln!(f, "{}", self.note)?;
        }
        for (name, part) in &self.parts {
            writeln!(f, "\n{name}")?;
            table(f, &part.modes, &part.ratios)?;
        }
        if !self.parts.is_empty() {
            writeln!(f, "\nall together, geometric means")?;
        }
        table(f, &self.modes, &self.ratios)
    }
}

fn table(
    f: &mut fmt::Formatter<'_>,
    modes: &BTreeMap<String, Mode>,
    ratios: &BTreeMap<String, f64>,
) -> fmt::Result {
    writeln!(f, "{:<14} {:>10} {:>10} {:>10}", "mode", "median ms", "p25 ms", "p75 ms")?;
    for (name, mode) in modes {
        write!(f, "{name:<14} {:>10.3} {:>10.3} {:>10.3}", mode.median_ms, mode.p25_ms, mode.p75_ms)?;
        for (count, value) in &mode.counts {
            write!(f, "  {count} {value:.3}")?;
        }
        writeln!(f)?;
    }
    for (name, ratio) in ratios {
        writeln!(f, "{name} = {}", shown(*ratio))?;
    }
    Ok(())
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

    #[test]
    fn over_parts_a_ratio_is_the_geometric_mean() {
        let mut report = Report::new("test", 1);
        for (name, slow) in [("one", 20.0), ("two", 80.0)] {
            let part = report.parts.entry(name.to_owned()).or_default();
            part.modes.insert("slow".to_owned(), Mode::of(&[slow]));
            part.modes.insert("fast".to_owned(), Mode::of(&[10.0]));
        }
        report.ratio("slow", "fast");
        report.sum_up();
        report.parts.entry("two A-B".to_owned()).or_default().ratios.insert("slow/fast".to_owned(), 3.0);
        report.ratios_of("A-B");
        assert!((report.ratios["slow/fast@A-B"] - 3.0).abs() < 1e-12);
        assert!((report.parts["two"].ratios["slow/fast"] - 8.0).abs() < 1e-12);
        assert!((report.ratios["slow/fast"] - 4.0).abs() < 1e-12);
        assert!((report.modes["slow"].median_ms - 40.0).abs() < 1e-12);
        assert_eq!(geometric_mean(&[]), None);
    }

    #[test]
    fn what_is_nearly_one_is_told_from_it() {
        assert_eq!([1.74, 0.995_2, 1.000_6, 0.004].map(shown), ["1.74", "0.9952", "1.0006", "0.00"]);
    }

    #[test]
    fn json_can_be_read_back() {
        let mut report = Report::new("test", 1);
        let mut mode = Mode::of(&[3.0]);
        mode.counts.insert("faults".to_owned(), 7.0);
        report.parts.entry("one".to_owned()).or_default().modes.insert("lazy".to_owned(), mode);
        let text = serde_json::to_string(&report).unwrap();
        let again: Report = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), text);
        assert!((again.parts["one"].modes["lazy"].counts["faults"] - 7.0).abs() < 1e-12);
    }
}
