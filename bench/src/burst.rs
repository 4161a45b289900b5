//! Many calls at once, of one function or of as many different ones: figure 5.10 of the FaaSnap paper.

use std::sync::Barrier;

use clap::Args;

use crate::Outcome;
use crate::client::Client;
use crate::figures::Report;
use crate::functions::{Functions, event};
use crate::restoring::{self, Call, Options as Restoring, Sample};

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
    let (place, mut report) = options.restoring.boot("burst", runs)?;
    for function in &functions {
        let client = &place.client;
        let most = fitting(client, function.row.memory_mb)?.min(u64::from(options.most));
        let sizes: Vec<usize> =
            (0..).map(|power| 1 << power).take_while(|&size| size as u64 <= most).collect();
        let clones: Vec<String> = (0..most).map(|number| format!("{}-{number}", function.name)).collect();
        let recorded = event("A", 1.0);
        for name in &clones {
            function.deploy(client, name)?;
            client.record(name, &recorded)?;
        }
        let tested = event("B", 1.0);
        let expected = function.natively(std::slice::from_ref(&tested))?.pop().unwrap_or_default();
        for &size in &sizes {
            let same = vec![clones[0].as_str(); size];
            let different: Vec<&str> = clones.iter().take(size).map(String::as_str).collect();
            for (how, names) in [("same", same), ("different", different)] {
                let call = Call { names: &names, event: &tested, expected: &expected };
                let part = place.compare(&call, &modes, runs, burst)?;
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

/// Calls all functions at once; a sample is the mean over them.
fn burst(client: &Client, call: &Call<'_>, mode: &str) -> Outcome<Sample> {
    let start = Barrier::new(call.names.len());
    let one = |name: &str| {
        start.wait();
        // An error of any kind is no Send; its text is.
        restoring::restored(client, name, call.event, mode, call.expected).map_err(|error| error.to_string())
    };
    let ended: Vec<_> = std::thread::scope(|scope| {
        let calls: Vec<_> = call.names.iter().map(|name| scope.spawn(|| one(name))).collect();
        calls
            .into_iter()
            .map(|call| call.join().unwrap_or_else(|_| Err("A call panicked".to_owned())))
            .collect()
    });
    Ok(Sample::mean(&ended.into_iter().collect::<Result<Vec<_>, _>>()?))
}
