//! Carries a [`Plan`] out over rtnetlink.

use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, CacheInfo};
use rtnetlink::packet_route::route::{RouteMessage, RouteProtocol, RouteScope};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};

use super::plan::{Plan, Route};

/// A change the kernel did not accept.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The interface could not be changed.
    #[error("Cannot set interface {index} up or to MTU {mtu:?}")]
    Link {
        /// Kernel index of the interface.
        index: u32,
        /// MTU asked for.
        mtu: Option<u16>,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// The address could not be set or removed.
    #[error("Cannot change address {address} of interface {index}")]
    Address {
        /// Kernel index of the interface.
        index: u32,
        /// The address.
        address: IpNet,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// A route could not be set.
    #[error("Cannot set route {destination} of interface {index}")]
    Route {
        /// Kernel index of the interface.
        index: u32,
        /// Network of the route.
        destination: IpNet,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
}

/// Sets an interface up, optionally with an MTU.
pub async fn raise(handle: &Handle, index: u32, mtu: Option<u16>) -> Result<(), ApplyError> {
    let mut message = LinkUnspec::new_with_index(index).up();
    if let Some(mtu) = mtu {
        message = message.mtu(u32::from(mtu));
    }
    let result = handle.link().set(message.build()).execute().await;
    result.map_err(|source| ApplyError::Link { index, mtu, source })
}

/// Brings the interface from `old` (what we set before, if anything) to `new`. Everything is set by
/// "replace", so a half-done earlier attempt does no harm.
pub async fn apply(handle: &Handle, index: u32, new: &Plan, old: Option<&Plan>) -> Result<(), ApplyError> {
    if let Some(mtu) = new.mtu {
        // A link that refuses the MTU still works with its own.
        if let Err(error) = raise(handle, index, Some(mtu)).await {
            crate::log::line(&format!("network: {}", crate::text::chain(&error)));
        }
    }
    // First out, then in: a second address of the same network is a secondary one to the kernel, and would vanish together
    // with the first.
    for address in old.iter().flat_map(|old| &old.addresses).filter(|old| !new.addresses.contains(old)) {
        remove_address(handle, index, *address).await?;
    }
    for address in &new.addresses {
        add_address(handle, index, *address, new).await?;
    }
    for route in &new.routes {
        let Some(message) = route_message(index, new, route) else { continue };
        let added = handle.route().add(message).replace().execute().await;
        added.map_err(|source| ApplyError::Route { index, destination: route.destination, source })?;
    }
    let Some(old) = old else { return Ok(()) };
    let kept = |route: &Route| new.routes.iter().any(|kept| kept.destination == route.destination);
    for message in
        old.routes.iter().filter(|route| !kept(route)).filter_map(|route| route_message(index, old, route))
    {
        // Already gone is as good as removed.
        let _ = handle.route().del(message).execute().await;
    }
    Ok(())
}

/// Takes the addresses away, and the routes: the kernel drops those of IPv4 with the address.
pub async fn withdraw(handle: &Handle, index: u32, plan: &Plan) -> Result<(), ApplyError> {
    for message in plan.routes.iter().filter_map(|route| route_message(index, plan, route)) {
        let _ = handle.route().del(message).execute().await;
    }
    for address in &plan.addresses {
        remove_address(handle, index, *address).await?;
    }
    Ok(())
}

async fn add_address(handle: &Handle, index: u32, address: IpNet, plan: &Plan) -> Result<(), ApplyError> {
    let mut request = handle.address().add(index, address.addr(), address.prefix_len()).replace();
    // The kernel's for ever is the largest number.
    let valid = plan.lifetime_s.unwrap_or(u32::MAX);
    let preferred = plan.preferred_s.unwrap_or(valid).min(valid);
    if plan.lifetime_s.or(plan.preferred_s).is_some() {
        // The kernel removes the address by itself if nobody renews it: no lease is ever overstayed.
        let mut lifetime = CacheInfo::default();
        lifetime.ifa_valid = valid;
        lifetime.ifa_preferred = preferred;
        request.message_mut().attributes.push(AddressAttribute::CacheInfo(lifetime));
    }
    request.execute().await.map_err(|source| ApplyError::Address { index, address, source })
}

async fn remove_address(handle: &Handle, index: u32, address: IpNet) -> Result<(), ApplyError> {
    let mut message = AddressMessage::default();
    message.header.family = if address.addr().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.index = index;
    message.header.prefix_len = address.prefix_len();
    message.attributes.push(AddressAttribute::Local(address.addr()));
    match handle.address().del(message).execute().await {
        // The lease ran out and the kernel was quicker.
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::EADDRNOTAVAIL => Ok(()),
        other => other.map_err(|source| ApplyError::Address { index, address, source }),
    }
}

/// The route as the kernel takes it; none for one whose gateway is of another protocol, which no plan has.
fn route_message(index: u32, plan: &Plan, route: &Route) -> Option<RouteMessage> {
    let destination = route.destination;
    let mut message = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(destination.addr(), destination.prefix_len())
        .ok()?
        .output_interface(index)
        .protocol(if plan.lifetime_s.is_some() { RouteProtocol::Dhcp } else { RouteProtocol::Static })
        // Of two interfaces with a default route, the one with the lower index wins, always.
        .priority(metric(index));
    // An IPv6 address is tentative at first, and a route from it would be refused.
    if let Some(source) = plan.source(destination.addr()).filter(IpAddr::is_ipv4) {
        message = message.pref_source(source).ok()?;
    }
    match route.gateway {
        Some(gateway) => {
            message = message.gateway(gateway).ok()?;
            if plan.is_off_link(gateway) {
                message = message.onlink();
            }
        }
        None => message = message.scope(RouteScope::Link),
    }
    Some(message.build())
}

fn metric(index: u32) -> u32 {
    1000_u32.saturating_add(index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::LinkVeth;
    use std::process::Command;

    fn ip(arguments: &[&str]) -> String {
        let output = Command::new("ip").args(arguments).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn plan(last: u8, gateway: u8) -> Plan {
        Plan {
            addresses: vec![format!("192.0.2.{last}/24").parse().unwrap()],
            lifetime_s: Some(600),
            routes: vec![Route::out(IpAddr::from([192, 0, 2, gateway]))],
            mtu: Some(1400),
            ..Plan::default()
        }
    }

    /// In a network namespace of its own, so nothing of the machine is touched.
    #[test]
    fn a_plan_is_set_changed_and_withdrawn() {
        if !rustix::process::geteuid().is_root() || Command::new("ip").arg("-V").output().is_err() {
            println!("skipped: needs root and the ip program");
            return;
        }
        let thread = std::thread::spawn(|| {
            // SAFETY: only this thread moves to a new network namespace; no file descriptor table or
            // memory is unshared, so no other thread can see a difference.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection().unwrap();
                tokio::spawn(connection);
                handle.link().add(LinkVeth::new("d0", "d1").build()).execute().await.unwrap();
                let text = ip(&["-o", "link", "show", "d0"]);
                let index: u32 = text.split([':', '@']).next().unwrap().trim().parse().unwrap();
                raise(&handle, index, None).await.unwrap();

                let first = plan(7, 1);
                apply(&handle, index, &first, None).await.unwrap();
                apply(&handle, index, &first, Some(&first)).await.unwrap();
                let shown = ip(&["-4", "addr", "show", "d0"]);
                assert!(shown.contains("192.0.2.7/24") && shown.contains("mtu 1400"), "{shown}");
                assert!(!shown.contains("valid_lft forever"), "{shown}");
                assert!(ip(&["route"]).contains("default via 192.0.2.1"), "{}", ip(&["route"]));

                let second = plan(8, 2);
                apply(&handle, index, &second, Some(&first)).await.unwrap();
                let shown = ip(&["-4", "addr", "show", "d0"]);
                assert!(shown.contains("192.0.2.8/24") && !shown.contains("192.0.2.7/24"), "{shown}");
                let routes = ip(&["route"]);
                assert!(routes.contains("via 192.0.2.2") && !routes.contains("via 192.0.2.1"), "{routes}");

                withdraw(&handle, index, &second).await.unwrap();
                withdraw(&handle, index, &second).await.unwrap();
                assert!(!ip(&["-4", "addr", "show", "d0"]).contains("192.0.2."));
                assert_eq!(ip(&["route"]), "");

                let mut narrow = plan(9, 1);
                narrow.addresses = vec!["192.0.2.9/32".parse().unwrap()];
                apply(&handle, index, &narrow, None).await.unwrap();
                assert!(ip(&["route"]).contains("onlink"), "{}", ip(&["route"]));
                withdraw(&handle, index, &narrow).await.unwrap();

                // By hand: several addresses, both protocols, a gateway on the link only.
                let hand = Plan {
                    addresses: ["198.51.100.7/24", "198.51.100.8/24", "2001:db8::7/64"]
                        .map(|text| text.parse().unwrap())
                        .into(),
                    routes: vec![
                        Route::out("198.51.100.1".parse().unwrap()),
                        Route::out("fe80::1".parse().unwrap()),
                    ],
                    ..Plan::default()
                };
                apply(&handle, index, &hand, None).await.unwrap();
                apply(&handle, index, &hand, Some(&hand)).await.unwrap();
                let shown = ip(&["addr", "show", "d0"]);
                for address in ["198.51.100.7/24", "198.51.100.8/24", "2001:db8::7/64"] {
                    assert!(shown.contains(address), "{shown}");
                }
                assert!(shown.contains("valid_lft forever"), "{shown}");
                assert!(ip(&["route"]).contains("default via 198.51.100.1"), "{}", ip(&["route"]));
                let routes = ip(&["-6", "route"]);
                assert!(routes.contains("default via fe80::1 dev d0"), "{routes}");
                let fewer =
                    Plan { addresses: hand.addresses[1..].to_vec(), routes: Vec::new(), ..Plan::default() };
                apply(&handle, index, &fewer, Some(&hand)).await.unwrap();
                let (shown, routes) = (ip(&["addr", "show", "d0"]), ip(&["-6", "route"]));
                assert!(shown.contains("198.51.100.8/24") && !shown.contains("198.51.100.7/24"), "{shown}");
                assert!(shown.contains("2001:db8::7/64") && !routes.contains("default"), "{shown}\n{routes}");
                withdraw(&handle, index, &fewer).await.unwrap();
                let shown = ip(&["addr", "show", "d0"]);
                assert!(!shown.contains("198.51.100.") && !shown.contains("2001:db8::"), "{shown}");
            });
        });
        thread.join().unwrap();
    }
}
