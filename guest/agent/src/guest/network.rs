//! The network device: up from the start and without an address; what it has of those comes with an identity, and goes
//! before a snapshot, so that no two microVMs made of one ever share an address.
//!
//! Neighbours are not asked for (`NOARP`): every frame goes to the device's own hardware address, which is the gateway's
//! too. So the only system calls are one message to the kernel and its answers.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::num::NonZeroI32;
use std::path::{Path, PathBuf};

use mote_protocol::NetworkSpec;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::{GuestError, write};

/// The only device there is, besides the loopback device.
const INDEX: &str = "/sys/class/net/eth0/ifindex";

/// What is different from the kernel's defaults. Functions listen on any port: nobody else is in the machine.
const SYSCTLS: &[(&str, &str)] = &[
    ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"),
    ("/proc/sys/net/ipv6/conf/eth0/accept_ra", "0"),
    ("/proc/sys/net/ipv6/conf/eth0/router_solicitations", "0"),
];

/// Where programs look for who answers names; a link to this in every root.
pub(super) const RESOLVER: &str = "/run/mote/resolv.conf";

/// Bytes of the kernel's answers read at once; one is 36 and the request it answers.
const ANSWERS: usize = 8 * 1024;

/// Errors of a removal that mean that it is gone already: `ENOENT`, `ESRCH`, `ENODEV`, `EADDRNOTAVAIL`.
const GONE: &[i32] = &[-2, -3, -19, -99];

