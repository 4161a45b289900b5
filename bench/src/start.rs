//! One call of one function, served cold, from a snapshot and warm, in turn, in the booted appliance.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::{Value, json};
use ureq::Agent;

use crate::Outcome;
use crate::appliance::Appliance;
use crate::figures::{Mode, Report};

/// Bound on one call.
const CALL_LIMIT: Duration = Duration::from_secs(120);

/// The ways, as `X-Mote-Start` asks for them and `X-Mote-Served-By` confirms them.
const MODES: [&str; 3] = ["cold", "restore", "warm"];

const HANDLER: &str = "def handler(event, context):\n    return {'sum': event['a'] + event['b']}\n";

/// Nothing to choose.
#[derive(Debug, Args)]
pub struct Options {}

/// Runs the comparison.
pub fn run(_: &Options, runs: u32) -> Outcome<Report> {
    let appliance = Appliance::boot()?;
    let config = Agent::config_builder().timeout_global(Some(CALL_LIMIT)).http_status_as_error(false).build();
    let agent = Agent::new_with_config(config);
    deploy(&agent, &appliance.url)?;
    // The first call makes the snapshot; it counts for nothing.
    call(&agent, &appliance.url, "cold", 0, false)?;
    let mut samples: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for round in 0..=runs {
        for mode in MODES {
            let took = call(&agent, &appliance.url, mode, round, true)?;
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

fn deploy(agent: &Agent, url: &str) -> Outcome<()> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file("app.py", zip::write::SimpleFileOptions::default())?;
    zip.write_all(HANDLER.as_bytes())?;
    let zip = STANDARD.encode(zip.finish()?.into_inner());
    let body = json!({
        "FunctionName": "sum", "Runtime": "python3.11", "Handler": "app.handler",
        "Role": "arn:aws:iam::000000000000:role/bench", "Code": {"ZipFile": zip},
    });
    let mut answer = agent
        .post(format!("{url}/2015-03-31/functions"))
        .header("Content-Type", "application/json")
        .send(body.to_string())?;
    if answer.status() != 201 {
        return Err(
            format!("Deploy answered {}: {}", answer.status(), answer.body_mut().read_to_string()?).into()
        );
    }
    Ok(())
}

/// One call; milliseconds as the client sees them. Answer and way are checked.
fn call(agent: &Agent, url: &str, mode: &str, round: u32, check: bool) -> Outcome<f64> {
    let event = json!({"a": round, "b": 1000}).to_string();
    let want = if mode == "warm" { "auto" } else { mode };
    let begun = Instant::now();
    let mut answer = agent
        .post(format!("{url}/2015-03-31/functions/sum/invocations"))
        .header("X-Mote-Start", want)
        .send(event)?;
    let body = answer.body_mut().read_to_string()?;
    let took = begun.elapsed().as_secs_f64() * 1000.0;
    let by =
        answer.headers().get("x-mote-served-by").and_then(|value| value.to_str().ok()).unwrap_or("nobody");
    let right = serde_json::from_str::<Value>(&body).is_ok_and(|value| value == json!({"sum": round + 1000}));
    if answer.status() != 200 || !right || (check && by != mode) {
        return Err(format!("{mode} call {round} answered {} by {by}: {body}", answer.status()).into());
    }
    Ok(took)
}
