use super::frames::{MAC, ME, frame_v4};
use super::guest::{Guest, Outside, device};
use crate::net::header::Header;
use crate::net::{Limit, Net, NetConfig, NetLink, NetState, TX};
use crate::testing::memory;
use crate::{DeviceState, MmioTransport, RestoreError};

fn attach() -> (Net, Outside) {
    let (inner, outside) = Outside::pair();
    (device(Some(inner), Limit::default(), Limit::default()), outside)
}

fn detached() -> Net {
    device(None, Limit::default(), Limit::default())
}

#[test]
fn a_guest_without_network_has_one_when_restored_with_it() {
    let mut first = Guest::new(detached());
    first.fill();
    first.machine.pump(0);
    // The driver put a frame into the queue and nobody looked at it yet.
    assert!(first.queue(Header::default(), &frame_v4(ME.v4, b"early")));
    let image = first.machine.snapshot();
    assert_eq!(image.state.device, DeviceState::Net(NetState { mac: MAC, mtu: 1450, up: false }));
    for _ in 0..2 {
        let (net, outside) = attach();
        // A frame that is there already: nobody kicks for it.
        assert!(outside.send(Header::default(), &frame_v4(ME.v4, b"waited")));
        let mut second = first.restored(&image, net);
        assert_eq!(second.machine.interrupt(), Some(3), "rings, and the configuration");
        assert_eq!(second.status(), 1);
        second.machine.pump(0);
        assert_eq!(second.next().unwrap().1, frame_v4(ME.v4, b"waited"));
        assert_eq!(outside.next().unwrap().1, frame_v4(ME.v4, b"early"));
        assert!(second.send(Header::default(), &frame_v4(ME.v4, b"more")));
        assert_eq!(outside.next().unwrap().1, frame_v4(ME.v4, b"more"));
        // And all the other buffers are still there.
        for number in 0..100 {
            assert!(outside.send(Header::default(), &frame_v4(ME.v4, &[number])));
            second.machine.pump(0);
            assert_eq!(second.next().unwrap().1[34], number);
        }
    }
}

#[test]
fn a_snapshot_with_a_network_may_come_back_without() {
    let (net, _outside) = attach();
    let mut first = Guest::new(net);
    first.fill();
    first.machine.pump(0);
    let image = first.machine.snapshot();
    let mut second = first.restored(&image, detached());
    assert_eq!(second.machine.interrupt(), Some(3));
    assert_eq!(second.status(), 0);
    assert!(second.send(Header::default(), &frame_v4(ME.v4, b"x")));
    assert_eq!(second.counts().tx_detached, 1);
    // As before: nothing the guest has to be told.
    let (net, _outside) = attach();
    let mut third = first.restored(&image, net);
    assert_eq!(third.machine.interrupt(), Some(1));
}

#[test]
fn a_frame_half_way_is_not_half_a_frame_later() {
    let (net, outside) = attach();
    let mut first = Guest::new(net);
    for _ in 0..3 {
        first.give(&[100]);
    }
    first.kick_rx();
    assert!(outside.send(Header::default(), &frame_v4(ME.v4, &[7; 1000])));
    first.machine.pump(0);
    let image = first.machine.snapshot();
    let (net, outside) = attach();
    let mut second = first.restored(&image, net);
    second.machine.pump(0);
    assert_eq!(second.next(), None);
    assert!(outside.send(Header::default(), &frame_v4(ME.v4, &[8; 100])));
    second.machine.pump(0);
    assert_eq!(second.next().unwrap().1, frame_v4(ME.v4, &[8; 100]));
}

#[test]
fn the_identity_is_that_of_the_new_place() {
    let (net, _outside) = attach();
    let first = Guest::new(net);
    let image = first.machine.snapshot();
    let (queue, outside) = Outside::pair();
    let v4 = [10, 64, 0, 77].into();
    let link = NetLink { queue, v4, v6: ME.v6, tx: Limit::default(), rx: Limit::default() };
    let net = Net::new(NetConfig { mac: MAC, mtu: 1200, link: Some(link) }).unwrap();
    let mut second = first.restored(&image, net);
    assert!(second.send(Header::default(), &frame_v4(ME.v4, b"the old one")));
    assert!(second.send(Header::default(), &frame_v4(v4, b"the new one")));
    assert_eq!(outside.all(), [(Header::default(), frame_v4(v4, b"the new one"))]);
    assert_eq!(second.counts().tx_source, 1);
    assert_eq!(
        second.machine.transport.save().device,
        DeviceState::Net(NetState { mac: MAC, mtu: 1450, up: true }),
        "the guest knows the MTU it was started with"
    );
}

#[test]
fn another_hardware_address_is_refused() {
    let state = Guest::new(detached()).machine.transport.save();
    let other = Net::new(NetConfig { mac: [2, 0, 0, 0, 0, 1], mtu: 1450, link: None }).unwrap();
    let irq = vmm_sys_util::eventfd::EventFd::new(0).unwrap();
    let error = MmioTransport::restore(&state, Box::new(other), memory(), irq).unwrap_err();
    let RestoreError::Device(error) = error else { panic!("{error}") };
    assert_eq!(
        error.to_string(),
        "Network device has address 02:00:00:00:00:01, the snapshot's has 02:6d:6f:74:65:00"
    );
}

#[test]
fn addresses_nobody_can_have_are_refused() {
    for (v4, v6) in [
        ("0.0.0.0", "fd6d::2"),
        ("224.0.0.1", "fd6d::2"),
        ("10.0.0.1", "::"),
        ("10.0.0.1", "ff02::1"),
        ("10.0.0.1", "fe80::1"),
    ] {
        let (queue, _outside) = Outside::pair();
        let (v4, v6) = (v4.parse().unwrap(), v6.parse().unwrap());
        let link = NetLink { queue, v4, v6, tx: Limit::default(), rx: Limit::default() };
        assert!(Net::new(NetConfig { mac: MAC, mtu: 1450, link: Some(link) }).is_err(), "{v4} {v6}");
    }
}

#[test]
fn tokens_are_no_part_of_a_snapshot() {
    let (inner, outside) = Outside::pair();
    let slow = Limit { packets: crate::net::Rate::with_burst(1, 1), bytes: None };
    let mut first = Guest::new(device(Some(inner), slow, slow));
    for _ in 0..3 {
        assert!(first.queue(Header::default(), &frame_v4(ME.v4, b"x")));
    }
    first.machine.kick(TX);
    first.machine.pump(0);
    assert_eq!(outside.all().len(), 1);
    let image = first.machine.snapshot();
    let (net, outside) = attach();
    let mut second = first.restored(&image, net);
    second.machine.pump(0);
    assert_eq!(outside.all().len(), 2, "what was held back is sent");
}
