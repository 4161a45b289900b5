//! Having a guest give memory back, step by step: its free memory is asked for, pages are asked for, and when it has
//! given them, or time is up, it is seen what that came to. Nobody waits in here; the event loop comes by.

use std::time::{Duration, Instant};

use mote_virtio::balloon::{BALLOON_PAGE, BalloonControl, DEVICE_TYPE, WISHES};

use super::Machine;
use crate::control::RunState;
use crate::memory;

/// Longest a guest is waited for, whatever the request says.
const LIMIT: Duration = Duration::from_secs(60);

/// Why a guest cannot be asked to give memory back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ReclaimError {
    /// It cannot answer.
    #[error("The microVM is paused: resume it first")]
    Paused,
    /// What comes back cannot be known.
    #[error("Cannot see how much memory is in use")]
    Measure(#[source] std::io::Error),
}

/// A guest that is being asked.
#[derive(Debug)]
pub(crate) struct Reclaim {
    /// Pages it keeps free.
    leave: u64,
    deadline: Instant,
    /// Bytes of this process's own before.
    own: u64,
    /// Pages its balloon shall have, once that is known.
    target: Option<u32>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reclaimed {
    /// Bytes the host has back.
    pub(crate) bytes: u64,
    /// Bytes in the balloon.
    pub(crate) balloon: u64,
}

/// Pages the balloon shall have, of a guest with `free` bytes free that keeps `leave` pages and has given `held`.
///
/// It is not asked for more than `own`, the bytes this process has: the rest of what the guest calls free it never
/// touched, and would only touch to give it away (it clears pages that it takes, and writes down each of them).
fn target(leave: u64, free: u64, held: u32, own: u64) -> u32 {
    let free = free / BALLOON_PAGE;
    let held = u64::from(held);
    let wanted = if free < leave {
        held.saturating_sub(leave - free)
    } else {
        held.saturating_add((free - leave).min(own / BALLOON_PAGE))
    };
    u32::try_from(wanted).unwrap_or(u32::MAX)
}

impl Reclaim {
    /// How long there is still to wait.
    pub(crate) fn left(&self, now: Instant) -> Duration {
        self.deadline.saturating_duration_since(now)
    }

    /// Goes on; whether it is over. `told` is called when there is something to tell the guest.
    fn go_on(&mut self, balloon: &BalloonControl, now: Instant, told: impl FnOnce()) -> bool {
        if self.target.is_none()
            && let Some(free) = balloon.answer()
        {
            let target = target(self.leave, free, balloon.held(), self.own);
            self.target = Some(target);
            balloon.aim(target);
            told();
        }
        self.target.is_some_and(|target| balloon.held() >= target) || now >= self.deadline
    }
}

impl Machine {
    /// Begins to have the guest give back what it has free beyond `leave_mb` MiB.
    pub(crate) fn reclaim(&mut self, leave_mb: u32, within: Duration) -> Result<Reclaim, ReclaimError> {
        if self.state == RunState::Paused {
            return Err(ReclaimError::Paused);
        }
        let own = memory::own_bytes().map_err(ReclaimError::Measure)?;
        // A page given back looks as if it had never been touched: what is recorded until now is all there is.
        self.pagers.exact = None;
        // Or the kernel would fill what was given back up with large pages again (khugepaged).
        memory::allow_large_pages(false);
        self.balloon.ask();
        self.kick_balloon();
        let leave = (u64::from(leave_mb) << 20) / BALLOON_PAGE;
        Ok(Reclaim { leave, deadline: Instant::now() + within.min(LIMIT), own, target: None })
    }

    /// Goes on with it; whether it is over.
    pub(crate) fn go_on(&self, reclaim: &mut Reclaim, now: Instant) -> bool {
        reclaim.go_on(&self.balloon, now, || self.kick_balloon())
    }

    /// Ends it, now that it is over or time for something else. What the guest has not given by now it keeps: a driver
    /// that has not got enough tries again for ever.
    pub(crate) fn end_reclaim(&self, reclaim: &Reclaim) -> Reclaimed {
        let held = self.balloon.held();
        if reclaim.target.is_some_and(|target| held < target) {
            self.balloon.aim(held);
            self.kick_balloon();
        }
        // What cannot be seen did not come back.
        let own = memory::own_bytes().unwrap_or(u64::MAX);
        Reclaimed { bytes: reclaim.own.saturating_sub(own), balloon: u64::from(held) * BALLOON_PAGE }
    }

    /// Lets the guest have all its memory again. It uses it when it needs it, from now on without asking.
    pub(crate) fn deflate(&self) {
        memory::allow_large_pages(true);
        self.balloon.aim(0);
        self.kick_balloon();
    }

    /// Bytes the guest has given, as it says.
    pub(crate) fn balloon_bytes(&self) -> u64 {
        u64::from(self.balloon.held()) * BALLOON_PAGE
    }

    fn kick_balloon(&self) {
        let balloon = self.bus.virtio().iter().find(|transport| transport.device_type() == DEVICE_TYPE);
        if let Some(balloon) = balloon {
            balloon.kick(WISHES);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_leaves_what_it_should_and_takes_no_more_than_there_is() {
        const MIB: u64 = 256;
        for (leave, free, held, own, expected) in [
            (16 * MIB, 100 << 20, 0, 90 << 20, 84 * MIB),
            // What it gave before counts.
            (16 * MIB, 20 << 20, 84 * 256, 40 << 20, 88 * MIB),
            // It has less than it shall keep: some comes back to it.
            (16 * MIB, 10 << 20, 84 * 256, 40 << 20, 78 * MIB),
            (16 * MIB, 0, 10, 0, 0),
            // Most of it was never used.
            (16 * MIB, 900 << 20, 0, 30 << 20, 30 * MIB),
            (0, u64::MAX, u32::MAX, u64::MAX, u64::from(u32::MAX)),
            (u64::MAX, 0, u32::MAX, 0, 0),
        ] {
            assert_eq!(u64::from(target(leave, free, held, own)), expected, "{leave} {free} {held} {own}");
        }
    }

    #[test]
    fn a_guest_that_does_not_answer_is_waited_for_no_longer_than_said() {
        let now = Instant::now();
        let balloon = BalloonControl::default();
        balloon.ask();
        let within = Duration::from_millis(100);
        let mut reclaim = Reclaim { leave: 0, deadline: now + within, own: 1 << 20, target: None };
        assert!(!reclaim.go_on(&balloon, now, || panic!("nothing is known")));
        assert_eq!(reclaim.left(now), within);
        assert!(reclaim.go_on(&balloon, now + within, || panic!("nothing is known")));
        assert_eq!(reclaim.left(now + 2 * within), Duration::ZERO);
    }
}
