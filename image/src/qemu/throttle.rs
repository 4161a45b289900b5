//! A disk that is only as fast as one wants: bounds on what a machine reads from it.

use std::fmt;
use std::str::FromStr;

use crate::disk;

/// What a disk's readers get at most. Writes are not held back: preparing a measurement may take no longer than it
/// must.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throttle {
    /// Bytes a second.
    pub bytes: u64,
    /// Requests a second.
    pub requests: u64,
}

impl FromStr for Throttle {
    type Err = String;

    /// Reads `64M:11400`: bytes and requests a second.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no throttle: want bytes and requests a second, such as 64M:11400");
        let (bytes, requests) = text.split_once(':').ok_or_else(wrong)?;
        let bytes = disk::parse_size(bytes)?;
        let requests = requests.parse().map_err(|_| wrong())?;
        // To QEMU, 0 is no limit.
        if bytes == 0 || requests == 0 { Err(wrong()) } else { Ok(Self { bytes, requests }) }
    }
}

impl fmt::Display for Throttle {
    /// As properties of QEMU's `-drive`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "throttling.bps-read={},throttling.iops-read={}", self.bytes, self.requests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bounds_are_read_and_told_to_qemu() {
        let throttle: Throttle = "64M:11400".parse().unwrap();
        assert_eq!(throttle, Throttle { bytes: 64 << 20, requests: 11400 });
        assert_eq!(throttle.to_string(), "throttling.bps-read=67108864,throttling.iops-read=11400");
    }

    #[test]
    fn half_a_throttle_is_refused() {
        for text in ["", "64M", "64M:", ":100", "0:100", "64M:0", "fast:100", "64M:100:1"] {
            assert!(text.parse::<Throttle>().is_err(), "{text}");
        }
    }
}
