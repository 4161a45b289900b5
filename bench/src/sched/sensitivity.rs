//! How much the main ratios owe to what is assumed: the same comparison with one assumption changed at a time, with other
//! traces, and with each trace alone.

use super::experiments::{Conditions, Laboratory};
use super::policies;
use crate::Outcome;
use crate::figures::{Part, Report};

/// An assumption and what becomes of it.
type Change = (&'static str, fn(&mut Conditions));

const CHANGES: [Change; 15] = [
    ("create x0.1", |now| now.create /= 10),
    ("create x0.5", |now| now.create /= 2),
    ("create x2", |now| now.create *= 2),
    ("creators x0.5", |now| now.creators = (now.creators / 2).max(1)),
    ("creators x2", |now| now.creators *= 2),
    ("dispatch x0.25", |now| now.dispatch /= 4),
    ("dispatch x4", |now| now.dispatch *= 4),
    ("clients in line", |now| now.tries = 1),
    ("clients x16", |now| now.tries *= 16),
    ("length x2", |now| now.length_s *= 2.0),
    ("functions x0.3", |now| now.functions = now.functions * 3 / 10),
    ("functions x2", |now| now.functions *= 2),
    ("demand x0.6", |now| now.demand = scaled(now, 0.6)),
    ("demand x1.5", |now| now.demand = scaled(now, 1.5)),
    ("without bursts", |now| now.bursts = false),
];

/// Of so many traces: each change takes as long as the whole comparison.
const TRACES: usize = 4;

/// What is told of each.
const KEYS: [&str; 14] = [
    "throughput:ma-mc/sticky-random",
    "sustained:ma-mc/sticky-random",
    "cold-starts:ma-mc/sticky-random",
    "cold-starts:ma-mc/sticky-random@200",
    "p99:ma-mc/best-other",
    "p99:ma-mc/best-other@200",
    "throughput:ma-mc-clients/sticky-random",
    "sustained:ma-mc-clients/sticky-random",
    "throughput:ma-mc-late/sticky-random",
    "sustained:ma-mc-late/sticky-random",
    "throughput:ma-mc-early/sticky-random",
    "sustained:ma-mc-early/sticky-random",
    "throughput:sticky-random-queue/sticky-random",
    "sustained:sticky-random-queue/sticky-random",
];

fn scaled(now: &Conditions, by: f64) -> std::ops::RangeInclusive<f64> {
    now.demand.start() * by..=now.demand.end() * by
}

/// Ratios for every change, for as many other traces, and for every trace alone.
pub fn measure(conditions: &Conditions, seeds: &[u64], report: &mut Report) -> Outcome<()> {
    let few: Vec<u64> = seeds.iter().copied().take(TRACES).collect();
    add("as assumed", conditions, &few, report)?;
    for (name, change) in CHANGES {
        let mut changed = conditions.clone();
        change(&mut changed);
        add(name, &changed, &few, report)?;
    }
    let next = seeds.last().map_or(0, |last| last.saturating_add(1));
    let others: Vec<u64> = (next..).take(seeds.len()).collect();
    add("other traces", conditions, &others, report)?;
    for seed in seeds {
        add(&format!("trace {seed} alone"), conditions, &[*seed], report)?;
    }
    Ok(())
}

fn add(name: &str, conditions: &Conditions, seeds: &[u64], report: &mut Report) -> Outcome<()> {
    eprintln!("{name}");
    let mut found = Report::new("sched", 1);
    Laboratory::new(conditions.clone(), seeds).small(&mut found, &policies::dissertation())?;
    // Ratios only: the figures are many.
    let ratios = KEYS.into_iter().filter_map(|key| Some((key.to_owned(), *found.ratios.get(key)?))).collect();
    report.parts.insert(name.to_owned(), Part { ratios, ..Part::default() });
    Ok(())
}
