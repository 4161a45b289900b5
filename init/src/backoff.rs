//! Exponential back-off: how long to wait before the next attempt. Pure.

use std::time::Duration;

/// A doubling pause between a first and a largest value.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// Pause after the first failure.
    pub first: Duration,
    /// Largest pause.
    pub most: Duration,
}

impl Backoff {
    /// The pause after `failures` earlier failures in a row.
    pub fn delay(&self, failures: u32) -> Duration {
        let factor = 1_u32.checked_shl(failures).unwrap_or(u32::MAX);
        self.first.checked_mul(factor).unwrap_or(self.most).min(self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BACKOFF: Backoff = Backoff { first: Duration::from_millis(250), most: Duration::from_secs(30) };

    #[test]
    fn doubles_up_to_the_bound() {
        let seconds: Vec<f32> = (0..9).map(|n| BACKOFF.delay(n).as_secs_f32()).collect();
        assert_eq!(seconds, [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]);
    }

    proptest! {
        #[test]
        fn never_shrinks_and_never_passes_the_bound(failures: u32) {
            let delay = BACKOFF.delay(failures);
            prop_assert!(delay >= BACKOFF.first && delay <= BACKOFF.most);
            prop_assert!(BACKOFF.delay(failures.saturating_add(1)) >= delay);
        }
    }
}
