//! The header before each frame (5.1.6): what the receiver still has to do to it. Pure.

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
};

use super::identity::{Family, Packet};

/// Bytes of a header, `struct virtio_net_hdr_v1`.
pub(super) const HEADER: usize = 12;

/// The checksum is not there yet.
const NEEDS_CHECKSUM: u8 = 1;
/// The checksum was found right.
const DATA_VALID: u8 = 2;

/// A flag in the kind of segmentation: the first segment has the congestion bit.
const ECN: u8 = 0x80;

/// Bytes of the shortest and of the longest TCP header, and where the checksum is in it.
const TCP: (usize, usize) = (20, 60);
const TCP_CHECKSUM: u16 = 16;

/// Bytes of data in the smallest segment a TCP ever sends.
const SMALLEST_SEGMENT: u16 = 8;

/// Kinds of segmentation: number, feature for frames from the guest, for frames to it, protocol.
const KINDS: [(u8, u32, u32, Family); 2] = [
    (1, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_GUEST_TSO4, Family::V4),
    (4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_GUEST_TSO6, Family::V6),
];

/// A header as it travels; no field has been checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) flags: u8,
    pub(super) kind: u8,
    pub(super) header_length: u16,
    pub(super) segment: u16,
    pub(super) checksum_start: u16,
    pub(super) checksum_offset: u16,
    pub(super) buffers: u16,
}

impl Header {
    pub(super) fn decode(bytes: [u8; HEADER]) -> Self {
        let [flags, kind, a, b, c, d, e, f, g, h, i, j] = bytes;
        Self {
            flags,
            kind,
            header_length: u16::from_le_bytes([a, b]),
            segment: u16::from_le_bytes([c, d]),
            checksum_start: u16::from_le_bytes([e, f]),
            checksum_offset: u16::from_le_bytes([g, h]),
            buffers: u16::from_le_bytes([i, j]),
        }
    }

    pub(super) fn encode(&self) -> [u8; HEADER] {
        let [a, b] = self.header_length.to_le_bytes();
        let [c, d] = self.segment.to_le_bytes();
        let [e, f] = self.checksum_start.to_le_bytes();
        let [g, h] = self.checksum_offset.to_le_bytes();
        let [i, j] = self.buffers.to_le_bytes();
        [self.flags, self.kind, a, b, c, d, e, f, g, h, i, j]
    }

    /// Packets a frame of `length` bytes becomes on a wire.
    pub(super) fn packets(&self, length: usize) -> u64 {
        let data = length.saturating_sub(usize::from(self.header_length));
        let segments = match usize::from(self.segment) {
            0 => 1,
            segment => data.div_ceil(segment),
        };
        u64::try_from(segments).unwrap_or(u64::MAX).max(1)
    }

    /// What the host's network is told of a frame of `length` bytes from a guest with these `features`; none if the
    /// guest's header is not one it may send. Only fields that were checked are passed on.
    pub(super) fn outgoing(self, packet: Packet, length: usize, features: u64) -> Option<Self> {
        let mut checked = Self::default();
        if self.flags & NEEDS_CHECKSUM != 0 {
            let start = usize::from(self.checksum_start);
            let end = start + usize::from(self.checksum_offset) + 2;
            // Behind the IP header: a sum must not be written into the addresses that were looked at.
            if !has(features, VIRTIO_NET_F_CSUM) || start < packet.inside || end > length {
                return None;
            }
            checked.flags = NEEDS_CHECKSUM;
            (checked.checksum_start, checked.checksum_offset) = (self.checksum_start, self.checksum_offset);
        }
        let kind = self.kind & !ECN;
        if kind == 0 {
            return Some(checked);
        }
        let (_, feature, _, family) = KINDS.into_iter().find(|(number, ..)| *number == kind)?;
        let (start, (shortest, longest)) = (usize::from(checked.checksum_start), TCP);
        let sound = has(features, feature)
            && (self.kind & ECN == 0 || has(features, VIRTIO_NET_F_HOST_ECN))
            && family == packet.family
            && checked.flags == NEEDS_CHECKSUM
            && checked.checksum_offset == TCP_CHECKSUM
            && self.segment >= SMALLEST_SEGMENT
            && start + shortest <= length;
        if !sound {
            return None;
        }
        // The driver may say what it likes here, and Linux does not believe it either.
        let headers = usize::from(self.header_length).clamp(start + shortest, start + longest).min(length);
        checked.header_length = u16::try_from(headers).ok()?;
        (checked.kind, checked.segment) = (self.kind, self.segment);
        Some(checked)
    }

    /// What a guest with these `features` is told of a frame from the host's network that fills so many `buffers`;
    /// none if it did not agree to take such frames.
    pub(super) fn incoming(self, features: u64, buffers: u16) -> Option<Self> {
        let kind_known = self.kind == 0
            || KINDS.into_iter().any(|(number, _, feature, _)| number == self.kind && has(features, feature));
        let mut flags = self.flags & (NEEDS_CHECKSUM | DATA_VALID);
        if !has(features, VIRTIO_NET_F_GUEST_CSUM) {
            if flags & NEEDS_CHECKSUM != 0 {
                return None;
            }
            flags = 0;
        }
        kind_known.then_some(Self { flags, buffers, ..self })
    }
}

