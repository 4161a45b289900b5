//! What is simulated, and which figures are made of it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Mutex;

use num_traits::ToPrimitive;

use super::policies::{self, Named};
use super::ratios;
use super::simulator::{self, Cluster, Outcome as Simulated, Shape, Time};
use super::trace::{Call, DAY, Load, Population};
use crate::Outcome;
use crate::figures::{Mode, Report, quantile};

/// Memory of a node for sandboxes, MB, as the dissertation's.
pub const NODE_MB: u32 = 20 * 1024;

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

const LARGE_TRACES: usize = 2;

/// What is assumed of machines, functions and clients.
#[derive(Debug, Clone, PartialEq)]
pub struct Conditions {
    /// To make a sandbox on a node that makes no other: the mean over functions.
    pub create: Time,
    /// Sandboxes that a node makes at once.
    pub creators: u32,
    /// From a scheduler's decision until a call runs in a sandbox that is ready.
    pub dispatch: Time,
    /// Clients that try again at a time.
    pub tries: usize,
    /// Functions in the trace.
    pub functions: u32,
    /// GB·s of the mean call.
    pub demand: RangeInclusive<f64>,
    /// Whether functions that wait for events or messages are called in bursts.
    pub bursts: bool,
    /// Seconds of a sample.
    pub length_s: f64,
    /// Functions and days of keep-alive.
    pub long: (usize, u32),
}

/// Traces and machines.
pub struct Laboratory {
    conditions: Conditions,
    populations: Vec<(u64, Population)>,
}

impl Laboratory {
    /// Draws the traces' functions.
    pub fn new(conditions: Conditions, seeds: &[u64]) -> Self {
        let draw = |seed: &u64| {
            (*seed, Population::draw(conditions.functions, &conditions.demand, conditions.bursts, *seed))
        };
        let populations = seeds.iter().map(draw).collect();
        Self { conditions, populations }
    }

    /// Schedulers on ten nodes.
    pub fn small(&self, report: &mut Report, kinds: &[Named]) -> Outcome<()> {
        self.compare(report, &SMALL, kinds, usize::MAX)?;
        ratios::add(report, &ratios::small());
        Ok(())
    }

    /// Few schedulers on many nodes, with few of the traces: each takes long.
    pub fn large(&self, report: &mut Report) -> Outcome<()> {
        self.compare(report, &LARGE, &policies::large(), LARGE_TRACES)?;
        ratios::add(report, ratios::LARGE);
        Ok(())
    }

    /// Days of functions that are not called all the time, with memory for all of them.
    pub fn keep_alive(&self, report: &mut Report) -> Outcome<()> {
        let (count, days) = self.conditions.long;
        let mut found = Found::default();
        for (seed, population) in &self.populations {
            let population = population.at_most(f64::from(DAY), count);
            let calls = population.calls(&(0..days * DAY));
            let horizon = Time::from(days * DAY) * 60_000_000;
            let cluster = Cluster { node_mb: u32::MAX, creators: u32::MAX, ..self.cluster(1, horizon) };
            self.each(&mut found, &cluster, &population, &calls, &policies::keep_alive(), *seed)?;
        }
        found.report(report, "keep-alive");
        ratios::add(report, ratios::KEEP_ALIVE);
        Ok(())
    }

    fn compare(
        &self,
        report: &mut Report,
        settings: &[Setting],
        kinds: &[Named],
        traces: usize,
    ) -> Outcome<()> {
        for setting in settings {
            let mut found = Found::default();
            for (seed, population) in self.populations.iter().take(traces) {
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
        let length_s = self.conditions.length_s;
        let load = if rising { Load::ramp(rate, length_s) } else { Load::slow_start(rate, length_s) };
        let horizon = (length_s * 1e6).to_u64().unwrap_or(Time::MAX);
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

    /// All kinds under the same calls, as many at a time as there are processors.
    fn each(
        &self,
        found: &mut Found,
        cluster: &Cluster,
        population: &Population,
        calls: &[Call],
        kinds: &[Named],
        seed: u64,
    ) -> Outcome<()> {
        let shapes = self.shapes(population);
        let simulate = |(name, kind): &Named| -> Result<Simulated, String> {
            let mut scheduler = kind
                .build(cluster, &shapes, seed, self.conditions.tries)
                .map_err(|error| format!("{name}: {error}"))?;
            simulator::simulate(cluster, &shapes, calls, scheduler.as_mut())
                .map_err(|violation| format!("{name}: {violation}"))
        };
        let next = Mutex::new(kinds.iter());
        let work = || {
            let mut done = Vec::new();
            loop {
                // Let go of at once, or one would work and the others wait for it.
                let kind = next.lock().ok().and_then(|mut next| next.next());
                let Some(kind) = kind else { return done };
                done.push((kind.0, simulate(kind)));
            }
        };
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(kinds.len());
        let done: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
        });
        for done in done {
            for (name, outcome) in done.map_err(|_| "A simulation panicked")? {
                found.0.entry(name.to_owned()).or_default().push(outcome?);
            }
        }
        Ok(())
    }

    fn cluster(&self, nodes: u32, horizon: Time) -> Cluster {
        let Conditions { creators, dispatch, .. } = self.conditions;
        Cluster { nodes, node_mb: NODE_MB, creators, dispatch, rest: None, horizon }
    }

    fn shapes(&self, population: &Population) -> Vec<Shape> {
        let shape = |(index, memory_mb): (u64, u32)| {
            // A sixth more or less, always the same for a function: with the default, the dissertation's cold starts
            // between 500 and 700 ms.
            let part = index.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 44;
            let create = self.conditions.create;
            Shape { memory_mb, create: create * 5 / 6 + create * part / 3 / (1 << 20) }
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
