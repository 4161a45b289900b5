//! Options that init itself understands; all others are passed on to hostd.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::net::fixed::{Fixed, FixedError};
use crate::ntp;

/// Names of init's own options. hostd refuses keys it does not know, so these are kept from it.
const OWN: &[&str] =
    &["address", "gateway", "dns", "interface", "hostname", "disk_wait_s", "data_repair", "ntp"];

/// Longest time an operator can make us wait for a disk.
const MAX_DISK_WAIT_S: u64 = 600;

/// What the command line asks of init.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Name of the machine: letters, digits, `-`, at most 63 of them.
    pub hostname: String,
    /// Address given by hand instead of DHCP.
    pub fixed: Option<Fixed>,
    /// How long a disk may take to appear.
    pub disk_wait: Duration,
    /// Let e2fsck repair what `-p` leaves to a person, at the risk of losing files.
    pub data_repair: bool,
    /// Whom to ask for the time.
    pub ntp: ntp::Wish,
    /// The rest, for hostd.
    pub service: BTreeMap<String, String>,
    /// What was wrong with our own options, one sentence each.
    pub complaints: Vec<String>,
}

impl Options {
    /// Reads init's options out of all `mote.*` options. A wrong value is reported and the default used:
    /// a typing error must not make the box unreachable.
    pub fn read(mut all: BTreeMap<String, String>) -> Self {
        let mut complaints = Vec::new();
        let own: BTreeMap<String, String> = OWN.iter().filter_map(|name| all.remove_entry(*name)).collect();
        let get = |name: &str| own.get(name).map(String::as_str);

        let hostname = match get("hostname") {
            Some(name) if is_hostname(name) => name.to_owned(),
            Some(name) => {
                complaints.push(format!("mote.hostname={name} is not a host name; using mote"));
                "mote".to_owned()
            }
            None => "mote".to_owned(),
        };
        let fixed = match Fixed::read(get("address"), get("gateway"), get("dns"), get("interface")) {
            Ok(fixed) => Some(fixed),
            Err(FixedError::NotAsked) => None,
            Err(error) => {
                complaints.push(format!("{error}; using DHCP"));
                None
            }
        };
        let disk_wait = match get("disk_wait_s").map(str::parse::<u64>) {
            None => Duration::from_secs(5),
            Some(Ok(seconds)) if seconds <= MAX_DISK_WAIT_S => Duration::from_secs(seconds),
            Some(_) => {
                complaints.push(format!("mote.disk_wait_s must be 0 to {MAX_DISK_WAIT_S}; using 5"));
                Duration::from_secs(5)
            }
        };
        let data_repair = match get("data_repair") {
            None | Some("no" | "false") => false,
            Some("yes" | "true") => true,
            Some(other) => {
                complaints.push(format!("mote.data_repair={other} is neither yes nor no; using no"));
                false
            }
        };
        let ntp = ntp::Wish::read(get("ntp")).unwrap_or_else(|error| {
            complaints.push(format!("{error}; asking those built in"));
            ntp::Wish::default()
        });
        Self { hostname, fixed, disk_wait, data_repair, ntp, service: all, complaints }
    }
}

fn is_hostname(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmdline::Cmdline;

    fn read(line: &str) -> Options {
        Options::read(Cmdline::parse(line).options())
    }

    #[test]
    fn defaults() {
        let options = read("quiet");
        assert_eq!(options.hostname, "mote");
        assert_eq!(options.fixed, None);
        assert!(!options.data_repair);
        assert!(options.complaints.is_empty());
    }

    #[test]
    fn own_options_stay_here_and_others_go_on() {
        let options =
            read("mote.hostname=edge-7 mote.sandbox.vcpus=2 mote.address=10.0.0.2/24 mote.disk_wait_s=30");
        assert_eq!(options.hostname, "edge-7");
        assert!(options.fixed.is_some());
        assert_eq!(options.disk_wait, Duration::from_secs(30));
        assert_eq!(options.service.len(), 1);
        assert_eq!(options.service["sandbox.vcpus"], "2");
    }

    #[test]
    fn wrong_values_are_reported_and_replaced() {
        let options = read(
            "mote.hostname=-x mote.address=10.0.0.2 mote.disk_wait_s=soon mote.data_repair=maybe mote.ntp=a;b",
        );
        assert_eq!(options.hostname, "mote");
        assert_eq!(options.fixed, None);
        assert_eq!(options.disk_wait, Duration::from_secs(5));
        assert!(!options.data_repair);
        assert_eq!(options.complaints.len(), 5, "{:?}", options.complaints);
    }

    #[test]
    fn hostnames_have_a_shape() {
        for good in ["a", "mote", "a-b", "A9"] {
            assert!(is_hostname(good), "{good}");
        }
        let long = "a".repeat(64);
        for bad in ["", "-a", "a-", "a.b", "a b", "ä", &long] {
            assert!(!is_hostname(bad), "{bad}");
        }
    }
}
