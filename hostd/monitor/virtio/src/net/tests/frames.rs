//! Frames made and read by hand.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::net::header::Header;
use crate::net::identity::Identity;

pub const MAC: [u8; 6] = [0x02, 0x6d, 0x6f, 0x74, 0x65, 0x00];

/// The guest of these tests.
pub const ME: Identity =
    Identity { mac: MAC, v4: Ipv4Addr::new(10, 64, 0, 2), v6: Ipv6Addr::new(0xfd6d, 0, 0, 0, 0, 0, 0, 2) };

const PEER_V4: [u8; 4] = [10, 64, 0, 9];
const PEER_V6: [u8; 16] = [0xfd, 0x6d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];

/// Before a frame that is left to be cut into TCP segments.
pub fn segmented() -> Header {
    Header {
        flags: 1,
        kind: 1,
        header_length: 54,
        segment: 1410,
        checksum_start: 34,
        checksum_offset: 16,
        buffers: 0,
    }
}

/// A frame with an IPv4 packet of a protocol for experiments.
pub fn frame_v4(source: Ipv4Addr, data: &[u8]) -> Vec<u8> {
    let mut frame = [MAC, MAC].concat();
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend(((20 + data.len()) as u16).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 253, 0, 0]);
    frame.extend(source.octets());
    frame.extend(PEER_V4);
    frame.extend(data);
    frame
}

/// A frame with an IPv6 packet of a protocol for experiments.
pub fn frame_v6(source: Ipv6Addr, data: &[u8]) -> Vec<u8> {
    let mut frame = [MAC, MAC].concat();
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend((data.len() as u16).to_be_bytes());
    frame.extend([253, 64]);
    frame.extend(source.octets());
    frame.extend(PEER_V6);
    frame.extend(data);
    frame
}

/// Whether a frame is under the guest's own addresses, as anybody on the network would read it.
pub fn is_mine(frame: &[u8]) -> bool {
    if frame.get(6..12) != Some(&MAC) {
        return false;
    }
    match frame.get(12..14) {
        Some([0x08, 0x00]) => frame[14] >> 4 == 4 && frame.get(26..30) == Some(&ME.v4.octets()),
        Some([0x86, 0xdd]) => frame[14] >> 4 == 6 && frame.get(22..38) == Some(&ME.v6.octets()),
        _ => false,
    }
}
