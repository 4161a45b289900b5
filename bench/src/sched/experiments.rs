//! What is simulated, and which figures are made of it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use num_traits::ToPrimitive;

use super::policies::{self, Kind};
use super::simulator::{self, Cluster, Outcome as Simulated, Shape, Time};
use super::trace::{Call, DAY, Load, Population};
use super::{Options, milliseconds};
use crate::Outcome;
use crate::figures::{Mode, Report, quantile};

/// Memory of a node for sandboxes, MB, as the dissertation's.
pub const NODE_MB: u32 = 20 * 1024;

/// GB·s of the mean call. The dissertation's 50 nodes answer at most 1700 calls a second: 0.59 GB·s for each, a part
/// of it for starts. With this 10 nodes are about half full of running sandboxes at 200 calls a second.
const DEMAND: RangeInclusive<f64> = 0.45..=0.55;

/// One row of a comparison: how many nodes under which load.
struct Setting {
    part: &'static str,
    nodes: u32,
    /// Calls a second.
    rate: f64,
    /// Up to this rate until the end; else slow start, then steady.
    rising: bool,
}

const SMALL: [Setting; 3] = [
    Setting { part: "10 nodes 100/s", nodes: 10, rate: 100.0, rising: false },
    Setting { part: "10 nodes 200/s", nodes: 10, rate: 200.0, rising: false },
    Setting { part: "10 nodes rising", nodes: 10, rate: 600.0, rising: true },
];

const LARGE: [Setting; 4] = [
    Setting { part: "50 nodes 900/s", nodes: 50, rate: 900.0, rising: false },
    Setting { part: "50 nodes rising", nodes: 50, rate: 3000.0, rising: true },
    Setting { part: "100 nodes 1800/s", nodes: 100, rate: 1800.0, rising: false },
    Setting { part: "100 nodes rising", nodes: 100, rate: 6000.0, rising: true },
];

/// Figures that are `slow/fast` of two modes of a part: the key's beginning, the figure, part, modes and the key's end.
type Ratio = (&'static str, &'static str, &'static str, &'static str, &'static str, &'static str);

const SMALL_RATIOS: &[Ratio] = &[
    ("throughput", "throughput", "10 nodes rising", "ma-mc", "sticky-random", ""),
    ("sustained", "sustained", "10 nodes rising", "ma-mc", "sticky-random", ""),
    ("cold-starts", "cold_percent", "10 nodes 100/s", "ma-mc", "sticky-random", ""),
    ("cold-starts", "cold_percent", "10 nodes 200/s", "ma-mc", "sticky-random", "@200"),
    ("p99", "p99_ms", "10 nodes 100/s", "ma-mc", "sticky-random", ""),
    ("p99", "p99_ms", "10 nodes 200/s", "ma-mc", "sticky-random", "@200"),
    ("throughput", "throughput", "10 nodes rising", "greedy-dual", "sticky-random", ""),
    ("sustained", "sustained", "10 nodes rising", "greedy-dual", "sticky-random", ""),
    ("throughput", "throughput", "10 nodes rising", "mote", "sticky-random", ""),
    ("sustained", "sustained", "10 nodes rising", "mote", "sticky-random", ""),
    ("cold-starts", "cold_percent", "10 nodes 100/s", "mote", "sticky-random", ""),
    ("cold-starts", "cold_percent", "10 nodes 200/s", "mote", "sticky-random", "@200"),
    ("p99", "p99_ms", "10 nodes 100/s", "mote", "sticky-random", ""),
    ("p99", "p99_ms", "10 nodes 200/s", "mote", "sticky-random", "@200"),
];

const LARGE_RATIOS: &[Ratio] = &[
    ("throughput", "throughput", "50 nodes rising", "ma-mc", "sticky-random", "@50"),
    ("throughput", "throughput", "50 nodes rising", "ma-mc-sampled", "ma-mc", "@50"),
    ("cold-starts", "cold_percent", "50 nodes 900/s", "ma-mc-sampled", "ma-mc", "@50"),
    ("throughput", "throughput", "100 nodes rising", "ma-mc", "sticky-random", "@100"),
    ("throughput", "throughput", "100 nodes rising", "ma-mc-sampled", "ma-mc", "@100"),
    ("cold-starts", "cold_percent", "100 nodes 1800/s", "ma-mc-sampled", "ma-mc", "@100"),
];

