use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use virtio_bindings::virtio_net::{VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_MRG_RXBUF};
use vm_memory::{Bytes, GuestAddress};

use super::frames::{ME, frame_v4, segmented};
use super::guest::{BUFFER, Guest, Outside, device};
use crate::net::header::Header;
use crate::net::{Limit, NetCounts, RX};

fn numbered(length: usize, number: usize) -> Vec<u8> {
    let data: Vec<u8> = (0..length).map(|i| (i * 7 + i / 256 + number) as u8).collect();
    frame_v4(ME.v4, &data)
}

#[test]
fn frames_of_all_sizes_arrive_whole_and_in_order() {
    let (mut guest, outside) = Guest::attached();
    guest.fill();
    guest.machine.pump(0);
    let mut total = 0;
    // Sizes that were not expected go by way of the device's own buffer, the others do not.
    let sizes = [0, 100, 1500, 60_000, 60_000, 65_000, 20, 1400, 30_000, 3000, 65_500, 1, 1];
    for (number, size) in sizes.into_iter().enumerate() {
        let frame = numbered(size, number);
        total += frame.len() as u64;
        let header = if size > 1500 { segmented() } else { Header::default() };
        assert!(outside.send(header, &frame));
        guest.machine.pump(0);
        let (given, received) = guest.next().expect("a frame");
        assert_eq!(received, frame, "{size}");
        let buffers = (frame.len() + 12).div_ceil(BUFFER as usize) as u16;
        assert_eq!(given, Header { buffers, ..header });
        assert!(guest.machine.interrupt().is_some());
        guest.fill();
    }
    let expected = NetCounts { rx_frames: sizes.len() as u64, rx_bytes: total, ..NetCounts::default() };
    assert_eq!(guest.counts(), expected);
}

#[test]
fn frames_that_came_before_the_driver_and_its_buffers_wait() {
    let (inner, outside) = Outside::pair();
    assert!(outside.send(Header::default(), &numbered(10, 1)));
    let mut guest = Guest::new(device(Some(inner), Limit::default(), Limit::default()));
    guest.machine.pump(0);
    assert_eq!(guest.next(), None);
    guest.fill();
    guest.machine.pump(0);
    assert_eq!(guest.next().unwrap().1, numbered(10, 1));
}

#[test]
fn a_large_frame_waits_for_enough_buffers() {
    let (mut guest, outside) = Guest::attached();
    for _ in 0..4 {
        assert!(guest.give(&[BUFFER]));
    }
    guest.kick_rx();
    guest.machine.pump(0);
    assert!(outside.send(segmented(), &numbered(20_000, 1)));
    assert!(outside.send(Header::default(), &numbered(50, 2)));
    guest.machine.pump(0);
    assert_eq!(guest.next(), None, "part of a frame");
    // A snapshot of this moment has all four buffers still to be used.
    assert_eq!(guest.machine.transport.save().queues[RX].next_avail, 0);
    while guest.give(&[BUFFER]) {}
    assert!(guest.machine.kick(RX), "the device asked to be kicked");
    guest.machine.pump(0);
    assert_eq!(guest.next().unwrap().1, numbered(20_000, 1));
    assert_eq!(guest.next().unwrap().1, numbered(50, 2));
    assert_eq!(guest.counts().rx_oversized, 0);
}

#[test]
fn a_frame_no_buffers_will_do_for_is_dropped() {
    let (mut guest, outside) = Guest::attached();
    for _ in 0..4 {
        guest.give(&[BUFFER]);
    }
    guest.kick_rx();
    guest.machine.pump(0);
    assert!(outside.send(segmented(), &numbered(20_000, 1)));
    assert!(outside.send(Header::default(), &numbered(50, 2)));
    guest.machine.pump(0);
    guest.give(&[BUFFER]);
    assert!(guest.machine.kick(RX));
    guest.machine.pump(0);
    assert_eq!(guest.next().unwrap().1, numbered(50, 2));
    assert_eq!(guest.counts().rx_oversized, 1);
    // No frame at all.
    assert!(outside.send(Header::default(), &[1; 5]));
    assert!(outside.send(Header::default(), &[1; 66_000]));
    guest.machine.pump(0);
    assert_eq!(guest.next(), None);
    assert_eq!(guest.counts().rx_oversized, 3);
}

