use proptest::prelude::*;

use super::frames::{ME, frame_v4, frame_v6, segmented};
use super::guest::{Guest, TX_AT};
use crate::net::header::{HEADER, Header};
use crate::net::{FRAME_LIMIT, NetCounts, TX};
use crate::testing::{SEAM, open_fds, passes_alone};

#[test]
fn own_frames_are_sent_as_they_are() {
    let (mut guest, outside) = Guest::attached();
    let sum = Header { flags: 1, checksum_start: 34, checksum_offset: 6, ..Header::default() };
    let frames = [
        (Header::default(), frame_v4(ME.v4, b"one")),
        (sum, frame_v4(ME.v4, &[7; 900])),
        (Header::default(), frame_v6(ME.v6, b"")),
    ];
    for (header, frame) in &frames {
        assert!(guest.send(*header, frame));
    }
    assert_eq!(outside.all(), frames);
    assert_eq!(guest.sent(), 3);
    let bytes = frames.iter().map(|(_, frame)| frame.len() as u64).sum();
    assert_eq!(guest.counts(), NetCounts { tx_frames: 3, tx_bytes: bytes, ..NetCounts::default() });
}

#[test]
fn a_large_segment_goes_out_whole() {
    let (mut guest, outside) = Guest::attached();
    let header = segmented();
    let frame = frame_v4(ME.v4, &[3; 65_000]);
    assert!(guest.send(header, &frame));
    assert_eq!(outside.all(), [(header, frame)]);
    // The longest there is, and one byte more.
    let mut longest = frame_v4(ME.v4, &[]);
    longest.resize(FRAME_LIMIT - HEADER, 1);
    assert!(guest.send(Header::default(), &longest));
    assert_eq!(outside.next().unwrap().1, longest);
    longest.push(1);
    assert!(guest.send(Header::default(), &longest));
    assert_eq!(outside.next(), None);
    assert_eq!(guest.counts().tx_malformed, 1);
}

#[test]
fn everything_else_is_dropped_and_counted() {
    let (mut guest, outside) = Guest::attached();
    let mut arp = frame_v4(ME.v4, &[0; 20]);
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let wrong_sum = Header { flags: 1, checksum_start: 14, checksum_offset: 12, ..Header::default() };
    for (header, frame) in [
        (Header::default(), arp),
        (Header::default(), frame_v4([10, 64, 0, 3].into(), b"x")),
        (Header::default(), frame_v6("fe80::1".parse().unwrap(), b"x")),
        (wrong_sum, frame_v4(ME.v4, &[0; 100])),
        (Header::default(), frame_v4(ME.v4, b"")[..33].to_vec()),
        (Header::default(), Vec::new()),
    ] {
        assert!(guest.send(header, &frame));
    }
    assert!(guest.queue_bytes(&[0; 5]));
    guest.machine.kick(TX);
    guest.machine.pump(0);
    // No readable part, more segments than a frame has, and memory that is none.
    guest.machine.add(TX, &[(TX_AT, 100, true)]);
    guest.machine.add(TX, &[(TX_AT, 1, false); 65]);
    guest.machine.add(TX, &[(u64::MAX - 5, 100, false)]);
    guest.machine.notify(TX);
    guest.machine.pump(0);
    assert_eq!(outside.next(), None);
    assert_eq!(guest.sent(), 10, "every chain comes back");
    let expected = NetCounts { tx_protocol: 1, tx_source: 2, tx_malformed: 7, ..NetCounts::default() };
    assert_eq!(guest.counts(), expected);
    assert!(guest.send(Header::default(), &frame_v4(ME.v4, b"still works")));
    assert!(outside.next().is_some());
}

#[test]
fn a_flood_is_sent_in_turns() {
    let (mut guest, outside) = Guest::attached();
    let mut sent = 0;
    while guest.queue(Header::default(), &frame_v4(ME.v4, &[sent as u8])) {
        sent += 1;
    }
    assert_eq!(sent, 256);
    guest.machine.kick(TX);
    // The first round is the kick that came with the driver.
    guest.machine.step(0);
    let first = guest.sent();
    assert!(first > 0 && first <= 64, "{first} in one turn");
    guest.machine.pump(0);
    assert_eq!(first + guest.sent(), sent);
    let order: Vec<u8> = outside.all().iter().map(|(_, frame)| frame[34]).collect();
    assert_eq!(order, (0..=255).collect::<Vec<u8>>());
}

