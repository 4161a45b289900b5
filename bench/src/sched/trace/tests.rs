use std::collections::BTreeMap;

use super::*;
use crate::figures::quantile;

const DEMAND: RangeInclusive<f64> = 0.3..=0.6;

fn population() -> Population {
    Population::draw(70_000, &DEMAND, true, 1)
}

fn share<T>(all: &[T], which: impl Fn(&T) -> bool) -> f64 {
    all.iter().filter(|one| which(one)).count() as f64 / all.len() as f64
}

#[test]
fn a_seed_makes_one_trace() {
    let load = Load::slow_start(50.0, 60.0);
    let one = Population::draw(500, &DEMAND, true, 7);
    assert_eq!(one, Population::draw(500, &DEMAND, true, 7));
    assert_ne!(one, Population::draw(500, &DEMAND, true, 8));
    assert_eq!(one.sample(&load, 1), one.sample(&load, 1));
    assert_ne!(one.sample(&load, 1), one.sample(&load, 2));
    assert_eq!(one.minutes(&(0..60)), one.minutes(&(0..60)));
}

#[test]
fn few_functions_have_most_calls() {
    let population = population();
    let mut rates: Vec<f64> = population.functions.iter().map(|function| function.per_day).collect();
    rates.sort_by(|a, b| b.total_cmp(a));
    let all: f64 = rates.iter().sum();
    let of = |count: usize| rates.iter().take(count).sum::<f64>() / all;
    assert!(of(5) > 0.5, "{}", of(5));
    assert!(of(200) > 0.85, "{}", of(200));
    let rare = share(&rates, |rate| *rate <= f64::from(DAY));
    assert!((0.78..0.84).contains(&rare), "{rare}");
    let rarer = share(&rates, |rate| *rate <= 24.5);
    assert!((0.42..0.50).contains(&rarer), "{rarer}");
}

#[test]
fn durations_are_lognormal_and_memory_is_as_published() {
    let population = population();
    let medians: Vec<f64> = population.functions.iter().map(|function| function.durations_s[3]).collect();
    let median = quantile(&medians, 0.5);
    assert!((0.45..0.75).contains(&median), "{median}");
    let log: Vec<f64> = medians.iter().map(|median| median.ln()).collect();
    let sigma = (quantile(&log, 0.84) - quantile(&log, 0.16)) / 2.0;
    assert!((2.1..2.6).contains(&sigma), "{sigma}");
    assert!(share(&medians, |median| *median > 30.0) > 0.02, "no tail");
    for function in &population.functions {
        assert!(function.durations_s.windows(2).all(|pair| pair[0] <= pair[1]), "{function:?}");
    }
    let memory: Vec<f64> = population.functions.iter().map(|one| f64::from(one.memory_mb)).collect();
    let half = quantile(&memory, 0.5);
    assert!((160.0..180.0).contains(&half), "{half}");
    let small = share(&memory, |memory| *memory < 400.0);
    assert!((0.88..0.93).contains(&small), "{small}");
    // What is drawn is what was asked for, within what the few longest runs may add.
    let calls = population.sample(&Load::slow_start(500.0, 600.0), 3);
    let demand = |call: &Call| {
        let memory_mb = population.functions[call.function.to_usize().unwrap()].memory_mb;
        call.run as f64 / 1e6 * f64::from(memory_mb) / 1024.0
    };
    let mean = calls.iter().map(demand).sum::<f64>() / calls.len() as f64;
    assert!((0.8 * DEMAND.start()..1.2 * DEMAND.end()).contains(&mean), "{mean}");
}

#[test]
fn applications_belong_to_owners() {
    let functions = population().functions;
    let mut owners = BTreeMap::new();
    let mut apps: BTreeMap<u32, Vec<&Function>> = BTreeMap::new();
    for function in &functions {
        assert_eq!(*owners.entry(function.app).or_insert(function.owner), function.owner);
        apps.entry(function.app).or_default().push(function);
    }
    let sizes: Vec<usize> = apps.values().map(Vec::len).collect();
    let single = share(&sizes, |size| *size == 1);
    assert!((0.5..0.75).contains(&single), "{single}");
    assert!(share(&sizes, |size| *size <= 10) > 0.93);
    assert!(apps.values().all(|app| app.iter().all(|one| one.memory_mb == app[0].memory_mb)));
}

