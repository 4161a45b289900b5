//! Addresses of the links between tenants' namespaces and the machine: pure arithmetic.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::nft::table::Net;
use crate::plan::{Addresses, Plan};

/// Links there are room for at most, however large the networks are.
const MOST: u32 = 1 << 15;

/// Networks that cannot hold links.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinksError {
    /// A network of one address.
    #[error("{v4} and {v6} have no room for two addresses")]
    Small {
        /// IPv4.
        v4: Ipv4Net,
        /// IPv6.
        v6: Ipv6Net,
    },
    /// Sandboxes have the addresses.
    #[error("Links at {v4} and {v6} overlap the networks of sandboxes, {} and {}", plan.v4(), plan.v6())]
    Overlap {
        /// IPv4.
        v4: Ipv4Net,
        /// IPv6.
        v6: Ipv6Net,
        /// The cluster's addresses.
        plan: Plan,
    },
}

/// Networks of which every link takes two addresses (RFC 3021, RFC 6164). They are seen on this machine only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Links {
    v4: Ipv4Net,
    v6: Ipv6Net,
}

impl Default for Links {
    /// A part of the shared address space (RFC 6598), and of addresses that are ours alone.
    fn default() -> Self {
        Self {
            v4: Ipv4Net::new_assert(Ipv4Addr::new(100, 126, 0, 0), 16),
            v6: Ipv6Net::new_assert(Ipv6Addr::new(0xfd6d, 0x6f74, 0x6c6b, 0, 0, 0, 0, 0), 64),
        }
    }
}

impl Links {
    /// Links with addresses of these networks.
    ///
    /// # Errors
    /// When a network has one address only.
    pub fn new(v4: Ipv4Net, v6: Ipv6Net) -> Result<Self, LinksError> {
        if v4.prefix_len() > 31 || v6.prefix_len() > 127 {
            return Err(LinksError::Small { v4, v6 });
        }
        Ok(Self { v4: v4.trunc(), v6: v6.trunc() })
    }

    /// The same, if no sandbox has one of the addresses.
    ///
    /// # Errors
    /// When one may have.
    pub fn beside(self, plan: Plan) -> Result<Self, LinksError> {
        let Self { v4, v6 } = self;
        let apart_v4 = !v4.contains(&plan.v4()) && !plan.v4().contains(&v4);
        let apart_v6 = !v6.contains(&plan.v6()) && !plan.v6().contains(&v6);
        if apart_v4 && apart_v6 { Ok(self) } else { Err(LinksError::Overlap { v4, v6, plan }) }
    }

    /// How many there are.
    pub fn room(&self) -> u32 {
        let v4 = 1u32.checked_shl((31 - self.v4.prefix_len()).into()).unwrap_or(MOST);
        let v6 = 1u32.checked_shl((127 - self.v6.prefix_len()).into()).unwrap_or(MOST);
        v4.min(v6).min(MOST)
    }

    /// The machine's addresses on a link, and the tenant's; none past the last link.
    pub fn link(&self, number: u32) -> Option<[Addresses; 2]> {
        let side = |side: u32| Addresses {
            v4: (u32::from(self.v4.addr()) | (2 * number + side)).into(),
            v6: (u128::from(self.v6.addr()) | u128::from(2 * number + side)).into(),
        };
        (number < self.room()).then(|| [side(0), side(1)])
    }

    /// The networks, as filters see them.
    pub(crate) fn networks(&self) -> [Net; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plan() -> Plan {
        Plan::new("10.64.0.0/10".parse().unwrap(), "fd6d:6f74:6500::/48".parse().unwrap(), 22).unwrap()
    }

    #[test]
    fn links_have_two_addresses_each() {
        let links = Links::default().beside(plan()).unwrap();
        assert_eq!(links.room(), 32768);
        let [machine, tenant] = links.link(3).unwrap();
        assert_eq!(
            (machine.v4.to_string(), tenant.v4.to_string()),
            ("100.126.0.6".into(), "100.126.0.7".into())
        );
        assert_eq!(tenant.v6.to_string(), "fd6d:6f74:6c6b::7");
        assert_eq!(links.link(32768), None);
    }

    #[test]
    fn links_where_sandboxes_are_are_refused() {
        let v6 = "fd00::/64".parse().unwrap();
        for v4 in ["10.100.0.0/16", "10.0.0.0/8"] {
            let links = Links::new(v4.parse().unwrap(), v6).unwrap();
            assert!(matches!(links.beside(plan()), Err(LinksError::Overlap { .. })));
        }
        assert!(Links::new("192.0.2.1/32".parse().unwrap(), v6).is_err());
    }

    proptest! {
        #[test]
        fn links_stay_within_their_networks(prefix in 1u8..=31, number in any::<u32>()) {
            let v4 = Ipv4Net::new("100.126.0.0".parse().unwrap(), prefix).unwrap();
            let links = Links::new(v4, "fd00::/112".parse().unwrap()).unwrap();
            match links.link(number % (2 * links.room())) {
                Some(sides) => prop_assert!(sides.iter().all(|side| v4.contains(&side.v4))),
                None => prop_assert!(number % (2 * links.room()) >= links.room()),
            }
        }
    }
}
