//! The wall clock at boot: never before the program was built, never stepped back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

/// Time before which nobody can run this program: when it was built if the build says so
/// (`SOURCE_DATE_EPOCH`), else when this line was written (2026-11-01).
pub fn floor() -> Duration {
    let built = option_env!("SOURCE_DATE_EPOCH").and_then(|text| text.parse().ok()).unwrap_or(0);
    Duration::from_secs(u64::max(built, 1_793_491_200))
}

/// What the clock is set by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The kernel's time is sound; it comes from the hardware clock if there is one.
    Kernel,
    /// The hardware clock is ahead of the kernel.
    Rtc,
    /// Nothing better than the build time is known.
    Floor,
}

/// What to do about the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Who is believed.
    pub source: Source,
    /// Time since 1970 to set; none when the kernel's time stays.
    pub set: Option<Duration>,
}

/// Decides from the kernel's time, the hardware clock and the floor. The largest wins: a clock that runs
/// ahead is NTP's business later, one that goes back breaks certificates, leases and logs.
pub fn decide(kernel: Duration, rtc: Option<Duration>, floor: Duration) -> Decision {
    let rtc = rtc.filter(|rtc| *rtc >= floor);
    match rtc {
        // A second of tolerance: the hardware clock counts whole seconds and was read later.
        Some(rtc) if rtc > kernel.saturating_add(Duration::from_secs(1)) => {
            Decision { source: Source::Rtc, set: Some(rtc) }
        }
        _ if kernel >= floor => Decision { source: Source::Kernel, set: None },
        Some(rtc) => Decision { source: Source::Rtc, set: Some(rtc) },
        None => Decision { source: Source::Floor, set: Some(floor) },
    }
}

/// The clock could not be set.
#[derive(Debug, thiserror::Error)]
#[error("Cannot set the clock to {seconds} s after 1970")]
pub struct SetError {
    /// Seconds since 1970.
    pub seconds: u64,
    source: rustix::io::Errno,
}

/// Reads, decides and sets; whether what it is from is sound, and what that is, for people.
pub fn set() -> Result<(bool, String), SetError> {
    let kernel = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let rtc = std::fs::read_to_string("/sys/class/rtc/rtc0/since_epoch")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .map(Duration::from_secs);
    let decision = decide(kernel, rtc, floor());
    if let Some(time) = decision.set {
        let seconds = time.as_secs();
        let spec = Timespec { tv_sec: i64::try_from(seconds).unwrap_or(i64::MAX), tv_nsec: 0 };
        clock_settime(ClockId::Realtime, spec).map_err(|source| SetError { seconds, source })?;
    }
    let from = match (decision.source, rtc) {
        (Source::Kernel, Some(_)) | (Source::Rtc, _) => "rtc".to_owned(),
        (Source::Kernel, None) => "kernel".to_owned(),
        (Source::Floor, Some(_)) => "build time (the hardware clock is wrong)".to_owned(),
        (Source::Floor, None) => "build time (no hardware clock)".to_owned(),
    };
    Ok((decision.source != Source::Floor, from))
}

/// Time since the kernel started.
pub fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// [`since_boot`] in seconds with milliseconds, right aligned.
pub fn since_boot_text() -> String {
    let now = since_boot();
    format!("[{:>5}.{:03}]", now.as_secs(), now.subsec_millis())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn sound_kernel_time_stays() {
        let stays = Decision { source: Source::Kernel, set: None };
        assert_eq!(decide(S(2000), Some(S(2000)), S(1000)), stays);
        assert_eq!(decide(S(2000), None, S(1000)), stays);
        assert_eq!(decide(S(2000), Some(S(1500)), S(1000)), stays, "never back");
        assert_eq!(decide(S(2000), Some(S(5)), S(1000)), stays, "a dead battery is not believed");
    }

    #[test]
    fn the_hardware_clock_helps_and_the_floor_holds() {
        assert_eq!(
            decide(S(5), Some(S(3000)), S(1000)),
            Decision { source: Source::Rtc, set: Some(S(3000)) }
        );
        assert_eq!(decide(S(2000), Some(S(3000)), S(1000)).set, Some(S(3000)));
        assert_eq!(decide(S(5), Some(S(7)), S(1000)), Decision { source: Source::Floor, set: Some(S(1000)) });
        assert_eq!(decide(S(5), None, S(1000)).source, Source::Floor);
    }

    proptest! {
        #[test]
        fn only_forward_and_never_below_the_floor(kernel in 0u64..1 << 40, rtc: Option<u32>, floor: u32) {
            let decision = decide(S(kernel), rtc.map(|rtc| S(rtc.into())), S(floor.into()));
            let after = decision.set.unwrap_or(S(kernel));
            prop_assert!(after >= S(kernel));
            prop_assert!(after >= S(floor.into()));
        }
    }
}
