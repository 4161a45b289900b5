//! The hardware clock, written. It is read from `sysfs` (see `clock`).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// The device.
const PATH: &str = "/dev/rtc0";

mod request {
    #![allow(missing_docs, reason = "the macro makes a public function without any")]
    nix::ioctl_write_ptr!(set_time, b'p', 0x0a, super::RtcTime);
}

/// The kernel's `struct rtc_time`: UTC, months from 0, years from 1900.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RtcTime {
    second: i32,
    minute: i32,
    hour: i32,
    day: i32,
    month: i32,
    year: i32,
    weekday: i32,
    day_of_year: i32,
    summer_time: i32,
}

/// Sets it to a time since 1970.
pub fn set(time: Duration) -> io::Result<()> {
    let device = File::options().write(true).open(PATH)?;
    let parts = parts(time).ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: the descriptor is open for the call, and the kernel only reads the structure.
    unsafe { request::set_time(device.as_raw_fd(), &raw const parts) }?;
    Ok(())
}

/// A time since 1970 as the hardware counts it; `None` if the C library has no date for it.
fn parts(time: Duration) -> Option<RtcTime> {
    let seconds = libc::time_t::try_from(time.as_secs()).ok()?;
    // SAFETY: all zeros are a valid `tm`, whose pointer to a zone's name nobody reads.
    let mut date: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to values of ours that outlive the call.
    if unsafe { libc::gmtime_r(&raw const seconds, &raw mut date) }.is_null() {
        return None;
    }
    Some(RtcTime {
        second: date.tm_sec,
        minute: date.tm_min,
        hour: date.tm_hour,
        day: date.tm_mday,
        month: date.tm_mon,
        year: date.tm_year,
        weekday: date.tm_wday,
        day_of_year: date.tm_yday,
        summer_time: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_utc() {
        let text = |seconds: u64| {
            let p = parts(Duration::from_secs(seconds)).unwrap();
            let (year, month) = (p.year + 1900, p.month + 1);
            format!("{year}-{month:02}-{:02} {:02}:{:02}:{:02}", p.day, p.hour, p.minute, p.second)
        };
        assert_eq!(text(0), "1970-01-01 00:00:00");
        assert_eq!(text(951_868_799), "2000-02-29 23:59:59");
        assert_eq!(text(4_107_542_400), "2100-03-01 00:00:00");
        assert_eq!(parts(Duration::MAX), None);
    }
}
