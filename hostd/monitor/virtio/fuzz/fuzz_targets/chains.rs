//! Any descriptors, heads and buffer contents, for every kind of device.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use mote_virtio_fuzz::{Balloon, Rng, address, block, net, testing::BUFFERS, testing::Machine, vsock};

#[derive(Arbitrary, Debug)]
struct Descriptor {
    queue: u8,
    index: u8,
    place: u8,
    raw: u64,
    len: u32,
    flags: u8,
    next: u8,
}

#[derive(Arbitrary, Debug)]
struct Input {
    device: u8,
    buffer: Vec<u8>,
    descriptors: Vec<Descriptor>,
    heads: Vec<(u8, u16)>,
}

fuzz_target!(|input: Input| {
    let folder = tempfile::tempdir().expect("a folder");
    let (net, outside) = net();
    let mut machine = Machine::new(match input.device % 5 {
        0 => block(folder.path()),
        1 => vsock(folder.path()),
        2 => {
            // What the guest is to receive; the wire ends here.
            let _ = outside.send(&input.buffer[..input.buffer.len().min(0x8000)]);
            net
        }
        3 => Box::new(Balloon::new()),
        _ => Box::new(Rng::new()),
    });
    machine.put(BUFFERS, &input.buffer[..input.buffer.len().min(0x10000)]);
    let queues = machine.rings.len();
    for d in input.descriptors.iter().take(100) {
        let queue = usize::from(d.queue) % queues;
        let index = u16::from(d.index) % machine.rings[queue].size;
        machine.describe(
            queue,
            index,
            address(d.place, d.raw),
            d.len,
            u16::from(d.flags & 7),
            u16::from(d.next),
        );
    }
    for (queue, head) in input.heads.iter().take(100) {
        machine.publish(usize::from(*queue) % queues, *head);
    }
    for queue in 0..queues {
        machine.notify(queue);
    }
    machine.pump(0);
});
