//! Many calls at once, of one function or of as many different ones: figure 5.10 of the FaaSnap paper.

use std::sync::Barrier;

use clap::Args;
use serde_json::Value;

use crate::Outcome;
use crate::client::Client;
use crate::figures::{Part, Report};
use crate::functions::{Functions, event};
use crate::restoring::{self, Options as Restoring, Sample, Samples};

const MODES: [&str; 3] = ["lazy", "reap", "faasnap"];

const FUNCTIONS: [&str; 2] = ["hello", "json"];

/// What a microVM takes of the appliance's memory beside the function's, MiB; a little more than it really is.
const OVERHEAD_MB: u64 = 16;

/// Which machine, functions and modes, and how many calls.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    restoring: Restoring,
    /// Most calls at once; fewer if the appliance has no memory for so many.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    most: u32,
}

/// Runs the comparison.
pub fn run(options: &Options, runs: u32) -> Outcome<Report> {
    let functions = Functions::open()?;
    let wished: Vec<String> = match options.restoring.functions.as_slice() {
        [] => FUNCTIONS.map(str::to_owned).to_vec(),
        some => some.to_vec(),
    };
    let names = functions.names(&wished)?;
    let functions = names.iter().map(|name| functions.get(name)).collect::<Outcome<Vec<_>>>()?;
    let modes = options.restoring.modes(&MODES);
    let (_appliance, client, mut report) = options.restoring.boot("burst", runs)?;
    for function in &functions {
        let most = fitting(&client, function.row.memory_mb)?.min(u64::from(options.most));
        let sizes: Vec<usize> =
            (0..).map(|power| 1 << power).take_while(|&size| size as u64 <= most).collect();
        let clones: Vec<String> = (0..most).map(|number| format!("{}-{number}", function.name)).collect();
        let recorded = event("A", 1.0);
        for name in &clones {
            function.deploy(&client, name)?;
            client.record(name, &recorded)?;
        }
        let tested = event("B", 1.0);
        let expected = function.natively(std::slice::from_ref(&tested))?.pop().unwrap_or_default();
        for &size in &sizes {
            let same = vec![clones[0].as_str(); size];
            let different: Vec<&str> = clones.iter().take(size).map(String::as_str).collect();
            for (how, names) in [("same", same), ("different", different)] {
                let part = measure(&client, &names, &tested, &expected, &modes, runs)?;
                let key = format!("{} {how} x{size}", function.name);
                restoring::say(&key, &part);
                report.parts.insert(key, part);
            }
        }
        for name in &clones {
            client.remove(name)?;
        }
    }
    restoring::conclude(&mut report);
    Ok(report)
}

/// How many microVMs of this size the appliance has memory for.
fn fitting(client: &Client, memory_mb: u32) -> Outcome<u64> {
    let status = client.status()?;
    let capacity = &status["sandboxes"]["capacity_mb"];
    let capacity =
        capacity.as_u64().ok_or_else(|| format!("The appliance has {capacity} MiB for microVMs"))?;
    Ok((capacity / (u64::from(memory_mb) + OVERHEAD_MB)).max(1))
}

/// Calls all of `names` at once, in each mode in turn; a sample is the mean over the calls of one burst.
fn measure(
    client: &Client,
    names: &[&str],
    event: &Value,
    expected: &Value,
    modes: &[String],
    runs: u32,
) -> Outcome<Part> {
    let mut distinct = names.to_vec();
    distinct.dedup();
    let mut samples = Samples::default();
    for round in 0..=runs {
        for mode in restoring::turn(modes, round) {
            restoring::forget(client, &distinct)?;
            let sample = Sample::mean(&burst(client, names, event, expected, mode)?);
            if round > 0 {
                samples.push(mode, sample);
            }
        }
    }
    Ok(Part { modes: samples.modes(), ..Part::default() })
}

fn burst(
    client: &Client,
    names: &[&str],
    event: &Value,
    expected: &Value,
    mode: &str,
) -> Outcome<Vec<Sample>> {
    let start = Barrier::new(names.len());
    let call = |name: &str| {
        start.wait();
        // An error of any kind is no Send; its text is.
        restoring::restored(client, name, event, mode, expected).map_err(|error| error.to_string())
    };
    let ended: Vec<_> = std::thread::scope(|scope| {
        let calls: Vec<_> = names.iter().map(|name| scope.spawn(|| call(name))).collect();
        calls
            .into_iter()
            .map(|call| call.join().unwrap_or_else(|_| Err("A call panicked".to_owned())))
            .collect()
    });
    ended.into_iter().map(|sample| sample.map_err(Into::into)).collect()
}
