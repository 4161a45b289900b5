//! The scheduler against others, in a simulated cluster under synthetic traces: chapter 4 of Ao's dissertation, and
//! ways of keeping sandboxes alive after section III-A of Nazari et al.
//!
//! Nothing here is a measurement of real machines but the scheduler's own CPU time.

mod baseline;
mod experiments;
mod mote;
mod policies;
mod published;
mod simulator;
mod speed;
mod trace;

use clap::Args;

use crate::Outcome;
use crate::figures::Report;
use experiments::Laboratory;
use simulator::Time;

/// The machines and the traces.
#[derive(Debug, Args)]
pub struct Options {
    /// Traces to average over; all schedulers see the same.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    traces: u32,
    /// What the first trace is drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// To make a sandbox on a node that makes no other, milliseconds; a fifth more or less by function. The default is
    /// a container of the dissertation.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    create_ms: u64,
    /// Sandboxes that a node makes at once; with the default, ten a second.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    creators: u32,
    /// From a scheduler's decision until a call runs in a sandbox that is ready, milliseconds.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=1000))]
    dispatch_ms: u64,
    /// Leave out clusters of 50 and 100 nodes.
    #[arg(long)]
    no_large: bool,
    /// Small traces of short time: to see that it works, not to compare.
    #[arg(long)]
    quick: bool,
}

/// Said wherever the figures are.
const NOTE: &str = "Simulated, with synthetic traces: drawn from what is published about the Azure 2019 trace, nothing \
                    of it is in them.";

/// Runs all comparisons.
pub fn run(options: &Options, runs: u32) -> Outcome<Report> {
    let traces = if options.quick { 1 } else { options.traces };
    let mut report = Report::new("sched", traces);
    report.note = NOTE.to_owned();
    eprintln!("{NOTE}");
    let laboratory = Laboratory::new(options, traces);
    laboratory.small(&mut report)?;
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
            "cold-starts:histogram/fixed-10",
            "waste:histogram/fixed-10",
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
