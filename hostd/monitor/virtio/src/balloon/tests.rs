//! The device behind its transport, its memory that of a process.

use proptest::prelude::*;
use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};

use super::*;
use crate::testing::{BUFFERS, INDIRECT, Image, MEMORY, Machine, NEXT, SEAM, WRITE};
use crate::{DeviceState, VirtioDevice};

const PAGE: u64 = BALLOON_PAGE;
/// Where the driver writes page numbers and statistics.
const LISTS: u64 = 0x80000;
const FILL: u8 = 0xab;

fn machine() -> (Machine, BalloonControl) {
    let balloon = Balloon::new();
    let control = balloon.control();
    (Machine::new(Box::new(balloon)), control)
}

/// Tells `queue` of pages, as Linux does: one request, numbers of 32 bits.
fn tell(machine: &mut Machine, queue: usize, pages: &[u32]) {
    let bytes: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
    machine.put(LISTS, &bytes);
    assert_eq!(machine.call(queue, &[(LISTS, bytes.len() as u32, false)]), 0);
}

fn pages(start: u64, count: u64) -> Vec<u32> {
    (start / PAGE..start / PAGE + count).map(|page| page as u32).collect()
}

fn wish(machine: &mut Machine) {
    machine.transport.kick(WISHES);
    machine.pump(0);
}

/// The driver's buffer with these figures.
fn put_statistics(machine: &mut Machine, figures: &[(u16, u64)]) {
    let bytes: Vec<u8> = figures
        .iter()
        .flat_map(|(tag, value)| [&tag.to_le_bytes()[..], &value.to_le_bytes()[..]].concat())
        .collect();
    machine.put(LISTS, &bytes);
    machine.add(STATISTICS, &[(LISTS, bytes.len() as u32, false)]).unwrap();
    machine.kick(STATISTICS);
    machine.pump(0);
}

fn state(machine: &Machine) -> BalloonState {
    match machine.transport.save().device {
        DeviceState::Balloon(state) => state,
        other => panic!("{other:?}"),
    }
}

/// Pages of guest memory the process has, as its page tables say.
fn resident(machine: &Machine, start: u64, count: u64) -> usize {
    use vm_memory::{GuestAddress, GuestMemoryBackend};
    let address = machine.mem.get_host_address(GuestAddress(start)).unwrap().addr();
    let mut words = vec![0u8; usize::try_from(count * 8).unwrap()];
    let file = std::fs::File::open("/proc/self/pagemap").unwrap();
    let at = address as u64 / PAGE * 8;
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut words, at).unwrap();
    words.as_chunks::<8>().0.iter().filter(|word| u64::from_le_bytes(**word) >> 62 != 0).count()
}

#[test]
fn pages_go_back_to_the_host_and_can_be_used_again() {
    let (mut machine, control) = machine();
    machine.put(BUFFERS, &vec![FILL; 600 * 4096]);
    assert_eq!(resident(&machine, BUFFERS, 600), 600);
    // In any order, with one left out.
    let mut named = pages(BUFFERS, 257);
    named.reverse();
    named.remove(100);
    tell(&mut machine, INFLATE, &named);
    assert_eq!(control.held(), 256);
    assert_eq!(resident(&machine, BUFFERS, 600), 600 - 256);
    let kept = BUFFERS + 156 * PAGE;
    assert_eq!(machine.get(kept, 4096), [FILL; 4096]);
    assert_eq!(machine.get(BUFFERS + 257 * PAGE, 4096), [FILL; 4096]);
    machine.put(BUFFERS, &[1; 4096]);
    tell(&mut machine, DEFLATE, &named[..200]);
    assert_eq!(control.held(), 56);
    assert_eq!(machine.get(BUFFERS, 4096), [1; 4096]);
}

#[test]
fn a_run_over_two_regions_goes_back_whole() {
    let (mut machine, _) = machine();
    machine.put(SEAM - 4 * PAGE, &[FILL; 8 * 4096]);
    tell(&mut machine, INFLATE, &pages(SEAM - 3 * PAGE, 6));
    assert_eq!(resident(&machine, SEAM - 4 * PAGE, 4), 1);
    assert_eq!(resident(&machine, SEAM, 4), 1);
    assert_eq!(machine.get(SEAM - 4 * PAGE, 4096), [FILL; 4096]);
    assert_eq!(machine.get(SEAM + 3 * PAGE, 4096), [FILL; 4096]);
}

#[test]
fn the_driver_is_told_what_is_wanted() {
    let (mut machine, control) = machine();
    assert_eq!(machine.transport.device_type(), 5);
    assert_eq!((machine.read(0x100), machine.read(0x104), machine.read(0x108)), (0, 0, 0));
    wish(&mut machine);
    assert_eq!(machine.interrupt(), None, "nothing is wanted");
    control.aim(300);
    wish(&mut machine);
    assert_eq!(machine.interrupt(), Some(VIRTIO_MMIO_INT_CONFIG));
    assert_eq!(machine.read(0x100), 300);
    // What the driver says it gave changes nothing.
    machine.write(0x104, 7);
    machine.write(0x100, 7);
    tell(&mut machine, INFLATE, &pages(BUFFERS, 2));
    assert_eq!((machine.read(0x100), machine.read(0x104)), (300, 2));
    control.aim(300);
    wish(&mut machine);
    assert_eq!(machine.interrupt(), None, "it is known");
}

