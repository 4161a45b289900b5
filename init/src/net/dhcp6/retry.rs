//! When a message is sent again (RFC 8415, section 15). Pure.

use std::time::Duration;

/// How a kind of message is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rhythm {
    /// Pause after the first.
    pub first: Duration,
    /// Largest pause, before it is spread.
    pub most: Duration,
    /// Most times it is sent; 0: as often as it takes.
    pub times: u32,
    /// The first pause is never shorter than `first`: servers answer one another's clients within it.
    pub longer: bool,
}

const fn rhythm(first: u64, most: u64, times: u32) -> Rhythm {
    Rhythm { first: Duration::from_secs(first), most: Duration::from_secs(most), times, longer: false }
}

/// Whoever grants addresses is looked for.
pub const SOLICIT: Rhythm = Rhythm { longer: true, ..rhythm(1, 3600, 0) };
/// One of them is asked.
pub const REQUEST: Rhythm = rhythm(1, 30, 10);
/// It is asked for more time, until others are.
pub const RENEW: Rhythm = rhythm(10, 600, 0);
/// All are asked, until the address is no longer ours.
pub const REBIND: Rhythm = rhythm(10, 600, 0);
/// One is told that an address is no good.
pub const DECLINE: Rhythm = rhythm(1, 8, 4);
/// Name servers are asked for.
pub const INFORM: Rhythm = rhythm(1, 3600, 0);

/// What a server may make of the largest pause, seconds.
pub const MOST: std::ops::RangeInclusive<u32> = 60..=86_400;

/// Longest time a first message is held back, so that not all machines of a link ask at once.
const HOLD: Duration = Duration::from_secs(1);

/// A message that is sent until it is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    rhythm: Rhythm,
    last: Duration,
    sent: u32,
}

impl Retry {
    /// One that was not sent yet.
    pub fn new(rhythm: Rhythm) -> Self {
        Self { rhythm, last: Duration::ZERO, sent: 0 }
    }

    /// It is sent now: the pause until it is sent again, or given up.
    pub fn sent(&mut self, random: u64) -> Duration {
        let rhythm = self.rhythm;
        let first = self.sent == 0;
        self.sent = self.sent.saturating_add(1);
        let pause = match first {
            true if rhythm.longer => spread(rhythm.first, random, 1),
            true => spread(rhythm.first, random, -100),
            // The spread is one of the pause before, twice which is the base.
            false => self.last.saturating_add(spread(self.last, random, -100)),
        };
        self.last = if pause > rhythm.most { spread(rhythm.most, random, -100) } else { pause };
        self.last
    }

    /// How often it was sent.
    pub fn count(&self) -> u32 {
        self.sent
    }

    /// Whether it was sent as often as may be.
    pub fn is_spent(&self) -> bool {
        self.rhythm.times != 0 && self.sent >= self.rhythm.times
    }

    /// A server has said how large the pause may become.
    pub fn limit(&mut self, most: Duration) {
        self.rhythm.most = most;
    }
}

/// How long a first message is held back.
pub fn hold(random: u64) -> Duration {
    per_mille(HOLD, random % 1001)
}

/// The pause and up to a tenth of it more or less; `least` is the lower end in thousandths.
fn spread(pause: Duration, random: u64, least: i64) -> Duration {
    let width = u64::try_from(101 - least).unwrap_or(1);
    let low = u64::try_from(1000 + least).unwrap_or(1000);
    // The lower bits are the transaction's number.
    per_mille(pause, low + (random >> 32) % width)
}

fn per_mille(pause: Duration, parts: u64) -> Duration {
    pause.saturating_mul(u32::try_from(parts).unwrap_or(u32::MAX)) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pauses_double_up_to_the_largest() {
        let mut retry = Retry::new(REQUEST);
        // The middle of the spread.
        let pauses: Vec<_> = (0..7).map(|_| retry.sent(100 << 32).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert!(!retry.is_spent());
        (0..3).for_each(|_| assert!(retry.sent(0) > Duration::ZERO));
        assert!(retry.is_spent());
    }

    proptest! {
        #[test]
        fn pauses_are_spread_by_a_tenth(first in 1u64..100, most in 100u64..90_000, randoms in proptest::collection::vec(any::<u64>(), 1..40), longer: bool) {
            let rhythm = Rhythm { longer, ..rhythm(first, most, 0) };
            let mut retry = Retry::new(rhythm);
            let mut before: Option<Duration> = None;
            for random in randoms {
                let pause = retry.sent(random);
                prop_assert!(pause <= rhythm.most.mul_f64(1.101), "{pause:?}");
                match before {
                    None => {
                        prop_assert!(pause >= rhythm.first.mul_f64(0.899) && pause <= rhythm.first.mul_f64(1.101));
                        prop_assert!(!longer || pause > rhythm.first);
                    }
                    Some(before) => {
                        prop_assert!(pause >= before.mul_f64(1.899).min(rhythm.most.mul_f64(0.899)));
                        let at_most = pause >= rhythm.most.mul_f64(0.899) && before.mul_f64(2.101) > rhythm.most;
                        prop_assert!(pause <= before.mul_f64(2.101) || at_most, "{before:?} {pause:?}");
                    }
                }
                prop_assert!(!retry.is_spent());
                before = Some(pause);
            }
            prop_assert!(hold(retry.count().into()) <= HOLD);
        }
    }
}
