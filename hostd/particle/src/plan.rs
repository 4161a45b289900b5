//! Which address belongs to whom: pure arithmetic.
//!
//! Every tenant sees the same IPv4 network (tenants never see each other); of it every machine has one subnet, and of
//! that every endpoint one address. IPv6 has room for the tenant too.
//!
//! ```text
//!   IPv4   network of the plan | machine | endpoint           10.64.0.0/10, /22 each: 4096 machines of 1024 endpoints
//!   IPv6   network of the plan | machine, 16 bits | tenant, 32 bits | endpoint, 32 bits
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// Queues of one TAP device, and so endpoints behind it (the kernel's `MAX_TAP_QUEUES`).
pub const ENDPOINTS_PER_TAP: u16 = 256;

/// Endpoints that are never given to a sandbox: the subnet's own address, and the gateway.
pub const RESERVED: u16 = 2;

/// Endpoint of the gateway: the namespace itself, where names are answered.
const GATEWAY: u16 = 1;

/// Prefix of a machine's IPv4 subnet at its largest: 1024 endpoints.
const V4_LARGEST: u8 = 22;

/// And at its smallest: one TAP device.
const V4_SMALLEST: u8 = 24;

/// Prefix of the plan's IPv6 network at its smallest: 16 bits for the machine, 64 for tenant and endpoint.
const V6_SMALLEST: u8 = 48;

/// A machine of the cluster, numbered from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node(pub u16);

/// A tenant, by the number its packets carry between machines (VXLAN network identifier, RFC 7348): 1 to 2^24 - 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenant(u32);

impl Tenant {
    /// The first one.
    pub const FIRST: Self = Self(1);

    /// The tenant of a network identifier; none for 0 and for more than 24 bits.
    pub fn new(vni: u32) -> Option<Self> {
        (1..1 << 24).contains(&vni).then_some(Self(vni))
    }

    /// The network identifier.
    pub fn vni(self) -> u32 {
        self.0
    }
}

/// A plan that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The subnets are too large or too small.
    #[error("A machine's IPv4 subnet has a prefix of {V4_LARGEST} to {V4_SMALLEST} bits, not {prefix}")]
    NodePrefix {
        /// Prefix asked for.
        prefix: u8,
    },
    /// No subnet fits into the network.
    #[error("{network} has no room for subnets of {prefix} bits")]
    NoRoom {
        /// The plan's network.
        network: Ipv4Net,
        /// Prefix of a machine's subnet.
        prefix: u8,
    },
    /// Too small for machines, tenants and endpoints.
    #[error("{network} is too small: the IPv6 network needs a prefix of {V6_SMALLEST} bits or less")]
    SmallV6 {
        /// The plan's network.
        network: Ipv6Net,
    },
    /// The machine's number is beyond the network.
    #[error("Machine {node} has no subnet: {network} has room for {room} of {prefix} bits")]
    Node {
        /// Number of the machine.
        node: u16,
        /// The plan's network.
        network: Ipv4Net,
        /// Prefix of a machine's subnet.
        prefix: u8,
        /// Machines there is room for.
        room: u32,
    },
}

/// The addresses of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    v4: Ipv4Net,
    v6: Ipv6Net,
    prefix: u8,
}

impl Plan {
    /// A plan for machines with a subnet of `prefix` bits each, 22 to 24.
    ///
    /// # Errors
    /// When the networks have no room for it.
    pub fn new(v4: Ipv4Net, v6: Ipv6Net, prefix: u8) -> Result<Self, PlanError> {
        if !(V4_LARGEST..=V4_SMALLEST).contains(&prefix) {
            return Err(PlanError::NodePrefix { prefix });
        }
        if v4.prefix_len() > prefix {
            return Err(PlanError::NoRoom { network: v4, prefix });
        }
        if v6.prefix_len() > V6_SMALLEST {
            return Err(PlanError::SmallV6 { network: v6 });
        }
        Ok(Self { v4: v4.trunc(), v6: v6.trunc(), prefix })
    }

    /// The IPv4 network of all machines.
    pub fn v4(&self) -> Ipv4Net {
        self.v4
    }

    /// The IPv6 network of all machines.
    pub fn v6(&self) -> Ipv6Net {
        self.v6
    }

    /// The subnet of a tenant on a machine.
    ///
    /// # Errors
    /// When the plan has no room for a machine of this number.
    pub fn subnet(&self, node: Node, tenant: Tenant) -> Result<Subnet, PlanError> {
        let room = 1u32.checked_shl(u32::from(self.prefix - self.v4.prefix_len())).unwrap_or(u32::MAX);
        if u32::from(node.0) >= room {
            return Err(PlanError::Node { node: node.0, network: self.v4, prefix: self.prefix, room });
        }
        let v4 = u32::from(self.v4.addr()) + (u32::from(node.0) << (32 - self.prefix));
        let v6 = u128::from(self.v6.addr()) | (u128::from(node.0) << 64) | (u128::from(tenant.vni()) << 32);
        Ok(Subnet { v4: v4.into(), v6: v6.into(), prefix: self.prefix })
    }
}

