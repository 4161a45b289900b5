//! What is published of the Azure 2019 trace, as tables to draw from. The trace itself is not here: what is drawn is
//! synthetic.
//!
//! "Paper" is Shahrad et al., "Serverless in the Wild", 2020, "dissertation" chapter 4 of Ao's. What neither tells is
//! marked as assumed; `bench sched --sensitivity` tells what hangs on the load, on bursts and on how many functions
//! there are.

/// A quantity by the share of functions below it, ascending; between the rows in proportion of shares, logarithmic in
/// the quantity.
pub type Quantiles = [(f64, f64)];

/// Calls a day of a function by the share of functions that have *more*. Paper: more than eight orders of magnitude, 45 %
/// are called once an hour or less, 81 % once a minute or less. Dissertation: about 70,000 functions, of which the five
/// most popular take more than half of all calls; the first row is what makes them. Between the rows both are
/// logarithmic: a power law.
pub const POPULARITY: [(f64, f64); 7] = [
    (0.000_007, 3.0e9),
    (0.0001, 1.5e8),
    (0.001, 1.2e7),
    (0.01, 5.2e5),
    (0.19, 1440.0),
    (0.55, 24.0),
    (1.0, 0.2),
];

/// The same distribution in one line: log10 of calls a day is about normal with this mean and deviation.
pub const POPULARITY_LOG10: (f64, f64) = (1.6, 1.77);

/// Mean duration of a function, seconds: the median of the lognormal, and its sigma, about as fitted in the paper.
pub const DURATION: (f64, f64) = (0.6, 2.36);

/// Shortest and longest run of any function, seconds. Dissertation: from a few milliseconds to several minutes; the
/// longest is the default limit of the platform.
pub const DURATION_LIMITS: (f64, f64) = (0.001, 300.0);

/// Popular functions are shorter: correlation of the logarithms of rate and duration. Assumed: of all calls the median
/// is then around 100 ms, from 10 to 400 as the most popular function is drawn; the dissertation has 150.
pub const POPULAR_AND_LONG: f64 = -0.3;

/// Sigma of a function's single runs around its median: from functions that always do the same to those that do not.
/// Assumed.
pub const SPREAD: (f64, f64) = (0.1, 0.8);

/// Memory of an application, MB. Paper: half have 170 or less, 90 % less than 400. The ends are assumed.
pub const MEMORY_MB: [(f64, f64); 8] = [
    (0.0, 40.0),
    (0.1, 100.0),
    (0.25, 128.0),
    (0.5, 170.0),
    (0.75, 250.0),
    (0.9, 390.0),
    (0.99, 800.0),
    (1.0, 1500.0),
];

/// Functions of an application. Paper: 54 % of the applications have one, 95 % at most ten.
pub const FUNCTIONS_OF_AN_APP: [(f64, f64); 4] = [(0.0, 1.0), (0.54, 1.0), (0.95, 10.0), (1.0, 40.0)];

/// Applications of an owner. Assumed; nothing hangs on it.
pub const APPS_OF_AN_OWNER: [(f64, f64); 3] = [(0.0, 1.0), (0.6, 1.0), (1.0, 12.0)];

/// What starts a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    Http,
    Queue,
    Event,
    Orchestration,
    Timer,
    Storage,
    Other,
}

/// Shares of functions by trigger, percent, after the paper.
pub const TRIGGERS: [(Trigger, f64); 7] = [
    (Trigger::Http, 55.0),
    (Trigger::Queue, 15.2),
    (Trigger::Event, 2.2),
    (Trigger::Orchestration, 6.9),
    (Trigger::Timer, 15.6),
    (Trigger::Storage, 2.8),
    (Trigger::Other, 2.3),
];

/// Periods of timers, minutes: usual ones, assumed.
pub const PERIODS: [u32; 10] = [1, 5, 10, 15, 30, 60, 120, 360, 720, 1440];

/// The percentiles of a function's durations which the trace has.
pub const PERCENTILES: [f64; 7] = [0.0, 0.01, 0.25, 0.5, 0.75, 0.99, 1.0];

/// The value at a share.
pub fn at(table: &Quantiles, share: f64) -> f64 {
    between(table, share, |share| share)
}

/// Calls a day of the function that this share of all functions surpass.
pub fn popularity(share: f64) -> f64 {
    between(&POPULARITY, share, f64::ln)
}

/// The mean of what [`at`] gives for all shares alike.
pub fn mean(table: &Quantiles) -> f64 {
    let pieces = table.windows(2).map(|pair| match *pair {
        [(x0, low), (x1, high)] if high > low => (x1 - x0) * (high - low) / (high / low).ln(),
        [(x0, low), (x1, _)] => (x1 - x0) * low,
        _ => 0.0,
    });
    pieces.sum()
}

fn between(table: &Quantiles, x: f64, scale: fn(f64) -> f64) -> f64 {
    let (Some(&first), Some(&last)) = (table.first(), table.last()) else { return 0.0 };
    let pair = table.windows(2).find(|pair| pair.iter().skip(1).any(|&(upper, _)| x <= upper));
    match pair {
        _ if x <= first.0 => first.1,
        Some(&[(x0, low), (x1, high)]) => {
            let share = (scale(x) - scale(x0)) / (scale(x1) - scale(x0));
            (low.ln() + share * (high.ln() - low.ln())).exp()
        }
        _ => last.1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read_between_their_rows() {
        assert!((at(&MEMORY_MB, 0.5) - 170.0).abs() < 1e-9);
        assert!(
            (at(&MEMORY_MB, 0.95) - (390.0_f64.ln() / 2.25 + 1.25 * 800.0_f64.ln() / 2.25).exp()).abs()
                < 20.0
        );
        assert!((at(&MEMORY_MB, -1.0) - 40.0).abs() < 1e-9 && (at(&MEMORY_MB, 2.0) - 1500.0).abs() < 1e-9);
        assert!((popularity(0.19) - 1440.0).abs() < 1e-6);
        assert!(popularity(1e-9) <= 3.0e9 && popularity(0.3) < 1440.0);
        assert!((at(&[], 0.5)).abs() < 1e-12);
        let steps = (0..100_000).map(|i| at(&MEMORY_MB, (f64::from(i) + 0.5) / 1e5)).sum::<f64>() / 1e5;
        assert!((mean(&MEMORY_MB) - steps).abs() < 0.01, "{steps}");
        assert!((mean(&[(0.0, 2.0), (1.0, 2.0)]) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn tables_ascend() {
        for table in [&MEMORY_MB[..], &FUNCTIONS_OF_AN_APP, &APPS_OF_AN_OWNER] {
            assert!(table.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
        }
        assert!(POPULARITY.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 > pair[1].1));
        let shares: f64 = TRIGGERS.iter().map(|(_, share)| share).sum();
        assert!((shares - 100.0).abs() < 1e-9);
    }
}