#[test]
fn statistics_are_fresh() {
    let (mut machine, control) = machine();
    // What the driver has ready from the start is old when it is asked.
    put_statistics(&mut machine, &[(5, 1), (4, 111)]);
    assert_eq!((machine.interrupt(), control.answer()), (None, None));
    for (figures, expected) in [
        (&[(0, 9), (4, 222), (5, 8)][..], Some(222)),
        (&[(4, u64::MAX)], Some(u64::MAX)),
        // It does not say.
        (&[(5, 9)], None),
        (&[], None),
        (&[(4, 0)], Some(0)),
    ] {
        control.ask();
        wish(&mut machine);
        assert_eq!(machine.interrupt(), Some(VIRTIO_MMIO_INT_VRING));
        assert!(machine.take(STATISTICS).is_some(), "the buffer comes back to be filled");
        assert_eq!(control.answer(), None);
        put_statistics(&mut machine, figures);
        assert_eq!((control.answer(), control.answer()), (expected, None));
    }
    // Asked while the buffer is with the driver: as soon as it is there.
    control.ask();
    wish(&mut machine);
    assert!(machine.take(STATISTICS).is_some());
    control.ask();
    wish(&mut machine);
    put_statistics(&mut machine, &[(4, 1)]);
    assert!(machine.take(STATISTICS).is_some());
    assert_eq!(control.answer(), None);
    put_statistics(&mut machine, &[(4, 2)]);
    assert_eq!(control.answer(), Some(2));
}

#[test]
fn without_a_driver_nothing_is_answered_and_nothing_spins() {
    let balloon = Balloon::new();
    let control = balloon.control();
    let mut machine = Machine::unprobed(Box::new(balloon));
    control.ask();
    control.aim(1000);
    wish(&mut machine);
    assert_eq!((control.answer(), control.held(), machine.interrupt()), (None, 0, None));
    // A driver begins with a reset: of it nothing was wanted.
    machine.probe(u64::MAX);
    machine.pump(0);
    assert_eq!(machine.read(0x100), 0);
}

#[test]
fn a_reset_empties_the_balloon() {
    let (mut machine, control) = machine();
    control.aim(10);
    tell(&mut machine, INFLATE, &pages(BUFFERS, 10));
    assert_eq!(state(&machine), BalloonState { target: 10, held: 10 });
    machine.probe(0);
    machine.pump(0);
    assert_eq!(state(&machine), BalloonState::default());
}

fn restored(image: &Image) -> (Machine, BalloonControl) {
    let balloon = Balloon::new();
    let control = balloon.control();
    (Machine::restore(image, Box::new(balloon)), control)
}

#[test]
fn a_restored_guest_takes_back_what_it_had_given() {
    let (mut machine, control) = machine();
    control.aim(5);
    wish(&mut machine);
    tell(&mut machine, INFLATE, &pages(BUFFERS, 3));
    machine.interrupt();
    // One request is in the queue, not yet served.
    machine.put(LISTS, &pages(SEAM, 1)[0].to_le_bytes());
    machine.add(INFLATE, &[(LISTS, 4, false)]);
    let image = machine.snapshot();
    let (mut machine, control) = restored(&image);
    assert_eq!(control.held(), 3);
    machine.pump(0);
    assert_eq!(control.held(), 4);
    let interrupt = machine.interrupt().unwrap();
    assert!(interrupt & VIRTIO_MMIO_INT_CONFIG != 0, "the driver must look at the target");
    assert_eq!(machine.read(0x100), 0);
    assert!(machine.take(INFLATE).is_some());
    tell(&mut machine, DEFLATE, &[pages(BUFFERS, 3), pages(SEAM, 1)].concat());
    assert_eq!(state(&machine), BalloonState::default());

    // With an empty balloon nothing is to be told.
    let image = machine.snapshot();
    let (mut machine, control) = restored(&image);
    assert_eq!(machine.interrupt(), Some(VIRTIO_MMIO_INT_VRING), "as of every device");
    control.aim(1);
    wish(&mut machine);
    assert_eq!(machine.interrupt().unwrap() & VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_CONFIG);
}

#[test]
fn the_question_of_a_saved_guest_is_put_again_by_who_restores_it() {
    let (mut machine, control) = machine();
    put_statistics(&mut machine, &[(4, 1)]);
    control.ask();
    wish(&mut machine);
    let image = machine.snapshot();
    let (mut machine, control) = restored(&image);
    assert!(machine.take(STATISTICS).is_some());
    control.ask();
    put_statistics(&mut machine, &[(4, 2)]);
    assert_eq!(control.answer(), None, "that answers the other");
    assert!(machine.take(STATISTICS).is_some());
    put_statistics(&mut machine, &[(4, 3)]);
    assert_eq!(control.answer(), Some(3));
}

