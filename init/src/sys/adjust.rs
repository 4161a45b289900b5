//! Corrections of the kernel's clock: a step forward, a gentle pull, another pace.

use std::mem::MaybeUninit;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Ticks a second as user space sees them, the same on every x86 kernel; a tick takes this many microseconds
/// when the clock runs at its normal pace.
const TICK_US: i64 = 10_000;

/// Parts per million a tick may be longer or shorter; the kernel refuses more than 100,000.
pub const MOST_PACE_PPM: i64 = 50_000;

/// Largest offset the kernel pulls at by itself (`MAXPHASE`).
pub const MOST_PULL: Duration = Duration::from_millis(500);

/// A correction the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("Cannot {what}")]
pub struct AdjustError {
    what: &'static str,
    source: std::io::Error,
}

/// A clock that can be corrected; nothing here sets it back.
pub trait Clock {
    /// Time since 1970.
    fn now(&self) -> Duration;

    /// Sets it forward at once.
    fn step_forward(&self, by: Duration) -> Result<(), AdjustError>;

    /// Has the kernel pull at it, at most by [`MOST_PULL`] either way, the more gently the longer the time until the
    /// next pull. The clock counts as synchronised from then on.
    fn pull(&self, offset_us: i64, until_next: Duration) -> Result<(), AdjustError>;

    /// Makes it run faster or slower by so many parts per million, at most [`MOST_PACE_PPM`]; 0: as fast as it does.
    fn pace(&self, ppm: i64) -> Result<(), AdjustError>;

    /// Sets the hardware clock, which the next boot begins with.
    fn set_hardware(&self, time: Duration) -> Result<(), AdjustError>;
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kernel;

impl Clock for Kernel {
    fn now(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    fn step_forward(&self, by: Duration) -> Result<(), AdjustError> {
        let mut request = request(libc::ADJ_SETOFFSET | libc::ADJ_NANO);
        request.time.tv_sec = i64::try_from(by.as_secs()).unwrap_or(0);
        // Nanoseconds, as ADJ_NANO says.
        request.time.tv_usec = by.subsec_nanos().into();
        adjust("step the clock forward", request)
    }

    fn pull(&self, offset_us: i64, until_next: Duration) -> Result<(), AdjustError> {
        let most = i64::try_from(MOST_PULL.as_micros()).unwrap_or(i64::MAX);
        let modes =
            libc::ADJ_OFFSET | libc::ADJ_STATUS | libc::ADJ_TIMECONST | libc::ADJ_MAXERROR | libc::ADJ_NANO;
        let mut request = request(modes);
        // Without STA_UNSYNC the kernel writes the time to the hardware clock every eleven minutes.
        request.status = libc::STA_PLL;
        request.offset = offset_us.clamp(-most, most).saturating_mul(1000);
        // What is left of an offset after each second is 1 - 2^-(2+constant): gone well before the next pull.
        let exponent = until_next.as_secs().max(1).ilog2();
        request.constant = i64::from(exponent.saturating_sub(3).min(10));
        request.maxerror = 0;
        adjust("correct the clock", request)
    }

    fn pace(&self, ppm: i64) -> Result<(), AdjustError> {
        let mut request = request(libc::ADJ_TICK);
        request.tick = TICK_US + ppm.clamp(-MOST_PACE_PPM, MOST_PACE_PPM) * TICK_US / 1_000_000;
        adjust("change the pace of the clock", request)
    }

    fn set_hardware(&self, time: Duration) -> Result<(), AdjustError> {
        super::rtc::set(time).map_err(|source| AdjustError { what: "set the hardware clock", source })
    }
}

fn request(modes: u32) -> libc::timex {
    // SAFETY: the structure holds integers only, for which all zeros are valid.
    let mut request: libc::timex = unsafe { MaybeUninit::zeroed().assume_init() };
    request.modes = modes;
    request
}

fn adjust(what: &'static str, mut request: libc::timex) -> Result<(), AdjustError> {
    // SAFETY: the kernel reads and writes the structure, which is ours for the time of the call.
    match unsafe { libc::adjtimex(&raw mut request) } {
        -1 => Err(AdjustError { what, source: std::io::Error::last_os_error() }),
        _ => Ok(()),
    }
}
