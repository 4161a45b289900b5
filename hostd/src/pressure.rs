//! Memory that is short all the same: seen before the kernel has to kill, and told to the scheduler, which makes room.
//!
//! What microVMs may come to hold is booked before they start; but the kernel's own memory, the page cache that restores live
//! from and what else there is are only estimated. So the machine is asked once a second how it does. [`Gauge`] is the rule.

use std::sync::Weak;
use std::time::{Duration, Instant};

use crate::census::meminfo;
use crate::pool::Pool;

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// Memory is short when, of this many parts of the time, some task waited for it through one, and not because of its own
/// control group's limit: less is left than what is kept from microVMs.
const STALLED_PART: u32 = 5;

/// Or when less is left than this part of that, whether anybody waits or not.
const LEAST_PART: u64 = 4;

/// What is withheld more at each look while it is short, as a part of all there is.
const MORE_PART: u64 = 16;

/// What is given back at each look once it is not.
const BACK_PART: u64 = 32;

/// At least this part is left to microVMs.
const LEFT_PART: u64 = 4;

/// So many looks without want come first.
const CALM: u32 = 5;

/// How the machine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reading {
    /// How long tasks have waited for memory since the last look.
    stalled: Duration,
    /// Since the last look.
    elapsed: Duration,
    /// What could still be used, MiB.
    available_mb: u64,
    /// What microVMs have booked, MiB.
    used_mb: u64,
}

/// How much of the memory for microVMs is withheld.
#[derive(Debug)]
struct Gauge {
    capacity_mb: u64,
    reserve_mb: u64,
    withheld_mb: u64,
    calm: u32,
}

impl Gauge {
    fn new(capacity_mb: u64, reserve_mb: u64) -> Self {
        Self { capacity_mb, reserve_mb, withheld_mb: 0, calm: 0 }
    }

    fn is_short(&self, reading: &Reading) -> bool {
        let least_mb = match reading.stalled > reading.elapsed / STALLED_PART {
            true => self.reserve_mb,
            false => self.reserve_mb / LEAST_PART,
        };
        reading.available_mb < least_mb
    }

    /// What is withheld from now on, if that is something else than before, MiB.
    fn step(&mut self, reading: &Reading) -> Option<u64> {
        let before = self.withheld_mb;
        if self.is_short(reading) {
            self.calm = 0;
            // Below what is in use at once: what nobody has helps nobody.
            let unused = self.capacity_mb.saturating_sub(reading.used_mb);
            let more = (self.capacity_mb / MORE_PART).max(1);
            let most = self.capacity_mb - self.capacity_mb / LEFT_PART;
            self.withheld_mb = self.withheld_mb.max(unused).saturating_add(more).min(most);
        } else if self.calm < CALM {
            self.calm += 1;
        } else {
            self.withheld_mb = self.withheld_mb.saturating_sub((self.capacity_mb / BACK_PART).max(1));
        }
        (self.withheld_mb != before).then_some(self.withheld_mb)
    }
}

/// Time that some task waited for memory since the kernel started, as `/proc/pressure/memory` has it.
fn stalled(text: &str) -> Option<Duration> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let total = line.split_ascii_whitespace().find_map(|word| word.strip_prefix("total="))?;
    total.parse().ok().map(Duration::from_micros)
}

