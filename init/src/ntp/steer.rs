//! What to do about an offset. Pure.

use std::time::Duration;

use crate::backoff::Backoff;
use crate::sys::adjust::MOST_PULL;

/// Pace at which a clock that is far ahead loses time, and one that fell behind later on catches up: one in a hundred.
/// Waiting and measuring go by it too, and one in a hundred is less than anybody there notices.
const PACE_PPM: i64 = 10_000;

/// What is lost at that pace: seventeen hours for ten minutes. A clock further ahead stays as it is until it is
/// started anew.
const MOST_AHEAD: Duration = Duration::from_secs(600);

/// A clock this far behind has stood still (a virtual machine that was halted), and steps forward later on as well.
const STOOD_STILL: Duration = Duration::from_secs(600);

/// Times after the build a clock can be right.
const HORIZON: Duration = Duration::from_secs(50 * 365 * 86_400);

/// Servers' seconds have 32 bits: every so often they begin anew.
const ERA_US: i128 = (1 << 32) * 1_000_000;

/// Pause between questions while all is well: doubled up to the bound while the clock is close.
pub const POLL: Backoff = Backoff { first: Duration::from_secs(64), most: Duration::from_secs(2048) };

/// Pause after questions nobody answered.
pub const RETRY: Backoff = Backoff { first: Duration::from_secs(2), most: Duration::from_secs(900) };

/// Offset below which the clock is close.
const CLOSE_US: u64 = 10_000;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Forward at once.
    Step(Duration),
    /// The kernel pulls gently.
    Pull(i64),
    /// Another pace, parts per million, for at most this long.
    Pace(i64, Duration),
    /// Ahead by so much that only a new start helps.
    Ahead(Duration),
}

/// Decides. `first`: nothing was corrected in this boot yet. Never back: a clock that is ahead is slowed.
pub fn decide(offset_us: i64, first: bool) -> Act {
    let size = Duration::from_micros(offset_us.unsigned_abs());
    if size <= MOST_PULL {
        return Act::Pull(offset_us);
    }
    let ppm = PACE_PPM.unsigned_abs();
    let takes = Duration::from_micros(offset_us.unsigned_abs().saturating_mul(1_000_000 / ppm));
    match offset_us > 0 {
        true if first || size > STOOD_STILL => Act::Step(size),
        true => Act::Pace(PACE_PPM, takes),
        false if size > MOST_AHEAD => Act::Ahead(size),
        false => Act::Pace(-PACE_PPM, takes),
    }
}

/// The offset as it really is: a server says seconds without their era, and the library takes the era that is nearest
/// to our clock, which may be wrong by any number of years. Not before the build, not long after it: `None`.
pub fn unwrap(offset_us: i64, now: Duration, floor: Duration) -> Option<i64> {
    let micros = |time: Duration| i128::try_from(time.as_micros()).ok();
    let (now, floor) = (micros(now)?, micros(floor)?);
    let told = now + i128::from(offset_us);
    let since_floor = (told - floor).rem_euclid(ERA_US);
    if since_floor > micros(HORIZON)? {
        return None;
    }
    i64::try_from(floor + since_floor - now).ok()
}

/// Pause until the next question, after so many in a row that found the clock close; of any 256 machines, no two ask
/// at the same time.
pub fn pause(backoff: Backoff, count: u32, chance: u8) -> Duration {
    let delay = backoff.delay(count);
    // 7/8 to 9/8 of it.
    delay.mul_f64(0.875 + f64::from(chance) / 1020.0)
}

/// Whether the clock is so close that questions may become rarer.
pub fn is_close(offset_us: i64) -> bool {
    offset_us.unsigned_abs() <= CLOSE_US
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: i64 = 1_000_000;

    #[test]
    fn forward_at_once_back_never() {
        assert_eq!(decide(3 * S, true), Act::Step(Duration::from_secs(3)));
        assert_eq!(decide(3 * S, false), Act::Pace(10_000, Duration::from_secs(300)));
        assert_eq!(decide(3_000 * S, false), Act::Step(Duration::from_secs(3_000)));
        assert_eq!(decide(-3 * S, true), Act::Pace(-10_000, Duration::from_secs(300)));
        assert_eq!(decide(-3_000 * S, true), Act::Ahead(Duration::from_secs(3_000)));
        assert_eq!(decide(-400_000, true), Act::Pull(-400_000));
    }

    #[test]
    fn eras_are_told_apart() {
        let floor = Duration::from_secs(1_793_491_200);
        let year = 365 * 86_400;
        let wrapped = |offset: i64| (offset + (1 << 31)).rem_euclid(1 << 32) - (1 << 31);
        // Our clock is in 2099, the truth is in 2026: more than half an era apart.
        let now = floor + Duration::from_secs(73 * year);
        let truth = i64::try_from(73 * year).unwrap() - 1000;
        assert_eq!(unwrap(wrapped(-truth) * S, now, floor), Some(-truth * S));
        // Before the build, and long after it.
        assert_eq!(unwrap(-10 * S, floor, floor), None);
        assert_eq!(unwrap(i64::try_from(60 * year).unwrap() * S, floor, floor), None);
    }

    proptest! {
        #[test]
        fn steps_lead_forward_and_paces_towards_the_truth(offset: i64, first: bool) {
            match decide(offset, first) {
                Act::Step(by) => prop_assert_eq!(Duration::from_micros(offset.try_into().unwrap()), by),
                Act::Pull(by) => prop_assert!(by == offset && offset.abs() <= S / 2),
                Act::Pace(ppm, takes) => {
                    prop_assert_eq!(ppm.signum(), offset.signum());
                    let corrected = takes.as_micros() * u128::from(ppm.unsigned_abs()) / 1_000_000;
                    prop_assert_eq!(corrected, u128::from(offset.unsigned_abs()));
                }
                Act::Ahead(_) => prop_assert!(offset < 0),
            }
        }

        #[test]
        fn any_offset_lands_between_build_and_horizon(offset: i64, now in 0u64..1 << 40, floor in 0u64..1 << 33) {
            let (now, floor) = (Duration::from_secs(now), Duration::from_secs(floor));
            if let Some(offset) = unwrap(offset, now, floor) {
                let told = i128::try_from(now.as_micros()).unwrap() + i128::from(offset);
                prop_assert!(told >= i128::try_from(floor.as_micros()).unwrap());
                prop_assert!(told <= i128::try_from((floor + HORIZON).as_micros()).unwrap());
            }
        }

        #[test]
        fn pauses_stay_near_their_base(count in 0u32..40, chance: u8) {
            let base = POLL.delay(count);
            let pause = pause(POLL, count, chance);
            prop_assert!(pause >= base.mul_f64(0.87) && pause <= base.mul_f64(1.13));
        }
    }
}
