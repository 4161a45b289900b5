//! Every performance claim as a runnable comparison.

mod appliance;
mod blank;
mod burst;
mod client;
mod disk;
mod figures;
mod functions;
mod inputs;
mod load;
mod monitor;
mod network;
mod paging;
mod plots;
mod program;
mod restore;
mod restoring;
mod sched;
mod start;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use figures::Report;

/// Compares ways of doing the same thing, interleaved in one run. Prints a table, or JSON with --json.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
    /// Write one line of JSON to this file; `-` is standard output.
    #[arg(long, global = true)]
    json: Option<PathBuf>,
    /// Repetitions of every mode, after one that is not counted.
    #[arg(long, global = true, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// CPU time of a monitor before its guest runs: ELF and bzImage kernels (native, needs /dev/kvm).
    Monitor(monitor::Options),
    /// A microVM in a process that is started for it and in one that waited, until its guest runs (native, needs /dev/kvm).
    Blank(blank::Options),
    /// One call served from a snapshot on disk, with its memory brought back in different ways (native, needs /dev/kvm).
    Paging(paging::Options),
    /// The same with what makes it quick added one step at a time (native, needs /dev/kvm).
    Steps(paging::Options),
    /// Endpoints of sandboxes: how long they take to make, and what they carry (native, needs root).
    Network(network::Options),
    /// One call served cold, from a snapshot and warm, in the booted appliance (needs `make image`).
    Start(start::Options),
    /// Every function of bench/functions recorded with one input and called with another, in each restore mode, in the
    /// booted appliance.
    Restore(restoring::Options),
    /// Functions recorded with one input and called with smaller and larger ones, in the booted appliance.
    Inputs(restoring::Options),
    /// Draw what was measured: figures and tables in docs/BENCHMARKS.md from results/*.json.
    Plots(plots::Options),
    /// Many calls at once, of one function or of as many different ones, in the booted appliance.
    Burst(burst::Options),
    /// Calls as in a scaled-down synthetic trace in the booted appliance, beside what the simulator foretells of them.
    Load(load::Options),
    /// The scheduler and others in a simulated cluster, under synthetic traces (anywhere).
    Sched(sched::Options),
}

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let measured = match &arguments.bench {
        Bench::Monitor(options) => monitor::run(options, arguments.runs),
        Bench::Blank(options) => blank::run(options, arguments.runs),
        Bench::Paging(options) => paging::run(options, arguments.runs),
        Bench::Steps(options) => paging::steps(options, arguments.runs),
        Bench::Network(options) => network::run(options, arguments.runs),
        Bench::Start(options) => start::run(options, arguments.runs),
        Bench::Restore(options) => restore::run(options, arguments.runs),
        Bench::Inputs(options) => inputs::run(options, arguments.runs),
        Bench::Burst(options) => burst::run(options, arguments.runs),
        Bench::Load(options) => load::run(options),
        Bench::Sched(options) => sched::run(options, arguments.runs),
        Bench::Plots(options) => return ended(plots::run(options)),
    };
    ended(measured.and_then(|report| publish(&report, arguments.json.as_deref())))
}

fn ended(outcome: Outcome<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", mote_monitor::error_chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn publish(report: &Report, json: Option<&std::path::Path>) -> Outcome<()> {
    match json {
        None => print!("{report}"),
        Some(path) if path.as_os_str() == "-" => println!("{}", serde_json::to_string(report)?),
        Some(path) => {
            std::fs::write(path, serde_json::to_string(report)? + "\n")?;
            print!("{report}");
        }
    }
    Ok(())
}