/// The addresses of one tenant on one machine. Endpoint `k` has the `k`-th of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    prefix: u8,
}

/// The addresses of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Addresses {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

impl Subnet {
    /// How many endpoints there are, reserved ones included.
    pub fn endpoints(&self) -> u16 {
        1 << (32 - self.prefix).min(15)
    }

    /// Addresses of endpoint `k`; none past the end of the subnet.
    pub fn endpoint(&self, k: u16) -> Option<Addresses> {
        (k < self.endpoints()).then(|| Addresses {
            v4: (u32::from(self.v4) | u32::from(k)).into(),
            v6: (u128::from(self.v6) | u128::from(k)).into(),
        })
    }

    /// Addresses of the namespace itself.
    pub fn gateway(&self) -> Addresses {
        self.endpoint(GATEWAY).unwrap_or(Addresses { v4: self.v4, v6: self.v6 })
    }

    /// The endpoint with this IPv4 address.
    pub fn endpoint_of(&self, address: Ipv4Addr) -> Option<u16> {
        let k = u32::from(address).checked_sub(u32::from(self.v4))?;
        u16::try_from(k).ok().filter(|k| *k < self.endpoints())
    }

    /// The endpoint with this IPv6 address.
    pub fn endpoint_of_v6(&self, address: Ipv6Addr) -> Option<u16> {
        let k = u128::from(address).checked_sub(u128::from(self.v6))?;
        u16::try_from(k).ok().filter(|k| *k < self.endpoints())
    }

    /// The IPv4 network as it is routed to.
    pub fn v4(&self) -> Ipv4Net {
        Ipv4Net::new_assert(self.v4, self.prefix)
    }

    /// The IPv6 network as it is routed to.
    pub fn v6(&self) -> Ipv6Net {
        Ipv6Net::new_assert(self.v6, 96)
    }

    /// TAP devices for `endpoints` endpoints.
    pub fn taps(&self, endpoints: u16, layout: Layout) -> impl Iterator<Item = TapPlan> + use<> {
        let (subnet, endpoints) = (*self, endpoints.min(self.endpoints()));
        let numbers = match layout {
            Layout::Shared => 0..endpoints.div_ceil(ENDPOINTS_PER_TAP),
            Layout::Own => 0..endpoints.saturating_sub(RESERVED),
        };
        numbers.filter_map(move |number| {
            let (first, most) = match layout {
                Layout::Shared => (number * ENDPOINTS_PER_TAP, ENDPOINTS_PER_TAP),
                Layout::Own => (number + RESERVED, 1),
            };
            let addresses = subnet.endpoint(first)?;
            Some(TapPlan { number, first: addresses, queues: (endpoints - first).min(most), layout })
        })
    }
}

/// How endpoints are shared out among TAP devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// 256 of consecutive addresses behind each, a queue each.
    Shared,
    /// One behind each.
    Own,
}

impl Layout {
    /// Number of the TAP device of endpoint `k`, and of its queue there; none for reserved ones that have no device.
    pub fn place(self, k: u16) -> Option<(u16, u16)> {
        match self {
            Self::Shared => Some((k / ENDPOINTS_PER_TAP, k % ENDPOINTS_PER_TAP)),
            Self::Own => Some((k.checked_sub(RESERVED)?, 0)),
        }
    }
}

/// What stands behind one TAP device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TapPlan {
    /// Which one.
    pub number: u16,
    /// Addresses of its queue 0; the last byte of both is 0 where queues share a device.
    pub first: Addresses,
    /// Queues, 1 to 256.
    pub queues: u16,
    /// Whether it has more than one endpoint.
    pub layout: Layout,
}

impl TapPlan {
    /// How many of the first endpoints behind it are never a sandbox's.
    pub fn reserved(&self) -> u16 {
        if self.number == 0 { RESERVED } else { 0 }
    }

    /// What is routed to it, IPv4.
    pub fn v4(&self) -> Ipv4Net {
        Ipv4Net::new_assert(self.first.v4, self.prefix(32))
    }

    /// What is routed to it, IPv6.
    pub fn v6(&self) -> Ipv6Net {
        Ipv6Net::new_assert(self.first.v6, self.prefix(128))
    }