#[test]
fn a_wire_without_room_loses_nothing() {
    let (mut guest, outside) = Guest::attached();
    let mut sent = 0u64;
    // Far more than a socket holds.
    while sent < 256 && guest.queue(Header::default(), &frame_v4(ME.v4, &[0; 1900])) {
        sent += 1;
    }
    guest.machine.kick(TX);
    guest.machine.pump(0);
    let mut come = outside.all().len();
    assert!((come as u64) < sent, "no room was ever missing");
    while (come as u64) < sent {
        assert!(guest.machine.step(1000) > 0, "the device sleeps on {} frames", sent - come as u64);
        come += outside.all().len();
    }
    assert_eq!(guest.counts().tx_frames, sent);
}

#[test]
fn without_a_network_everything_is_dropped() {
    let mut guest = Guest::new(super::guest::device(None, Default::default(), Default::default()));
    assert_eq!(guest.status(), 0);
    guest.fill();
    for _ in 0..3 {
        assert!(guest.send(Header::default(), &frame_v4(ME.v4, b"x")));
    }
    assert_eq!(guest.sent(), 3);
    assert_eq!(guest.next(), None);
    assert_eq!(guest.counts(), NetCounts { tx_detached: 3, ..NetCounts::default() });
}

#[test]
fn the_configuration_says_who_it_is() {
    let (guest, _outside) = Guest::attached();
    let mut config = [0xff; 14];
    guest.machine.transport.read(0x100, &mut config);
    assert_eq!(config, [0x02, 0x6d, 0x6f, 0x74, 0x65, 0, 1, 0, 0, 0, 0xaa, 0x05, 0, 0]);
}

#[test]
fn a_reset_leaves_nothing_behind() {
    let (mut guest, outside) = Guest::attached();
    assert!(guest.send(Header::default(), &frame_v4(ME.v4, b"x")));
    guest.machine.probe(u64::MAX);
    guest.buffers.clear();
    assert!(outside.send(Header::default(), &frame_v4(ME.v4, b"for you")));
    guest.fill();
    guest.machine.pump(0);
    assert_eq!(guest.next().unwrap().1, frame_v4(ME.v4, b"for you"));
    assert!(guest.send(Header::default(), &frame_v4(ME.v4, b"y")));
    assert_eq!(outside.all().len(), 2);
}

/// Counts the process' descriptors, so nothing else may run in it.
#[test]
#[ignore = "run by descriptors_do_not_leak"]
fn descriptors_do_not_leak_child() {
    let before = open_fds();
    for round in 0..20 {
        let (mut guest, outside) = Guest::attached();
        guest.fill();
        assert!(guest.send(Header::default(), &frame_v4(ME.v4, b"x")));
        if round % 2 == 0 {
            // The device closes its own end at once, and not only when it ends.
            let with = open_fds();
            drop(outside);
            guest.machine.pump(0);
            assert_eq!(guest.status(), 0);
            assert_eq!(open_fds(), with - 2);
        }
        guest.machine.probe(u64::MAX);
    }
    assert_eq!(open_fds(), before);
}

#[test]
fn descriptors_do_not_leak() {
    passes_alone("net::tests::send::descriptors_do_not_leak_child");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// A frame cut anywhere is the same frame.
    #[test]
    fn framing_does_not_matter(
        data in prop::collection::vec(any::<u8>(), 0..5000),
        cuts in prop::collection::vec(1usize..300, 1..40),
        v6: bool,
    ) {
        let (mut guest, outside) = Guest::attached();
        let frame = if v6 { frame_v6(ME.v6, &data) } else { frame_v4(ME.v4, &data) };
        let bytes = [[0; HEADER].as_slice(), &frame].concat();
        let at = SEAM - 100;
        guest.machine.put(at, &bytes);
        let (mut pieces, mut done) = (Vec::new(), 0);
        for cut in cuts {
            let length = cut.min(bytes.len() - done);
            pieces.push((at + done as u64, length as u32, false));
            done += length;
        }
        pieces.push((at + done as u64, (bytes.len() - done) as u32, false));
        guest.machine.add(TX, &pieces);
        guest.machine.kick(TX);
        guest.machine.pump(0);
        prop_assert_eq!(outside.all(), [(Header::default(), frame)]);
    }
}
