use proptest::prelude::*;

use super::Rng;
use crate::testing::{BUFFERS, MEMORY, Machine, SEAM};
use crate::{DeviceState, MmioTransport, VirtioDevice};

#[test]
fn fills_buffers_up_to_its_bound() {
    let mut machine = Machine::new(Box::new(Rng::new()));
    assert_eq!(machine.call(0, &[(BUFFERS, 64, true)]), 64);
    let first = machine.get(BUFFERS, 64);
    assert_ne!(first, [0; 64]);
    assert_eq!(machine.call(0, &[(BUFFERS, 64, true)]), 64);
    assert_ne!(machine.get(BUFFERS, 64), first);
    // Across the seam, and more than one request gets.
    machine.put(SEAM - 100, &[0; 8192]);
    assert_eq!(machine.call(0, &[(SEAM - 100, 8192, true)]), 4096);
    let filled = machine.get(SEAM - 100, 8192);
    assert!(filled[..4096].chunks(64).all(|chunk| chunk != [0; 64]));
    assert!(filled[4096..].iter().all(|byte| *byte == 0));
}

#[test]
fn gives_nothing_where_nothing_fits() {
    let mut machine = Machine::new(Box::new(Rng::new()));
    assert_eq!(machine.call(0, &[(BUFFERS, 64, false)]), 0);
    assert_eq!(machine.call(0, &[(MEMORY - 8, 64, true)]), 0);
    assert_eq!(machine.call(0, &[(BUFFERS, 0, true)]), 0);
    assert_eq!(machine.call(0, &[(BUFFERS, 10, false), (BUFFERS, 10, true)]), 10);
}

#[test]
fn two_clones_of_one_snapshot_differ() {
    let mut first = Machine::new(Box::new(Rng::new()));
    first.add(0, &[(BUFFERS, 64, true)]);
    first.kick(0);
    let image = first.snapshot();
    let bytes: Vec<Vec<u8>> = (0..2)
        .map(|_| {
            let mut clone = Machine::restore(&image, Box::new(Rng::new()));
            clone.pump(0);
            assert!(clone.take(0).is_some(), "a request in the queue at the snapshot is served");
            clone.get(BUFFERS, 64)
        })
        .collect();
    assert_ne!(bytes[0], bytes[1]);
}

#[test]
fn takes_no_other_state() {
    let state = Machine::new(Box::new(Rng::new())).transport.save();
    assert!(Rng::new().restore(&state.device).is_ok());
    let block =
        DeviceState::Block(crate::block::BlockState { sectors: 1, read_only: true, id: String::new() });
    let error = Rng::new().restore(&block).unwrap_err();
    assert_eq!(error.to_string(), "State of a block device given to an entropy device");
    let irq = vmm_sys_util::eventfd::EventFd::new(0).unwrap();
    let wrong = crate::TransportState { device: block, ..state };
    assert!(MmioTransport::restore(&wrong, Box::new(Rng::new()), crate::testing::memory(), irq).is_err());
}

proptest! {
    #[test]
    fn hostile_chains_do_no_harm(
        descriptors in prop::collection::vec(
            (
                prop_oneof![Just(BUFFERS), Just(SEAM - 20), Just(MEMORY - 50), Just(0x10000u64), any::<u64>()],
                any::<u32>(),
                0u16..8,
                0u16..10,
            ),
            1..10,
        ),
        heads in prop::collection::vec(prop_oneof![0u16..10, any::<u16>()], 1..100),
    ) {
        let mut machine = Machine::new(Box::new(Rng::new()));
        for (i, (addr, len, flags, next)) in descriptors.iter().enumerate() {
            machine.describe(0, i as u16, *addr, *len, *flags, *next);
        }
        for head in heads {
            machine.publish(0, head);
        }
        machine.notify(0);
        machine.pump(0);
        machine.probe(u64::MAX);
        prop_assert_eq!(machine.call(0, &[(BUFFERS, 64, true)]), 64);
    }
}