#[test]
fn a_driver_that_does_not_merge_gets_one_chain_a_frame() {
    let (inner, outside) = Outside::pair();
    let net = device(Some(inner), Limit::default(), Limit::default());
    let mut guest = Guest::with(net, !(1 << VIRTIO_NET_F_MRG_RXBUF));
    guest.give(&[12, 2000, 3000]);
    guest.give(&[12, 1500]);
    guest.kick_rx();
    assert!(outside.send(segmented(), &numbered(4500, 1)));
    assert!(outside.send(Header::default(), &numbered(4500, 2)));
    assert!(outside.send(Header::default(), &numbered(500, 3)));
    guest.machine.pump(0);
    let (header, frame) = guest.next().unwrap();
    assert_eq!((header.buffers, frame), (1, numbered(4500, 1)));
    assert_eq!(guest.next().unwrap().1, numbered(500, 3));
    assert_eq!(guest.counts().rx_oversized, 1);
}

#[test]
fn what_the_driver_does_not_know_is_dropped() {
    let (inner, outside) = Outside::pair();
    let net = device(Some(inner), Limit::default(), Limit::default());
    let mut guest = Guest::with(net, !(1 << VIRTIO_NET_F_GUEST_TSO4));
    guest.fill();
    assert!(outside.send(segmented(), &numbered(4500, 1)));
    assert!(outside.send(Header::default(), &numbered(500, 2)));
    guest.machine.pump(0);
    assert_eq!(guest.next().unwrap().1, numbered(500, 2));
    assert_eq!(guest.counts().rx_unsupported, 1);
}

#[test]
fn chains_that_are_none_come_back_empty() {
    let (mut guest, outside) = Guest::attached();
    guest.give(&[12]);
    guest.give(&[BUFFER]);
    guest.give(&[5, 5]);
    guest.give(&[BUFFER]);
    guest.give(&[BUFFER]);
    guest.kick_rx();
    assert!(outside.send(Header::default(), &numbered(500, 1)));
    assert!(outside.send(Header::default(), &numbered(1600, 2)));
    guest.machine.pump(0);
    assert!(guest.next().unwrap().1.is_empty());
    assert_eq!(guest.next().unwrap().1, numbered(500, 1));
    assert!(guest.next().unwrap().1.is_empty());
    assert_eq!(guest.next().unwrap().1, numbered(1600, 2));
}

#[test]
fn a_queue_full_of_chains_that_are_none_is_emptied_in_turns() {
    let (mut guest, outside) = Guest::attached();
    for _ in 0..200 {
        guest.give(&[5]);
    }
    guest.give(&[BUFFER]);
    assert!(outside.send(Header::default(), &numbered(500, 1)));
    guest.kick_rx();
    guest.machine.step(0);
    let mut empty = 0;
    let frames = std::iter::from_fn(|| {
        let next = guest.next()?;
        empty += usize::from(next.1.is_empty());
        Some(next)
    });
    assert!(frames.last().is_none_or(|(_, frame)| frame.is_empty()));
    assert!(empty <= 64 * 2, "{empty} in one turn");
    guest.machine.pump(0);
    let last = std::iter::from_fn(|| guest.next()).last().unwrap();
    assert_eq!(last.1, numbered(500, 1));
}

#[test]
fn a_flood_is_taken_in_turns() {
    let (mut guest, outside) = Guest::attached();
    guest.fill();
    guest.machine.pump(0);
    let mut waiting = 0;
    while waiting < 200 && outside.send(Header::default(), &numbered(10, waiting)) {
        waiting += 1;
    }
    assert!(waiting > 100);
    guest.machine.step(0);
    let mut first = 0;
    while guest.next().is_some() {
        first += 1;
    }
    assert!(first > 0 && first <= 64, "{first} in one turn");
    guest.machine.pump(0);
    let mut rest = 0;
    while guest.next().is_some() {
        rest += 1;
    }
    assert_eq!(first + rest, waiting);
}

