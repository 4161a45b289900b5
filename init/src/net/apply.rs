//! Carries a [`Plan`] out over rtnetlink.

use std::net::{IpAddr, Ipv4Addr};

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
        address: Ipv4Addr,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// A route could not be set.
    #[error("Cannot set route {destination}/{prefix} of interface {index}")]
    Route {
        /// Kernel index of the interface.
        index: u32,
        /// Network of the route.
        destination: Ipv4Addr,
        /// Its length in bits.
        prefix: u8,
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
    if let Some(old) = old.filter(|old| (old.address, old.prefix) != (new.address, new.prefix)) {
        // First out, then in: a second address of the same network is a secondary one to the kernel, and
        // would vanish together with the first.
        remove_address(handle, index, old).await?;
    }
    add_address(handle, index, new).await?;
    for route in &new.routes {
        let message = route_message(index, new, route);
        let added = handle.route().add(message).replace().execute().await;
        added.map_err(|source| ApplyError::Route {
            index,
            destination: route.destination,
            prefix: route.prefix,
            source,
        })?;
    }
    let Some(old) = old else { return Ok(()) };
    for route in old.routes.iter().filter(|route| !new.routes.iter().any(|kept| same_key(kept, route))) {
        // Already gone is as good as removed.
        let _ = handle.route().del(route_message(index, old, route)).execute().await;
    }
    Ok(())
}

/// Takes the address away; the kernel drops its routes with it.
pub async fn withdraw(handle: &Handle, index: u32, plan: &Plan) -> Result<(), ApplyError> {
    remove_address(handle, index, plan).await
}

async fn add_address(handle: &Handle, index: u32, plan: &Plan) -> Result<(), ApplyError> {
    let mut request = handle.address().add(index, IpAddr::V4(plan.address), plan.prefix).replace();
    if let Some(seconds) = plan.lifetime_s {
        // The kernel removes the address by itself if nobody renews it: no lease is ever overstayed.
        let mut lifetime = CacheInfo::default();
        lifetime.ifa_valid = seconds;
        lifetime.ifa_preferred = seconds;
        request.message_mut().attributes.push(AddressAttribute::CacheInfo(lifetime));
    }
    let added = request.execute().await;
    added.map_err(|source| ApplyError::Address { index, address: plan.address, source })
}

async fn remove_address(handle: &Handle, index: u32, plan: &Plan) -> Result<(), ApplyError> {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.index = index;
    message.header.prefix_len = plan.prefix;
    message.attributes.push(AddressAttribute::Local(IpAddr::V4(plan.address)));
    match handle.address().del(message).execute().await {
        // The lease ran out and the kernel was quicker.
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::EADDRNOTAVAIL => Ok(()),
        other => other.map_err(|source| ApplyError::Address { index, address: plan.address, source }),
    }
}

fn same_key(a: &Route, b: &Route) -> bool {
    (a.destination, a.prefix) == (b.destination, b.prefix)
}

fn route_message(index: u32, plan: &Plan, route: &Route) -> RouteMessage {
    let mut message = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(route.destination, route.prefix)
        .output_interface(index)
        .protocol(if plan.lifetime_s.is_some() { RouteProtocol::Dhcp } else { RouteProtocol::Static })
        .pref_source(plan.address)
        // Of two interfaces with a default route, the one with the lower index wins, always.
        .priority(metric(index));
    match route.gateway {
        Some(gateway) => {
            message = message.gateway(gateway);
            if plan.is_off_link(gateway) {
                message = message.onlink();
            }
        }
        None => message = message.scope(RouteScope::Link),
    }
    message.build()
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
        let gateway = Some(Ipv4Addr::new(192, 0, 2, gateway));
        Plan {
            address: Ipv4Addr::new(192, 0, 2, last),
            prefix: 24,
            lifetime_s: Some(600),
            routes: vec![Route { destination: Ipv4Addr::UNSPECIFIED, prefix: 0, gateway }],
            mtu: Some(1400),
            dns: Vec::new(),
            domain: None,
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
                narrow.prefix = 32;
                apply(&handle, index, &narrow, None).await.unwrap();
                assert!(ip(&["route"]).contains("onlink"), "{}", ip(&["route"]));
            });
        });
        thread.join().unwrap();
    }
}