/// Why the sandbox has not the network it was given.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A network was given to a machine without a device.
    #[error("Cannot read {INDEX}: the microVM has no network device")]
    Device(#[source] io::Error),
    /// The kernel's number of the device is none.
    #[error("{INDEX} holds no number")]
    Index,
    /// No way to the kernel.
    #[error("Cannot talk to the kernel about the network")]
    Socket(#[source] io::Error),
    /// The kernel's answer is none.
    #[error("The kernel gave no answer about the network")]
    Answer,
    /// The kernel refused a step.
    #[error("Cannot {step}")]
    Refused {
        /// Which.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Who answers names could not be noted.
    #[error("Cannot write {0}")]
    Resolver(PathBuf, #[source] io::Error),
}

/// A step of a change: what it is for people, the message, its flags, and whether it may be done already.
struct Step {
    name: &'static str,
    message: RouteNetlinkMessage,
    flags: u16,
    may_be_gone: bool,
}

/// Brings the device up, if the machine has one, without an address.
pub(super) fn prepare() -> Result<(), GuestError> {
    if !Path::new(INDEX).exists() {
        return Ok(());
    }
    SYSCTLS.iter().try_for_each(|entry| write(*entry))?;
    index().and_then(|index| change(&[raise(index, None)])).map_err(GuestError::Network)
}

/// Gives the device its addresses, in place of those of `before`.
pub(super) fn join(network: &NetworkSpec, before: Option<&NetworkSpec>) -> Result<(), NetworkError> {
    let index = index()?;
    let mut steps =
        before.filter(|before| *before != network).map_or_else(Vec::new, |old| leaving(old, index));
    steps.push(raise(index, Some(network.mtu)));
    for (address, gateway) in families(network) {
        steps.push(Step {
            name: "set the address",
            message: RouteNetlinkMessage::NewAddress(address_message(address, index)),
            flags: NLM_F_CREATE | NLM_F_REPLACE,
            may_be_gone: false,
        });
        steps.push(Step {
            name: "set the route to the gateway",
            message: RouteNetlinkMessage::NewRoute(route_message(gateway, index)),
            flags: NLM_F_CREATE | NLM_F_REPLACE,
            may_be_gone: false,
        });
    }
    change(&steps)?;
    fs::write(RESOLVER, resolver(network)).map_err(|e| NetworkError::Resolver(RESOLVER.into(), e))
}

/// Takes the device's addresses away.
pub(super) fn leave(network: &NetworkSpec) -> Result<(), NetworkError> {
    change(&leaving(network, index()?))
}

fn families(network: &NetworkSpec) -> [(IpAddr, IpAddr); 2] {
    [(network.v4.into(), network.gateway_v4.into()), (network.v6.into(), network.gateway_v6.into())]
}

fn leaving(network: &NetworkSpec, index: u32) -> Vec<Step> {
    let removal = |name, message| Step { name, message, flags: 0, may_be_gone: true };
    families(network)
        .into_iter()
        .flat_map(|(address, gateway)| {
            [
                removal("remove the route", RouteNetlinkMessage::DelRoute(route_message(gateway, index))),
                removal(
                    "remove the address",
                    RouteNetlinkMessage::DelAddress(address_message(address, index)),
                ),
            ]
        })
        .collect()
}

/// What `resolv.conf` says: IPv6 first, as programs prefer it.
fn resolver(network: &NetworkSpec) -> String {
    let mut text = format!("nameserver {}\nnameserver {}\n", network.gateway_v6, network.gateway_v4);
    if !network.search.is_empty() {
        text += &format!("search {}\n", network.search.join(" "));
    }
    // A name with its domain has two dots: it is asked for as it is.
    text + "options ndots:1 timeout:2 attempts:2\n"
}

fn raise(index: u32, mtu: Option<u16>) -> Step {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up | LinkFlags::Noarp;
    message.header.change_mask = LinkFlags::Up | LinkFlags::Noarp;
    // No address of the device's own making: nobody could be reached by it.
    let no_address = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    message.attributes.push(LinkAttribute::AfSpecUnspec(vec![no_address]));
    message.attributes.extend(mtu.map(|mtu| LinkAttribute::Mtu(mtu.into())));
    Step {
        name: "bring up the network device",
        message: RouteNetlinkMessage::SetLink(message),
        flags: 0,
        may_be_gone: false,
    }
}

fn address_message(address: IpAddr, index: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    (message.header.family, message.header.prefix_len) = family(address);
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(address),
        AddressAttribute::Address(address),
        // There is nobody who could have it as well.
        AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Permanent),
    ];
    message
}

fn route_message(gateway: IpAddr, index: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(gateway).0;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    // The gateway is in no network of the device's.
    message.header.flags = RouteFlags::Onlink;
    message.attributes = vec![RouteAttribute::Gateway(gateway.into()), RouteAttribute::Oif(index)];
    message
}

fn family(address: IpAddr) -> (AddressFamily, u8) {
    match address {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    }
}

fn index() -> Result<u32, NetworkError> {
    let text = fs::read_to_string(INDEX).map_err(NetworkError::Device)?;
    text.trim().parse().map_err(|_| NetworkError::Index)
}

/// Has the kernel take all steps, sent at once; it stops at none, so each one's answer is looked at.
fn change(steps: &[Step]) -> Result<(), NetworkError> {
    let mut socket = Socket::new(NETLINK_ROUTE).map_err(NetworkError::Socket)?;
    socket.bind_auto().map_err(NetworkError::Socket)?;
    socket.connect(&SocketAddr::new(0, 0)).map_err(NetworkError::Socket)?;
    // The kernel has answered before `send` returns: what does not come at once does not come.
    socket.set_non_blocking(true).map_err(NetworkError::Socket)?;
    let mut bytes = Vec::new();
    for (number, step) in (1u32..).zip(steps) {
        bytes.extend(encode(number, step));
    }
    socket.send(&bytes, 0).map_err(NetworkError::Socket)?;
    let mut answered = vec![false; steps.len()];
    while answered.contains(&false) {
        let mut buffer = Vec::with_capacity(ANSWERS);
        socket.recv(&mut buffer, 0).map_err(NetworkError::Socket)?;
        for (number, code) in answers(&buffer)? {
            let position = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
            let (step, done) = position
                .and_then(|at| Some((steps.get(at)?, answered.get_mut(at)?)))
                .ok_or(NetworkError::Answer)?;
            *done = true;
            match code.map(NonZeroI32::get) {
                Some(code) if !(step.may_be_gone && GONE.contains(&code)) => {
                    let source = io::Error::from_raw_os_error(code.saturating_neg());
                    return Err(NetworkError::Refused { step: step.name, source });
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn encode(number: u32, step: &Step) -> Vec<u8> {
    let mut message = NetlinkMessage::from(step.message.clone());
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK | step.flags;
    message.header.sequence_number = number;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Number and error of every answer in what was read.
fn answers(mut bytes: &[u8]) -> Result<Vec<(u32, Option<NonZeroI32>)>, NetworkError> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let message =
            NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).map_err(|_| NetworkError::Answer)?;
        let length = usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4);
        if let NetlinkPayload::Error(error) = message.payload {
            answers.push((message.header.sequence_number, error.code));
        }
        bytes = bytes.get(length.max(1)..).unwrap_or_default();
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> NetworkSpec {
        NetworkSpec {
            v4: "10.64.0.7".parse().unwrap(),
            v6: "fd6d:6f74:6500::1:0:7".parse().unwrap(),
            gateway_v4: "10.64.0.1".parse().unwrap(),
            gateway_v6: "fd6d:6f74:6500::1:0:1".parse().unwrap(),
            mtu: 1500,
            search: vec!["blue.mote".into(), "mote".into()],
        }
    }

    #[test]
    fn names_are_asked_of_the_gateway() {
        let text = resolver(&network());
        assert!(text.starts_with("nameserver fd6d:6f74:6500::1:0:1\nnameserver 10.64.0.1\n"), "{text}");
        assert!(text.contains("\nsearch blue.mote mote\n"), "{text}");
        assert!(!resolver(&NetworkSpec { search: Vec::new(), ..network() }).contains("search"));
    }

    #[test]
    fn steps_are_messages_the_kernel_can_tell_apart() {
        let bytes: Vec<u8> =
            (1u32..).zip(&leaving(&network(), 2)).flat_map(|(n, step)| encode(n, step)).collect();
        let mut rest = bytes.as_slice();
        let mut numbers = Vec::new();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).unwrap();
            assert_eq!(message.header.flags & (NLM_F_REQUEST | NLM_F_ACK), NLM_F_REQUEST | NLM_F_ACK);
            numbers.push(message.header.sequence_number);
            rest = &rest[usize::try_from(message.header.length).unwrap()..];
        }
        assert_eq!(numbers, [1, 2, 3, 4]);
    }

    #[test]
    fn odd_answers_are_no_answers() {
        assert_eq!(answers(&[]).unwrap(), []);
        for bytes in [&[1u8][..], &[0xff; 15], &[0; 64], &[0xff; 64]] {
            assert!(answers(bytes).is_err() || answers(bytes).unwrap().is_empty());
        }
    }
}