    /// Without the byte that chooses the queue.
    fn prefix(&self, bits: u8) -> u8 {
        match self.layout {
            Layout::Shared => bits - 8,
            Layout::Own => bits,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn plan(v4: &str, prefix: u8) -> Result<Plan, PlanError> {
        Plan::new(v4.parse().unwrap(), "fd6d:6f74:6500::/48".parse().unwrap(), prefix)
    }

    fn tenant(vni: u32) -> Tenant {
        Tenant::new(vni).unwrap()
    }

    #[test]
    fn addresses_are_where_the_picture_says() {
        let subnet = plan("10.64.0.0/10", 22).unwrap().subnet(Node(3), tenant(0x0a_0b0c)).unwrap();
        assert_eq!(subnet.endpoints(), 1024);
        assert_eq!(subnet.v4().to_string(), "10.64.12.0/22");
        assert_eq!(subnet.v6().to_string(), "fd6d:6f74:6500:3:a:b0c::/96");
        let last = subnet.endpoint(1023).unwrap();
        assert_eq!(
            (last.v4.to_string(), last.v6.to_string()),
            ("10.64.15.255".into(), "fd6d:6f74:6500:3:a:b0c:0:3ff".into())
        );
        assert_eq!(subnet.endpoint(1024), None);
        assert_eq!(subnet.gateway().v4.to_string(), "10.64.12.1");
    }

    #[test]
    fn a_thousand_endpoints_are_four_devices() {
        let subnet = plan("10.64.0.0/10", 22).unwrap().subnet(Node(0), tenant(1)).unwrap();
        let taps: Vec<_> = subnet.taps(1000, Layout::Shared).collect();
        assert_eq!(taps.iter().map(|tap| tap.queues).collect::<Vec<_>>(), [256, 256, 256, 232]);
        assert_eq!(taps[3].v4().to_string(), "10.64.3.0/24");
        assert_eq!(taps[3].v6().to_string(), "fd6d:6f74:6500::1:0:300/120");
        assert_eq!(subnet.taps(0, Layout::Shared).count(), 0);
        let queues = |layout| subnet.taps(u16::MAX, layout).map(|tap| u32::from(tap.queues)).sum::<u32>();
        assert_eq!((queues(Layout::Shared), queues(Layout::Own)), (1024, 1024 - u32::from(RESERVED)));
        assert_eq!([0, 1, 2, 3].map(|endpoints| subnet.taps(endpoints, Layout::Own).count()), [0, 0, 0, 1]);
        let own = subnet.taps(1000, Layout::Own).nth(500).unwrap();
        assert_eq!(own.v4().to_string(), "10.64.1.246/32");
        assert_eq!(own.v6().to_string(), "fd6d:6f74:6500::1:0:1f6/128");
        assert_eq!([0, 1, 2].map(|k| Layout::Own.place(k)), [None, None, Some((0, 0))]);
    }

    #[test]
    fn plans_that_cannot_be_are_refused() {
        assert_eq!(plan("10.0.0.0/8", 21), Err(PlanError::NodePrefix { prefix: 21 }));
        assert_eq!(plan("10.0.0.0/8", 25), Err(PlanError::NodePrefix { prefix: 25 }));
        let network = "10.0.0.0/23".parse().unwrap();
        assert_eq!(plan("10.0.0.0/23", 22), Err(PlanError::NoRoom { network, prefix: 22 }));
        let small = "fd00::/49".parse().unwrap();
        assert_eq!(
            Plan::new("10.0.0.0/8".parse().unwrap(), small, 22),
            Err(PlanError::SmallV6 { network: small })
        );
        let two = plan("10.0.0.0/21", 22).unwrap();
        assert!(two.subnet(Node(1), tenant(1)).is_ok());
        assert!(matches!(two.subnet(Node(2), tenant(1)), Err(PlanError::Node { room: 2, .. })));
        assert_eq!(
            [0, 1, (1 << 24) - 1, 1 << 24].map(|vni| Tenant::new(vni).is_some()),
            [false, true, true, false]
        );
    }

    proptest! {
        #[test]
        fn no_two_endpoints_share_an_address(
            nodes in proptest::collection::hash_set(0u16..64, 2..4),
            tenants in proptest::collection::hash_set(1u32..1 << 24, 1..4),
            prefix in 22u8..=24,
        ) {
            let plan = plan("10.64.0.0/16", prefix).unwrap();
            let mut v6 = HashSet::new();
            for vni in &tenants {
                let mut v4 = HashSet::new();
                for node in &nodes {
                    let subnet = plan.subnet(Node(*node), tenant(*vni)).unwrap();
                    let taps = [Layout::Shared, Layout::Own]
                        .map(|layout| (layout, subnet.taps(subnet.endpoints(), layout).collect::<Vec<_>>()));
                    for k in 0..subnet.endpoints() {
                        let addresses = subnet.endpoint(k).unwrap();
                        prop_assert!(v4.insert(addresses.v4) && v6.insert(addresses.v6));
                        prop_assert!(plan.v4().contains(&addresses.v4) && plan.v6().contains(&addresses.v6));
                        prop_assert!(subnet.v4().contains(&addresses.v4) && subnet.v6().contains(&addresses.v6));
                        prop_assert_eq!(subnet.endpoint_of(addresses.v4), Some(k));
                        prop_assert_eq!(subnet.endpoint_of_v6(addresses.v6), Some(k));
                        for (layout, taps) in &taps {
                            let Some((tap, queue)) = layout.place(k) else { continue };
                            let tap = taps[usize::from(tap)];
                            prop_assert!(tap.v4().contains(&addresses.v4) && tap.v6().contains(&addresses.v6));
                            prop_assert!(queue < tap.queues);
                        }
                        prop_assert_eq!(u16::from(addresses.v4.octets()[3]), k % 256);
                        prop_assert_eq!(u16::from(addresses.v6.octets()[15]), k % 256);
                    }
                }
            }
        }
    }
}
