//! Whom to believe of several servers. Pure.
//!
//! A server that is right says a time that differs from the true one by no more than its root distance: half the way
//! to its own source, what may have gone wrong since, and half the way to us. Servers whose times can all be true at
//! once agree; the largest such group is believed if it is more than half of those that answered.

/// Added to every distance: our own clock and the way through the kernel are not exact.
const GRAIN_US: u64 = 5_000;

/// What one server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Which.
    pub server: String,
    /// Its time less ours, microseconds.
    pub offset_us: i64,
    /// How wrong it may be, microseconds.
    pub distance_us: u64,
    /// How many servers are between it and a reference clock.
    pub stratum: u8,
}

impl Sample {
    fn low(&self) -> i64 {
        self.offset_us.saturating_sub_unsigned(self.distance_us.saturating_add(GRAIN_US))
    }

    fn high(&self) -> i64 {
        self.offset_us.saturating_add_unsigned(self.distance_us.saturating_add(GRAIN_US))
    }

    fn may_be(&self, offset: i64) -> bool {
        (self.low()..=self.high()).contains(&offset)
    }
}

/// The sample to go by: of the group that is believed, the one that can be least wrong. `None` when there is no
/// sample, or no group of more than half.
pub fn best(samples: &[Sample]) -> Option<&Sample> {
    // Intervals that have a point in common have the largest of their lower ends in common.
    let group = |point: i64| samples.iter().filter(move |sample| sample.may_be(point));
    let point = samples.iter().map(Sample::low).max_by_key(|low| group(*low).count())?;
    if group(point).count() * 2 <= samples.len() {
        return None;
    }
    group(point).min_by_key(|sample| sample.distance_us)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(offset_us: i64, distance_us: u64) -> Sample {
        Sample { server: String::new(), offset_us, distance_us, stratum: 2 }
    }

    #[test]
    fn a_liar_is_outvoted_and_two_that_differ_are_not_believed() {
        let truth = [sample(1_000, 20_000), sample(-3_000, 10_000)];
        let liar = sample(3_600_000_000, 10);
        assert_eq!(best(&[truth[0].clone(), liar.clone(), truth[1].clone()]), Some(&truth[1]));
        assert_eq!(best(&[truth[0].clone(), liar.clone()]), None);
        assert_eq!(best(std::slice::from_ref(&liar)), Some(&liar), "alone, there is nobody to ask");
        assert_eq!(best(&[]), None);
    }

    fn any_sample() -> impl Strategy<Value = Sample> {
        (any::<i64>(), any::<u64>()).prop_map(|(offset, distance)| sample(offset, distance))
    }

    proptest! {
        #[test]
        fn more_than_half_that_are_right_win(
            right in prop::collection::vec((-900i64..900, 1_000u64..50_000), 3..8),
            wrong in prop::collection::vec(any::<i64>(), 0..3),
        ) {
            let mut all: Vec<Sample> = right.iter().map(|(offset, distance)| sample(*offset, *distance)).collect();
            prop_assume!(wrong.len() < right.len());
            // Far away, and of small distance, so that they would be preferred.
            all.extend(wrong.iter().map(|at| sample(if at % 2 == 0 { 9_000_000 } else { -7_000_000 }, 1)));
            let chosen = best(&all).unwrap();
            prop_assert!(chosen.offset_us.abs() <= 900);
        }

        #[test]
        fn any_samples_are_safe_and_who_is_chosen_was_asked(samples in prop::collection::vec(any_sample(), 0..9)) {
            if let Some(chosen) = best(&samples) {
                prop_assert!(samples.contains(chosen));
            }
        }
    }
}
