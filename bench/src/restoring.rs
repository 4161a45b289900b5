//! What the benchmarks of snapshot restores have in common: the machine, one measured call, samples that become modes.

use std::collections::BTreeMap;

use clap::Args;
use mote_image::qemu::qmp::Reads;
use serde_json::Value;

use crate::Outcome;
use crate::appliance::{Appliance, Setup};
use crate::client::{Answer, Client, Way};
use crate::disk::Disk;
use crate::figures::{Mode, Part, Report, quantile};
use crate::functions;

/// Phases that are no part of what is compared: `cached` stands for memory that is in the page cache already.
const NOT_COUNTED: [&str; 1] = ["preload"];

/// The phase in which the function runs; what comes before is set-up.
const EXECUTION: &str = "invoke";

/// How phases begin in which something was made good.
const FAILED: &str = "failed-";
/// What the appliance says of a microVM that ended or hung during a call; emulated ones do, now and then.
const LOST: [&str; 2] = ["broke during the call", "Sandbox.Timedout"];
/// How often a call is measured until it is not disturbed.
const ATTEMPTS: u32 = 4;

/// Names of counts in `X-Mote-Paging` that reports call otherwise.
const RENAMED: [(&str, &str); 2] = [("minor", "minor_faults"), ("major", "major_faults")];

/// The comparisons that are reported, of those whose modes were measured.
const RATIOS: [(&str, &str); 3] = [("lazy", "faasnap"), ("reap", "faasnap"), ("faasnap", "cached")];

/// Which machine, functions and modes.
#[derive(Debug, Args)]
pub struct Options {
    /// The data disk: nvme, network, small-network, unbound, or bytes and requests a second such as 64M:11400.
    #[arg(long, default_value = "nvme")]
    disk: Disk,
    /// Memory of the appliance, MiB.
    #[arg(long, default_value_t = 3072)]
    memory: u32,
    /// Functions, by comma [default: all that the benchmark is about].
    #[arg(long, value_delimiter = ',')]
    pub functions: Vec<String>,
    /// Ways to bring memory back, by comma [default: all].
    #[arg(long, value_delimiter = ',')]
    modes: Vec<String>,
}

impl Options {
    /// The modes to measure.
    pub fn modes(&self, default: &[&str]) -> Vec<String> {
        if self.modes.is_empty() {
            default.iter().map(|&mode| mode.to_owned()).collect()
        } else {
            self.modes.clone()
        }
    }

    /// Boots the machine; an empty report that says what it is.
    pub fn boot(&self, name: &str, runs: u32) -> Outcome<(Place, Report)> {
        let setup = Setup { memory_mib: self.memory, data_throttle: self.disk.throttle, ..Setup::default() };
        let appliance = Appliance::boot(setup)?;
        let client = Client::new(&appliance.url);
        let mut report = Report::new(name, runs);
        report.machine = format!("{}; appliance {}; {}", report.machine, appliance.how, self.disk);
        Ok((Place { appliance, client }, report))
    }
}

/// Where calls are measured.
#[derive(Debug)]
pub struct Place {
    appliance: Appliance,
    /// Its front door.
    pub client: Client,
}

/// What one call cost.
#[derive(Debug)]
pub struct Sample {
    /// Milliseconds as the client saw it, less what does not count.
    pub total_ms: f64,
    figures: BTreeMap<String, f64>,
    /// Something went wrong on the way and was made good: no measure of anything.
    disturbed: bool,
}

impl Sample {
    fn of(answer: Answer) -> Self {
        let spent = |counts: &dyn Fn(&str) -> bool| -> f64 {
            answer.phases.iter().filter(|(name, _)| counts(name)).map(|(_, ms)| ms).sum()
        };
        let total_ms = answer.ms - spent(&|name| NOT_COUNTED.contains(&name));
        let setup = spent(&|name| name != EXECUTION && !NOT_COUNTED.contains(&name));
        let execution = spent(&|name| name == EXECUTION);
        let called = |name: String| {
            RENAMED.iter().find(|(old, _)| *old == name).map_or(name, |(_, new)| (*new).to_owned())
        };
        let mut figures: BTreeMap<String, f64> =
            answer.paging.into_iter().map(|(name, count)| (called(name), count)).collect();
        figures.extend([("setup_ms".to_owned(), setup), ("exec_ms".to_owned(), execution)]);
        let disturbed = answer.phases.iter().any(|(name, _)| name.starts_with(FAILED));
        Self { total_ms, figures, disturbed }
    }

