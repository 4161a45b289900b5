//! How slow the appliance's data disk is made: a profile, or figures of one's own.

use std::fmt;
use std::str::FromStr;

use mote_image::qemu::throttle::Throttle;

/// The machine of the FaaSnap paper runs its functions natively. Here a processor is emulated, about this many times
/// slower, and a disk must be slower by as much for the proportions to stay.
const SLOWDOWN: u64 = 25;

/// Name, bytes and requests a second of real disks: the local NVMe disk of the paper, its remote volume (EBS io2), and a
/// small remote volume (EBS gp3 as it comes).
const PROFILES: [(&str, u64, u64); 3] = [
    ("nvme", 1_589_000_000, 285_000),
    ("network", 1_000_000_000, 64_000),
    ("small-network", 125_000_000, 3_000),
];

/// A disk to measure with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    name: String,
    /// Its bounds; without any it is as fast as this machine.
    pub throttle: Option<Throttle>,
}

impl FromStr for Disk {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let profile = PROFILES.iter().find(|(name, ..)| *name == text);
        let throttle = match (text, profile) {
            ("unbound", _) => None,
            (_, Some((_, bytes, requests))) => {
                Some(Throttle { bytes: bytes / SLOWDOWN, requests: requests / SLOWDOWN })
            }
            (own, None) => Some(own.parse().map_err(|error: String| {
                let names = PROFILES.map(|(name, ..)| name).join(", ");
                format!("{error}; or one of {names}, unbound")
            })?),
        };
        Ok(Self { name: text.to_owned(), throttle })
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.throttle {
            None => write!(f, "data disk unbound"),
            Some(Throttle { bytes, requests }) => {
                write!(f, "data disk '{}' of {} MB/s and {requests} reads/s", self.name, bytes / 1_000_000)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_a_profile_or_figures() {
        let nvme: Disk = "nvme".parse().unwrap();
        assert_eq!(nvme.throttle, Some(Throttle { bytes: 63_560_000, requests: 11_400 }));
        assert_eq!(nvme.to_string(), "data disk 'nvme' of 63 MB/s and 11400 reads/s");
        let own: Disk = "1M:50".parse().unwrap();
        assert_eq!(own.throttle, Some(Throttle { bytes: 1 << 20, requests: 50 }));
        assert_eq!("unbound".parse::<Disk>().unwrap().throttle, None);
        assert!("floppy".parse::<Disk>().unwrap_err().contains("nvme, network, small-network, unbound"));
    }
}