#[test]
fn takes_no_other_state() {
    let rng = DeviceState::Rng(crate::rng::RngState {});
    let error = Balloon::new().restore(&rng).unwrap_err();
    assert_eq!(error.to_string(), "State of an entropy device given to a balloon");
    let (machine, _) = machine();
    let state = machine.transport.save();
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<crate::TransportState>(&text).unwrap(), state);
}

#[test]
fn what_is_given_twice_too_much_or_from_elsewhere_does_no_harm() {
    let (mut machine, control) = machine();
    let last = (MEMORY / PAGE) as u32;
    machine.put(MEMORY - PAGE, &[FILL; 4096]);
    tell(&mut machine, INFLATE, &[last, last + 1, u32::MAX, u32::MAX - 1, last - 1, last - 1]);
    assert_eq!(control.held(), 1);
    assert_eq!(machine.get(MEMORY - PAGE, 4096), [0; 4096]);
    // More than was asked for, again and again: never more than there is.
    for _ in 0..20 {
        tell(&mut machine, INFLATE, &pages(BUFFERS, 256));
    }
    for round in 0..20 {
        tell(&mut machine, INFLATE, &pages(BUFFERS + round * (1 << 19), 256));
    }
    assert_eq!(control.held(), last);
    // More numbers than a request has: those behind stay.
    machine.put(BUFFERS, &[FILL; 300 * 4096]);
    tell(&mut machine, INFLATE, &pages(BUFFERS, 300));
    assert_eq!(resident(&machine, BUFFERS, 300), 300 - 256);
    for _ in 0..100 {
        tell(&mut machine, DEFLATE, &pages(BUFFERS, 256));
    }
    assert_eq!(control.held(), 0);
    // No whole number, and nothing at all.
    machine.put(LISTS, &[1; 8]);
    for length in [0, 1, 3] {
        machine.call(INFLATE, &[(LISTS, length, false)]);
    }
    machine.call(INFLATE, &[(LISTS, 8, true)]);
    machine.call(INFLATE, &[(MEMORY - 4, 8, false)]);
    assert_eq!(control.held(), 0);
}

#[test]
fn requests_without_end_leave_others_their_turn() {
    let (mut machine, control) = machine();
    machine.put(LISTS, &pages(BUFFERS, 1)[0].to_le_bytes());
    machine.describe(INFLATE, 0, LISTS, 4, 0, 0);
    machine.pump(0);
    for _ in 0..10_000 {
        for _ in 0..16 {
            machine.publish(INFLATE, 0);
        }
        machine.notify(INFLATE);
        // More than a turn: the event is there again for the next.
        assert_eq!((machine.step(0), machine.step(0)), (1, 1));
    }
    machine.pump(0);
    assert!(control.held() <= (MEMORY / PAGE) as u32);
    // An index that promises more than a ring has breaks the queue, not the device.
    for _ in 0..1000 {
        machine.publish(INFLATE, 0);
    }
    machine.notify(INFLATE);
    machine.pump(0);
    machine.probe(u64::MAX);
    tell(&mut machine, INFLATE, &pages(BUFFERS, 3));
    assert_eq!(control.held(), 3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn hostile_chains_do_no_harm(
        numbers in prop::collection::vec(prop_oneof![0u32..5000, any::<u32>()], 0..600),
        descriptors in prop::collection::vec(
            (
                0usize..3,
                prop_oneof![
                    Just(LISTS), Just(SEAM - 20), Just(MEMORY - 50), Just(0x10000u64), any::<u64>()
                ],
                prop_oneof![0u32..3000, any::<u32>()],
                prop_oneof![Just(0), Just(NEXT), Just(WRITE), Just(INDIRECT), 0u16..8],
                0u16..18,
            ),
            1..30,
        ),
        heads in prop::collection::vec((0usize..3, prop_oneof![0u16..16, any::<u16>()]), 1..60),
        wishes in prop::collection::vec((any::<bool>(), any::<u32>()), 0..4),
    ) {
        let (mut machine, control) = machine();
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        machine.put(LISTS, &bytes);
        for (i, (queue, addr, len, flags, next)) in descriptors.iter().enumerate() {
            machine.describe(*queue, i as u16 % 16, *addr, *len, *flags, *next);
        }
        for (queue, head) in heads {
            machine.publish(queue, head);
        }
        for (ask, pages) in wishes {
            if ask {
                control.ask();
            }
            control.aim(pages);
            machine.transport.kick(WISHES);
        }
        for queue in 0..3 {
            machine.notify(queue);
        }
        machine.pump(0);
        prop_assert!(control.held() <= (MEMORY / PAGE) as u32);
        let _ = control.answer();
        let image = machine.snapshot();
        let mut restored = restored(&image).0;
        restored.pump(0);
        machine.probe(u64::MAX);
        machine.put(BUFFERS, &[FILL; 4096]);
        tell(&mut machine, INFLATE, &pages(BUFFERS, 1));
        prop_assert_eq!(machine.get(BUFFERS, 4096), [0; 4096]);
    }
}
