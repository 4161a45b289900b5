//! A scaled-down synthetic trace, called for real in the booted appliance, beside what the simulator of [`crate::sched`]
//! foretells of the very same calls on a node of the appliance's size.
//!
//! Each function has its snapshot and record before the first call, and no sandbox: nothing starts cold, a restore takes
//! the place of the simulator's cold start. Calls come at their times whether others were answered or not.

mod account;
mod fire;
mod place;
mod plan;
mod predict;

use std::path::Path;
use std::time::Duration;

use clap::Args;
use mote_image::project::Project;
use mote_sched::Stats;

use crate::Outcome;
use crate::appliance::{Appliance, Setup};
use crate::client::Client;
use crate::figures::{Mode, Report, quantile};
use account::Account;
use fire::{Ended, Fired};
use place::Alone;
use plan::{Plan, Scale};
use predict::Configured;

/// Which machine, and what comes.
#[derive(Debug, Args)]
pub struct Options {
    /// For so long calls come, seconds.
    #[arg(long, default_value_t = 180, value_parser = clap::value_parser!(u32).range(10..=3600))]
    seconds: u32,
    /// Calls a second.
    #[arg(long, default_value_t = 1.5, value_parser = rate)]
    rate: f64,
    /// Functions, the most popular of the trace.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=100))]
    functions: u32,
    /// What the trace is drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// No call runs for longer, milliseconds.
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    longest_ms: u64,
    /// Memory of the appliance, MiB. The default has no room for all functions at once.
    #[arg(long, default_value_t = 1280, value_parser = clap::value_parser!(u32).range(1024..=65_536))]
    memory_mib: u32,
    /// A sandbox without calls is put away after so long, seconds (`sandbox.idle_timeout_s`).
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3600))]
    idle_timeout_s: u32,
    /// Write every call into this file, a line each: number, second, function, ms, and how it was served and ms until it
    /// began, measured and predicted.
    #[arg(long)]
    calls: Option<std::path::PathBuf>,
}

/// Said wherever the figures are.
const NOTE: &str = "A synthetic trace, scaled down: drawn from what is published about the Azure 2019 trace, nothing of \
                    it is in it. Latency is from a call's coming until its function runs. Nothing starts cold: each \
                    function was recorded before, so what is restored is what the simulator calls cold.";

/// How long after the time for it sandboxes have given memory back for certain.
const GIVEN_BACK: Duration = Duration::from_secs(4);

/// Failed calls of which the reason is told.
const TOLD: usize = 5;

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.01..=100.0).contains(&rate) => Ok(rate),
        _ => Err("Give calls a second, 0.01 to 100".to_owned()),
    }
}

impl Options {
    fn plan(&self) -> Plan {
        Plan::draw(&Scale {
            functions: self.functions,
            rate: self.rate,
            length_s: f64::from(self.seconds),
            longest: Duration::from_millis(self.longest_ms),
            seed: self.seed,
        })
    }
}

/// Runs the calls and the simulation.
pub fn run(options: &Options) -> Outcome<Report> {
    eprintln!("{NOTE}");
    let config = Project::find(Path::new("."))?.file("config/mote.toml");
    let configured = Configured::parse(&std::fs::read_to_string(config)?)?;
    let plan = options.plan();
    let appliance = Appliance::boot(Setup {
        memory_mib: options.memory_mib,
        append: vec![format!("mote.sandbox.idle_timeout_s={}", options.idle_timeout_s)],
        ..Setup::default()
    })?;
    let client = Client::new(&appliance.url);
    place::deploy(&client, &plan.functions_mb)?;
    let rest = Duration::from_secs(configured.reclaim_s()) + GIVEN_BACK;
    let alone = place::prime(&client, options.functions, rest)?;
    eprintln!("{alone:?}");
    let before = decided(&client)?;
    let fired = fire::fire(&client, &plan.calls);
    let meanwhile = account::between(&before, &decided(&client)?);
    for reason in fired.iter().filter_map(failure).take(TOLD) {
        eprintln!("  {reason}");
    }
    let measured = Account::measured(&fired);
    let (outcome, foretold) =
        predict::predict(&plan, &alone, &configured, f64::from(options.idle_timeout_s))?;
    let predicted = Account::predicted(&outcome);
    measured.complete(&plan)?;
    predicted.complete(&plan)?;
    if let Some(path) = &options.calls {
        std::fs::write(path, lines(&plan, &measured, &predicted))?;
    }
    let mut report = Report::new("load", 1);
    report.machine = format!("{}; appliance {}, {} MiB", report.machine, appliance.how, options.memory_mib);
    report.note = NOTE.to_owned();
    let mut mode = measured.mode(&meanwhile);
    let late: Vec<f64> = fired.iter().map(|one| one.late_ms).collect();
    mode.counts.insert("late_ms".to_owned(), quantile(&late, 0.99));
    mode.counts.insert("served_as_predicted_percent".to_owned(), measured.agreement(&predicted));
    report.modes.insert("measured".to_owned(), mode);
    let mut mode = predicted.mode(&foretold);
    mode.counts.extend(assumed(&alone));
    report.modes.insert("predicted".to_owned(), mode);
    conclude(&mut report);
    Ok(report)
}

