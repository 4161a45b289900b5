//! Any accesses to the register window, with the device thread taking its turns.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mote_virtio_fuzz::{Rng, testing::Machine};

fuzz_target!(|accesses: Vec<(u16, u32, u8)>| {
    let mut machine = Machine::unprobed(Box::new(Rng::new()));
    for (offset, value, how) in accesses.into_iter().take(500) {
        // Mostly whole registers: that is where anything happens.
        let offset = u64::from(if how & 0x80 == 0 { offset & 0xfc } else { offset & 0xfff });
        let len = if how & 0x40 == 0 { 4 } else { usize::from(how & 7) };
        let mut data = u64::from(value).to_le_bytes();
        if how & 0x20 == 0 {
            machine.transport.write(offset, &data[..len]);
        } else {
            machine.transport.read(offset, &mut data[..len]);
        }
        machine.step(0);
    }
    machine.probe(u64::MAX);
});
