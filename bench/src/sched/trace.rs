//! Synthetic traces in the schema of the Azure 2019 trace: functions of applications of owners, calls per minute,
//! percentiles of durations, memory. Nothing of the trace itself is in them, only what is published about it
//! (`published.rs`). The same seed gives the same trace.

use std::f64::consts::TAU;
use std::ops::{Range, RangeInclusive};

use num_traits::ToPrimitive;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_distr::{Distribution, Exp1, Poisson, StandardNormal};

use super::published::{self, Trigger};

/// Minutes of a day.
pub const DAY: u32 = 1440;

const SECOND: u64 = 1_000_000;
const MINUTE: u64 = 60 * SECOND;

/// The ten minutes of a day which samples are of.
pub const EXCERPT: Range<u32> = 600..610;

/// So many functions have nearly all calls.
const POPULAR: usize = 200;

/// How often durations are drawn again for a load within the asked bounds.
const TRIES: u32 = 2000;

/// Standard normal quantiles of `published::PERCENTILES`; of the shortest and longest those of a thousand runs.
const NORMAL: [f64; 7] = [-3.1, -2.326, -0.674, 0.0, 0.674, 2.326, 3.1];

/// One row of the trace, without the counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    pub owner: u32,
    pub app: u32,
    pub trigger: Trigger,
    /// Calls a day, on average.
    pub per_day: f64,
    pub pattern: Pattern,
    /// Durations at `published::PERCENTILES`, seconds.
    pub durations_s: [f64; 7],
    /// What its application takes, MB.
    pub memory_mb: u32,
}

/// How a function's calls lie in time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pattern {
    /// Every so many minutes, from that minute on.
    Timer { period: u32, phase: u32 },
    /// Poisson, more by day than by night: by this share more and less than the mean.
    Diurnal { swing: f64 },
    /// Poisson, most of it in bursts: this share of the minutes, so many minutes on average.
    Bursts { share: f64, minutes: f64 },
}

/// One call. Times are in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// When it comes, since the start.
    pub at: u64,
    /// Whose it is: an index.
    pub function: u32,
    /// How long it runs.
    pub run: u64,
}

/// Calls of a function in those minutes that have any.
pub type Minutes = Vec<(u32, u32)>;

/// A rate of calls over time: rises in a line, then stays.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Calls a second at the start.
    pub from: f64,
    /// Calls a second in the end.
    pub to: f64,
    /// Seconds from the one to the other.
    pub rise_s: f64,
    /// Seconds in all.
    pub length_s: f64,
}

impl Load {
    /// The first half of the time grows, the second is steady.
    pub fn slow_start(rate: f64, length_s: f64) -> Self {
        Self { from: rate / 10.0, to: rate, rise_s: length_s / 2.0, length_s }
    }

    /// The same all the time.
    pub fn steady(rate: f64, length_s: f64) -> Self {
        Self { from: rate, to: rate, rise_s: length_s, length_s }
    }

    /// Grows to the end: somewhere in it is the most that can be served.
    pub fn ramp(rate: f64, length_s: f64) -> Self {
        Self { from: rate / 20.0, to: rate, rise_s: length_s, length_s }
    }

    fn at(&self, s: f64) -> f64 {
        self.from + (self.to - self.from) * (s / self.rise_s).min(1.0)
    }
}

/// All functions of a trace.
#[derive(Debug, Clone, PartialEq)]
pub struct Population {
    pub functions: Vec<Function>,
    seed: u64,
}

impl Population {
    /// Draws so many functions. Durations of the few most popular functions decide how much memory for how long the
    /// mean call takes; they are drawn until this is within `demand` (GB·s), the load a testbed was made for, in the
    /// minutes which samples are of. Without `bursts`, nothing but timers is anything but Poisson.
    pub fn draw(count: u32, demand: &RangeInclusive<f64>, bursts: bool, seed: u64) -> Self {
        let random = &mut StdRng::seed_from_u64(seed);
        let mut shares: Vec<f64> = (0..count).map(|i| (f64::from(i) + 0.5) / f64::from(count)).collect();
        shares.shuffle(random);
        let mut functions: Vec<Function> = Vec::new();
        let (mut owner, mut app) = (0, 0);
        while functions.len() < shares.len() {
            for _ in 0..whole(published::at(&published::APPS_OF_AN_OWNER, random.random())) {
                let size = whole(published::at(&published::FUNCTIONS_OF_AN_APP, random.random()));
                let memory_mb = whole(published::at(&published::MEMORY_MB, random.random()));
                for share in shares.iter().skip(functions.len()).take(size.to_usize().unwrap_or(1)) {
                    let (trigger, per_day, mut pattern) = arrivals(published::popularity(*share), random);
                    if !bursts && matches!(pattern, Pattern::Bursts { .. }) {
                        pattern = Pattern::Diurnal { swing: 0.0 };
                    }
                    let durations_s = [0.0; 7];
                    let function = Function { owner, app, trigger, per_day, pattern, durations_s, memory_mb };
                    functions.push(function);
                }
                app += 1;
            }
            owner += 1;
        }
        let mut drawn = Self { functions, seed };
        let sum = |row: Minutes| row.into_iter().map(|(_, count)| f64::from(count)).sum();
        let calls: Vec<f64> = drawn.minutes(&EXCERPT).into_iter().map(sum).collect();
        for function in &mut drawn.functions {
            function.durations_s = durations(function.per_day, random);
        }
        drawn.until(demand, &calls, random);
        drawn
    }

