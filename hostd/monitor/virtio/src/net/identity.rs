//! Whose frames a guest may send: its own. Pure.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Bytes of an Ethernet header.
pub(super) const ETHERNET: usize = 14;
/// Bytes of the shortest IPv4 header.
const IPV4: usize = 20;
/// Bytes of an IPv6 header.
const IPV6: usize = 40;

/// First bytes of a frame that are looked at.
pub(super) const LOOKED_AT: usize = ETHERNET + IPV6;

const TYPE_IPV4: [u8; 2] = [0x08, 0x00];
const TYPE_IPV6: [u8; 2] = [0x86, 0xdd];

/// Who a guest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) mac: [u8; 6],
    pub(super) v4: Ipv4Addr,
    pub(super) v6: Ipv6Addr,
}

/// Version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// A packet that may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) family: Family,
    /// Where the IP header ends, in bytes from the start of the frame. (Of IPv6 the first of them.)
    pub(super) inside: usize,
}

/// Why a frame does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Shorter than its headers, or they contradict each other.
    Malformed,
    /// Neither IPv4 nor IPv6: ARP, VLAN, others.
    Protocol,
    /// It is not its sender's address, of either kind.
    Source,
}

impl Identity {
    /// Whether a frame of `length` bytes that starts with `start` may be sent. At most [`LOOKED_AT`] bytes of it are
    /// looked at; what was read from the guest must not be read again, or it may be something else.
    pub(super) fn check(&self, start: &[u8], length: usize) -> Result<Packet, Refusal> {
        let (header, rest) = start.split_first_chunk::<ETHERNET>().ok_or(Refusal::Malformed)?;
        let [_, _, _, _, _, _, mac @ .., t0, t1] = header;
        if *mac != self.mac {
            return Err(Refusal::Source);
        }
        let packet = match [*t0, *t1] {
            TYPE_IPV4 => self.check_v4(rest)?,
            TYPE_IPV6 => self.check_v6(rest)?,
            _ => return Err(Refusal::Protocol),
        };
        if packet.inside > length { Err(Refusal::Malformed) } else { Ok(packet) }
    }

    fn check_v4(&self, packet: &[u8]) -> Result<Packet, Refusal> {
        let header = packet.first_chunk::<IPV4>().ok_or(Refusal::Malformed)?;
        let [first, _, _, _, _, _, _, _, _, _, _, _, source @ .., _, _, _, _] = header;
        let length = usize::from(first & 0x0f) * 4;
        if first >> 4 != 4 || length < IPV4 {
            return Err(Refusal::Malformed);
        }
        if Ipv4Addr::from(*source) != self.v4 {
            return Err(Refusal::Source);
        }
        Ok(Packet { family: Family::V4, inside: ETHERNET + length })
    }

    fn check_v6(&self, packet: &[u8]) -> Result<Packet, Refusal> {
        let header = packet.first_chunk::<IPV6>().ok_or(Refusal::Malformed)?;
        let [first, _, _, _, _, _, _, _, addresses @ ..] = header;
        let (source, _) = addresses.split_first_chunk::<16>().ok_or(Refusal::Malformed)?;
        if first >> 4 != 6 {
            return Err(Refusal::Malformed);
        }
        if Ipv6Addr::from(*source) != self.v6 {
            return Err(Refusal::Source);
        }
        Ok(Packet { family: Family::V6, inside: ETHERNET + IPV6 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::net::tests::frames::{ME, frame_v4, frame_v6};

    const OTHER_V4: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 3);

    fn check(frame: &[u8]) -> Result<Packet, Refusal> {
        ME.check(&frame[..frame.len().min(LOOKED_AT)], frame.len())
    }

    #[test]
    fn own_packets_pass() {
        assert_eq!(check(&frame_v4(ME.v4, b"x")), Ok(Packet { family: Family::V4, inside: 34 }));
        assert_eq!(check(&frame_v6(ME.v6, b"x")), Ok(Packet { family: Family::V6, inside: 54 }));
    }

    #[test]
    fn sources_that_are_not_ours_do_not_pass() {
        for source in [OTHER_V4, Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, Ipv4Addr::LOCALHOST] {
            assert_eq!(check(&frame_v4(source, b"x")), Err(Refusal::Source), "{source}");
        }
        for source in ["::", "::1", "fe80::1", "ff02::1", "fd6d::3", "::ffff:10.64.0.2"] {
            assert_eq!(check(&frame_v6(source.parse().unwrap(), b"x")), Err(Refusal::Source), "{source}");
        }
        let mut frame = frame_v4(ME.v4, b"x");
        frame[11] ^= 1;
        assert_eq!(check(&frame), Err(Refusal::Source), "another hardware address");
    }

    #[test]
    fn other_protocols_do_not_pass() {
        // ARP, VLAN, QinQ, MPLS, PPPoE, 802.3 lengths, loopback tests.
        for protocol in [0x0806u16, 0x8100, 0x88a8, 0x8847, 0x8864, 46, 1500, 0x9000, 0, 0xffff] {
            let mut frame = frame_v4(ME.v4, b"x");
            frame[12..14].copy_from_slice(&protocol.to_be_bytes());
            assert_eq!(check(&frame), Err(Refusal::Protocol), "{protocol:#x}");
        }
    }

    #[test]
    fn headers_that_contradict_each_other_do_not_pass() {
        let mut crossed = frame_v4(ME.v4, &[0; 40]);
        crossed[12..14].copy_from_slice(&TYPE_IPV6);
        assert_eq!(check(&crossed), Err(Refusal::Malformed), "IPv4 called IPv6");
        for first in [0x44, 0x40, 0x65, 0x05] {
            let mut frame = frame_v4(ME.v4, b"x");
            frame[14] = first;
            assert_eq!(check(&frame), Err(Refusal::Malformed), "{first:#x}");
        }
        let mut options = frame_v4(ME.v4, b"x");
        options[14] = 0x4f;
        assert_eq!(check(&options), Err(Refusal::Malformed), "options beyond the end");
        options.resize(ETHERNET + 60, 0);
        assert_eq!(check(&options), Ok(Packet { family: Family::V4, inside: 74 }));
    }

    proptest! {
        #[test]
        fn every_truncation_is_refused(v6: bool, data in prop::collection::vec(any::<u8>(), 0..100)) {
            let frame = if v6 { frame_v6(ME.v6, &data) } else { frame_v4(ME.v4, &data) };
            let headers = frame.len() - data.len();
            for length in 0..frame.len() {
                prop_assert_eq!(check(&frame[..length]).is_ok(), length >= headers);
            }
        }

        /// Whatever passes has our addresses where a reader that knows nothing of this code looks for them.
        #[test]
        fn only_our_own_addresses_pass(
            v6: bool,
            noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            data in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut frame = if v6 { frame_v6(ME.v6, &data) } else { frame_v4(ME.v4, &data) };
            for (at, value) in noise {
                let at = at.index(frame.len());
                frame[at] = value;
            }
            if check(&frame).is_ok() {
                prop_assert!(crate::net::tests::frames::is_mine(&frame));
            }
        }

        #[test]
        fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..120), length in any::<usize>()) {
            if ME.check(&bytes, length).is_ok() {
                prop_assert!(crate::net::tests::frames::is_mine(&bytes));
            }
        }
    }
}
