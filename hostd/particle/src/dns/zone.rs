//! What a name means to a tenant: pure, by labels.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::directory::Directory;
use crate::plan::{Plan, Subnet};

/// Bytes of a label of DNS.
pub const LABEL_LIMIT: usize = 63;

/// The name under which everybody finds itself.
pub const SELF: &str = "self";

/// The domain all names are in.
pub const DOMAIN: &str = "mote";

/// A tenant that cannot have names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("A tenant with a name of {length} bytes has no DNS name, 1 to {LABEL_LIMIT} have")]
pub struct ZoneError {
    /// Length of the tenant's name.
    pub length: usize,
}

/// Everything one tenant's names are made of.
#[derive(Clone, Debug)]
pub struct Zone {
    tenant: Box<str>,
    plan: Plan,
    subnet: Subnet,
    directory: Directory,
}

/// What stands behind a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// The asker.
    Asker,
    /// A function of the tenant, if there is one of this name.
    Function(&'a [u8]),
    /// Something is below it, nothing at it.
    Parent,
    /// The domain itself.
    Domain,
    /// An address of the plan.
    Address(IpAddr),
    /// Ours, and not there.
    Nothing,
    /// Somebody else's.
    Outside,
}

impl Zone {
    /// Names of a tenant, for those in `subnet`.
    ///
    /// # Errors
    /// When the tenant's name is no label of DNS.
    pub fn new(tenant: &str, plan: Plan, subnet: Subnet, directory: Directory) -> Result<Self, ZoneError> {
        if tenant.is_empty() || tenant.len() > LABEL_LIMIT {
            return Err(ZoneError { length: tenant.len() });
        }
        Ok(Self { tenant: tenant.into(), plan, subnet, directory })
    }

    /// The tenant's name.
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// Its functions.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// What a name means; its labels from the first to the last, without the root's.
    pub(super) fn meaning<'a>(&self, labels: &[&'a [u8]]) -> Meaning<'a> {
        let is = |label: &[u8], text: &str| label.eq_ignore_ascii_case(text.as_bytes());
        match labels {
            [own] if is(own, SELF) => Meaning::Asker,
            [rest @ .., last] if is(last, DOMAIN) => match rest {
                [] => Meaning::Domain,
                [own] if is(own, SELF) => Meaning::Asker,
                [tenant] if is(tenant, &self.tenant) => Meaning::Parent,
                [own, tenant] if is(own, SELF) && is(tenant, &self.tenant) => Meaning::Asker,
                [function, tenant] if is(tenant, &self.tenant) => Meaning::Function(function),
                _ => Meaning::Nothing,
            },
            [digits @ .., kind, last] if is(last, "arpa") => {
                let address = match () {
                    () if is(kind, "in-addr") => reverse_v4(digits).map(IpAddr::V4),
                    () if is(kind, "ip6") => reverse_v6(digits).map(IpAddr::V6),
                    () => None,
                };
                address.filter(|address| self.plans(*address)).map_or(Meaning::Outside, Meaning::Address)
            }
            // A word alone is nobody's name: what is asked last of a function that has no sandbox.
            [_] => Meaning::Nothing,
            _ => Meaning::Outside,
        }
    }

    /// Both addresses of whoever has one of them; only that one if nobody knows the other.
    pub(super) fn own(&self, asker: IpAddr) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
        let asker = asker.to_canonical();
        let here = match asker {
            IpAddr::V4(asker) => self.subnet.endpoint_of(asker),
            IpAddr::V6(asker) => self.subnet.endpoint_of_v6(asker),
        };
        let both = here
            .and_then(|endpoint| self.subnet.endpoint(endpoint))
            .or_else(|| Some(self.directory.owner(asker)?.1));
        match (both, asker) {
            (Some(both), _) => (Some(both.v4), Some(both.v6)),
            (None, IpAddr::V4(asker)) => (Some(asker), None),
            (None, IpAddr::V6(asker)) => (None, Some(asker)),
        }
    }

    /// Whether an address is one of the cluster's, this tenant's or another's.
    fn plans(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.plan.v4().contains(&address),
            IpAddr::V6(address) => self.plan.v6().contains(&address),
        }
    }
}

fn reverse_v4(labels: &[&[u8]]) -> Option<Ipv4Addr> {
    let octets: &[&[u8]; 4] = labels.try_into().ok()?;
    let [d, c, b, a] = octets.map(|label| {
        let text = std::str::from_utf8(label).ok()?;
        // As it is written, and only so.
        text.parse::<u8>().ok().filter(|octet| octet.to_string() == text)
    });
    Some(Ipv4Addr::new(a?, b?, c?, d?))
}

fn reverse_v6(labels: &[&[u8]]) -> Option<Ipv6Addr> {
    let nibbles: &[&[u8]; 32] = labels.try_into().ok()?;
    let mut bits = 0u128;
    for label in nibbles.iter().rev() {
        let [digit] = label else { return None };
        bits = bits << 4 | u128::from(char::from(*digit).to_digit(16)?);
    }
    Some(bits.into())
}

