//! Randomness: what differs between two machines booted from one image is mixed in, then the kernel
//! says when it has enough.

use std::fs::{self, File};
use std::io::Write;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::rand::{GetRandomFlags, getrandom};

/// Facts that are no secrets but tell machines apart; mixing them in can only help and is not credited.
const SOURCES: &[&str] = &[
    "/proc/cmdline",
    "/proc/interrupts",
    "/sys/class/dmi/id/product_uuid",
    "/sys/class/dmi/id/board_serial",
    "/sys/class/rtc/rtc0/since_epoch",
];

/// Mixes and waits, at most `bound`. True when the kernel's generator is ready.
pub fn prepare(bound: Duration) -> bool {
    if let Ok(mut pool) = File::options().write(true).open("/dev/urandom") {
        for source in SOURCES {
            if let Ok(bytes) = fs::read(source) {
                let _ = pool.write_all(&bytes);
            }
        }
    }
    let end = Instant::now() + bound;
    while !is_ready() {
        let left = end.saturating_duration_since(Instant::now());
        // `/dev/random` becomes readable when the generator is ready.
        let (Ok(timeout), Ok(random)) = (Timespec::try_from(left), File::open("/dev/random")) else {
            return false;
        };
        if left.is_zero() {
            return false;
        }
        let _ = poll(&mut [PollFd::new(&random, PollFlags::IN)], Some(&timeout));
    }
    true
}

/// A byte that differs from machine to machine, for spreading what many do at the same time. Never waits.
pub fn byte() -> u8 {
    let mut byte = [0_u8; 1];
    let _ = getrandom(&mut byte, GetRandomFlags::INSECURE);
    byte[0]
}

/// Eight such bytes.
pub fn word() -> u64 {
    let mut bytes = [0_u8; 8];
    let _ = getrandom(&mut bytes, GetRandomFlags::INSECURE);
    u64::from_ne_bytes(bytes)
}

fn is_ready() -> bool {
    let mut byte = [0_u8; 1];
    getrandom(&mut byte, GetRandomFlags::NONBLOCK).is_ok()
}