const KEEP_ALIVE_RATIOS: &[Ratio] = &[
    ("cold-starts", "cold_percent", "keep-alive", "histogram", "fixed-10", ""),
    ("waste", "waste_gb_s", "keep-alive", "histogram", "fixed-10", ""),
    ("cold-starts", "cold_percent", "keep-alive", "histogram-1h", "fixed-10", ""),
    ("waste", "waste_gb_s", "keep-alive", "histogram-1h", "fixed-10", ""),
    ("cold-starts", "cold_percent", "keep-alive", "histogram", "fixed-20", ""),
    ("waste", "waste_gb_s", "keep-alive", "histogram", "fixed-20", ""),
];

/// Traces and machines.
pub struct Laboratory {
    create: Time,
    creators: u32,
    dispatch: Time,
    length_s: f64,
    /// Functions and days of keep-alive.
    long: (usize, u32),
    populations: Vec<(u64, Population)>,
}

impl Laboratory {
    /// Draws the traces' functions.
    pub fn new(options: &Options, traces: u32) -> Self {
        let count = if options.quick { 2000 } else { 20_000 };
        let seeds = options.seed..options.seed.saturating_add(u64::from(traces));
        Self {
            create: milliseconds(options.create_ms),
            creators: options.creators,
            dispatch: milliseconds(options.dispatch_ms),
            length_s: if options.quick { 30.0 } else { 600.0 },
            long: if options.quick { (50, 1) } else { (1000, 3) },
            populations: seeds.map(|seed| (seed, Population::draw(count, &DEMAND, seed))).collect(),
        }
    }

    /// All schedulers on ten nodes.
    pub fn small(&self, report: &mut Report) -> Outcome<()> {
        self.compare(report, &SMALL, &policies::all())?;
        ratios(report, SMALL_RATIOS);
        Ok(())
    }

    /// Few schedulers on many nodes.
    pub fn large(&self, report: &mut Report) -> Outcome<()> {
        self.compare(report, &LARGE, &policies::large())?;
        ratios(report, LARGE_RATIOS);
        Ok(())
    }

    /// Days of functions that are not called all the time, with memory for all of them.
    pub fn keep_alive(&self, report: &mut Report) -> Outcome<()> {
        let (count, days) = self.long;
        let mut found = Found::default();
        for (seed, population) in &self.populations {
            let population = population.at_most(f64::from(DAY), count);
            let calls = population.calls(&(0..days * DAY));
            let horizon = Time::from(days * DAY) * 60_000_000;
            let cluster = Cluster { node_mb: u32::MAX, creators: u32::MAX, ..self.cluster(1, horizon) };
            self.each(&mut found, &cluster, &population, &calls, &policies::keep_alive(), *seed)?;
        }
        found.report(report, "keep-alive");
        ratios(report, KEEP_ALIVE_RATIOS);
        Ok(())
    }

    fn compare(&self, report: &mut Report, settings: &[Setting], kinds: &[(&str, Kind)]) -> Outcome<()> {
        for setting in settings {
            let mut found = Found::default();
            for (seed, population) in &self.populations {
                let (cluster, calls) =
                    self.sampled(setting.nodes, setting.rate, setting.rising, *seed, population);
                self.each(&mut found, &cluster, population, &calls, kinds, *seed)?;
            }
            found.report(report, setting.part);
            eprintln!("  {}", setting.part);
        }
        Ok(())
    }

    fn sampled(
        &self,
        nodes: u32,
        rate: f64,
        rising: bool,
        seed: u64,
        population: &Population,
    ) -> (Cluster, Vec<Call>) {
        let load =
            if rising { Load::ramp(rate, self.length_s) } else { Load::slow_start(rate, self.length_s) };
        let horizon = (self.length_s * 1e6).to_u64().unwrap_or(Time::MAX);
        (self.cluster(nodes, horizon), population.sample(&load, seed))
    }

    /// Functions' needs, a cluster of so many nodes and calls at this rate, of the first trace.
    pub fn busy(&self, nodes: u32, node_mb: u32, rate: f64) -> (Cluster, Vec<Shape>, Vec<Call>) {
        let Some((seed, population)) = self.populations.first() else {
            return (self.cluster(nodes, 0), Vec::new(), Vec::new());
        };
        let (cluster, calls) = self.sampled(nodes, rate, false, *seed, population);
        (Cluster { node_mb, ..cluster }, self.shapes(population), calls)
    }