/// What was measured for the prediction.
fn assumed(alone: &Alone) -> [(String, f64); 7] {
    [
        ("alone_restore_ms", alone.restore_ms),
        ("alone_dispatch_ms", alone.dispatch_ms),
        ("alone_extra_ms", alone.extra_ms),
        ("capacity_mb", f64::from(alone.capacity_mb)),
        ("taken_mb", f64::from(alone.taken_mb)),
        ("shared_mb", f64::from(alone.shared_mb)),
        ("resting_mb", f64::from(alone.resting_mb)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
}

/// Adds the ratios.
fn conclude(report: &mut Report) {
    type Figure = fn(&Mode) -> Option<f64>;
    let figures: [(&str, Figure); 5] = [
        ("warm", |mode| mode.counts.get("warm_percent").copied()),
        ("restores", |mode| mode.counts.get("restore_percent").copied()),
        ("p50", |mode| Some(mode.median_ms)),
        ("p99", |mode| mode.counts.get("p99_ms").copied()),
        ("mean", |mode| mode.counts.get("mean_ms").copied()),
    ];
    for (name, figure) in figures {
        let of = |mode: &str| report.modes.get(mode).and_then(figure);
        if let (Some(measured), Some(predicted)) = (of("measured"), of("predicted"))
            && predicted > 0.0
        {
            report.ratios.insert(format!("{name}:measured/predicted"), measured / predicted);
        }
    }
}

fn decided(client: &Client) -> Outcome<Stats> {
    Ok(serde_json::from_value(client.status()?["sandboxes"]["decided"].clone())?)
}

fn failure(fired: &Fired) -> Option<&str> {
    match &fired.ended {
        Ended::Failed(reason) => Some(reason),
        _ => None,
    }
}

/// All calls, a line each.
fn lines(plan: &Plan, measured: &Account, predicted: &Account) -> String {
    let mut text = String::new();
    for (number, call) in (0..).zip(&plan.calls) {
        let of = |account: &Account| match account.served.get(&number) {
            Some((way, ms)) => format!("{way} {ms:.0}"),
            None => "none 0".to_owned(),
        };
        let second = std::time::Duration::from_micros(call.at).as_secs_f64();
        let (function, run_ms) = (call.function, call.run / 1000);
        text += &format!("{number} {second:.3} {function} {run_ms} {} {}\n", of(measured), of(predicted));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_measured_by_predicted() {
        let mut report = Report::new("load", 1);
        for (name, ms) in [("measured", 30.0), ("predicted", 20.0)] {
            let mut mode = Mode::of(&[ms]);
            mode.counts.insert("p99_ms".to_owned(), ms * ms);
            mode.counts.insert("restore_percent".to_owned(), 0.0);
            report.modes.insert(name.to_owned(), mode);
        }
        conclude(&mut report);
        assert!((report.ratios["p50:measured/predicted"] - 1.5).abs() < 1e-9);
        assert!((report.ratios["p99:measured/predicted"] - 2.25).abs() < 1e-9);
        assert_eq!(report.ratios.len(), 2, "nothing by nothing");
    }

    #[test]
    fn rates_have_bounds() {
        assert_eq!(rate("1.5"), Ok(1.5));
        assert!(["0", "-1", "nan", "inf", "1e9", ""].iter().all(|text| rate(text).is_err()));
    }

    #[test]
    fn every_call_has_a_line() {
        let call = crate::sched::trace::Call { at: 1_500_000, function: 3, run: 20_000 };
        let plan = Plan { functions_mb: vec![128; 4], calls: vec![call, call] };
        let mut measured = Account::default();
        measured.served.insert(0, ("warm", 12.4));
        let text = lines(&plan, &measured, &Account::default());
        assert_eq!(text, "0 1.500 3 20 warm 12 none 0\n1 1.500 3 20 none 0 none 0\n");
    }
}
