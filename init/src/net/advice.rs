//! What routers advise on where addresses come from, as the kernel remembers it of their last advertisement. Pure.

use std::net::{IpAddr, Ipv6Addr};

use rtnetlink::packet_core::Nla;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, Inet6IfaceFlags, LinkAttribute, LinkMessage, LinkProtoInfoInet6,
};

use super::dhcp6::Mode;

/// `IFLA_INET6_FLAGS`, which the library knows in one of the two places it comes in.
const FLAGS: u16 = 1;

/// What an announcement of an interface says; none if it says nothing of routers.
pub fn heard(message: &LinkMessage) -> Option<Option<Mode>> {
    message.attributes.iter().find_map(flags).map(mode)
}

/// The address that another machine has as well, if that is what an announcement of an address says.
pub fn duplicate(message: &AddressMessage) -> Option<Ipv6Addr> {
    if !message.header.flags.contains(AddressHeaderFlags::Dadfailed) {
        return None;
    }
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(IpAddr::V6(address)) => Some(*address),
        _ => None,
    })
}

fn flags(attribute: &LinkAttribute) -> Option<Inet6IfaceFlags> {
    match attribute {
        // Where interfaces are listed.
        LinkAttribute::AfSpecUnspec(specs) => specs.iter().find_map(|spec| match spec {
            AfSpecUnspec::Inet6(inet6) => inet6.iter().find_map(|part| match part {
                AfSpecInet6::Flags(flags) => Some(*flags),
                _ => None,
            }),
            _ => None,
        }),
        // Where an advertisement is the news.
        LinkAttribute::ProtoInfoInet6(parts) => parts.iter().find_map(|part| match part {
            LinkProtoInfoInet6::Other(part) if part.kind() == FLAGS => {
                let mut bytes = [0; 4];
                (part.value_len() == bytes.len()).then(|| part.emit_value(&mut bytes))?;
                Some(Inet6IfaceFlags::from_bits_retain(u32::from_ne_bytes(bytes)))
            }
            _ => None,
        }),
        _ => None,
    }
}

fn mode(flags: Inet6IfaceFlags) -> Option<Mode> {
    if flags.contains(Inet6IfaceFlags::RaManaged) {
        // Whoever hands out addresses tells the rest as well.
        Some(Mode::Address)
    } else if flags.contains(Inet6IfaceFlags::Otherconf) {
        Some(Mode::Information)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_core::DefaultNla;

    #[test]
    fn both_places_are_read_and_silence_is_told_from_no() {
        let message = |attribute| {
            let mut message = LinkMessage::default();
            message.attributes = vec![LinkAttribute::IfName("eth0".to_owned()), attribute];
            message
        };
        let listed = |flags| {
            let flags = AfSpecInet6::Flags(Inet6IfaceFlags::from_bits_retain(flags));
            heard(&message(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![flags])])))
        };
        let told = |bytes: &[u8]| {
            let part = LinkProtoInfoInet6::Other(DefaultNla::new(FLAGS, bytes.to_vec()));
            heard(&message(LinkAttribute::ProtoInfoInet6(vec![part])))
        };
        assert_eq!(listed(0x8000_0030), Some(None));
        assert_eq!(listed(0x8000_0070), Some(Some(Mode::Address)));
        assert_eq!(told(&0x8000_00f0_u32.to_ne_bytes()), Some(Some(Mode::Address)));
        assert_eq!(told(&0x8000_00b0_u32.to_ne_bytes()), Some(Some(Mode::Information)));
        assert_eq!(told(&[1, 2, 3]), None);
        assert_eq!(heard(&message(LinkAttribute::Mtu(1500))), None);
    }
}