    /// Draws durations of the popular functions again until the mean call, when functions are called so often, takes
    /// what is asked for of memory times time, GB·s.
    fn until(&mut self, demand: &RangeInclusive<f64>, calls: &[f64], random: &mut StdRng) {
        let mut by_calls: Vec<(&mut Function, f64)> =
            self.functions.iter_mut().zip(calls.iter().copied()).collect();
        by_calls.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        let popular = POPULAR.min(by_calls.len());
        let (popular, others) = by_calls.split_at_mut(popular);
        let sum = |part: &[(&mut Function, f64)]| {
            part.iter().map(|(one, calls)| calls * one.demand_gb_s()).sum::<f64>()
        };
        let (rest, all) = (sum(others), calls.iter().sum::<f64>());
        for _ in 0..TRIES {
            if demand.contains(&((sum(popular) + rest) / all)) {
                return;
            }
            for (function, _) in popular.iter_mut() {
                function.durations_s = durations(function.per_day, random);
            }
        }
    }

    /// Functions that are called so often at most, the same at every call: for long traces, of which the popular
    /// functions would be nearly all and tell nothing about keeping alive.
    pub fn at_most(&self, per_day: f64, count: usize) -> Self {
        let functions = self
            .functions
            .iter()
            .filter(|function| function.per_day <= per_day)
            .take(count)
            .cloned()
            .collect();
        Self { functions, seed: self.seed }
    }

    /// The functions that are called most, in this order.
    pub fn most_popular(&self, count: usize) -> Self {
        let mut functions = self.functions.clone();
        functions.sort_by(|a, b| b.per_day.total_cmp(&a.per_day));
        functions.truncate(count);
        Self { functions, seed: self.seed }
    }

