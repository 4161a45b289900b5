//! One call of one function, served cold, from a snapshot and warm, in turn, in the booted appliance.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};

use clap::Args;
use serde_json::json;

use crate::Outcome;
use crate::appliance::{Appliance, Setup};
use crate::client::{Client, Way};
use crate::figures::{Mode, Report};

/// The ways, as `X-Mote-Start` asks for them and `X-Mote-Served-By` confirms them.
const MODES: [&str; 3] = ["cold", "restore", "warm"];

const NAME: &str = "sum";
const HANDLER: &str = "def handler(event, context):\n    return {'sum': event['a'] + event['b']}\n";
const MEMORY_MB: u32 = 128;

/// Nothing to choose.
#[derive(Debug, Args)]
pub struct Options {}

/// Runs the comparison.
pub fn run(_: &Options, runs: u32) -> Outcome<Report> {
    let appliance = Appliance::boot(Setup::default())?;
    let client = Client::new(&appliance.url);
    client.deploy(NAME, "app.handler", MEMORY_MB, &package()?)?;
    // The first call makes the snapshot; it counts for nothing.
    call(&client, "cold", 0)?;
    let mut samples: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for round in 0..=runs {
        for mode in MODES {
            let took = call(&client, mode, round)?;
            if round > 0 {
                samples.entry(mode).or_default().push(took);
            }
        }
    }
    let mut report = Report::new("start", runs);
    report.machine = format!("{}; appliance {}", report.machine, appliance.how);
    for (mode, samples) in samples {
        report.modes.insert(mode.to_owned(), Mode::of(&samples));
    }
    report.ratio("cold", "restore");
    report.ratio("restore", "warm");
    Ok(report)
}

fn package() -> Outcome<Vec<u8>> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file("app.py", zip::write::SimpleFileOptions::default())?;
    zip.write_all(HANDLER.as_bytes())?;
    Ok(zip.finish()?.into_inner())
}

/// One call; milliseconds as the client sees them. Answer and way are checked.
fn call(client: &Client, mode: &str, round: u32) -> Outcome<f64> {
    let way = Way { start: mode, restore_mode: None };
    let answer = client.invoke(NAME, &json!({"a": round, "b": 1000}), way)?;
    if answer.value != json!({"sum": round + 1000}) {
        return Err(format!("{mode} call {round} answered {}", answer.value).into());
    }
    Ok(answer.ms)
}