#[test]
fn timers_are_periodic_and_others_are_not() {
    let population = population();
    let timers = share(&population.functions, |function| function.trigger == Trigger::Timer);
    assert!((0.10..0.18).contains(&timers), "{timers}");
    let minutes = population.minutes(&(0..2 * DAY));
    for (function, row) in population.functions.iter().zip(&minutes) {
        if let Pattern::Timer { period, phase } = function.pattern {
            assert_eq!(row.len(), (2 * DAY / period) as usize);
            assert!(row.iter().all(|&(at, count)| at % period == phase && count == 1));
        }
    }
    // Bursts: the variance of counts is far beyond that of Poisson, which is the mean.
    let mut bursty = 0.0;
    let mut all = 0.0;
    for (function, row) in population.functions.iter().zip(&minutes) {
        if matches!(function.pattern, Pattern::Bursts { .. }) && (1e3..1e5).contains(&function.per_day) {
            let n = f64::from(2 * DAY);
            let mean = row.iter().map(|&(_, count)| f64::from(count)).sum::<f64>() / n;
            let squares = row.iter().map(|&(_, count)| f64::from(count).powi(2)).sum::<f64>() / n;
            bursty += f64::from(u8::from((squares - mean * mean) / mean > 1.5));
            all += 1.0;
        }
    }
    assert!(bursty / all > 0.8, "{bursty} of {all}");
}

#[test]
fn days_have_nights() {
    let functions = population().functions;
    let busy = functions.iter().filter(|one| matches!(one.pattern, Pattern::Diurnal { .. }));
    let busy = busy.filter(|one| one.per_day > 1e5).cloned().collect();
    let minutes = Population { functions: busy, seed: 3 }.minutes(&(0..DAY));
    let sum = |hours: Range<u32>| -> u32 {
        let inside = |row: &Minutes| {
            row.iter().filter(|(at, _)| hours.contains(&(at / 60))).map(|(_, count)| count).sum::<u32>()
        };
        minutes.iter().map(inside).sum()
    };
    assert!(f64::from(sum(15..17)) > 1.5 * f64::from(sum(3..5)), "{} {}", sum(15..17), sum(3..5));
}

#[test]
fn a_sample_has_the_rate_asked_for_and_starts_slowly() {
    let population = population();
    let calls = population.sample(&Load::slow_start(100.0, 600.0), 1);
    assert!(calls.is_sorted_by_key(|call| call.at));
    let within = |from: u64, to: u64| {
        calls.iter().filter(|call| (from * SECOND..to * SECOND).contains(&call.at)).count()
    };
    assert!((28_500..31_500).contains(&within(300, 600)), "{}", within(300, 600));
    assert!((900..1400).contains(&within(0, 60)), "{}", within(0, 60));
    assert!((44_000..49_000).contains(&calls.len()), "{}", calls.len());
    // Poisson: counts of a second vary as their mean.
    let counts: Vec<f64> = (300..600).map(|s| within(s, s + 1) as f64).collect();
    let mean = counts.iter().sum::<f64>() / 300.0;
    let variance = counts.iter().map(|count| (count - mean).powi(2)).sum::<f64>() / 299.0;
    assert!((0.7..1.4).contains(&(variance / mean)), "{variance} {mean}");
    // Of all calls the median is short. A single function has a third of them.
    let runs: Vec<f64> = calls.iter().map(|call| call.run as f64 / 1e6).collect();
    let median = quantile(&runs, 0.5);
    assert!((0.002..0.6).contains(&median), "{median}");
}

#[test]
fn long_traces_have_each_minutes_calls_in_it() {
    let population = population().at_most(1440.0, 300);
    let window = 60..180;
    let mut counts: BTreeMap<(u32, u32), u32> = BTreeMap::new();
    let calls = population.calls(&window);
    assert!(calls.is_sorted() && calls.len() > 100);
    for call in calls {
        *counts.entry((call.function, 60 + (call.at / MINUTE).to_u32().unwrap())).or_default() += 1;
    }
    for (index, row) in (0..).zip(population.minutes(&window)) {
        for (at, count) in row {
            assert_eq!(counts.remove(&(index, at)), Some(count));
        }
    }
    assert!(counts.is_empty());
}
