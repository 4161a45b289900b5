use std::thread;

use proptest::prelude::*;

use super::*;
use crate::vsock::header::{SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};

/// Echoes everything in the guest until the stream is over.
fn echo(guest: &mut Guest, key: Key, chunk: usize) {
    let mut pending: Vec<u8> = Vec::new();
    let mut last = (Instant::now(), 0);
    loop {
        if pending.len() < chunk {
            pending.extend(guest.read(key, chunk));
        }
        let n = guest.write(key, &pending);
        pending.drain(..n);
        let sock = &guest.socks[&key];
        if sock.ended() && sock.inbox.is_empty() && pending.is_empty() {
            return;
        }
        assert!(!sock.reset, "reset with {} bytes to go", pending.len());
        guest.step(if n == 0 { 1 } else { 0 });
        if guest.packets_seen != last.1 {
            last = (Instant::now(), guest.packets_seen);
        }
        assert!(last.0.elapsed() < Duration::from_secs(10), "no progress");
    }
}

fn round_trip(total: usize, limits: VsockLimits, room: u32, chunk: usize) {
    let place = Place::new();
    let mut guest = place.guest(limits);
    guest.room = room;
    let (client, key) = place.connect(&mut guest);
    let mut writer = client.try_clone().unwrap();
    let sender = thread::spawn(move || {
        let mut at = 0;
        while at < total {
            let len = (total - at).min(50_000);
            writer.write_all(&pattern(at, len)).unwrap();
            at += len;
        }
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    let mut reader = client;
    let receiver = thread::spawn(move || {
        let mut at = 0;
        let mut bytes = vec![0; 1 << 16];
        loop {
            let n = reader.read(&mut bytes).unwrap();
            if n == 0 {
                return at;
            }
            assert!(bytes[..n] == pattern(at, n), "garbled in {at}..{}", at + n);
            at += n;
        }
    });
    echo(&mut guest, key, chunk);
    guest.close(key);
    guest.wait(|guest| guest.socks[&key].reset.then_some(()), "the close was not confirmed");
    let end = Instant::now() + Duration::from_secs(10);
    while !receiver.is_finished() {
        assert!(Instant::now() < end, "the client never saw the end");
        guest.step(1);
    }
    sender.join().unwrap();
    assert_eq!(receiver.join().unwrap(), total);
}

#[test]
fn a_hundred_megabytes_come_back_unharmed_through_small_buffers() {
    round_trip(100 << 20, VsockLimits { buffer: 16 * 1024, ..VsockLimits::default() }, 16 * 1024, 30_000);
}

#[test]
fn buffers_of_odd_sizes_do_not_stall() {
    for (buffer, room, chunk) in [(1, 7, 3), (2, 1, 1), (3, 4096, 4096), (777, 333, 1000)] {
        round_trip(20_000, VsockLimits { buffer, ..VsockLimits::default() }, room, chunk);
    }
}

#[test]
fn default_limits_carry_a_few_megabytes() {
    round_trip(8 << 20, VsockLimits::default(), 256 * 1024, 65536);
}

#[test]
fn a_guest_connects_to_whoever_listens_on_the_host() {
    let place = Place::new();
    let mut guest = place.guest(quick());
    let listener = place.listen(1024);
    let key = guest.connect(1024, 5000);
    guest.wait(|guest| guest.socks[&key].open.then_some(()), "not accepted");
    let (mut host, _) = listener.accept().unwrap();
    assert_eq!(guest.write(key, b"ping"), 4);
    guest.settle();
    assert_eq!(read_now(&mut host).0, b"ping");
    host.write_all(b"pong").unwrap();
    drop(host);
    guest.wait(|guest| guest.socks[&key].ended().then_some(()), "no end");
    assert_eq!(guest.read(key, 10), b"pong");
    guest.confirm(key);
    // Nobody there, or no longer: a reset, not silence.
    drop(listener);
    for (host, from) in [(1024, 5001), (1025, 5002), (u32::MAX, 5003), (0, 5004)] {
        let key = guest.connect(host, from);
        guest.wait(|guest| guest.socks[&key].reset.then_some(()), "not refused");
    }
}

#[test]
fn a_host_that_does_not_read_stops_the_guest_and_nothing_is_lost() {
    let place = Place::new();
    let mut guest = place.guest(VsockLimits { buffer: 32 * 1024, ..quick() });
    let (mut client, key) = place.connect(&mut guest);
    let mut sent = 0;
    let mut idle = 0;
    while idle < 50 {
        let n = guest.write(key, &pattern(sent, 5000));
        sent += n;
        idle = if n == 0 { idle + 1 } else { 0 };
        guest.step(0);
    }
    // The socket's own buffer (some 200 KiB), then ours, then nothing.
    assert!(sent > 32 * 1024 && sent < 1 << 20, "{sent} bytes in flight");
    assert_eq!(guest.socks[&key].credit(), 0);
    let more = pattern(sent, 100_000);
    let (mut got, mut extra) = (Vec::new(), 0);
    let end = Instant::now() + Duration::from_secs(10);
    while got.len() < sent + more.len() {
        got.extend(read_now(&mut client).0);
        extra += guest.write(key, &more[extra..]);
        guest.step(1);
        assert!(Instant::now() < end, "stuck at {}", got.len());
    }
    assert!(got == pattern(0, sent + more.len()));
}

#[test]
fn a_guest_that_does_not_read_stops_the_host_and_nothing_is_lost() {
    let place = Place::new();
    let mut guest = place.guest(quick());
    guest.room = 10_000;
    let (mut client, key) = place.connect(&mut guest);
    let mut sent = 0;
    let mut idle = 0;
    while idle < 50 {
        let n = write_now(&mut client, &pattern(sent, 5000)).unwrap();
        sent += n;
        idle = if n == 0 { idle + 1 } else { 0 };
        guest.step(0);
    }
    assert_eq!(guest.socks[&key].inbox.len(), 10_000, "exactly the guest's room was used");
    assert!(sent < 1 << 20);
    let before = guest.packets_seen;
    guest.settle();
    assert_eq!(guest.packets_seen, before, "it asks for credit once, not for ever");
    let mut got = Vec::new();
    let end = Instant::now() + Duration::from_secs(10);
    while got.len() < sent {
        got.extend(guest.read(key, 4096));
        guest.step(0);
        assert!(Instant::now() < end, "stuck at {}", got.len());
    }
    assert!(got == pattern(0, sent));
}

#[test]
fn each_direction_closes_alone() {
    let place = Place::new();
    let mut guest = place.guest(quick());
    let (mut client, key) = place.connect(&mut guest);
    client.shutdown(std::net::Shutdown::Write).unwrap();
    guest.wait(|guest| (guest.socks[&key].host_shut == SHUTDOWN_SEND).then_some(()), "no end of stream");
    guest.write(key, b"still here");
    guest.settle();
    assert_eq!(read_now(&mut client), (b"still here".to_vec(), false));
    guest.shutdown(key, SHUTDOWN_SEND);
    guest.settle();
    assert_eq!(read_now(&mut client), (Vec::new(), true));

    let (mut client, key) = place.connect(&mut guest);
    guest.shutdown(key, SHUTDOWN_SEND);
    guest.settle();
    assert_eq!(read_now(&mut client), (Vec::new(), true));
    client.write_all(b"more").unwrap();
    guest.settle();
    assert_eq!(guest.read(key, 10), b"more");
    guest.shutdown(key, SHUTDOWN_RECEIVE);
    guest.settle();
    assert!(guest.socks[&key].reset, "both directions closed by the guest: confirmed");
    assert!(client.write_all(b"x").is_err());
}

#[test]
fn a_guest_that_stops_reading_fails_the_hosts_writes() {
    let place = Place::new();
    let mut guest = place.guest(quick());
    let (mut client, key) = place.connect(&mut guest);
    guest.shutdown(key, SHUTDOWN_RECEIVE);
    guest.settle();
    assert!(client.write_all(b"x").is_err());
    guest.write(key, b"but I write");
    guest.settle();
    assert_eq!(read_now(&mut client), (b"but I write".to_vec(), false));
}

#[test]
fn what_a_guest_wrote_before_it_closed_arrives() {
    for op in [Op::Shutdown, Op::Reset] {
        let place = Place::new();
        let mut guest = place.guest(VsockLimits { drain_timeout: Duration::from_secs(10), ..quick() });
        let (mut client, key) = place.connect(&mut guest);
        let mut sent = 0;
        for _ in 0..200 {
            sent += guest.write(key, &pattern(sent, 5000));
            guest.step(0);
        }
        if op == Op::Shutdown {
            guest.close(key);
            guest.wait(|guest| guest.socks[&key].reset.then_some(()), "the close was not confirmed at once");
        } else {
            guest.say(key, Op::Reset);
            guest.settle();
        }
        let mut got = Vec::new();
        let ended = guest.wait(
            |_| {
                let (bytes, ended) = read_now(&mut client);
                got.extend(bytes);
                ended.then_some(true)
            },
            "no end",
        );
        assert!(ended && got == pattern(0, sent), "{} of {sent} bytes", got.len());
    }
}

#[test]
fn remains_nobody_reads_are_dropped_in_time() {
    let place = Place::new();
    let mut guest = place.guest(VsockLimits { connections: 1, ..quick() });
    let (client, key) = place.connect(&mut guest);
    let mut sent = 0;
    for _ in 0..200 {
        sent += guest.write(key, &pattern(sent, 5000));
        guest.step(0);
    }
    guest.close(key);
    guest.settle();
    // They count as a connection until then.
    let mut second = place.client(PORT);
    assert_eq!(guest.wait(|_| read_line(&mut second), "still connected"), None);
    thread::sleep(Duration::from_millis(850));
    guest.settle();
    let (mut third, _) = place.connect(&mut guest);
    third.write_all(b"x").unwrap();
    drop(client);
}

#[test]
fn a_host_that_leaves_is_confirmed_or_given_up() {
    let place = Place::new();
    let mut guest = place.guest(VsockLimits { connections: 1, ..quick() });
    let (client, key) = place.connect(&mut guest);
    drop(client);
    guest.wait(|guest| guest.socks[&key].reset.then_some(()), "no shutdown");
    assert_eq!(guest.socks[&key].host_shut, SHUTDOWN_BOTH);
    // A guest with unread bytes does not confirm; after a while the device resets.
    let (mut client, key) = place.connect(&mut guest);
    client.write_all(b"unread").unwrap();
    drop(client);
    guest.wait(|guest| (guest.socks[&key].host_shut == SHUTDOWN_BOTH).then_some(()), "no shutdown");
    assert!(!guest.socks[&key].reset);
    guest.wait(|guest| guest.socks[&key].reset.then_some(()), "never given up");
    assert_eq!(guest.read(key, 10), b"unread");
    // And the slot is free.
    let _ = place.connect(&mut guest);
}

#[test]
fn bytes_nobody_will_read_are_off_the_guests_credit() {
    let place = Place::new();
    let mut guest =
        place.guest(VsockLimits { buffer: 20_000, close_timeout: Duration::from_secs(60), ..quick() });
    guest.room = 1000;
    let (mut client, key) = place.connect(&mut guest);
    let mut idle = 0;
    while idle < 50 {
        idle = if guest.write(key, &[1; 5000]) == 0 { idle + 1 } else { 0 };
        guest.step(0);
    }
    assert_eq!(guest.socks[&key].credit(), 0);
    // Something unread, so that the guest does not confirm the end and would go on writing.
    client.write_all(b"unread").unwrap();
    guest.wait(|guest| (!guest.socks[&key].inbox.is_empty()).then_some(()), "nothing arrived");
    drop(client);
    guest.wait(|guest| (guest.socks[&key].host_shut == SHUTDOWN_BOTH).then_some(()), "no shutdown");
    assert_eq!(guest.socks[&key].credit(), 20_000);
    for _ in 0..20 {
        assert!(guest.write(key, &[2; 15_000]) > 0, "stuck");
        guest.settle();
    }
}

#[test]
fn many_connections_share_the_queue_fairly() {
    let place = Place::new();
    let mut guest = place.guest(quick());
    let mut streams: Vec<_> = (0..20).map(|_| place.connect(&mut guest)).collect();
    for (i, (client, _)) in streams.iter_mut().enumerate() {
        assert_eq!(write_now(client, &pattern(i, 100_000)).unwrap(), 100_000);
    }
    guest.step(0);
    let got = |guest: &Guest| streams.iter().map(|(_, key)| guest.socks[key].inbox.len()).collect::<Vec<_>>();
    let first = got(&guest);
    assert!(first.iter().max().unwrap() - first.iter().min().unwrap() <= 2 * 3776, "{first:?}");
    let end = Instant::now() + Duration::from_secs(10);
    while got(&guest).iter().any(|len| *len < 100_000) {
        guest.step(0);
        assert!(Instant::now() < end);
    }
    for (i, (_, key)) in streams.iter().enumerate() {
        assert!(guest.read(*key, 100_000) == pattern(i, 100_000));
    }
}

#[derive(Debug, Clone)]
enum Act {
    HostWrite(usize),
    HostRead,
    GuestWrite(usize),
    GuestRead(usize),
    Step,
    HostShut,
    HostClose,
    GuestShut,
    GuestClose,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (1usize..30_000).prop_map(Act::HostWrite),
        4 => Just(Act::HostRead),
        6 => (1usize..30_000).prop_map(Act::GuestWrite),
        4 => (1usize..30_000).prop_map(Act::GuestRead),
        8 => Just(Act::Step),
        1 => Just(Act::HostShut),
        1 => Just(Act::HostClose),
        1 => Just(Act::GuestShut),
        1 => Just(Act::GuestClose),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Whatever both sides write, read and close, in any order: what arrives is a prefix of what was sent, all of it
    /// where the sender closed in order and the receiver kept reading, and nothing stays behind.
    #[test]
    fn streams_are_whole_whatever_the_order(
        acts in prop::collection::vec(act(), 1..80),
        buffer in 1u32..40_000,
        room in 1u32..40_000,
    ) {
        let place = Place::new();
        let mut guest = place.guest(VsockLimits { buffer, drain_timeout: Duration::from_secs(10), ..VsockLimits::default() });
        guest.room = room;
        let (client, key) = place.connect(&mut guest);
        let mut client = Some(client);
        let (mut host_sent, mut host_got, mut guest_sent, mut guest_got) = (0, Vec::new(), 0, Vec::new());
        let (mut host_shut, mut guest_shut, mut guest_closed) = (false, false, false);
        for act in acts {
            match (act, &mut client) {
                (Act::HostWrite(len), Some(client)) if !host_shut => {
                    host_sent += write_now(client, &pattern(host_sent, len)).unwrap_or(0);
                }
                (Act::HostRead, Some(client)) => host_got.extend(read_now(client).0),
                (Act::GuestWrite(len), _) if !guest_shut && guest.socks[&key].host_shut & SHUTDOWN_RECEIVE == 0 => {
                    guest_sent += guest.write(key, &pattern(guest_sent, len));
                }
                (Act::GuestRead(len), _) if !guest_closed => guest_got.extend(guest.read(key, len)),
                (Act::HostShut, Some(client)) => {
                    let _ = client.shutdown(std::net::Shutdown::Write);
                    host_shut = true;
                }
                (Act::HostClose, client) => *client = None,
                (Act::GuestShut, _) if !guest_shut && !guest.socks[&key].reset => {
                    guest.shutdown(key, SHUTDOWN_SEND);
                    guest_shut = true;
                }
                (Act::GuestClose, _) if !guest_closed => {
                    guest.close(key);
                    (guest_shut, guest_closed) = (true, true);
                }
                (Act::Step, _) => guest.step(0),
                _ => {}
            }
        }
        // Both sides finish in order.
        if let Some(client) = &client {
            let _ = client.shutdown(std::net::Shutdown::Write);
        }
        if !guest_shut && !guest.socks[&key].reset {
            guest.shutdown(key, SHUTDOWN_SEND);
        }
        let end = Instant::now() + Duration::from_secs(10);
        let mut host_ended = client.is_none();
        loop {
            if let Some(client) = &mut client {
                let (bytes, ended) = read_now(client);
                host_got.extend(bytes);
                host_ended |= ended;
            }
            if !guest_closed {
                guest_got.extend(guest.read(key, usize::MAX));
                if guest.socks[&key].ended() && guest.socks[&key].inbox.is_empty() {
                    guest.close(key);
                    guest_closed = true;
                }
            }
            guest.step(1);
            if host_ended && guest_closed && guest.socks[&key].reset {
                break;
            }
            prop_assert!(Instant::now() < end, "host ended {host_ended}, guest closed {guest_closed}, {:?}", guest.socks[&key]);
        }
        prop_assert!(host_got == pattern(0, host_got.len()) && host_got.len() <= guest_sent);
        prop_assert!(guest_got == pattern(0, guest_got.len()) && guest_got.len() <= host_sent);
        if client.is_some() {
            prop_assert_eq!(host_got.len(), guest_sent, "the host kept reading");
        }
        guest.settle();
        prop_assert_eq!(guest.machine.transport.save().device, crate::DeviceState::Vsock(VsockState {
            cid: CID,
            next_port: (1 << 30) + 1,
            reset_needed: false,
        }));
    }
}

#[test]
fn header_fields_do_not_move() {
    let bytes: Vec<u8> = (1..=44).collect();
    let header = Header::decode(bytes.as_slice().try_into().unwrap());
    assert_eq!(header.encode().to_vec(), bytes);
    assert_eq!((header.src_cid, header.dst_cid), (0x0807_0605_0403_0201, 0x100f_0e0d_0c0b_0a09));
    assert_eq!((header.src_port, header.dst_port, header.len), (0x1413_1211, 0x1817_1615, 0x1c1b_1a19));
    assert_eq!((header.kind, header.op, header.flags), (0x1e1d, 0x201f, 0x2423_2221));
    assert_eq!((header.buf_alloc, header.fwd_cnt), (0x2827_2625, 0x2c2b_2a29));
}
