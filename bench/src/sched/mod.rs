//! The scheduler against others, in a simulated cluster under synthetic traces: chapter 4 of Ao's dissertation, and
//! ways of keeping sandboxes alive after section III-A of Nazari et al.
//!
//! Nothing here is a measurement of real machines but the scheduler's own CPU time.
//!
//! As the dissertation has it: ten nodes of 20 GB; calls sampled from ten minutes among some 70,000 functions; half of the
//! time growing, half steady, at 100 and 200 a second, or rising until the end; latency from a call's coming until its
//! function runs; the throughput is the best mean of ten seconds. Nodes use an idle sandbox of the function if they have
//! one, and put away what idles longest; they make ten sandboxes a second, in 500 to 700 ms each. Calls that cannot be
//! taken wait with their clients ([`clients`]).
//!
//! To the advantage of schedulers that know sandboxes, as in the text: what they know is never late (there, by less than a
//! millisecond, and in 0.11 % of the decisions it matters), and deciding takes no time (0.5 ms for all of them there). Not
//! in the text, and therefore told apart: the product's queue (`ma-mc-early` against `ma-mc-clients`), that a call gets
//! whatever sandbox is free first (`ma-mc-late` against `ma-mc-early`), and that no node is told to start more at once than
//! it makes (`ma-mc` against `ma-mc-late`); `sticky-random-queue` has all three.
//!
//! To the advantage of those that start much: a sandbox's end takes no time, crowds of starts wait for each other but do
//! not slow down otherwise, processors are never short, and waiting clients learn at once that memory is free.
//!
//! Assumed, see [`sensitivity`]: what a call takes besides (`--dispatch-ms`), how many clients try again at once, how
//! calls of one function cluster, and much of durations, of which the load of the mean call is what counts.

mod baseline;
mod clients;
mod experiments;
pub mod mote;
mod policies;
mod published;
mod ratios;
mod sensitivity;
pub mod simulator;
mod speed;
pub mod trace;

use clap::Args;

use crate::Outcome;
use crate::figures::Report;
use experiments::{Conditions, Laboratory};
use simulator::Time;

/// The machines and the traces.
#[derive(Debug, Args)]
pub struct Options {
    /// Traces to average over; all schedulers see the same. They differ much: the dissertation's three would say little.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=100))]
    traces: u32,
    /// What the first trace is drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// To make a sandbox on a node that makes no other, milliseconds; a sixth more or less by function. The default is
    /// a container of the dissertation: cold starts take 500 to 700 ms when nothing else is in their way.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    create_ms: u64,
    /// Sandboxes that a node makes at once; with the default, ten a second, as in the dissertation.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=1000))]
    creators: u32,
    /// From a scheduler's decision until a call runs in a sandbox that is ready, milliseconds. "At least tens of ms" in
    /// the dissertation.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=1000))]
    dispatch_ms: u64,
    /// Leave out clusters of 50 and 100 nodes.
    #[arg(long)]
    no_large: bool,
    /// Instead of the comparison, how its main ratios change with what is assumed.
    #[arg(long)]
    sensitivity: bool,
    /// Small traces of short time: to see that it works, not to compare.
    #[arg(long)]
    quick: bool,
}

/// GB·s of the mean call. The dissertation's 50 nodes answer at most 1700 calls a second: 0.59 GB·s for each, a part
/// of it for starts. With this 10 nodes are about half full of running sandboxes at 200 calls a second.
pub const DEMAND: std::ops::RangeInclusive<f64> = 0.45..=0.55;

/// Said wherever the figures are.
const NOTE: &str = "Simulated, with synthetic traces: drawn from what is published about the Azure 2019 trace, nothing \
                    of it is in them.";

impl Options {
    fn conditions(&self) -> Conditions {
        Conditions {
            create: milliseconds(self.create_ms),
            creators: self.creators,
            dispatch: milliseconds(self.dispatch_ms),
            tries: policies::TRIES,
            functions: if self.quick { 2000 } else { 70_000 },
            demand: DEMAND,
            bursts: true,
            length_s: if self.quick { 30.0 } else { 600.0 },
            long: if self.quick { (50, 1) } else { (1000, 3) },
        }
    }

    fn seeds(&self) -> Vec<u64> {
        let traces = if self.quick { 1 } else { self.traces };
        (self.seed..self.seed.saturating_add(u64::from(traces))).collect()
    }
}

/// Runs all comparisons.
pub fn run(options: &Options, runs: u32) -> Outcome<Report> {
    let seeds = options.seeds();
    let mut report = Report::new("sched", u32::try_from(seeds.len())?);
    report.note = NOTE.to_owned();
    eprintln!("{NOTE}");
    if options.sensitivity {
        report.name += "-sensitivity";
        sensitivity::measure(&options.conditions(), &seeds, &mut report)?;
        return Ok(report);
    }
    let laboratory = Laboratory::new(options.conditions(), &seeds);
    laboratory.small(&mut report, &policies::all())?;
    if !options.no_large {
        laboratory.large(&mut report)?;
    }
    laboratory.keep_alive(&mut report)?;
    speed::measure(&laboratory, &mut report, runs)?;
    Ok(report)
}

fn milliseconds(ms: u64) -> Time {
    ms.saturating_mul(1000)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn a_quick_run_has_all_parts_and_ratios_and_says_what_it_is() {
        let line = Line::parse_from(["bench", "--quick"]);
        let report = run(&line.options, 1).unwrap();
        assert!(report.to_string().contains("synthetic"), "{report}");
        assert_eq!(report.parts.len(), 9, "{report}");
        for key in [
            "throughput:ma-mc/sticky-random",
            "cold-starts:ma-mc/sticky-random",
            "throughput:ma-mc-clients/sticky-random",
            "p99:ma-mc/best-other@200",
            "keep-alive:cold-starts:histogram/fixed-10",
            "keep-alive:waste:histogram/fixed-10",
            "decisions_per_s",
        ] {
            assert!(report.ratios.get(key).is_some_and(|ratio| *ratio > 0.0), "{key}: {report}");
        }
        for (name, part) in &report.parts {
            for (mode, figures) in &part.modes {
                assert!(figures.median_ms > 0.0, "{name} {mode}");
            }
        }
    }
}
