//! An address given by hand: `mote.address=CIDR mote.gateway=IP mote.dns=IP[,IP] mote.interface=NAME`.

use std::net::Ipv4Addr;

use super::plan::{MAX_DNS, Plan, Route};

/// Wrong address options.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FixedError {
    /// Neither an address nor anything that needs one was given.
    #[error("No address given")]
    NotAsked,
    /// The address is not `a.b.c.d/n`.
    #[error("mote.address={0} is not an IPv4 address with prefix length, such as 192.0.2.7/24")]
    Address(String),
    /// The gateway is no address.
    #[error("mote.gateway={0} is not an IPv4 address")]
    Gateway(String),
    /// A name server is no address, or there are too many.
    #[error("mote.dns={0} is not a list of 1 to {MAX_DNS} IPv4 addresses")]
    Dns(String),
    /// The interface's name cannot be one.
    #[error("mote.interface={0} is not the name of an interface")]
    Interface(String),
    /// Options that only make sense with an address.
    #[error("mote.gateway without mote.address")]
    NoAddress,
}

/// The address, ready to be applied to an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    /// Name of the interface; the first one that appears when not given.
    pub interface: Option<String>,
    /// What to set.
    pub plan: Plan,
}

impl Fixed {
    /// Reads the four options.
    pub fn read(
        address: Option<&str>,
        gateway: Option<&str>,
        dns: Option<&str>,
        interface: Option<&str>,
    ) -> Result<Self, FixedError> {
        let Some(text) = address else {
            return Err(if gateway.is_some() { FixedError::NoAddress } else { FixedError::NotAsked });
        };
        let (address, prefix) = cidr(text).ok_or_else(|| FixedError::Address(text.to_owned()))?;
        let routes = match gateway {
            None => Vec::new(),
            Some(text) => {
                let gateway =
                    text.parse().ok().filter(is_host).ok_or_else(|| FixedError::Gateway(text.to_owned()))?;
                vec![Route { destination: Ipv4Addr::UNSPECIFIED, prefix: 0, gateway: Some(gateway) }]
            }
        };
        let dns = match dns {
            None => Vec::new(),
            Some(text) => text
                .split(',')
                .map(|part| part.trim().parse().ok().filter(is_host))
                .collect::<Option<Vec<Ipv4Addr>>>()
                .filter(|list| list.len() <= MAX_DNS)
                .ok_or_else(|| FixedError::Dns(text.to_owned()))?,
        };
        let interface = match interface {
            Some(name) if !is_interface(name) => return Err(FixedError::Interface(name.to_owned())),
            other => other.map(str::to_owned),
        };
        let plan = Plan { address, prefix, lifetime_s: None, routes, mtu: None, dns, domain: None };
        Ok(Self { interface, plan })
    }
}

fn cidr(text: &str) -> Option<(Ipv4Addr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let address = address.parse().ok().filter(is_host)?;
    let prefix = prefix.parse().ok().filter(|prefix| (1..=32).contains(prefix))?;
    Some((address, prefix))
}

/// An address a machine can have.
pub(super) fn is_host(address: &Ipv4Addr) -> bool {
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.octets()[0] >= 240)
}

fn is_interface(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_set() {
        let fixed =
            Fixed::read(Some("192.0.2.7/24"), Some("192.0.2.1"), Some("9.9.9.9, 1.1.1.1"), Some("eth1"))
                .unwrap();
        assert_eq!(fixed.interface.as_deref(), Some("eth1"));
        assert_eq!(fixed.plan.address, Ipv4Addr::new(192, 0, 2, 7));
        assert_eq!(fixed.plan.prefix, 24);
        assert_eq!(fixed.plan.routes.len(), 1);
        assert_eq!(fixed.plan.dns.len(), 2);
    }

    #[test]
    fn each_wrong_part_is_named() {
        let read = Fixed::read;
        assert_eq!(read(None, None, None, None), Err(FixedError::NotAsked));
        assert_eq!(read(None, Some("10.0.0.1"), None, None), Err(FixedError::NoAddress));
        for bad in ["10.0.0.1", "10.0.0.1/0", "10.0.0.1/33", "x/8", "224.0.0.1/8", "127.0.0.1/8", "0.0.0.0/8"]
        {
            assert_eq!(read(Some(bad), None, None, None), Err(FixedError::Address(bad.to_owned())));
        }
        let good = Some("10.0.0.2/8");
        assert!(matches!(read(good, Some("10.0.0"), None, None), Err(FixedError::Gateway(_))));
        assert!(matches!(read(good, None, Some("1.1.1.1,"), None), Err(FixedError::Dns(_))));
        assert!(matches!(read(good, None, None, Some("a/b")), Err(FixedError::Interface(_))));
    }
}
