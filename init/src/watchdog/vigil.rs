//! Whether the watchdog may be fed. Pure.
//!
//! ```text
//!   booting ──service started──> starting ──answer──> serving ──stop──> stopping
//!   45 min                       15 min               5 min since        100 s
//!                                                     the last answer
//! ```
//! Who is in one state for longer than its bound is not fed, and the hardware starts the machine anew.

use std::fmt;
use std::time::Duration;

const fn minutes(number: u64) -> Duration {
    Duration::from_secs(60 * number)
}

/// Kernel start to the first start of the service: all bounds of the boot's steps, and some more. The longest is the
/// check of a large damaged disk.
pub const BOOT: Duration = minutes(45);

/// First start of the service to its first good answer: its store may have to be mended.
pub const START: Duration = minutes(15);

/// How old the last good answer may be. The service may crash and be started again several times in that.
pub const GRACE: Duration = minutes(5);

/// A shutdown; more than its own bound, after which the power goes off anyhow.
pub const STOP: Duration = Duration::from_secs(100);

/// What is known; times are since boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Vigil {
    started: Option<Duration>,
    answered: Option<Duration>,
    stopping: Option<Duration>,
}

/// What has lasted too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The boot.
    Boot,
    /// The service's start.
    Start,
    /// The service's silence.
    Silence,
    /// The shutdown.
    Stop,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, bound) = match self {
            Self::Boot => ("the boot did not come as far as hostd", BOOT),
            Self::Start => ("hostd did not begin to serve", START),
            Self::Silence => ("hostd gave no sign of health", GRACE),
            Self::Stop => ("the shutdown did not end", STOP),
        };
        write!(f, "{what} within {} s", bound.as_secs())
    }
}

impl Vigil {
    /// The service was started, for the first time or again.
    pub fn started(&mut self, now: Duration) {
        self.started.get_or_insert(now);
    }

    /// The service said that it serves.
    pub fn answered(&mut self, now: Duration) {
        self.answered = Some(self.answered.map_or(now, |before| before.max(now)));
    }

    /// The machine is being stopped in order.
    pub fn stopping(&mut self, now: Duration) {
        self.stopping.get_or_insert(now);
    }

    /// Whether it may be fed now, or why not.
    pub fn may_feed(&self, now: Duration) -> Result<(), Why> {
        let (since, bound, why) = match (self.stopping, self.answered, self.started) {
            (Some(since), _, _) => (since, STOP, Why::Stop),
            (None, Some(since), _) => (since, GRACE, Why::Silence),
            (None, None, Some(since)) => (since, START, Why::Start),
            (None, None, None) => (Duration::ZERO, BOOT, Why::Boot),
        };
        if now.saturating_sub(since) <= bound { Ok(()) } else { Err(why) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone, Copy)]
    enum Event {
        Started,
        Answered,
        Stopping,
        Nothing,
    }

    fn events() -> impl Strategy<Value = Vec<(Event, u64)>> {
        let event = prop_oneof![
            Just(Event::Started),
            Just(Event::Answered),
            Just(Event::Stopping),
            Just(Event::Nothing)
        ];
        prop::collection::vec((event, 0u64..2000), 0..30)
    }

    #[test]
    fn each_state_has_its_bound() {
        let mut vigil = Vigil::default();
        assert_eq!(vigil.may_feed(BOOT), Ok(()));
        assert_eq!(vigil.may_feed(BOOT + minutes(1)), Err(Why::Boot));
        vigil.started(minutes(1));
        vigil.started(minutes(10));
        assert_eq!(vigil.may_feed(minutes(16)), Ok(()));
        assert_eq!(vigil.may_feed(minutes(17)), Err(Why::Start), "starting again is no sign of health");
        vigil.answered(minutes(17));
        assert_eq!(vigil.may_feed(minutes(22)), Ok(()));
        assert_eq!(vigil.may_feed(minutes(23)), Err(Why::Silence));
        vigil.stopping(minutes(30));
        vigil.answered(minutes(31));
        assert_eq!(vigil.may_feed(minutes(31)), Ok(()));
        assert_eq!(vigil.may_feed(minutes(32)), Err(Why::Stop));
    }

    proptest! {
        /// Whatever happens in whatever order: fed means that something happened not too long ago, and a good answer
        /// that is recent means fed, unless a shutdown does not end.
        #[test]
        fn fed_only_for_a_reason(events in events()) {
            let mut vigil = Vigil::default();
            let mut now = Duration::ZERO;
            let (mut answer, mut first_start, mut stop) = (None, None, None);
            for (event, later) in events {
                now += Duration::from_secs(later);
                match event {
                    Event::Started => { vigil.started(now); first_start.get_or_insert(now); }
                    Event::Answered => { vigil.answered(now); answer = Some(now); }
                    Event::Stopping => { vigil.stopping(now); stop.get_or_insert(now); }
                    Event::Nothing => {}
                }
                let recent = |since: Option<Duration>, bound| since.is_some_and(|since| now - since <= bound);
                let fed = vigil.may_feed(now).is_ok();
                if stop.is_some() {
                    prop_assert_eq!(fed, recent(stop, STOP));
                } else if answer.is_some() {
                    prop_assert_eq!(fed, recent(answer, GRACE));
                } else {
                    prop_assert_eq!(fed, if first_start.is_some() { recent(first_start, START) } else { now <= BOOT });
                }
                // Nothing happens any more: not fed for ever.
                prop_assert!(vigil.may_feed(now + BOOT + minutes(1)).is_err());
            }
        }
    }
}