fn has(features: u64, bit: u32) -> bool {
    features & 1 << bit != 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: u64 = u64::MAX;
    const V4: Packet = Packet { family: Family::V4, inside: 34 };
    const V6: Packet = Packet { family: Family::V6, inside: 54 };

    fn large(kind: u8, start: u16) -> Header {
        Header {
            flags: 1,
            kind,
            header_length: start + 32,
            segment: 1410,
            checksum_start: start,
            checksum_offset: 16,
            buffers: 0,
        }
    }

    #[test]
    fn what_linux_sends_passes_as_it_is() {
        for (header, packet) in [(large(1, 34), V4), (large(4, 54), V6), (large(0x81, 34), V4)] {
            assert_eq!(header.outgoing(packet, 64_000, ALL), Some(header));
        }
        let checksum = Header { flags: 1, checksum_start: 34, checksum_offset: 6, ..Header::default() };
        assert_eq!(checksum.outgoing(V4, 42, ALL), Some(checksum));
        // Fields that mean nothing are not passed on.
        let noise =
            Header { flags: 0xfe, buffers: 9, segment: 3, header_length: 7, checksum_start: 1, ..checksum };
        assert_eq!(Header { flags: 0, ..noise }.outgoing(V4, 42, ALL), Some(Header::default()));
        assert_eq!(noise.outgoing(V4, 42, ALL), Some(Header::default()));
    }

    #[test]
    fn a_checksum_is_not_written_into_the_addresses() {
        for start in [0, 14, 26, 33] {
            for offset in [0, 12, 24] {
                let header =
                    Header { flags: 1, checksum_start: start, checksum_offset: offset, ..Header::default() };
                assert_eq!(header.outgoing(V4, 1000, ALL), None, "{start} + {offset}");
            }
        }
        let header = Header { flags: 1, checksum_start: 53, ..Header::default() };
        assert_eq!(header.outgoing(V6, 1000, ALL), None);
    }

    #[test]
    fn hostile_headers_do_not_pass() {
        let good = large(1, 34);
        for (what, bad) in [
            ("beyond the end", Header { checksum_start: 64_000, ..good }),
            ("wraps round", Header { checksum_start: u16::MAX, checksum_offset: u16::MAX, ..good }),
            ("no checksum", Header { flags: 0, ..good }),
            ("no TCP", Header { checksum_offset: 6, ..good }),
            ("no segment", Header { segment: 0, ..good }),
            ("tiny segments", Header { segment: 7, ..good }),
            ("other family", Header { kind: 4, ..good }),
            ("UDP fragments", Header { kind: 3, ..good }),
            ("UDP segments", Header { kind: 5, ..good }),
            ("no kind", Header { kind: 2, ..good }),
        ] {
            assert_eq!(bad.outgoing(V4, 64_000, ALL), None, "{what}");
        }
        assert_eq!(good.outgoing(V4, 53, ALL), None, "half a TCP header");
        for feature in [VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO4] {
            assert_eq!(good.outgoing(V4, 64_000, ALL & !(1 << feature)), None, "not agreed to: {feature}");
        }
        let congested = Header { kind: 0x81, ..good };
        assert_eq!(congested.outgoing(V4, 64_000, ALL & !(1 << VIRTIO_NET_F_HOST_ECN)), None);
    }

    #[test]
    fn a_guest_gets_what_it_agreed_to() {
        let segmented = large(1, 34);
        assert_eq!(segmented.incoming(ALL, 3), Some(Header { buffers: 3, ..segmented }));
        assert_eq!(segmented.incoming(ALL & !(1 << VIRTIO_NET_F_GUEST_TSO4), 1), None);
        assert_eq!(segmented.incoming(ALL & !(1 << VIRTIO_NET_F_GUEST_CSUM), 1), None);
        let verified = Header { flags: 2, ..Header::default() };
        assert_eq!(verified.incoming(ALL, 1), Some(Header { buffers: 1, ..verified }));
        assert_eq!(verified.incoming(0, 1), Some(Header { buffers: 1, ..Header::default() }));
        assert_eq!(Header { kind: 5, ..segmented }.incoming(ALL, 1), None);
    }

    #[test]
    fn segments_are_counted() {
        assert_eq!(Header::default().packets(64_000), 1);
        let header = Header { header_length: 66, segment: 1000, ..Header::default() };
        for (length, packets) in [(66, 1), (67, 1), (1066, 1), (1067, 2), (10_066, 10), (0, 1)] {
            assert_eq!(header.packets(length), packets, "{length}");
        }
    }

    proptest! {
        #[test]
        fn what_passes_is_sound(bytes: [u8; HEADER], v6: bool, length in 34usize..65_550, features: u64) {
            let header = Header::decode(bytes);
            prop_assert_eq!(header.encode(), bytes);
            let packet = if v6 { V6 } else { V4 };
            if let Some(out) = header.outgoing(packet, length, features) {
                prop_assert_eq!(out.flags & !1, 0);
                prop_assert!(usize::from(out.header_length) <= length);
                if out.flags == 1 {
                    prop_assert!(usize::from(out.checksum_start) >= packet.inside);
                    prop_assert!(usize::from(out.checksum_start) + usize::from(out.checksum_offset) + 2 <= length);
                }
                prop_assert!(out.kind == 0 || (out.flags == 1 && out.segment >= 8));
                prop_assert!(out.packets(length) <= 8200);
            }
        }
    }
}
