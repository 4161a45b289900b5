//! How much the main ratios owe to what is assumed: the same comparison with one assumption changed at a time.

use super::experiments::{Conditions, Laboratory};
use super::policies;
use crate::Outcome;
use crate::figures::{Part, Report};

/// An assumption and what becomes of it.
type Change = (&'static str, fn(&mut Conditions));

const CHANGES: [Change; 15] = [
    ("as assumed", |_| ()),
    ("create x0.5", |now| now.create /= 2),
    ("create x2", |now| now.create *= 2),
    ("create x0.1", |now| now.create /= 10),
    ("creators x0.5", |now| now.creators = (now.creators / 2).max(1)),
    ("creators x2", |now| now.creators *= 2),
    ("dispatch x0.25", |now| now.dispatch /= 4),
    ("dispatch x4", |now| now.dispatch *= 4),
    ("clients in line", |now| now.tries = 1),
    ("clients x16", |now| now.tries *= 16),
    ("length x2", |now| now.length_s *= 2.0),
    ("functions x0.5", |now| now.functions /= 2),
    ("functions x2", |now| now.functions *= 2),
    ("demand x0.6", |now| now.demand = scaled(now, 0.6)),
    ("demand x1.5", |now| now.demand = scaled(now, 1.5)),
];

fn scaled(now: &Conditions, by: f64) -> std::ops::RangeInclusive<f64> {
    now.demand.start() * by..=now.demand.end() * by
}

/// Ratios for every change, and for every trace alone.
pub fn measure(conditions: &Conditions, seeds: &[u64], report: &mut Report) -> Outcome<()> {
    for (name, change) in CHANGES {
        let mut changed = conditions.clone();
        change(&mut changed);
        add(name, &changed, seeds, report)?;
    }
    for seed in seeds {
        add(&format!("trace {seed} alone"), conditions, &[*seed], report)?;
    }
    Ok(())
}

fn add(name: &str, conditions: &Conditions, seeds: &[u64], report: &mut Report) -> Outcome<()> {
    eprintln!("{name}");
    let mut found = Report::new("sched", 1);
    Laboratory::new(conditions.clone(), seeds).small(&mut found, &policies::all())?;
    // Ratios only: the figures are many.
    report.parts.insert(name.to_owned(), Part { ratios: found.ratios, ..Part::default() });
    Ok(())
}