/// A driver on another processor must never see part of a frame.
#[test]
fn all_buffers_of_a_frame_are_returned_at_once() {
    let (mut guest, outside) = Guest::attached();
    let over = Arc::new(AtomicBool::new(false));
    let (mem, ring) = (guest.machine.mem.clone(), guest.machine.rings[RX].base);
    let watcher = std::thread::spawn({
        let over = Arc::clone(&over);
        move || {
            let at = GuestAddress(ring + 0x4000 + 2);
            let mut seen = std::collections::BTreeSet::new();
            while !over.load(Ordering::Relaxed) {
                seen.insert(mem.load::<u16>(at, Ordering::Acquire).unwrap());
            }
            seen
        }
    });
    // Forty buffers each.
    let frame = numbered(40 * 1536 - 12 - 34, 1);
    for _ in 0..300 {
        guest.fill();
        assert!(outside.send(segmented(), &frame));
        guest.machine.pump(0);
        assert_eq!(guest.next().unwrap().1.len(), frame.len());
    }
    over.store(true, Ordering::Relaxed);
    let seen = watcher.join().unwrap();
    assert!(seen.iter().all(|index| index % 40 == 0), "{seen:?}");
}

#[test]
fn a_network_that_goes_away_leaves_a_quiet_device() {
    let (mut guest, outside) = Guest::attached();
    guest.fill();
    guest.machine.pump(0);
    assert_eq!(guest.status(), 1);
    while guest.machine.interrupt().is_some() {}
    drop(outside);
    // `pump` fails if the device never comes to rest.
    guest.machine.pump(1000);
    assert_eq!(guest.machine.interrupt(), Some(2), "a configuration interrupt");
    assert_eq!(guest.status(), 0);
    assert!(guest.send(Header::default(), &numbered(5, 1)));
    assert_eq!(guest.sent(), 1);
    assert_eq!(guest.counts().tx_detached, 1);
    assert_eq!(guest.machine.step(50), 0, "events without end");
}

#[test]
fn the_guest_sees_first_that_the_network_is_gone() {
    let (mut guest, outside) = Guest::attached();
    drop(outside);
    // Nothing was given to receive into: only sending can tell.
    assert!(guest.send(Header::default(), &numbered(5, 1)));
    guest.machine.pump(0);
    assert_eq!(guest.status(), 0);
    assert_eq!(guest.counts().tx_detached, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever buffers there are, frames arrive as they were sent, in order, or are counted as dropped.
    #[test]
    fn any_buffers_do(
        chains in prop::collection::vec(prop::collection::vec(prop_oneof![1u32..40, 1000u32..5000], 1..4), 1..60),
        sizes in prop::collection::vec(prop_oneof![0usize..100, 1000usize..2000, 2000usize..30_000], 1..8),
        later: prop::sample::Index,
    ) {
        let (mut guest, outside) = Guest::attached();
        let later = later.index(chains.len());
        for chain in &chains[..later] {
            guest.give(chain);
        }
        guest.kick_rx();
        for (number, size) in sizes.iter().enumerate() {
            prop_assert!(outside.send(Header::default(), &numbered(*size, number)));
        }
        guest.machine.pump(0);
        let mut left = guest.buffers.clone();
        let mut given = Vec::new();
        let mut collect = |guest: &mut Guest| given.extend(std::iter::from_fn(|| guest.next()));
        collect(&mut guest);
        for chain in &chains[later..] {
            guest.give(chain);
        }
        guest.kick_rx();
        guest.machine.pump(0);
        collect(&mut guest);
        let frames: Vec<_> = given.into_iter().map(|(_, frame)| frame).filter(|frame| !frame.is_empty()).collect();
        // In order, and none but those sent.
        let mut sent = sizes.iter().enumerate().map(|(number, size)| numbered(*size, number));
        for frame in &frames {
            prop_assert!(sent.any(|other| other == *frame), "a frame nobody sent, or in another place");
        }
        prop_assert_eq!(frames.len() as u64, guest.counts().rx_frames);
        left.clear();
        // With enough buffers of a driver in order, what was not dropped comes.
        guest.fill();
        guest.machine.pump(0);
        let rest = std::iter::from_fn(|| guest.next()).filter(|(_, frame)| !frame.is_empty()).count();
        prop_assert_eq!((frames.len() + rest) as u64 + guest.counts().rx_oversized, sizes.len() as u64);
    }
}
