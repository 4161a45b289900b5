//! Which endpoints are free: pure, time is passed in.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Every endpoint is leased, or was until a moment ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("All {total} endpoints are in use, {resting} of them not long enough out of use")]
pub struct Exhausted {
    /// Endpoints there are.
    pub total: usize,
    /// Those given back less than the quarantine ago.
    pub resting: usize,
}

/// Leases of endpoints. One that was given back rests for a while before it is leased again, so that what is still
/// under way to its old owner never reaches the new one.
#[derive(Debug)]
pub struct Leases {
    /// Never leased so far, or rested.
    free: VecDeque<u16>,
    /// Given back, in the order of the moments from which they are free.
    resting: VecDeque<(Instant, u16)>,
    leased: Vec<bool>,
    total: usize,
    quarantine: Duration,
}

impl Leases {
    /// Leases of `endpoints`; each rests for `quarantine` after use.
    pub fn new(endpoints: std::ops::Range<u16>, quarantine: Duration) -> Self {
        let leased = vec![false; usize::from(endpoints.end)];
        let free: VecDeque<u16> = endpoints.collect();
        Self { total: free.len(), free, resting: VecDeque::new(), leased, quarantine }
    }

    /// Leases an endpoint.
    ///
    /// # Errors
    /// When none is free.
    pub fn take(&mut self, now: Instant) -> Result<u16, Exhausted> {
        while let Some((until, endpoint)) = self.resting.front().copied()
            && until <= now
        {
            self.resting.pop_front();
            self.free.push_back(endpoint);
        }
        let endpoint =
            self.free.pop_front().ok_or(Exhausted { total: self.total, resting: self.resting.len() })?;
        if let Some(leased) = self.leased.get_mut(usize::from(endpoint)) {
            *leased = true;
        }
        Ok(endpoint)
    }

    /// Gives an endpoint back. One that is not leased is left as it is.
    pub fn give_back(&mut self, endpoint: u16, now: Instant) {
        if let Some(leased) = self.leased.get_mut(usize::from(endpoint))
            && std::mem::take(leased)
        {
            self.resting.push_back((now + self.quarantine, endpoint));
        }
    }

    /// Endpoints leased now.
    pub fn leased(&self) -> usize {
        self.total - self.free.len() - self.resting.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const REST: Duration = Duration::from_millis(100);

    #[test]
    fn a_used_endpoint_rests() {
        let start = Instant::now();
        let mut leases = Leases::new(2..4, REST);
        assert_eq!((leases.take(start), leases.take(start)), (Ok(2), Ok(3)));
        leases.give_back(2, start);
        assert_eq!(leases.take(start + REST / 2), Err(Exhausted { total: 2, resting: 1 }));
        assert_eq!(leases.take(start + REST), Ok(2));
        assert_eq!(leases.leased(), 2);
        // Twice, and never leased.
        leases.give_back(3, start);
        leases.give_back(3, start);
        leases.give_back(900, start);
        assert_eq!(leases.leased(), 1);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Take,
        Give(u16),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![Just(Step::Take), (0u16..12).prop_map(Step::Give), (0u64..80).prop_map(Step::Wait)]
    }

    proptest! {
        /// Against a table of when each endpoint may be leased again.
        #[test]
        fn leases_are_those_of_the_naive_model(steps in proptest::collection::vec(step(), 0..200)) {
            let mut now = Instant::now();
            let mut leases = Leases::new(2..10, REST);
            let mut model: HashMap<u16, Option<Instant>> = (2..10).map(|endpoint| (endpoint, Some(now))).collect();
            for step in steps {
                match step {
                    Step::Wait(ms) => now += Duration::from_millis(ms),
                    Step::Give(endpoint) => {
                        leases.give_back(endpoint, now);
                        if let Some(free @ None) = model.get_mut(&endpoint) {
                            *free = Some(now + REST);
                        }
                    }
                    Step::Take => {
                        let free = model.values().filter(|free| free.is_some_and(|free| free <= now)).count();
                        match leases.take(now) {
                            Ok(endpoint) => {
                                prop_assert!(model[&endpoint].is_some_and(|free| free <= now));
                                model.insert(endpoint, None);
                            }
                            Err(Exhausted { total, resting }) => {
                                prop_assert_eq!((free, total), (0, 8));
                                prop_assert_eq!(resting, model.values().flatten().count());
                            }
                        }
                    }
                }
                prop_assert_eq!(leases.leased(), model.values().filter(|free| free.is_none()).count());
            }
        }
    }
}
