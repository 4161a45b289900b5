//! What an interface shall look like, and how to get there from what it looks like now. Pure.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Most name servers taken from one source; resolvers read three.
pub const MAX_DNS: usize = 3;

/// Most routes taken from one lease.
pub const MAX_ROUTES: usize = 32;

/// An IPv4 link carries at least this (RFC 791), whatever a server says.
const MIN_MTU: u16 = 576;

/// Longest search domain written to a file.
const MAX_DOMAIN: usize = 253;

/// A route through the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Network; host bits are zero, the prefix of the default route is.
    pub destination: IpNet,
    /// Next hop, of the same protocol; none means the destination is on the link itself.
    pub gateway: Option<IpAddr>,
}

/// The wanted state of one interface, as far as one source (a lease, an operator) says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Our addresses, with the length of the network part: at least one bit.
    pub addresses: Vec<IpNet>,
    /// Seconds until the kernel drops the addresses by itself; none means never.
    pub lifetime_s: Option<u32>,
    /// Seconds until they are no longer used for what is new, if that is earlier.
    pub preferred_s: Option<u32>,
    /// Routes, in the order they must be added.
    pub routes: Vec<Route>,
    /// MTU to set, if any.
    pub mtu: Option<u16>,
    /// Name servers, at most [`MAX_DNS`].
    pub dns: Vec<IpAddr>,
    /// Search domain, already checked for what may stand in a file.
    pub domain: Option<String>,
}

/// A lease as it came over the wire, without the library's types: every field is untrusted.
#[derive(Debug, Clone, Default)]
pub struct Offer {
    /// Address given to us.
    pub address: Option<Ipv4Addr>,
    /// Netmask, as an address.
    pub mask: Option<Ipv4Addr>,
    /// Seconds, `u32::MAX` for ever.
    pub lease_s: u32,
    /// Routers, best first.
    pub routers: Vec<Ipv4Addr>,
    /// RFC 3442 routes: destination, prefix, router (unspecified = on link). They replace `routers`.
    pub classless: Vec<(Ipv4Addr, u8, Ipv4Addr)>,
    /// Interface MTU.
    pub mtu: Option<u16>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Domain name.
    pub domain: Option<String>,
}

/// Why an offer cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OfferError {
    /// The address is none a machine can have.
    #[error("Lease has the unusable address {0}")]
    Address(Ipv4Addr),
    /// The mask has holes or is empty.
    #[error("Lease has the unusable netmask {0}")]
    Mask(Ipv4Addr),
}

impl Plan {
    /// Checks an offer and turns it into a plan. Odd parts are left out; without a sound address and mask
    /// there is no plan.
    pub fn from_offer(offer: &Offer) -> Result<Self, OfferError> {
        let unspecified = Ipv4Addr::UNSPECIFIED;
        let address = offer.address.unwrap_or(unspecified);
        if !is_host(&address) {
            return Err(OfferError::Address(address));
        }
        let mask = offer.mask.unwrap_or(unspecified);
        let prefix = prefix_of(mask).ok_or(OfferError::Mask(mask))?;
        let network = Ipv4Net::new(address, prefix).map_err(|_| OfferError::Mask(mask))?;
        let mut routes: Vec<Route> = if offer.classless.is_empty() {
            let gateway = offer.routers.iter().copied().find(is_host);
            gateway.map(|gateway| Route::out(gateway.into())).into_iter().collect()
        } else {
            offer.classless.iter().filter_map(classless).take(MAX_ROUTES).collect()
        };
        // Networks on the link first: a gateway may be reachable only through one of them.
        routes.sort_by_key(|route| route.gateway.is_some());
        Ok(Self {
            addresses: vec![network.into()],
            lifetime_s: (offer.lease_s != u32::MAX).then_some(offer.lease_s),
            preferred_s: None,
            routes,
            mtu: offer.mtu.filter(|mtu| *mtu >= MIN_MTU),
            dns: offer.dns.iter().copied().filter(is_host).take(MAX_DNS).map(IpAddr::V4).collect(),
            domain: offer.domain.as_deref().filter(|name| is_domain(name)).map(str::to_owned),
        })
    }

    /// The address by which others know us: an IPv4 one if there is one.
    pub fn address(&self) -> Option<IpAddr> {
        let addresses = || self.addresses.iter().map(IpNet::addr);
        addresses().find(IpAddr::is_ipv4).or_else(|| addresses().next())
    }

    /// Whether the gateway lies outside our own networks, as with a /32 address: the route then needs the on-link flag.
    /// Link-local ones are on every link.
    pub fn is_off_link(&self, gateway: IpAddr) -> bool {
        let link_local = matches!(gateway, IpAddr::V6(gateway) if gateway.is_unicast_link_local());
        !link_local && !self.addresses.iter().any(|network| network.contains(&gateway))
    }

    /// Our address of the protocol of `other`.
    pub fn source(&self, other: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().map(IpNet::addr).find(|address| address.is_ipv4() == other.is_ipv4())
    }
}

impl Route {
    /// The default route.
    pub fn out(gateway: IpAddr) -> Self {
        let everything = match gateway {
            IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
            IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
        };
        Self { destination: everything, gateway: Some(gateway) }
    }
}

/// An address a machine can have.
fn is_host(address: &Ipv4Addr) -> bool {
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.octets()[0] >= 240)
}