    /// Adds what the disk did meanwhile.
    fn read(&mut self, before: Reads, after: Reads) {
        let count = |number: u64| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
        let kib = after.bytes.saturating_sub(before.bytes) >> 10;
        self.figures.extend([
            ("disk_reads".to_owned(), count(after.requests.saturating_sub(before.requests))),
            ("disk_mib".to_owned(), count(kib) / 1024.0),
        ]);
    }

    /// One sample for several calls that ran at the same time: the means.
    pub fn mean(samples: &[Self]) -> Self {
        let count = f64::from(u32::try_from(samples.len().max(1)).unwrap_or(u32::MAX));
        let mut figures: BTreeMap<String, f64> = BTreeMap::new();
        for (name, value) in samples.iter().flat_map(|sample| &sample.figures) {
            *figures.entry(name.clone()).or_default() += value / count;
        }
        let total_ms = samples.iter().map(|sample| sample.total_ms).sum::<f64>() / count;
        Self { total_ms, figures, disturbed: samples.iter().any(|sample| sample.disturbed) }
    }
}

/// Calls a function from its snapshot in one of the modes, and checks the answer.
pub fn restored(client: &Client, name: &str, event: &Value, mode: &str, expected: &Value) -> Outcome<Sample> {
    let answer = client.invoke(name, event, Way { start: "restore", restore_mode: Some(mode) })?;
    functions::check(&answer, expected).map_err(|error| format!("{name} restored by {mode}: {error}"))?;
    Ok(Sample::of(answer))
}

/// What is called in a comparison.
pub struct Call<'a> {
    /// The functions: one, or several at once.
    pub names: &'a [&'a str],
    /// What with.
    pub event: &'a Value,
    /// What they should answer.
    pub expected: &'a Value,
}

