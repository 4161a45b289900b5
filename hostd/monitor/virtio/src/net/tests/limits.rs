use std::time::{Duration, Instant};

use super::frames::{ME, frame_v4};
use super::guest::{Guest, Outside, device};
use crate::net::header::Header;
use crate::net::{Limit, Rate, TX};

/// Fifty frames at a thousand a second, ten of them at once: forty milliseconds.
const FRAMES: usize = 50;

fn packets() -> Limit {
    Limit { packets: Rate::with_burst(1000, 10), bytes: None }
}

#[test]
fn what_is_sent_too_fast_waits_in_the_queue() {
    let (inner, outside) = Outside::pair();
    let start = Instant::now();
    let mut guest = Guest::new(device(Some(inner), packets(), Limit::default()));
    for number in 0..FRAMES {
        assert!(guest.queue(Header::default(), &frame_v4(ME.v4, &[number as u8])));
    }
    guest.machine.kick(TX);
    guest.machine.pump(0);
    let mut order: Vec<u8> = outside.all().iter().map(|(_, frame)| frame[34]).collect();
    assert!(order.len() < FRAMES, "no limit");
    let mut wakes = 0;
    while order.len() < FRAMES {
        assert!(guest.machine.step(1000) > 0, "the device sleeps on");
        wakes += 1;
        order.extend(outside.all().iter().map(|(_, frame)| frame[34]));
    }
    assert!(start.elapsed() >= Duration::from_millis(39), "{:?}", start.elapsed());
    assert!(wakes <= 100, "{wakes} wake-ups for 40 frames");
    assert_eq!(order, (0..FRAMES as u8).collect::<Vec<_>>());
    assert_eq!(guest.sent(), FRAMES);
    assert_eq!(guest.counts().tx_frames, FRAMES as u64);
}

#[test]
fn what_comes_too_fast_waits_outside() {
    let (inner, outside) = Outside::pair();
    let start = Instant::now();
    let mut guest = Guest::new(device(Some(inner), Limit::default(), packets()));
    guest.fill();
    for number in 0..FRAMES {
        assert!(outside.send(Header::default(), &frame_v4(ME.v4, &[number as u8])));
    }
    guest.machine.pump(0);
    let mut order = Vec::new();
    while order.len() < FRAMES {
        order.extend(std::iter::from_fn(|| guest.next()).map(|(_, frame)| frame[34]));
        assert!(order.len() == FRAMES || guest.machine.step(1000) > 0, "the device sleeps on");
    }
    assert!(start.elapsed() >= Duration::from_millis(39), "{:?}", start.elapsed());
    assert_eq!(order, (0..FRAMES as u8).collect::<Vec<_>>());
}

#[test]
fn bytes_are_limited_too_and_segments_count_as_packets() {
    let (inner, outside) = Outside::pair();
    // Twenty frames of 1000 bytes at 500 kB/s: nearly forty milliseconds.
    let limit = Limit { packets: None, bytes: Rate::with_burst(500_000, 1) };
    let start = Instant::now();
    let mut guest = Guest::new(device(Some(inner), limit, Limit::default()));
    for _ in 0..20 {
        assert!(guest.queue(Header::default(), &frame_v4(ME.v4, &[0; 966])));
    }
    guest.machine.kick(TX);
    let mut come = 0;
    while come < 20 {
        assert!(guest.machine.step(1000) > 0);
        come += outside.all().len();
    }
    assert!(start.elapsed() >= Duration::from_millis(37), "{:?}", start.elapsed());

    let (inner, outside) = Outside::pair();
    let mut guest = Guest::new(device(Some(inner), packets(), Limit::default()));
    let header = Header {
        flags: 1,
        kind: 1,
        header_length: 54,
        segment: 100,
        checksum_start: 34,
        checksum_offset: 16,
        buffers: 0,
    };
    let start = Instant::now();
    // Forty segments: the next has to wait for thirty of them.
    assert!(guest.send(header, &frame_v4(ME.v4, &[0; 20 + 4000])));
    assert!(guest.send(Header::default(), &frame_v4(ME.v4, b"x")));
    assert_eq!(outside.all().len(), 1);
    while outside.next().is_none() {
        assert!(guest.machine.step(1000) > 0);
    }
    assert!(start.elapsed() >= Duration::from_millis(29), "{:?}", start.elapsed());
}

#[test]
fn a_reset_while_frames_wait_leaves_a_quiet_device() {
    let (inner, outside) = Outside::pair();
    let slow = Limit { packets: Rate::with_burst(100, 1), bytes: None };
    let mut guest = Guest::new(device(Some(inner), slow, slow));
    for _ in 0..5 {
        assert!(guest.queue(Header::default(), &frame_v4(ME.v4, b"x")));
    }
    guest.machine.kick(TX);
    guest.machine.pump(0);
    assert!(outside.send(Header::default(), &frame_v4(ME.v4, b"y")));
    guest.machine.write(virtio_bindings::virtio_mmio::VIRTIO_MMIO_STATUS, 0);
    std::thread::sleep(Duration::from_millis(30));
    guest.machine.pump(0);
    assert_eq!(guest.machine.step(50), 0, "events of a device nobody drives");
}