fn classless(&(destination, prefix, router): &(Ipv4Addr, u8, Ipv4Addr)) -> Option<Route> {
    if destination.is_multicast() || destination.is_loopback() {
        return None;
    }
    let destination = Ipv4Net::new(destination, prefix).ok()?.trunc().into();
    let gateway = if router.is_unspecified() { None } else { Some(router).filter(is_host) };
    if gateway.is_none() && !router.is_unspecified() {
        return None;
    }
    Some(Route { destination, gateway: gateway.map(IpAddr::V4) })
}

/// Bits of the network part as a mask.
fn mask_of(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

fn prefix_of(mask: Ipv4Addr) -> Option<u8> {
    let bits = u32::from(mask);
    let prefix = u8::try_from(bits.leading_ones()).ok()?;
    (prefix >= 1 && mask_of(prefix) == bits).then_some(prefix)
}

/// A domain that may stand in a file.
pub fn is_domain(name: &str) -> bool {
    (1..=MAX_DOMAIN).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn offer() -> Offer {
        Offer {
            address: Some(Ipv4Addr::new(10, 0, 2, 15)),
            mask: Some(Ipv4Addr::new(255, 255, 255, 0)),
            lease_s: 86400,
            routers: vec![Ipv4Addr::new(10, 0, 2, 2)],
            dns: vec![Ipv4Addr::new(10, 0, 2, 3)],
            ..Offer::default()
        }
    }

    #[test]
    fn a_usual_lease() {
        let plan = Plan::from_offer(&offer()).unwrap();
        assert_eq!(plan.addresses, ["10.0.2.15/24".parse().unwrap()]);
        assert_eq!((plan.lifetime_s, plan.mtu), (Some(86400), None));
        let router = IpAddr::from([10, 0, 2, 2]);
        assert_eq!(plan.routes, [Route { destination: "0.0.0.0/0".parse().unwrap(), gateway: Some(router) }]);
        assert!(!plan.is_off_link(router));
        assert!(plan.is_off_link(IpAddr::from([10, 0, 3, 2])));
        assert!(!plan.is_off_link("fe80::1".parse().unwrap()));
    }

    #[test]
    fn classless_routes_replace_the_router_and_link_routes_go_first() {
        let router = Ipv4Addr::new(169, 254, 1, 1);
        let classless = vec![
            (Ipv4Addr::UNSPECIFIED, 0, router),
            (router, 32, Ipv4Addr::UNSPECIFIED),
            (Ipv4Addr::new(10, 9, 8, 7), 8, router),
            (Ipv4Addr::new(10, 9, 8, 7), 33, router),
        ];
        let plan = Plan::from_offer(&Offer { classless, ..offer() }).unwrap();
        assert_eq!(plan.routes.len(), 3);
        assert_eq!(plan.routes[0], Route { destination: IpAddr::V4(router).into(), gateway: None });
        assert_eq!(plan.routes[2].destination, "10.0.0.0/8".parse().unwrap());
    }

    #[test]
    fn a_lease_without_sound_address_or_mask_is_refused() {
        for bad in
            [Ipv4Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST, Ipv4Addr::new(224, 0, 0, 1)]
        {
            let error = Plan::from_offer(&Offer { address: Some(bad), ..offer() });
            assert_eq!(error, Err(OfferError::Address(bad)));
        }
        for bad in [Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(255, 0, 255, 0)] {
            assert_eq!(Plan::from_offer(&Offer { mask: Some(bad), ..offer() }), Err(OfferError::Mask(bad)));
        }
    }

    #[test]
    fn odd_parts_are_left_out() {
        let odd = Offer {
            mtu: Some(100),
            domain: Some("a\nnameserver 6.6.6.6".to_owned()),
            dns: vec![Ipv4Addr::BROADCAST; 9],
            lease_s: u32::MAX,
            ..offer()
        };
        let plan = Plan::from_offer(&odd).unwrap();
        assert_eq!((plan.mtu, plan.domain, plan.dns.len(), plan.lifetime_s), (None, None, 0, None));
    }

    proptest! {
        #[test]
        fn any_offer_gives_a_bounded_plan_or_an_error(
            address: u32, mask: u32, lease_s: u32, mtu: Option<u16>,
            routers in proptest::collection::vec(any::<u32>(), 0..5),
            dns in proptest::collection::vec(any::<u32>(), 0..300),
            classless in proptest::collection::vec((any::<u32>(), any::<u8>(), any::<u32>()), 0..300),
            domain in proptest::option::of("\\PC{0,300}"),
        ) {
            let offer = Offer {
                address: Some(address.into()),
                mask: Some(mask.into()),
                lease_s,
                mtu,
                routers: routers.into_iter().map(Into::into).collect(),
                dns: dns.into_iter().map(Into::into).collect(),
                classless: classless.into_iter().map(|(a, b, c)| (a.into(), b, c.into())).collect(),
                domain,
            };
            if let Ok(plan) = Plan::from_offer(&offer) {
                let [IpNet::V4(network)] = plan.addresses.as_slice() else { panic!("{plan:?}") };
                prop_assert!(is_host(&network.addr()));
                prop_assert!((1..=32).contains(&network.prefix_len()));
                prop_assert!(plan.routes.len() <= MAX_ROUTES && plan.dns.len() <= MAX_DNS);
                prop_assert!(plan.domain.iter().all(|name| !name.contains(char::is_whitespace)));
                for route in &plan.routes {
                    prop_assert_eq!(route.destination, route.destination.trunc());
                    prop_assert!(route.destination.addr().is_ipv4());
                }
            }
        }

        #[test]
        fn masks_and_prefixes_agree(prefix in 1u8..=32) {
            prop_assert_eq!(prefix_of(Ipv4Addr::from(mask_of(prefix))), Some(prefix));
        }
    }
}