/// Watches as long as there is a pool. `reserve_mb` of memory is never given to microVMs.
pub async fn watch(pool: Weak<Pool>, capacity_mb: u64, reserve_mb: u64) {
    let waited = || stalled(&std::fs::read_to_string("/proc/pressure/memory").unwrap_or_default());
    let mut gauge = Gauge::new(capacity_mb, reserve_mb);
    let (mut last, mut at) = (waited().unwrap_or_default(), Instant::now());
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + EVERY, EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(pool) = pool.upgrade() else { return };
        // A kernel that does not count how long tasks wait still says what is left.
        let (now, total) = (Instant::now(), waited().unwrap_or(last));
        let available_mb = match meminfo("MemAvailable:") {
            0 => continue,
            kib => kib / 1024,
        };
        let reading = Reading {
            stalled: total.saturating_sub(last),
            elapsed: now - at,
            available_mb,
            used_mb: pool.booked_mb(),
        };
        (last, at) = (total, now);
        let before = gauge.withheld_mb;
        if let Some(withheld_mb) = gauge.step(&reading) {
            if before == 0 {
                tracing::warn!(?reading, withheld_mb, "Memory is short: idle sandboxes make room");
            } else if withheld_mb == 0 {
                tracing::info!("Memory is not short any more");
            }
            pool.withhold(withheld_mb);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CALM_READING: Reading =
        Reading { stalled: Duration::ZERO, elapsed: EVERY, available_mb: 5000, used_mb: 1000 };
    /// One control group is at its limit, and the machine has plenty.
    const OWN_FAULT: Reading = Reading { stalled: Duration::from_millis(900), ..CALM_READING };
    const STALLED: Reading =
        Reading { stalled: Duration::from_millis(300), available_mb: 319, ..CALM_READING };
    const LITTLE_LEFT: Reading = Reading { available_mb: 79, ..CALM_READING };

    #[test]
    fn the_kernels_figures_are_read() {
        let text = "some avg10=0.00 avg60=0.12 avg300=0.03 total=1234567\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=9\n";
        assert_eq!(stalled(text), Some(Duration::from_micros(1_234_567)));
        for odd in ["", "some", "full total=3", "some total=x"] {
            assert_eq!(stalled(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn want_takes_from_what_is_in_use_and_calm_gives_back_slowly() {
        for short in [STALLED, LITTLE_LEFT] {
            let mut gauge = Gauge::new(3200, 320);
            assert_eq!(gauge.step(&CALM_READING), None);
            assert_eq!(gauge.step(&OWN_FAULT), None);
            assert_eq!(gauge.step(&short), Some(2200 + 200), "what nobody uses, and more");
            assert_eq!(gauge.step(&short), None, "a quarter is left");
            let steps: Vec<_> = (0..CALM + 24).map(|_| gauge.step(&CALM_READING)).collect();
            let calm = usize::try_from(CALM).unwrap();
            assert!(steps[..calm].iter().all(Option::is_none), "{steps:?}");
            assert_eq!((steps[calm], steps[calm + 23]), (Some(2300), Some(0)));
            assert_eq!(gauge.step(&CALM_READING), None);
        }
    }

    #[test]
    fn want_that_comes_back_is_answered_at_once() {
        let mut gauge = Gauge::new(1600, 320);
        let full = Reading { used_mb: 1500, ..STALLED };
        assert_eq!(gauge.step(&full), Some(200));
        for _ in 0..CALM {
            assert_eq!(gauge.step(&CALM_READING), None);
        }
        assert_eq!(gauge.step(&CALM_READING), Some(150));
        assert_eq!(gauge.step(&full), Some(250));
        assert_eq!(gauge.step(&CALM_READING), None, "and calm counts anew");
    }

    proptest! {
        #[test]
        fn some_is_always_left_and_all_comes_back(
            capacity in 0u64..1 << 40,
            reserve in any::<u64>(),
            readings in prop::collection::vec((0u64..2_000_000, any::<u64>(), any::<u64>()), 0..50),
        ) {
            let mut gauge = Gauge::new(capacity, reserve);
            for (stalled, available_mb, used_mb) in readings {
                let stalled = Duration::from_micros(stalled);
                gauge.step(&Reading { stalled, elapsed: EVERY, available_mb, used_mb });
                prop_assert!(capacity - gauge.withheld_mb >= capacity / LEFT_PART);
            }
            let calm = Reading { available_mb: u64::MAX, ..CALM_READING };
            for _ in 0..100 {
                gauge.step(&calm);
            }
            prop_assert_eq!(gauge.withheld_mb, 0);
        }

        #[test]
        fn any_text_is_read(text in "(some |full |total=|[0-9]{0,30}|\\PC{0,9}|\n){0,12}") {
            let _ = stalled(&text);
        }
    }
}
