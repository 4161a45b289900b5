//! Networks of the world, by what they are for.

use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use serde::Deserialize;

use super::table::Net;
use crate::plan::{Plan, Tenant};

/// Where a tenant's sandboxes may connect to, outside of the tenant's own network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Egress {
    /// Nowhere.
    #[default]
    None,
    /// To addresses of the Internet.
    Internet,
    /// To the site's private networks too. Never to the machine itself, nor to services of its cloud.
    All,
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(std::net::Ipv4Addr::new(a, b, c, d), prefix))
}

const fn v6(segments: [u16; 8], prefix: u8) -> IpNet {
    let [a, b, c, d, e, f, g, h] = segments;
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix))
}

/// No packet goes there, whatever the policy: what speaks for the machine or its cloud, and what is no host.
pub const NEVER: &[IpNet] = &[
    v4(0, 0, 0, 0, 8),
    v4(127, 0, 0, 0, 8),
    // Link-local, and so the metadata services of most clouds.
    v4(169, 254, 0, 0, 16),
    // Metadata of Alibaba Cloud and Oracle Cloud, and Azure's wire server.
    v4(100, 100, 100, 200, 32),
    v4(192, 0, 0, 0, 24),
    v4(168, 63, 129, 16, 32),
    v4(224, 0, 0, 0, 3),
    v6([0; 8], 96),
    // IPv4 in disguise: mapped, and behind NAT64.
    v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96),
    v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96),
    v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48),
    v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16),
    // Metadata and time of EC2, metadata of Google Cloud.
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32),
    v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0], 32),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8),
];

/// Not of the Internet: private, shared, for benchmarks and for books.
pub const PRIVATE: &[IpNet] = &[
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 2, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),
];

/// All the Internet's IPv6 addresses are in it.
pub const GLOBAL_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// A tenant's own networks, on all machines. IPv4 does not tell tenants apart, IPv6 does.
pub fn own(plan: &Plan, tenant: Tenant) -> [Net; 2] {
    let network = u128::from(plan.v6().netmask());
    let value = u128::from(plan.v6().network()) | (u128::from(tenant.vni()) << 32);
    let mask = network | (u128::from(u32::MAX) << 32);
    [plan.v4().into(), Net::V6 { value: value.into(), mask: mask.into() }]
}
