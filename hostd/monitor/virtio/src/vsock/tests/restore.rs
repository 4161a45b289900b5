use super::*;
use crate::testing::Image;
use crate::{DeviceState, MmioTransport, TransportState};

/// The guest's kernel knows its own sockets and buffers over a snapshot; the test's guest has to be told.
fn restored(image: &Image, old: &Guest, place: &Place, limits: VsockLimits) -> Guest {
    let machine = Machine::restore(image, place.device(limits));
    let mut guest = old.continued(machine);
    guest.listening.push(PORT);
    guest
}

/// Nothing in these tests may depend on the reset's timeout.
fn patient() -> VsockLimits {
    VsockLimits { reset_timeout: Duration::from_secs(60), ..quick() }
}

fn reset_needed(state: &TransportState) -> bool {
    match &state.device {
        DeviceState::Vsock(state) => state.reset_needed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_connections_a_restored_guest_is_reached_at_once() {
    let place = Place::new();
    let mut guest = place.guest(quick());
    let (client, key) = place.connect(&mut guest);
    guest.close(key);
    guest.settle();
    drop(client);
    let image = guest.machine.snapshot();
    assert!(!reset_needed(&image.state));
    let elsewhere = Place::new();
    let mut clone = restored(&image, &guest, &elsewhere, patient());
    let mut client = elsewhere.client(PORT);
    let line = clone.wait(|_| read_line(&mut client), "waited for something").unwrap();
    assert_eq!(line, format!("OK {}", (1 << 30) + 1), "the old connection's port is not used again");
    assert!(clone.events.is_empty());
}

#[test]
fn lost_connections_are_told_before_anything_else() {
    let place = Place::new();
    let mut guest = place.guest(quick());
    let (_client, _) = place.connect(&mut guest);
    let image = guest.machine.snapshot();
    assert!(reset_needed(&image.state));
    let elsewhere = Place::new();
    let mut clone = restored(&image, &guest, &elsewhere, patient());
    let mut client = elsewhere.client(PORT);
    clone.settle();
    assert_eq!(clone.events, [0], "one transport reset");
    assert_eq!(clone.packets_seen, 0, "nothing before the guest dealt with it");
    assert_eq!(read_line(&mut client), None);
    // A snapshot of this moment still owes the reset.
    assert!(reset_needed(&clone.machine.transport.save()));
    // Linux forgets its sockets, then gives the buffer back and kicks if asked to.
    clone.socks.clear();
    clone.give_events(1);
    let line = clone.wait(|_| read_line(&mut client), "no answer").unwrap();
    assert_eq!(line, format!("OK {}", (1 << 30) + 1));
    clone.settle();
    assert_eq!(clone.events, [0], "and no second one");
    assert!(reset_needed(&clone.machine.transport.save()), "because of the new connection");
}

#[test]
fn a_guest_that_ignores_the_reset_is_not_waited_for_for_ever() {
    let place = Place::new();
    let mut guest = place.guest(quick());
    let (_client, _) = place.connect(&mut guest);
    let image = guest.machine.snapshot();
    let elsewhere = Place::new();
    let mut clone = restored(&image, &guest, &elsewhere, quick());
    clone.socks.clear();
    let start = Instant::now();
    let mut client = elsewhere.client(PORT);
    assert!(clone.wait(|_| read_line(&mut client), "no answer").unwrap().starts_with("OK "));
    assert!(start.elapsed() >= Duration::from_millis(550));
}

#[test]
fn a_reset_waits_for_an_event_buffer() {
    let place = Place::new();
    let mut machine = Machine::new(place.device(quick()));
    machine.pump(0);
    let mut guest = Guest::without_events(machine);
    guest.listening.push(PORT);
    let (_client, _) = place.connect(&mut guest);
    let image = guest.machine.snapshot();
    let elsewhere = Place::new();
    let mut clone = restored(&image, &guest, &elsewhere, patient());
    clone.settle();
    assert!(clone.events.is_empty());
    clone.give_events(2);
    clone.settle();
    assert_eq!(clone.events, [0]);
}

#[test]
fn packets_of_lost_connections_are_answered_with_resets() {
    let place = Place::new();
    let mut guest = place.guest(quick());
    let (_client, key) = place.connect(&mut guest);
    let image = guest.machine.snapshot();
    let elsewhere = Place::new();
    let mut clone = restored(&image, &guest, &elsewhere, patient());
    // A thread of the guest writes before its kernel took the event.
    assert_eq!(clone.write(key, b"anyone?"), 7);
    clone.step(0);
    assert_eq!(clone.packets_seen, 0);
    clone.settle();
    clone.give_events(1);
    clone.wait(|clone| clone.socks[&key].reset.then_some(()), "no reset");
}

#[test]
fn traffic_cut_by_a_snapshot_leaves_both_copies_sound() {
    let place = Place::new();
    let mut guest = place.guest(quick());
    let (mut client, key) = place.connect(&mut guest);
    let (mut sent, mut got) = (0, Vec::new());
    for round in 0..50 {
        sent += write_now(&mut client, &pattern(sent, 20_000)).unwrap();
        guest.write(key, &pattern(0, 3000));
        guest.step(0);
        got.extend(guest.read(key, 7000));
        let _ = read_now(&mut client);
        if round % 10 == 5 {
            // In the middle of everything: kicks pending, buffers half used.
            let image = guest.machine.snapshot();
            let elsewhere = Place::new();
            let mut clone = restored(&image, &guest, &elsewhere, quick());
            clone.settle();
            assert_eq!(clone.events, [0]);
            clone.socks.clear();
            clone.give_events(1);
            let (mut other, fresh) = elsewhere.connect(&mut clone);
            other.write_all(b"hello clone").unwrap();
            clone.settle();
            assert_eq!(clone.read(fresh, 100), b"hello clone");
        }
    }
    // The original never noticed.
    guest.wait(
        |guest| {
            got.extend(guest.read(key, 50_000));
            (got.len() == sent).then_some(())
        },
        "bytes are missing",
    );
    assert!(got == pattern(0, sent));
}

#[test]
fn pause_and_resume_in_place_keeps_connections() {
    let place = Place::new();
    let mut guest = place.guest(quick());
    let (mut client, key) = place.connect(&mut guest);
    client.write_all(b"while it stood still").unwrap();
    let _ = guest.machine.snapshot();
    guest.machine.transport.resume();
    guest.settle();
    assert_eq!(guest.read(key, 100), b"while it stood still");
    assert!(guest.events.is_empty());
}

#[test]
fn a_driver_that_resets_the_device_hangs_up_on_everybody() {
    let place = Place::new();
    let mut guest = place.guest(quick());
    let (mut client, _) = place.connect(&mut guest);
    let mut waiting = UnixStream::connect(place.path()).unwrap();
    guest.settle();
    let Guest { mut machine, .. } = guest;
    machine.probe(u64::MAX);
    assert_eq!(read_line(&mut client), Some(None));
    assert_eq!(read_line(&mut waiting), Some(None));
    let mut guest = Guest::new(machine);
    guest.listening.push(PORT);
    let _ = place.connect(&mut guest);
}

#[test]
fn impossible_states_are_refused() {
    let place = Place::new();
    let guest = place.guest(quick());
    let good = guest.machine.transport.save();
    let elsewhere = Place::new();
    let try_with = |cid, next_port| {
        let state = TransportState {
            device: DeviceState::Vsock(VsockState { cid, next_port, reset_needed: false }),
            ..good.clone()
        };
        let irq = vmm_sys_util::eventfd::EventFd::new(0).unwrap();
        MmioTransport::restore(&state, elsewhere.device(quick()), crate::testing::memory(), irq).map(|_| ())
    };
    assert!(try_with(3, 1 << 30).is_ok());
    for (cid, port) in [(0, 1 << 30), (2, 1 << 30), (1 << 33, 1 << 30), (3, 0), (3, 1 << 31), (3, u32::MAX)] {
        assert!(try_with(cid, port).is_err(), "{cid} {port}");
    }
}

#[test]
fn state_survives_serialisation() {
    let place = Place::new();
    let mut guest = place.guest(quick());
    let (_client, _) = place.connect(&mut guest);
    let state = guest.machine.transport.save();
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<TransportState>(&text).unwrap(), state);
}
