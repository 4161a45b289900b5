//! The appliance with its functions: deployed, recorded, and what one call by itself takes.

use std::io::{Cursor, Write};
use std::time::{Duration, Instant};

use num_traits::ToPrimitive;
use serde_json::Value;

use crate::Outcome;
use crate::client::Client;
use crate::figures::quantile;
use crate::load::fire::{Ended, Served, event, judge};

/// Says when it began and which call it was, and sleeps.
const SOURCE: &str = "import time\n\n\ndef handler(event, context):\n    began = time.time()\n    \
                      time.sleep(event['ms'] / 1000)\n    return {'call': event['call'], 'began': began}\n";

/// What a priming call is told to take, microseconds.
const PRIMING: u64 = 5000;

/// Warm calls measured of every function.
const WARM: u32 = 3;

/// Functions of which sandboxes are left alone to see what they hold.
const RESTING: u32 = 4;

/// Bound on waiting for something to settle.
const SETTLED: Duration = Duration::from_secs(60);

/// Phases of a new sandbox's first call that are no part of making it.
const NOT_MAKING: [&str; 2] = ["wait", "invoke"];

/// What calls took when nothing else was going on, and what the appliance has; milliseconds and MB.
#[derive(Debug, Clone, Copy)]
pub struct Alone {
    /// To restore a sandbox: from a monitor to a function that has its event.
    pub restore_ms: f64,
    /// What a warm call takes besides the function.
    pub dispatch_ms: f64,
    /// What the appliance takes for a function's run besides what the function was told to take.
    pub extra_ms: f64,
    /// Memory for sandboxes.
    pub capacity_mb: u32,
    /// Memory that is booked without any.
    pub taken_mb: u32,
    /// Page cache that sandboxes of one function share.
    pub shared_mb: u32,
    /// Memory booked for a sandbox that rests.
    pub resting_mb: u32,
}

/// What a function is called.
pub fn name(function: u32) -> String {
    format!("load-{function}")
}

/// Deploys functions of these sizes.
pub fn deploy(client: &Client, functions_mb: &[u32]) -> Outcome<()> {
    let package = package()?;
    for (function, memory_mb) in (0..).zip(functions_mb) {
        client.deploy(&name(function), "app.handler", *memory_mb, &package)?;
    }
    Ok(())
}

/// Has every function recorded, restored once and called warm, one after the other. `rest`: after so long without a call
/// sandboxes have given back what they do not use.
pub fn prime(client: &Client, functions: u32, rest: Duration) -> Outcome<Alone> {
    let (mut restores, mut dispatches, mut extras) = (Vec::new(), Vec::new(), Vec::new());
    for function in 0..functions {
        client.record(&name(function), &event(function, PRIMING))?;
        let taken_mb = emptied(client)?;
        let (restored, making_ms) = call(client, function)?;
        if restored.by != "restore" {
            return Err(format!("{} was served {} instead of by restore", name(function), restored.by).into());
        }
        restores.push(making_ms);
        for _ in 0..WARM {
            let (warm, _) = call(client, function)?;
            dispatches.push(warm.start_ms);
            extras.push(warm.ran_ms - PRIMING.to_f64().unwrap_or(0.0) / 1000.0);
        }
        eprintln!("  {} restored in {making_ms:.0} ms, {taken_mb} MB booked before", name(function));
    }
    let taken_mb = emptied(client)?;
    let resting = RESTING.min(functions).max(1);
    for function in 0..resting {
        call(client, function)?;
    }
    std::thread::sleep(rest);
    let (shared_mb, resting_mb) = (number(&client.status()?, "shared_mb")? / resting, rested(client)?);
    let capacity_mb = number(&client.status()?, "capacity_mb")?;
    emptied(client)?;
    let median = |samples: &[f64]| quantile(samples, 0.5);
    Ok(Alone {
        restore_ms: median(&restores),
        dispatch_ms: median(&dispatches),
        extra_ms: median(&extras).max(0.0),
        capacity_mb,
        taken_mb,
        shared_mb,
        resting_mb,
    })
}

/// One call, and what of it was making a sandbox.
fn call(client: &Client, function: u32) -> Outcome<(Served, f64)> {
    let reply = client.call(&name(function), &event(function, PRIMING))?;
    let making = reply.phases.iter().filter(|(name, _)| !NOT_MAKING.contains(&name.as_str()));
    let making_ms = making.map(|(_, ms)| ms).sum();
    match judge(reply, function) {
        Ended::Served(served) => Ok((served, making_ms)),
        other => Err(format!("{} could not be primed: {other:?}", name(function)).into()),
    }
}

/// Puts all sandboxes away and waits until nothing is going on; memory that is booked then, MB.
pub fn emptied(client: &Client) -> Outcome<u32> {
    let deadline = Instant::now() + SETTLED;
    let mut before = None;
    loop {
        client.put_away()?;
        std::thread::sleep(Duration::from_millis(300));
        let status = client.status()?;
        let now = (number(&status, "alive")?, number(&status, "blanks")?, number(&status, "memory_mb")?);
        // Twice the same: monitors that are kept ready are made again by themselves.
        if now.0 == 0 && before == Some(now) {
            return Ok(now.2);
        }
        if Instant::now() > deadline {
            return Err(format!("Sandboxes did not end: {}", status["sandboxes"]).into());
        }
        before = Some(now);
    }
}

/// The median of what idle sandboxes have booked, MB.
fn rested(client: &Client) -> Outcome<u32> {
    let all = client.sandboxes()?;
    let all =
        all.as_array().or_else(|| all["sandboxes"].as_array()).ok_or("There is no list of sandboxes")?;
    let idle = all.iter().filter(|one| one["state"] == "idle");
    let booked: Vec<f64> = idle.filter_map(|one| one["memory_mb"].as_f64()).collect();
    if booked.is_empty() {
        return Err("No sandbox rests".into());
    }
    quantile(&booked, 0.5).ceil().to_u32().ok_or_else(|| "Sandboxes hold too much".into())
}

/// A figure of the sandboxes in the appliance's status.
fn number(status: &Value, name: &str) -> Outcome<u32> {
    let value = &status["sandboxes"][name];
    let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
    number.ok_or_else(|| format!("The appliance says {name} = {value}").into())
}

fn package() -> Outcome<Vec<u8>> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file("app.py", zip::write::SimpleFileOptions::default())?;
    zip.write_all(SOURCE.as_bytes())?;
    Ok(zip.finish()?.into_inner())
}
