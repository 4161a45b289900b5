//! Which figures are divided by which.

use crate::figures::{Part, Report};

/// `slow/fast` of two modes of a part: the key's beginning, the figure, part, modes and the key's end.
pub type Ratio = (&'static str, &'static str, &'static str, &'static str, &'static str, &'static str);

/// The least of all other schedulers of the dissertation.
const BEST_OTHER: &str = "best-other";

/// Those of the dissertation besides the pair it recommends.
const OTHERS: [&str; 7] =
    ["sticky-random", "random", "max-available", "sticky-max", "ma-ma", "sr-ma", "sr-mc"];

/// What is told of each mode against OpenWhisk's scheduler.
const AGAINST: [&str; 7] =
    ["ma-mc", "ma-mc-late", "ma-mc-early", "ma-mc-clients", "mote", "mote-min-cost", "sticky-random-queue"];

const FIGURES: [(&str, &str, &str, &str); 8] = [
    ("throughput", "throughput", "10 nodes rising", ""),
    ("sustained", "sustained", "10 nodes rising", ""),
    ("cold-starts", "cold_percent", "10 nodes 100/s", ""),
    ("cold-starts", "cold_percent", "10 nodes 200/s", "@200"),
    ("starts", "created_percent", "10 nodes 100/s", ""),
    ("starts", "created_percent", "10 nodes 200/s", "@200"),
    ("p99", "p99_ms", "10 nodes 100/s", ""),
    ("p99", "p99_ms", "10 nodes 200/s", "@200"),
];

/// Of the clusters of 50 and 100 nodes.
pub const LARGE: &[Ratio] = &[
    ("throughput", "throughput", "50 nodes rising", "ma-mc", "sticky-random", "@50"),
    ("throughput", "throughput", "50 nodes rising", "ma-mc-sampled", "ma-mc", "@50"),
    ("cold-starts", "cold_percent", "50 nodes 900/s", "ma-mc-sampled", "ma-mc", "@50"),
    ("throughput", "throughput", "100 nodes rising", "ma-mc", "sticky-random", "@100"),
    ("throughput", "throughput", "100 nodes rising", "ma-mc-sampled", "ma-mc", "@100"),
    ("cold-starts", "cold_percent", "100 nodes 1800/s", "ma-mc-sampled", "ma-mc", "@100"),
];

/// Of ways to keep sandboxes alive.
pub const KEEP_ALIVE: &[Ratio] = &[
    ("keep-alive:cold-starts", "cold_percent", "keep-alive", "histogram", "fixed-10", ""),
    ("keep-alive:waste", "waste_gb_s", "keep-alive", "histogram", "fixed-10", ""),
    ("keep-alive:starts", "created_percent", "keep-alive", "histogram", "fixed-10", ""),
    ("keep-alive:cold-starts", "cold_percent", "keep-alive", "histogram", "fixed-20", ""),
    ("keep-alive:waste", "waste_gb_s", "keep-alive", "histogram", "fixed-20", ""),
];

/// Of ten nodes.
pub fn small() -> Vec<Ratio> {
    let of = |mode, other| {
        FIGURES.into_iter().map(move |(key, figure, part, end)| (key, figure, part, mode, other, end))
    };
    let best = |mode| of(mode, BEST_OTHER).filter(|ratio| ratio.0 == "p99");
    let all = AGAINST.into_iter().flat_map(|mode| of(mode, "sticky-random"));
    all.chain(["ma-mc", "ma-mc-early", "ma-mc-clients", "mote", "mote-min-cost"].into_iter().flat_map(best))
        .collect()
}

/// Adds those that can be made of what is there.
pub fn add(report: &mut Report, ratios: &[Ratio]) {
    for (key, figure, part, slow, fast, end) in ratios {
        let Some(part) = report.parts.get_mut(*part) else { continue };
        if let (Some(slow_value), Some(fast_value)) = (of(part, figure, slow), of(part, figure, fast))
            && fast_value > 0.0
        {
            let ratio = slow_value / fast_value;
            part.ratios.insert(format!("{key}:{slow}/{fast}"), ratio);
            report.ratios.insert(format!("{key}:{slow}/{fast}{end}"), ratio);
        }
    }
}

fn of(part: &Part, figure: &str, mode: &str) -> Option<f64> {
    if mode == BEST_OTHER {
        return OTHERS.into_iter().filter_map(|other| of(part, figure, other)).min_by(f64::total_cmp);
    }
    part.modes.get(mode)?.counts.get(figure).copied()
}