#[cfg(test)]
mod tests {
    use domain::base::Name;
    use domain::base::name::ToLabelIter;
    use proptest::prelude::*;

    use super::*;
    use crate::plan::{Node, Tenant};

    fn zone() -> Zone {
        let plan =
            Plan::new("10.64.0.0/10".parse().unwrap(), "fd6d:6f74:6500::/48".parse().unwrap(), 22).unwrap();
        let subnet = plan.subnet(Node(3), Tenant::new(7).unwrap()).unwrap();
        Zone::new("Acme", plan, subnet, Directory::new(10)).unwrap()
    }

    fn meaning(name: &str) -> Meaning<'_> {
        let labels: Vec<&[u8]> =
            name.split('.').map(str::as_bytes).filter(|label| !label.is_empty()).collect();
        zone().meaning(&labels)
    }

    #[test]
    fn every_kind_of_name() {
        let listed = |address: &str| Meaning::Address(address.parse().unwrap());
        for (name, expected) in [
            ("self", Meaning::Asker),
            ("SELF.mote", Meaning::Asker),
            ("Self.ACME.Mote", Meaning::Asker),
            ("self.other.mote", Meaning::Nothing),
            ("hello.acme.mote", Meaning::Function(b"hello")),
            ("_x.acme.mote", Meaning::Function(b"_x")),
            ("hello.other.mote", Meaning::Nothing),
            ("a.hello.acme.mote", Meaning::Nothing),
            ("acme.mote", Meaning::Parent),
            ("other.mote", Meaning::Nothing),
            ("mote", Meaning::Domain),
            ("", Meaning::Outside),
            ("hello", Meaning::Nothing),
            ("motes", Meaning::Nothing),
            ("hello.acme.mote.example", Meaning::Outside),
            ("1.12.64.10.in-addr.arpa", listed("10.64.12.1")),
            ("1.12.64.10.IN-ADDR.ARPA", listed("10.64.12.1")),
            ("01.12.64.10.in-addr.arpa", Meaning::Outside),
            ("+1.12.64.10.in-addr.arpa", Meaning::Outside),
            ("12.64.10.in-addr.arpa", Meaning::Outside),
            ("256.12.64.10.in-addr.arpa", Meaning::Outside),
            ("8.8.8.8.in-addr.arpa", Meaning::Outside),
            ("arpa", Meaning::Nothing),
        ] {
            assert_eq!(meaning(name), expected, "{name}");
        }
    }

    #[test]
    fn names_of_tenants_are_labels() {
        let Zone { plan, subnet, .. } = zone();
        for (length, fine) in [(0, false), (1, true), (63, true), (64, false)] {
            let made = Zone::new(&"t".repeat(length), plan, subnet, Directory::new(1));
            assert_eq!(made.err(), (!fine).then_some(ZoneError { length }));
        }
    }

    #[test]
    fn everybody_has_two_addresses() {
        let zone = zone();
        let own = |address: &str| {
            let (v4, v6) = zone.own(address.parse().unwrap());
            (v4.map(|v4| v4.to_string()), v6.map(|v6| v6.to_string()))
        };
        let both = (Some("10.64.12.5".to_owned()), Some("fd6d:6f74:6500:3:0:7:0:5".to_owned()));
        for address in ["10.64.12.5", "::ffff:10.64.12.5", "fd6d:6f74:6500:3:0:7:0:5"] {
            assert_eq!(own(address), both);
        }
        // On another machine: known, if it is listed.
        assert_eq!(own("10.64.16.5"), (Some("10.64.16.5".to_owned()), None));
        assert_eq!(own("fd00::1"), (None, Some("fd00::1".to_owned())));
        let far = zone.plan.subnet(Node(4), Tenant::new(7).unwrap()).unwrap().endpoint(5).unwrap();
        let _listed = zone.directory.insert("far", far).unwrap();
        assert_eq!(own("10.64.16.5"), (Some("10.64.16.5".to_owned()), Some(far.v6.to_string())));
    }

    proptest! {
        #[test]
        fn reverse_names_are_read_as_they_are_written(v4: [u8; 4], v6: [u8; 16]) {
            for address in [IpAddr::from(v4), IpAddr::from(v6)] {
                let name = Name::<Vec<u8>>::reverse_from_addr(address).unwrap();
                let labels: Vec<_> = name.iter_labels().map(|label| label.as_slice()).collect();
                let digits = &labels[..labels.len() - 3];
                let read = match address {
                    IpAddr::V4(_) => reverse_v4(digits).map(IpAddr::V4),
                    IpAddr::V6(_) => reverse_v6(digits).map(IpAddr::V6),
                };
                prop_assert_eq!(read, Some(address));
            }
        }

        #[test]
        fn any_labels_mean_something(labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..8), 0..40)) {
            let labels: Vec<_> = labels.iter().map(Vec::as_slice).collect();
            let _ = zone().meaning(&labels);
            let arpa: Vec<_> = labels.iter().copied().chain([b"ip6".as_slice(), b"arpa"]).collect();
            let _ = zone().meaning(&arpa);
        }
    }
}
