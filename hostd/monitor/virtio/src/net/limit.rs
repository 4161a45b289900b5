//! Token buckets. Pure: whoever asks says what time it is.

use std::time::{Duration, Instant};

/// A token in the unit the buckets count in: so nothing is ever rounded away.
const TOKEN: u128 = 1_000_000_000;

/// The default burst is what the rate gives in this part of a second.
const BURST_PART: u64 = 10;

/// So many per second on average, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    per_second: u64,
    burst: u64,
}

impl Rate {
    /// A rate with a burst of a tenth of a second; none for a rate of zero.
    pub fn new(per_second: u64) -> Option<Self> {
        Self::with_burst(per_second, per_second.div_ceil(BURST_PART))
    }

    /// The same with a burst of one's own; none if either is zero.
    pub fn with_burst(per_second: u64, burst: u64) -> Option<Self> {
        (per_second > 0 && burst > 0).then_some(Self { per_second, burst })
    }
}

/// Limits on one direction; what is absent is unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Frames. One that is left to be segmented counts as its segments.
    pub packets: Option<Rate>,
    /// Bytes of frames.
    pub bytes: Option<Rate>,
}

/// One bucket. It may go into debt: a frame passes while there is anything in it, however large the frame is; so a
/// frame larger than the burst passes too, and its size need not be known before.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    rate: Rate,
    /// Never above the burst.
    level: i128,
    at: Instant,
}

impl Bucket {
    fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, level: tokens(rate.burst), at: now }
    }

    /// How long there is nothing to be had.
    fn wait(&mut self, now: Instant) -> Option<Duration> {
        let elapsed = now.saturating_duration_since(self.at).as_nanos();
        let gain = elapsed.saturating_mul(u128::from(self.rate.per_second));
        let level = self.level.saturating_add(i128::try_from(gain).unwrap_or(i128::MAX));
        self.level = level.min(tokens(self.rate.burst));
        self.at = self.at.max(now);
        if self.level > 0 {
            return None;
        }
        // Up to the first piece of a token.
        let missing = self.level.unsigned_abs() + 1;
        let wait = missing.div_ceil(u128::from(self.rate.per_second));
        Some(Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)))
    }

    fn take(&mut self, count: u64) {
        self.level = self.level.saturating_sub(tokens(count));
    }
}

fn tokens(count: u64) -> i128 {
    // 64 bits and 30 bits fit.
    i128::try_from(u128::from(count) * TOKEN).unwrap_or(i128::MAX)
}

/// The buckets of one direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limiter {
    packets: Option<Bucket>,
    bytes: Option<Bucket>,
}

impl Limiter {
    /// Full buckets.
    pub(super) fn new(limit: Limit, now: Instant) -> Self {
        let bucket = |rate: Option<Rate>| rate.map(|rate| Bucket::new(rate, now));
        Self { packets: bucket(limit.packets), bytes: bucket(limit.bytes) }
    }

    /// How long no frame may pass; none if one may now.
    pub(super) fn wait(&mut self, now: Instant) -> Option<Duration> {
        let buckets = self.packets.iter_mut().chain(&mut self.bytes);
        buckets.filter_map(|bucket| bucket.wait(now)).max()
    }

    /// A frame passed.
    pub(super) fn take(&mut self, packets: u64, bytes: u64) {
        for (bucket, count) in [(&mut self.packets, packets), (&mut self.bytes, bytes)] {
            if let Some(bucket) = bucket {
                bucket.take(count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_rate_of_nothing_is_none() {
        assert_eq!(Rate::new(0), None);
        assert_eq!(Rate::with_burst(1, 0), None);
        assert_eq!(Rate::new(5), Rate::with_burst(5, 1));
        assert_eq!(Rate::new(1000), Rate::with_burst(1000, 100));
    }

    #[test]
    fn without_limits_everything_passes() {
        let now = Instant::now();
        let mut limiter = Limiter::new(Limit::default(), now);
        for _ in 0..100 {
            limiter.take(u64::MAX, u64::MAX);
            assert_eq!(limiter.wait(now), None);
        }
    }

    #[test]
    fn the_greatest_numbers_do_not_overflow() {
        let now = Instant::now();
        let rate = Rate::with_burst(u64::MAX, u64::MAX);
        let mut limiter = Limiter::new(Limit { packets: rate, bytes: Rate::new(1) }, now);
        for step in 0..20u32 {
            limiter.take(u64::MAX, u64::MAX);
            let _ = limiter.wait(now + Duration::from_secs(1 << 30) * step);
        }
        assert!(limiter.wait(now).is_some(), "a clock that goes back gives nothing");
    }

    proptest! {
        /// A model that adds up: what passed by a time is never more than burst, rate times time, and the frame that
        /// went into debt; and what waits as long as it is told passes, never earlier.
        #[test]
        fn neither_more_nor_less_than_the_rate(
            per_second in 1u64..2_000_000,
            burst in 1u64..100_000,
            frames in prop::collection::vec((0u64..5_000_000, 1u64..70_000), 1..200),
        ) {
            let start = Instant::now();
            let rate = Rate::with_burst(per_second, burst);
            let mut limiter = Limiter::new(Limit { packets: None, bytes: rate }, start);
            let (mut now, mut passed) = (start, 0u128);
            for (pause, size) in frames {
                now += Duration::from_nanos(pause);
                if let Some(wait) = limiter.wait(now) {
                    prop_assert!(!wait.is_zero());
                    prop_assert!(limiter.wait(now + wait - Duration::from_nanos(1)).is_some());
                    now += wait;
                    prop_assert_eq!(limiter.wait(now), None);
                }
                let gained = (now - start).as_nanos() * u128::from(per_second);
                prop_assert!(passed * TOKEN < u128::from(burst) * TOKEN + gained);
                passed += u128::from(size);
                limiter.take(1, size);
            }
            // In the end no more than a burst can have been lost to a full bucket at any time: a bucket that was
            // never full gave all its time was worth.
            let mut greedy = Limiter::new(Limit { packets: None, bytes: rate }, start);
            let (mut now, mut total) = (start, 0u128);
            for _ in 0..50 {
                if let Some(wait) = greedy.wait(now) {
                    now += wait;
                }
                greedy.take(1, 1500);
                total += 1500;
            }
            let gained = (now - start).as_nanos() * u128::from(per_second);
            prop_assert!(total * TOKEN >= gained);
        }

        #[test]
        fn both_limits_hold(pps in 1u64..1000, bps in 1u64..100_000, sizes in prop::collection::vec(1u64..3000, 1..50)) {
            let start = Instant::now();
            let limit = Limit { packets: Rate::with_burst(pps, 1), bytes: Rate::with_burst(bps, 1) };
            let mut limiter = Limiter::new(limit, start);
            let (mut now, mut packets, mut bytes) = (start, 0u128, 0u128);
            for size in sizes {
                now += limiter.wait(now).unwrap_or_default();
                prop_assert_eq!(limiter.wait(now), None);
                let elapsed = (now - start).as_nanos();
                prop_assert!(packets * TOKEN < TOKEN + elapsed * u128::from(pps));
                prop_assert!(bytes * TOKEN < TOKEN + elapsed * u128::from(bps));
                limiter.take(1, size);
                packets += 1;
                bytes += u128::from(size);
            }
        }
    }
}
