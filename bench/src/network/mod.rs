//! What a sandbox's network costs, and what it carries: the ways of chapter 3 of Ao's dissertation, and ours.
//!
//! Everything happens in namespaces made for it; a namespace stands for each machine.

mod baseline;
mod burst;
mod machine;
mod port;
mod setup;
mod traffic;

use std::collections::BTreeMap;

use clap::Args;

use crate::Outcome;
use crate::figures::{Mode, Report, quantile};
use setup::{MODES, Sample};

/// What to measure.
#[derive(Debug, Args)]
pub struct Options {
    /// How many endpoints are made.
    #[arg(long, value_delimiter = ',', default_value = "1,10,100,1000", value_parser = clap::value_parser!(u16).range(1..=1000))]
    endpoints: Vec<u16>,
    /// Ways to make them [default: all].
    #[arg(long, value_delimiter = ',', value_parser = clap::builder::PossibleValuesParser::new(MODES.iter().map(|mode| mode.name)))]
    modes: Vec<String>,
    /// Leave out what takes longest: the making of endpoints.
    #[arg(long)]
    no_setup: bool,
    /// Leave out latency, throughput and the burst.
    #[arg(long)]
    no_traffic: bool,
}

/// Slow and fast, of making endpoints.
const RATIOS: &[(&str, &str)] = &[
    ("overlay", "tap"),
    ("born", "tap"),
    ("overlay", "born"),
    ("overlay", "shared"),
    ("overlay", "batched"),
    ("overlay", "particle"),
];

/// Threads of the second measurement of every way.
const THREADS: u16 = 8;

/// Runs the comparison.
pub fn run(options: &Options, runs: u32) -> Outcome<Report> {
    if !rustix::process::geteuid().is_root() {
        return Err("Network namespaces need root: run this as root".into());
    }
    raise_descriptors()?;
    let mut report = Report::new("network", runs);
    if !options.no_setup {
        make_endpoints(&mut report, options, runs)?;
    }
    if !options.no_traffic {
        traffic::measure(&mut report, runs)?;
        burst::measure(&mut report, runs)?;
    }
    Ok(report)
}

fn make_endpoints(report: &mut Report, options: &Options, runs: u32) -> Outcome<()> {
    let mut attach = BTreeMap::new();
    for &endpoints in &options.endpoints {
        let mut samples: BTreeMap<String, Vec<Sample>> = BTreeMap::new();
        // The first round of few endpoints does not count; of many it would take minutes.
        let warm_up = u32::from(endpoints <= 10);
        for round in 0..runs + warm_up {
            for mode in MODES {
                if !options.modes.is_empty() && !options.modes.iter().any(|name| name == mode.name) {
                    continue;
                }
                for threads in [1, THREADS] {
                    if threads > endpoints {
                        continue;
                    }
                    let sample = (mode.measure)(endpoints, threads)?;
                    if round >= warm_up {
                        samples.entry(name(mode.name, threads)).or_default().push(sample);
                    }
                }
            }
            eprintln!("  {endpoints} endpoints: round {} of {}", round + 1, runs + warm_up);
        }
        let part = report.parts.entry(format!("{endpoints} endpoints")).or_default();
        for (name, samples) in samples {
            part.modes.insert(name, figures(&samples));
        }
        for threads in [1, THREADS] {
            let median = |mode| Some(part.modes.get(&name(mode, threads))?.median_ms);
            for (slow, fast) in RATIOS {
                if let (Some(slow_ms), Some(fast_ms)) = (median(slow), median(fast)) {
                    part.ratios.insert(
                        format!("{}/{}", name(slow, threads), name(fast, threads)),
                        slow_ms / fast_ms,
                    );
                }
            }
        }
        for (key, ratio) in &part.ratios {
            report.ratios.insert(format!("{key}@{endpoints}"), *ratio);
        }
        if let Some(cost) = part.modes.get("tap").and_then(|mode| mode.counts.get("attach_us")) {
            attach.insert(endpoints, *cost);
        }
    }
    if let (Some((few, first)), Some((many, last))) = (attach.first_key_value(), attach.last_key_value())
        && few != many
    {
        report.ratios.insert(format!("attach@{many}/attach@{few}"), last / first);
    }
    Ok(())
}

fn name(mode: &str, threads: u16) -> String {
    if threads == 1 { mode.to_owned() } else { format!("{mode} x{threads}") }
}

fn figures(samples: &[Sample]) -> Mode {
    let made: Vec<f64> = samples.iter().map(|sample| sample.made_ms).collect();
    let mut mode = Mode::of(&made);
    let mut counts: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for sample in samples {
        for (name, value) in &sample.counts {
            counts.entry(name).or_default().push(*value);
        }
    }
    mode.counts =
        counts.into_iter().map(|(name, values)| (name.to_owned(), quantile(&values, 0.5))).collect();
    mode
}

/// A thousand namespaces and twice as many sockets at once.
fn raise_descriptors() -> Outcome<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const NEEDED: u64 = 16384;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < NEEDED) {
        let maximum = limit.maximum.map(|maximum| maximum.max(NEEDED));
        setrlimit(Resource::Nofile, Rlimit { current: Some(NEEDED), maximum })
            .map_err(|errno| format!("Cannot raise the number of descriptors to {NEEDED}: {errno}"))?;
    }
    Ok(())
}
