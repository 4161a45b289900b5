//! Every function, recorded with one input and called with another, its memory brought back in each mode: figures 5.6
//! and 5.7 of the FaaSnap paper.

use crate::Outcome;
use crate::figures::Report;
use crate::functions::{Functions, event};
use crate::restoring::{self, Options};

const MODES: [&str; 4] = ["lazy", "cached", "reap", "faasnap"];

/// Which input is recorded and which is tested, and what the pair is called.
const BOTH_WAYS: [(&str, &str); 2] = [("A", "B"), ("B", "A")];
const ONE_WAY: [(&str, &str); 1] = [("A", "A")];

/// Runs the comparison.
pub fn run(options: &Options, runs: u32) -> Outcome<Report> {
    let functions = Functions::open()?;
    let names = functions.names(&options.functions)?;
    let modes = options.modes(&MODES);
    // Before the machine runs: packaging is work, too.
    let functions = names.iter().map(|name| functions.get(name)).collect::<Outcome<Vec<_>>>()?;
    let (place, mut report) = options.boot("restore", runs)?;
    for function in &functions {
        let name = &function.name;
        function.deploy(&place.client, name)?;
        let pairs: &[_] = if function.row.varies() { &BOTH_WAYS } else { &ONE_WAY };
        let events = ["A", "B"].map(|input| event(input, 1.0));
        let answers = function.natively(&events)?;
        for (recorded, tested) in pairs {
            let at = usize::from(*tested == "B");
            place.client.record(name, &event(recorded, 1.0))?;
            let part = place.compare_one(name, &events[at], &answers[at], &modes, runs)?;
            let key =
                if function.row.varies() { format!("{name} {recorded}-{tested}") } else { name.clone() };
            restoring::say(&key, &part);
            report.parts.insert(key, part);
        }
        place.client.remove(name)?;
    }
    restoring::conclude(&mut report);
    for (recorded, tested) in BOTH_WAYS {
        report.ratios_of(&format!("{recorded}-{tested}"));
    }
    Ok(report)
}
