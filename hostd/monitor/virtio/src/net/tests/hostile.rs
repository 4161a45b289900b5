use proptest::prelude::*;

use super::frames::{ME, frame_v4, frame_v6, is_mine};
use super::guest::{Guest, TX_AT};
use crate::net::header::{HEADER, Header};
use crate::net::{RX, TX};
use crate::testing::{BUFFERS, MEMORY, SEAM};

/// After whatever happened: a reset brings the device back.
fn works_after_a_reset(guest: &mut Guest, outside: &super::guest::Outside) -> Result<(), TestCaseError> {
    guest.machine.probe(u64::MAX);
    guest.buffers.clear();
    while outside.next().is_some() {}
    prop_assert!(guest.send(Header::default(), &frame_v4(ME.v4, b"well")));
    prop_assert_eq!(outside.all().pop().map(|(_, frame)| frame), Some(frame_v4(ME.v4, b"well")));
    guest.fill();
    prop_assert!(outside.send(Header::default(), &frame_v4(ME.v4, b"again")));
    guest.machine.pump(0);
    let last = std::iter::from_fn(|| guest.next()).last();
    prop_assert_eq!(last.map(|(_, frame)| frame), Some(frame_v4(ME.v4, b"again")));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any descriptors and any heads in both rings, with frames coming in: no panic, nothing of others' is sent.
    #[test]
    fn hostile_rings_do_no_harm(
        descriptors in prop::collection::vec(
            (
                0usize..2,
                prop_oneof![Just(BUFFERS), Just(TX_AT), Just(SEAM - 20), Just(MEMORY - 50), Just(0x10000u64), any::<u64>()],
                prop_oneof![0u32..64, Just(12), Just(1536), Just(70_000), any::<u32>()],
                0u16..8,
                0u16..12,
            ),
            1..24,
        ),
        heads in prop::collection::vec((0usize..2, prop_oneof![0u16..12, any::<u16>()]), 1..60),
        jump in prop_oneof![Just(0u16), any::<u16>()],
        sizes in prop::collection::vec(0usize..40_000, 0..4),
        merge: bool,
    ) {
        let (mut guest, outside) = Guest::attached();
        if !merge {
            guest.machine.probe(!crate::net::MERGE);
        }
        guest.machine.put(TX_AT, &[&[0; HEADER], frame_v4(ME.v4, &[1; 100]).as_slice()].concat());
        for (index, (queue, at, length, flags, next)) in descriptors.iter().enumerate() {
            guest.machine.describe(*queue, (index / 2) as u16, *at, *length, *flags, *next);
        }
        for (queue, head) in heads {
            guest.machine.publish(queue, head);
        }
        for size in sizes {
            prop_assert!(outside.send(Header::default(), &frame_v4(ME.v4, &vec![3; size])));
        }
        if jump != 0 {
            let at = guest.machine.rings[RX].base + 0x2002;
            guest.machine.put(at, &jump.to_le_bytes());
        }
        for queue in [RX, TX] {
            guest.machine.notify(queue);
        }
        guest.machine.pump(0);
        for (_, frame) in outside.all() {
            prop_assert!(is_mine(&frame));
        }
        works_after_a_reset(&mut guest, &outside)?;
    }

    /// Any bytes as frames: what is sent is under the guest's own addresses, with a header that asks nothing wrong.
    #[test]
    fn nothing_under_other_addresses_is_ever_sent(
        frames in prop::collection::vec(
            (
                0u8..3,
                any::<[u8; HEADER]>(),
                any::<bool>(),
                prop::collection::vec(any::<u8>(), 0..200),
                prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
            ),
            1..30,
        ),
    ) {
        let (mut guest, outside) = Guest::attached();
        for (kind, header, plain, data, noise) in frames {
            let header = if plain { [0; HEADER] } else { header };
            let frame = match kind {
                0 => frame_v4(ME.v4, &data),
                1 => frame_v6(ME.v6, &data),
                _ => data,
            };
            let mut bytes = [header.as_slice(), &frame].concat();
            for (at, value) in noise {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            prop_assert!(guest.queue_bytes(&bytes));
            guest.machine.kick(TX);
            guest.machine.pump(0);
            prop_assert_eq!(guest.sent(), 1);
            if let Some((header, frame)) = outside.next() {
                prop_assert!(is_mine(&frame));
                prop_assert_eq!(frame.as_slice(), &bytes[HEADER..]);
                let sums = usize::from(header.checksum_start) + usize::from(header.checksum_offset) + 2;
                prop_assert!(header.flags == 0 || header.flags == 1 && sums <= frame.len());
                prop_assert!(header.flags == 0 || header.checksum_start >= 34);
            }
        }
        let counts = guest.counts();
        let dropped = counts.tx_malformed + counts.tx_protocol + counts.tx_source;
        prop_assert_eq!(counts.tx_detached + counts.tx_refused, 0);
        prop_assert!(counts.tx_frames + dropped >= 1);
    }
}

/// A guest with two processors writes to the frame while the device looks at it.
#[test]
fn a_frame_that_changes_under_the_check_is_not_sent_as_somebody_elses() {
    let (mut guest, outside) = Guest::attached();
    let mem = guest.machine.mem.clone();
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let other: [u8; 4] = [10, 64, 0, 3];
    let writer = std::thread::spawn({
        let over = std::sync::Arc::clone(&over);
        move || {
            use vm_memory::{Bytes, GuestAddress};
            let at = GuestAddress(TX_AT + HEADER as u64 + 26);
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                mem.write_slice(&other, at).unwrap();
                mem.write_slice(&ME.v4.octets(), at).unwrap();
            }
        }
    });
    let bytes = [&[0; HEADER], frame_v4(ME.v4, &[1; 100]).as_slice()].concat();
    guest.machine.put(TX_AT, &bytes);
    let mut passed = 0;
    for _ in 0..20_000 {
        assert!(guest.machine.add(TX, &[(TX_AT, bytes.len() as u32, false)]).is_some());
        guest.machine.notify(TX);
        guest.machine.step(0);
        while guest.machine.take(TX).is_some() {}
        while let Some((_, frame)) = outside.next() {
            passed += 1;
            assert_ne!(frame[26..30], other, "after {passed} frames");
        }
    }
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    writer.join().unwrap();
    assert!(passed > 0);
}