    /// Calls per minute of every function, as the trace has them.
    pub fn minutes(&self, window: &Range<u32>) -> Vec<Minutes> {
        let row = |(index, function): (u64, &Function)| {
            // A stream of its own for each, whatever the others do.
            let random =
                &mut StdRng::seed_from_u64(self.seed ^ (index + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            function.minutes(window, random)
        };
        (0..).zip(&self.functions).map(row).collect()
    }

    /// All calls of these minutes, each at a random time of its minute; timers at the same second every time.
    pub fn calls(&self, window: &Range<u32>) -> Vec<Call> {
        let random = &mut StdRng::seed_from_u64(self.seed ^ 0xCA11);
        let mut calls = Vec::new();
        for ((index, function), minutes) in (0..).zip(&self.functions).zip(self.minutes(window)) {
            let second = random.random_range(0..MINUTE);
            let timer = matches!(function.pattern, Pattern::Timer { .. });
            for (minute, count) in minutes {
                let start = u64::from(minute - window.start) * MINUTE;
                for _ in 0..count {
                    let within = if timer { second } else { random.random_range(0..MINUTE) };
                    calls.push(Call { at: start + within, function: index, run: function.run(random) });
                }
            }
        }
        calls.sort_unstable();
        calls
    }

    /// A sample of the calls of [`EXCERPT`], as many as the load says: chosen among calls, not functions, so that each
    /// function keeps its share. Arrivals are Poisson.
    pub fn sample(&self, load: &Load, seed: u64) -> Vec<Call> {
        let random = &mut StdRng::seed_from_u64(self.seed ^ seed.wrapping_mul(0xD134_2543_DE82_EF95));
        let mut sums: Vec<Vec<(u64, u32)>> = vec![Vec::new(); EXCERPT.len()];
        for (function, row) in (0..).zip(self.minutes(&EXCERPT)) {
            for (at, count) in row {
                if let Some(sum) = sums.get_mut((at - EXCERPT.start).to_usize().unwrap_or(0)) {
                    let before = sum.last().map_or(0, |&(sum, _)| sum);
                    sum.push((before + u64::from(count), function));
                }
            }
        }
        let most = load.from.max(load.to);
        let mut calls = Vec::new();
        let mut s = 0.0;
        loop {
            s += Distribution::<f64>::sample(&Exp1, random) / most;
            if s >= load.length_s {
                return calls;
            }
            if random.random::<f64>() * most > load.at(s) {
                continue;
            }
            let Some(sum) = sums.get((s / 60.0).to_usize().unwrap_or(0) % EXCERPT.len()) else { continue };
            let all = sum.last().map_or(0, |&(sum, _)| sum);
            if all == 0 {
                continue;
            }
            let point = random.random_range(0..all);
            let Some(&(_, index)) = sum.get(sum.partition_point(|&(sum, _)| sum <= point)) else { continue };
            let Some(function) = self.functions.get(index.to_usize().unwrap_or(usize::MAX)) else { continue };
            calls.push(Call { at: micros(s), function: index, run: function.run(random) });
        }
    }
}

impl Function {
    fn demand_gb_s(&self) -> f64 {
        self.mean_s() * f64::from(self.memory_mb) / 1024.0
    }

    /// The mean of what [`Function::run`] draws.
    fn mean_s(&self) -> f64 {
        published::mean(&self.rows())
    }

    fn rows(&self) -> [(f64, f64); 7] {
        let mut rows = [(0.0, 0.0); 7];
        for (row, pair) in rows.iter_mut().zip(published::PERCENTILES.into_iter().zip(self.durations_s)) {
            *row = pair;
        }
        rows
    }

    /// The length of one run: a random point between the percentiles.
    fn run(&self, random: &mut StdRng) -> u64 {
        let share: f64 = random.random();
        micros(published::at(&self.rows(), share)).max(1)
    }

    fn minutes(&self, window: &Range<u32>, random: &mut StdRng) -> Minutes {
        if let Pattern::Timer { period, phase } = self.pattern {
            return window.clone().filter(|at| at % period == phase).map(|at| (at, 1)).collect();
        }
        let mut bursts = matches!(self.pattern, Pattern::Bursts { share, .. } if random.random_bool(share));
        let mut row = Minutes::new();
        for at in window.clone() {
            let factor = match self.pattern {
                Pattern::Timer { .. } => 0.0,
                Pattern::Diurnal { swing } => {
                    let turn = f64::from(at % DAY) / f64::from(DAY) * TAU;
                    // Least at four in the morning.
                    1.0 - swing * (turn - TAU / 6.0).cos()
                }
                Pattern::Bursts { share, minutes } => {
                    let ends = 1.0 / minutes;
                    let turns = if bursts { ends } else { (ends * share / (1.0 - share)).min(1.0) };
                    bursts ^= random.random_bool(turns);
                    // Three quarters of the calls come in bursts.
                    if bursts { 0.25 + 0.75 / share } else { 0.25 }
                }
            };
            let rate = self.per_day / f64::from(DAY) * factor;
            let count = Poisson::new(rate).map_or(0.0, |poisson| poisson.sample(random));
            row.extend(count.to_u32().filter(|&count| count > 0).map(|count| (at, count)));
        }
        row
    }
}

/// What starts a function that is called so often, and when.
fn arrivals(per_day: f64, random: &mut StdRng) -> (Trigger, f64, Pattern) {
    let all: f64 = published::TRIGGERS.iter().map(|(_, share)| share).sum();
    let mut rest = random.random::<f64>() * all;
    let drawn = published::TRIGGERS.iter().find(|(_, share)| {
        rest -= share;
        rest < 0.0
    });
    match drawn.map_or(Trigger::Other, |&(trigger, _)| trigger) {
        Trigger::Timer if per_day <= f64::from(DAY) => {
            let off = |period: u32| (per_day * f64::from(period) / f64::from(DAY)).ln().abs();
            let nearest = published::PERIODS.into_iter().min_by(|a, b| off(*a).total_cmp(&off(*b)));
            let period = nearest.unwrap_or(DAY);
            let phase = random.random_range(0..period);
            (Trigger::Timer, f64::from(DAY) / f64::from(period), Pattern::Timer { period, phase })
        }
        Trigger::Timer | Trigger::Http => {
            (Trigger::Http, per_day, Pattern::Diurnal { swing: random.random_range(0.2..0.8) })
        }
        trigger => {
            let share = random.random_range(0.1..0.4);
            (trigger, per_day, Pattern::Bursts { share, minutes: random.random_range(2.0..15.0) })
        }
    }
}

fn durations(per_day: f64, random: &mut StdRng) -> [f64; 7] {
    let (centre, deviation) = published::POPULARITY_LOG10;
    let popular = (per_day.log10() - centre) / deviation;
    let own: f64 = StandardNormal.sample(random);
    let together = published::POPULAR_AND_LONG;
    let normal = together.mul_add(popular, (1.0 - together * together).sqrt() * own);
    let (median, sigma) = published::DURATION;
    let mean = median * (sigma * normal).exp();
    let spread = random.random_range(published::SPREAD.0..published::SPREAD.1);
    let (shortest, longest) = published::DURATION_LIMITS;
    NORMAL.map(|z| (mean * (spread * z - spread * spread / 2.0).exp()).clamp(shortest, longest))
}

fn whole(value: f64) -> u32 {
    value.round().to_u32().unwrap_or(1).max(1)
}

fn micros(s: f64) -> u64 {
    (s * 1e6).to_u64().unwrap_or(0)
}

#[cfg(test)]
mod tests;
