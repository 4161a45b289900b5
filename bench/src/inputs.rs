//! A function recorded with one input and called with smaller and larger ones: figure 5.8 of the FaaSnap paper.

use serde_json::{Value, json};

use crate::Outcome;
use crate::figures::Report;
use crate::functions::Functions;
use crate::restoring::{self, Options};

const MODES: [&str; 4] = ["lazy", "cached", "reap", "faasnap"];

/// Functions whose work grows with their input as a whole.
const FUNCTIONS: [&str; 3] = ["chameleon", "image", "json"];

/// Sizes of the tested input, as multiples of the recorded one.
const SCALES: [f64; 5] = [0.25, 0.5, 1.0, 2.0, 4.0];

/// Runs the comparison.
pub fn run(options: &Options, runs: u32) -> Outcome<Report> {
    let functions = Functions::open()?;
    let wished: Vec<String> = match options.functions.as_slice() {
        [] => FUNCTIONS.map(str::to_owned).to_vec(),
        some => some.to_vec(),
    };
    let names = functions.names(&wished)?;
    let functions = names.iter().map(|name| functions.get(name)).collect::<Outcome<Vec<_>>>()?;
    let modes = options.modes(&MODES);
    let events = SCALES.map(|scale| event(scale, 1));
    let (place, mut report) = options.boot("inputs", runs)?;
    for function in &functions {
        let name = &function.name;
        function.deploy(&place.client, name)?;
        let answers = function.natively(&events)?;
        place.client.record(name, &event(1.0, 0))?;
        for ((scale, event), answer) in SCALES.iter().zip(&events).zip(&answers) {
            let part = place.compare_one(name, event, answer, &modes, runs)?;
            let key = format!("{name} x{scale}");
            restoring::say(&key, &part);
            report.parts.insert(key, part);
        }
        place.client.remove(name)?;
    }
    restoring::conclude(&mut report);
    Ok(report)
}

/// Another variant is another content of the same size.
fn event(scale: f64, variant: u32) -> Value {
    json!({"input": "A", "scale": scale, "variant": variant})
}