impl Place {
    /// Calls recorded functions with one event in each mode in turn, by `restore`, from a disk that nothing is cached
    /// of: no sandbox has the pages of their snapshots mapped, the page cache has none.
    pub fn compare(
        &self,
        call: &Call<'_>,
        modes: &[String],
        runs: u32,
        restore: impl Fn(&Client, &Call<'_>, &str) -> Outcome<Sample>,
    ) -> Outcome<Part> {
        let mut distinct = call.names.to_vec();
        distinct.dedup();
        let mut samples = Samples::default();
        for round in 0..=runs {
            for mode in turn(modes, round) {
                let sample = self.sample(call, mode, &distinct, &restore)?;
                if round > 0 {
                    samples.push(mode, sample);
                }
            }
        }
        Ok(Part { modes: samples.modes(), ..Part::default() })
    }

    /// One sample. What the emulated processor spoilt is measured again, a few times.
    fn sample(
        &self,
        call: &Call<'_>,
        mode: &str,
        names: &[&str],
        restore: impl Fn(&Client, &Call<'_>, &str) -> Outcome<Sample>,
    ) -> Outcome<Sample> {
        let mut attempt = 1;
        loop {
            self.client.put_away()?;
            names.iter().try_for_each(|name| self.client.evict_cache(name))?;
            let before = self.appliance.reads()?;
            let problem = match restore(&self.client, call, mode) {
                Ok(mut sample) if !sample.disturbed => {
                    sample.read(before, self.appliance.reads()?);
                    return Ok(sample);
                }
                Ok(_) if attempt < ATTEMPTS => "a microVM was lost on the way and replaced".to_owned(),
                Ok(_) => {
                    return Err(
                        format!("MicroVMs were lost in {ATTEMPTS} attempts to measure one call").into()
                    );
                }
                Err(error) => {
                    let said = error.to_string();
                    if attempt == ATTEMPTS || !LOST.iter().any(|lost| said.contains(lost)) {
                        return Err(error);
                    }
                    said
                }
            };
            eprintln!("  {mode}, again: {problem}");
            attempt += 1;
        }
    }

    /// The same for one call at a time.
    pub fn compare_one(
        &self,
        name: &str,
        event: &Value,
        expected: &Value,
        modes: &[String],
        runs: u32,
    ) -> Outcome<Part> {
        let call = Call { names: &[name], event, expected };
        self.compare(&call, modes, runs, |client, call, mode| {
            restored(client, name, call.event, mode, call.expected)
        })
    }
}

/// The modes, beginning with another one each round: none always follows the same.
fn turn(modes: &[String], round: u32) -> impl Iterator<Item = &String> {
    let first = usize::try_from(round).unwrap_or_default() % modes.len().max(1);
    modes.iter().cycle().skip(first).take(modes.len())
}

/// A line for whoever waits: the whole takes minutes.
pub fn say(key: &str, part: &Part) {
    let medians: Vec<String> =
        part.modes.iter().map(|(mode, figures)| format!("{mode} {:.0} ms", figures.median_ms)).collect();
    eprintln!("  {key}: {}", medians.join(", "));
}

/// Samples by mode.
#[derive(Debug, Default)]
struct Samples(BTreeMap<String, Vec<Sample>>);

impl Samples {
    /// Adds one.
    fn push(&mut self, mode: &str, sample: Sample) {
        self.0.entry(mode.to_owned()).or_default().push(sample);
    }

    /// Medians and quartiles, and the medians of all further figures.
    fn modes(&self) -> BTreeMap<String, Mode> {
        self.0.iter().map(|(mode, samples)| (mode.clone(), summary(samples))).collect()
    }
}

fn summary(samples: &[Sample]) -> Mode {
    let totals: Vec<f64> = samples.iter().map(|sample| sample.total_ms).collect();
    let mut mode = Mode::of(&totals);
    let mut figures: BTreeMap<&String, Vec<f64>> = BTreeMap::new();
    for (name, value) in samples.iter().flat_map(|sample| &sample.figures) {
        figures.entry(name).or_default().push(*value);
    }
    mode.counts = figures.into_iter().map(|(name, values)| (name.clone(), quantile(&values, 0.5))).collect();
    mode
}

/// Fills in what the whole report says once its parts are there.
pub fn conclude(report: &mut Report) {
    report.sum_up();
    for (slow, fast) in RATIOS {
        report.ratio(slow, fast);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preloading_does_not_count() {
        let phases = [("wait", 1.0), ("preload", 100.0), ("restore", 20.0), ("invoke", 30.0)];
        let answer = Answer {
            value: Value::Null,
            ms: 160.0,
            phases: phases.map(|(name, ms)| (name.to_owned(), ms)).into(),
            paging: BTreeMap::from([("major".to_owned(), 7.0)]),
        };
        let mut sample = Sample::of(answer);
        let reads = |requests, bytes| Reads { requests, bytes };
        sample.read(reads(10, 1 << 20), reads(14, 3 << 20));
        assert!((sample.figures["disk_reads"] - 4.0).abs() < 1e-9);
        assert!((sample.figures["disk_mib"] - 2.0).abs() < 1e-9);
        assert!((sample.total_ms - 60.0).abs() < 1e-9);
        assert!((sample.figures["setup_ms"] - 21.0).abs() < 1e-9);
        assert!((sample.figures["exec_ms"] - 30.0).abs() < 1e-9);
        let mut samples = Samples::default();
        samples.push("lazy", sample);
        let modes = samples.modes();
        assert!((modes["lazy"].counts["major_faults"] - 7.0).abs() < 1e-9);
    }

    #[test]
    fn every_round_begins_with_another_mode() {
        let modes = ["a", "b", "c"].map(str::to_owned);
        let order = |round| turn(&modes, round).cloned().collect::<String>();
        assert_eq!([0, 1, 2, 3].map(order), ["abc", "bca", "cab", "abc"]);
    }

    #[test]
    fn calls_at_once_are_one_sample() {
        let one = |ms: f64| Sample {
            total_ms: ms,
            figures: BTreeMap::from([("minor".to_owned(), ms * 2.0)]),
            disturbed: false,
        };
        let mean = Sample::mean(&[one(10.0), one(30.0)]);
        assert!((mean.total_ms - 20.0).abs() < 1e-9 && (mean.figures["minor"] - 40.0).abs() < 1e-9);
    }
}
