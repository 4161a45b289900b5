//! A tenant's networks on several machines, which are namespaces here.

#![cfg(test)]

mod support;

use std::net::{IpAddr, Ipv4Addr};

use mote_particle::netlink::{Netlink, index_of};
use mote_particle::netns::Netns;
use mote_particle::overlay::{OVERHEAD, Overlay, OverlayError, Peer, inner_mtu};
use mote_particle::{Network, Node, Tenant};
use rtnetlink::{LinkUnspec, LinkVeth};
use std::os::fd::{AsFd, AsRawFd};
use support::{NEVER, SHAPE, SOON, both, plan, receive, root, send};

/// Addresses the machines have among themselves.
fn underlay(node: u16) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, u8::try_from(node + 1).unwrap()).into()
}

/// Two machines joined by a cable.
fn machines() -> [Netns; 2] {
    let [one, other] = [(); 2].map(|()| Netns::create().unwrap());
    one.run(|| {
        let netlink = Netlink::open().unwrap();
        let far = LinkUnspec::new_with_name("eth0").setns_by_fd(other.as_fd().as_raw_fd()).build();
        let pair = LinkVeth::new("eth0", "eth0").set_info_data(peer(far)).build();
        netlink.add_link("make a cable", pair).unwrap();
    })
    .unwrap();
    for (node, machine) in (0..).zip([&one, &other]) {
        machine
            .run(|| {
                let netlink = Netlink::open().unwrap();
                let index = index_of("eth0").unwrap();
                netlink.add_address(index, underlay(node), 24).unwrap();
                netlink.set_link("plug it in", LinkUnspec::new_with_index(index).up().build()).unwrap();
            })
            .unwrap();
    }
    [one, other]
}

fn peer(link: rtnetlink::packet_route::link::LinkMessage) -> rtnetlink::packet_route::link::InfoData {
    use rtnetlink::packet_route::link::{InfoData, InfoVeth};
    InfoData::Veth(InfoVeth::Peer(link))
}

/// A tenant's network on a machine, joined with that on the other one.
fn join(machine: &Netns, node: u16, vni: u32) -> Network {
    let tenant = Tenant::new(vni).unwrap();
    let network = Network::create(plan().subnet(Node(node), tenant).unwrap(), &SHAPE).unwrap();
    let overlay = Overlay { plan: plan(), tenant, node: Node(node), local: underlay(node), mtu: 1430 };
    machine.run(|| overlay.create(&Netlink::open().unwrap(), network.netns()).unwrap()).unwrap();
    let far = 1 - node;
    network
        .netns()
        .run(|| {
            let peer = Peer { node: Node(far), address: underlay(far) };
            overlay.add_peer(&Netlink::open().unwrap(), &peer).unwrap();
        })
        .unwrap();
    network
}

#[test]
fn sandboxes_of_a_tenant_hear_each_other_across_machines() {
    if !root() {
        return;
    }
    let cluster = machines();
    let [a, b] = [0, 1].map(|node| join(&cluster[usize::from(node)], node, 7));
    let [other_a, other_b] = [0, 1].map(|node| join(&cluster[usize::from(node)], node, 8));
    let [here, there] = [&a, &b].map(|network| network.attach().unwrap());
    let [_, stranger] = [&other_a, &other_b].map(|network| network.attach().unwrap());
    for (from, to) in both(here.addresses()).into_iter().zip(both(there.addresses())) {
        send(&here, from, to, "far");
        assert_eq!(receive(&there, SOON), Some((from, to, "far".to_owned())));
        send(&there, to, from, "back");
        assert_eq!(receive(&here, SOON), Some((to, from, "back".to_owned())));
    }
    assert_eq!(stranger.addresses().v4, there.addresses().v4);
    assert_eq!(receive(&stranger, NEVER), None);
}

#[test]
fn an_mtu_without_room_is_refused() {
    assert_eq!(inner_mtu(1500).unwrap(), 1500 - OVERHEAD);
    assert_eq!(inner_mtu(1280 + OVERHEAD).unwrap(), 1280);
    let refused = inner_mtu(1280 + OVERHEAD - 1).unwrap_err();
    assert!(matches!(refused, OverlayError::Mtu { mtu: 1349 }));
    assert!(refused.to_string().contains("1350"), "{refused}");
}