    fn each(
        &self,
        found: &mut Found,
        cluster: &Cluster,
        population: &Population,
        calls: &[Call],
        kinds: &[(&str, Kind)],
        seed: u64,
    ) -> Outcome<()> {
        let shapes = self.shapes(population);
        for (name, kind) in kinds {
            let mut scheduler = kind.build(cluster, &shapes, seed)?;
            let outcome = simulator::simulate(cluster, &shapes, calls, scheduler.as_mut())
                .map_err(|violation| format!("{name}: {violation}"))?;
            found.0.entry((*name).to_owned()).or_default().push(outcome);
        }
        Ok(())
    }

    fn cluster(&self, nodes: u32, horizon: Time) -> Cluster {
        Cluster { nodes, node_mb: NODE_MB, creators: self.creators, dispatch: self.dispatch, horizon }
    }

    fn shapes(&self, population: &Population) -> Vec<Shape> {
        let shape = |(index, memory_mb): (u64, u32)| {
            // Between 80 and 120 %, always the same for a function.
            let percent = 80 + index.wrapping_mul(0x9E37_79B9_7F4A_7C15) % 41;
            Shape { memory_mb, create: self.create * percent / 100 }
        };
        (0..).zip(population.functions.iter().map(|function| function.memory_mb)).map(shape).collect()
    }
}

/// Outcomes of all traces by mode.
#[derive(Default)]
struct Found(BTreeMap<String, Vec<Simulated>>);

impl Found {
    fn report(self, report: &mut Report, part: &str) {
        let part = report.parts.entry(part.to_owned()).or_default();
        part.modes.extend(self.0.into_iter().map(|(name, outcomes)| (name, figures(&outcomes))));
    }
}

/// Latencies of all traces together; other figures are means over traces.
fn figures(outcomes: &[Simulated]) -> Mode {
    let latencies: Vec<f64> =
        outcomes.iter().flat_map(|outcome| &outcome.latencies_s).map(|latency| latency * 1000.0).collect();
    let traces = outcomes.len().to_f64().unwrap_or(1.0);
    let mean = |of: &dyn Fn(&Simulated) -> f64| outcomes.iter().map(of).sum::<f64>() / traces;
    let percent = |of: fn(&Simulated) -> u32| {
        mean(&|outcome| 100.0 * f64::from(of(outcome)) / f64::from(outcome.answered.max(1)))
    };
    let mut mode = Mode::of(&latencies);
    let counts = [
        ("mean_ms", latencies.iter().sum::<f64>() / latencies.len().to_f64().unwrap_or(1.0).max(1.0)),
        ("p99_ms", quantile(&latencies, 0.99)),
        ("calls", mean(&|outcome| f64::from(outcome.answered))),
        ("refused", mean(&|outcome| f64::from(outcome.refused))),
        ("cold_percent", percent(|outcome| outcome.cold)),
        ("created_percent", percent(|outcome| outcome.created)),
        ("throughput", mean(&|outcome| outcome.throughput)),
        ("sustained", mean(&|outcome| outcome.sustained)),
        ("memory_percent", mean(&|outcome| 100.0 * outcome.memory)),
        ("imbalance_percent", mean(&|outcome| 100.0 * outcome.imbalance)),
        ("waste_gb_s", mean(&|outcome| outcome.waste_gb_s)),
    ];
    mode.counts = counts.map(|(name, value)| (name.to_owned(), value)).into();
    mode
}

fn ratios(report: &mut Report, ratios: &[Ratio]) {
    for (key, figure, part, slow, fast, end) in ratios {
        let Some(part) = report.parts.get_mut(*part) else { continue };
        let of = |mode: &str| part.modes.get(mode)?.counts.get(*figure).copied();
        if let (Some(slow_value), Some(fast_value)) = (of(slow), of(fast))
            && fast_value > 0.0
        {
            let ratio = slow_value / fast_value;
            part.ratios.insert(format!("{key}:{slow}/{fast}"), ratio);
            report.ratios.insert(format!("{key}:{slow}/{fast}{end}"), ratio);
        }
    }
}
