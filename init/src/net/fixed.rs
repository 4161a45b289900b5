//! What an operator wants of an interface: `machine.interfaces`. Pure.

use std::net::IpAddr;

use ipnet::IpNet;
use mote_config::Interface;

use super::book::Seen;
use super::plan::{Plan, Route};

/// What is to be done with an interface besides setting it up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// Addresses and routes given by hand.
    pub plan: Option<Plan>,
    /// Ask a DHCP server for an IPv4 address.
    pub dhcp: bool,
    /// Take IPv6 addresses and routes from router advertisements.
    pub advertised: bool,
    /// Ask a DHCPv6 server where they say so.
    pub dhcp6: bool,
}

/// Which interface an entry is about is known when it is there.
#[derive(Debug, Default)]
pub struct Wants {
    interfaces: Vec<Interface>,
    /// The interface that the entry without a name is about, once one has come.
    unnamed: Option<u32>,
}

impl Wants {
    /// Of the entries; none: all use DHCP.
    pub fn new(interfaces: Vec<Interface>) -> Self {
        Self { interfaces, unnamed: None }
    }

    /// What is wanted of an interface that has come.
    pub fn of(&mut self, link: &Seen) -> Want {
        if self.interfaces.is_empty() {
            return Want { plan: None, dhcp: true, advertised: true, dhcp6: true };
        }
        let named = self.interfaces.iter().find(|interface| interface.names(&link.name, link.mac));
        let unnamed = || {
            let interface = self.interfaces.iter().find(|interface| interface.name.is_none())?;
            (self.unnamed.is_none_or(|index| index == link.index)).then_some(interface)
        };
        match (named, unnamed()) {
            (Some(interface), _) => want(interface),
            (None, Some(interface)) => {
                self.unnamed = Some(link.index);
                want(interface)
            }
            (None, None) => Want { plan: None, dhcp: false, advertised: false, dhcp6: false },
        }
    }

    /// An interface is gone.
    pub fn forget(&mut self, index: u32) {
        self.unnamed = self.unnamed.filter(|unnamed| *unnamed != index);
    }
}

fn want(interface: &Interface) -> Want {
    let plan = Plan {
        addresses: interface.addresses.clone(),
        routes: interface.gateways.iter().copied().map(Route::out).collect(),
        mtu: interface.mtu,
        ..Plan::default()
    };
    let has_v6 = interface.addresses.iter().map(IpNet::addr).any(|address: IpAddr| address.is_ipv6());
    Want {
        plan: Some(plan).filter(|plan| *plan != Plan::default()),
        dhcp: interface.dhcp,
        advertised: !has_v6,
        dhcp6: !has_v6 && interface.dhcp6.unwrap_or(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> Seen {
        let mac = [2, 0, 0, 0, 0, u8::try_from(index).unwrap()];
        Seen { index, name: name.to_owned(), mac, up: false, carrier: false }
    }

    fn entry(name: Option<&str>, addresses: &[&str], dhcp: bool) -> Interface {
        Interface {
            name: name.map(str::to_owned),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            gateways: if addresses.is_empty() { Vec::new() } else { vec!["192.0.2.1".parse().unwrap()] },
            dhcp,
            dhcp6: None,
            mtu: None,
        }
    }

    const NOTHING: Want = Want { plan: None, dhcp: false, advertised: false, dhcp6: false };
    const ALL: Want = Want { plan: None, dhcp: true, advertised: true, dhcp6: true };

    #[test]
    fn without_entries_all_use_dhcp() {
        let mut wants = Wants::default();
        for index in 1..4 {
            assert_eq!(wants.of(&link(index, "eth0")), ALL);
        }
    }

    #[test]
    fn entries_are_found_by_name_and_by_hardware_address() {
        let mut wants = Wants::new(vec![
            entry(Some("eth1"), &["192.0.2.7/24", "2001:db8::7/64"], false),
            entry(Some("02:00:00:00:00:03"), &[], true),
        ]);
        let want = wants.of(&link(2, "eth1"));
        let plan = want.plan.unwrap();
        assert_eq!((plan.addresses.len(), plan.routes.len()), (2, 1));
        assert!(!want.dhcp && !want.advertised && !want.dhcp6);
        assert_eq!(wants.of(&link(3, "eth0")), ALL);
        assert_eq!(wants.of(&link(4, "eth2")), NOTHING);
    }

    #[test]
    fn ipv6_is_as_routers_say_unless_there_are_addresses_or_it_is_not_wanted() {
        let v6 = |addresses: &[&str], dhcp6| {
            let interface = Interface { dhcp6, ..entry(None, addresses, false) };
            let want = Wants::new(vec![interface]).of(&link(2, "eth0"));
            (want.advertised, want.dhcp6)
        };
        assert_eq!(v6(&["192.0.2.7/24"], None), (true, true));
        assert_eq!(v6(&[], Some(true)), (true, true));
        assert_eq!(v6(&["192.0.2.7/24"], Some(false)), (true, false));
        assert_eq!(v6(&["2001:db8::7/64"], None), (false, false));
    }

    #[test]
    fn the_entry_without_a_name_is_about_one_interface_at_a_time() {
        let mut wants =
            Wants::new(vec![entry(None, &["192.0.2.7/24"], false), entry(Some("eth1"), &[], true)]);
        assert!(wants.of(&link(2, "eth1")).dhcp);
        for _ in 0..2 {
            assert!(wants.of(&link(3, "eth2")).plan.is_some());
            assert_eq!(wants.of(&link(4, "eth3")), NOTHING);
        }
        wants.forget(4);
        assert_eq!(wants.of(&link(4, "eth3")), NOTHING);
        wants.forget(3);
        assert!(wants.of(&link(4, "eth3")).plan.is_some());
    }
}
