//! How many decisions a second the scheduler makes: its inputs are recorded once, and replayed to it alone.

use rustix::time::{ClockId, clock_gettime};

use super::experiments::{Laboratory, NODE_MB};
use super::policies;
use super::simulator::{self, Input, Time};
use crate::Outcome;
use crate::figures::{Mode, Report};

/// The dissertation's: nodes of 40 GB, so that they are not what is tested.
const NODES: u32 = 100;
const RATE: f64 = 2000.0;

/// Measures all of larger clusters, in turn.
pub fn measure(laboratory: &Laboratory, report: &mut Report, runs: u32) -> Outcome<()> {
    let (cluster, shapes, calls) = laboratory.busy(NODES, 2 * NODE_MB, RATE);
    let kinds = policies::timed();
    let mut recorded: Vec<(Vec<(Time, Input)>, usize)> = Vec::new();
    for (name, kind) in &kinds {
        let mut inputs = Vec::new();
        let mut scheduler = kind.build(&cluster, &shapes, 1, policies::TRIES)?;
        let outcome = simulator::run(&cluster, &shapes, &calls, scheduler.as_mut(), &mut |now, input| {
            inputs.push((now, input));
        })
        .map_err(|violation| format!("{name}: {violation}"))?;
        recorded.push((inputs, (outcome.answered + outcome.created) as usize));
    }
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); kinds.len()];
    for round in 0..=runs {
        for (((name, kind), (inputs, _)), times) in kinds.iter().zip(&recorded).zip(&mut times) {
            let mut scheduler = kind.build(&cluster, &shapes, 1, policies::TRIES)?;
            let mut actions = Vec::new();
            let start = cpu_ms();
            for &(now, input) in inputs {
                actions.clear();
                scheduler.step(now, input, &mut actions);
                std::hint::black_box((&actions, scheduler.wake()));
            }
            let took = cpu_ms() - start;
            if took <= 0.0 {
                return Err(format!("{name}: the replay took no time").into());
            }
            // The first round is a warm-up.
            if round > 0 {
                times.push(took);
            }
        }
    }
    let part = report.parts.entry("CPU time, 100 nodes".to_owned()).or_default();
    for (((name, _), (inputs, decisions)), times) in kinds.iter().zip(&recorded).zip(&times) {
        let mut mode = Mode::of(times);
        let per_second = |count: usize| count as f64 * 1000.0 / mode.median_ms;
        let counts = [
            // A call is one decision, whatever else has to be decided for it.
            ("decisions_per_s", per_second(calls.len())),
            ("actions_per_s", per_second(*decisions)),
            ("events_per_s", per_second(inputs.len())),
        ];
        mode.counts = counts.map(|(name, value)| (name.to_owned(), value)).into();
        part.modes.insert((*name).to_owned(), mode);
    }
    let speed = |mode: &str| part.modes.get(mode)?.counts.get("decisions_per_s").copied();
    let keys = [
        ("ma-mc-sampled", "decisions_per_s"),
        ("ma-mc", "decisions_per_s:ma-mc"),
        ("mote", "decisions_per_s:mote"),
    ];
    report.ratios.extend(keys.into_iter().filter_map(|(mode, key)| Some((key.to_owned(), speed(mode)?))));
    Ok(())
}

fn cpu_ms() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}
