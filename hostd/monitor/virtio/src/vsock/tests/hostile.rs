use proptest::prelude::*;

use super::*;
use crate::testing::{BUFFERS, MEMORY, SEAM};
use crate::vsock::header::{SHUTDOWN_BOTH, TYPE_STREAM};
use crate::vsock::queue::{EVENT, RX, TX};

fn ops(packets: &[(Header, Vec<u8>)]) -> Vec<u16> {
    packets.iter().map(|(header, _)| header.op).collect()
}

const RST: u16 = 3;

#[test]
fn more_than_the_credit_ends_the_connection() {
    let place = Place::new();
    let mut guest = place.guest(VsockLimits { buffer: 4096, ..quick() });
    let (mut client, key) = place.connect(&mut guest);
    // Fill the socket first, so that bytes are kept by the device.
    let mut idle = 0;
    while idle < 50 {
        idle = if guest.write(key, &[7; 4096]) == 0 { idle + 1 } else { 0 };
        guest.step(0);
    }
    assert_eq!(guest.socks[&key].credit(), 0);
    let header = Header { len: 1, ..guest.header(key, Op::Data) };
    guest.send(header, b"x");
    assert_eq!(ops(&guest.sniff()), [RST]);
    guest.wait(|_| read_now(&mut client).1.then_some(()), "still connected");
}

#[test]
fn every_breach_of_the_protocol_ends_that_connection_only() {
    let place = Place::new();
    let mut guest = place.guest(quick());
    let listener = place.listen(9);
    let (mut other, other_key) = place.connect(&mut guest);
    type Breach = fn(&mut Guest, Key);
    let breaches: [(&str, Breach); 8] = [
        ("answer to no request", |guest, key| guest.say(key, Op::Response)),
        ("request of what is open", |guest, key| guest.say(key, Op::Request)),
        ("unknown operation", |guest, key| {
            let header = Header { op: 99, ..guest.header(key, Op::Data) };
            guest.send(header, &[]);
        }),
        ("operation 0", |guest, key| {
            let header = Header { op: 0, ..guest.header(key, Op::Data) };
            guest.send(header, &[]);
        }),
        ("length without bytes", |guest, key| {
            let header = Header { len: 10, ..guest.header(key, Op::Data) };
            guest.send(header, b"short");
        }),
        ("length of 4 GiB", |guest, key| {
            let header = Header { len: u32::MAX, ..guest.header(key, Op::Data) };
            guest.send(header, b"long");
        }),
        ("bytes after the end", |guest, key| {
            guest.shutdown(key, 2);
            let header = Header { len: 1, ..guest.header(key, Op::Data) };
            guest.send(header, b"x");
        }),
        ("reset", |guest, key| guest.say(key, Op::Reset)),
    ];
    for (what, breach) in breaches {
        let (mut client, key) = place.connect(&mut guest);
        breach(&mut guest, key);
        let answer = ops(&guest.sniff());
        assert_eq!(answer, if what == "reset" { vec![] } else { vec![RST] }, "{what}");
        assert!(read_now(&mut client).1, "{what}");
    }
    // Bytes before the answer.
    let client = place.client(PORT);
    let request = guest.sniff().remove(0).0;
    let key = Key { host: request.src_port, guest: PORT };
    guest.send(Header { len: 1, buf_alloc: 1000, ..guest.header(key, Op::Data) }, b"x");
    assert_eq!(ops(&guest.sniff()), [RST]);
    drop((client, listener));
    other.write_all(b"unharmed").unwrap();
    guest.settle();
    assert_eq!(guest.read(other_key, 100), b"unharmed");
}

#[test]
fn packets_to_nobody_are_answered_and_forged_ones_are_not() {
    let place = Place::new();
    let mut guest = place.guest(quick());
    let key = Key { host: 5, guest: 6 };
    let base = guest.header(key, Op::Data);
    let cases = [
        (base, 1),
        (Header { op: RST, ..base }, 0),
        (Header { src_cid: 4, ..base }, 0),
        (Header { src_cid: 2, ..base }, 0),
        (Header { dst_cid: 1, op: 1, ..base }, 1),
        (Header { dst_cid: u64::MAX, op: 1, ..base }, 1),
        (Header { kind: 2, op: 1, ..base }, 1),
        (Header { kind: 0, op: 1, ..base }, 1),
        (Header { op: 1, dst_port: u32::MAX, ..base }, 1),
    ];
    for (header, answers) in cases {
        guest.send(header, &[]);
        let seen = guest.sniff();
        assert_eq!(seen.len(), answers, "{header:?}");
        if let [(reset, _)] = seen.as_slice() {
            assert_eq!((reset.src_cid, reset.dst_cid), (header.dst_cid, header.src_cid));
            assert_eq!((reset.src_port, reset.dst_port), (header.dst_port, header.src_port));
            assert_eq!((reset.kind, reset.op, reset.len), (header.kind, RST, 0));
        }
    }
}

#[test]
fn lies_about_credit_hurt_only_the_liar() {
    let place = Place::new();
    let mut guest = place.guest(quick());
    let (mut client, key) = place.connect(&mut guest);
    client.write_all(&pattern(0, 10_000)).unwrap();
    guest.settle();
    // It has taken more than it ever got: no credit, until it says something sensible.
    let mut header = guest.header(key, Op::CreditUpdate);
    header.fwd_cnt = 1 << 20;
    guest.send(header, &[]);
    client.write_all(&pattern(10_000, 10_000)).unwrap();
    guest.settle();
    guest.read(key, 1);
    guest.say(key, Op::CreditUpdate);
    guest.settle();
    let mut got = pattern(0, 1);
    got.extend(guest.read(key, 100_000));
    assert!(got == pattern(0, 20_000));
}

#[test]
fn credit_is_asked_for_each_time_it_runs_out() {
    let place = Place::new();
    let mut guest = place.guest(quick());
    guest.room = 100;
    let (mut client, key) = place.connect(&mut guest);
    client.write_all(&pattern(0, 500)).unwrap();
    let asks = [Op::Data.to_wire(), Op::CreditRequest.to_wire()];
    for round in 1..=4u32 {
        assert_eq!(ops(&guest.sniff()), asks, "round {round}");
        guest.settle();
        // This guest says nothing of its own accord.
        let header = Header { fwd_cnt: round * 100, ..guest.header(key, Op::CreditUpdate) };
        guest.send(header, &[]);
    }
    // Out of credit and out of bytes at once: it asks before it knows.
    assert_eq!(ops(&guest.sniff()), asks, "the last hundred bytes");
    let header = Header { fwd_cnt: 500, ..guest.header(key, Op::CreditUpdate) };
    guest.send(header, &[]);
    assert!(guest.sniff().is_empty());
}

#[test]
fn resets_owed_are_bounded_and_the_rest_waits_in_the_queue() {
    let place = Place::new();
    let machine = Machine::new(place.device(VsockLimits { replies: 10, ..quick() }));
    // No buffers for packets at all.
    let mut guest = Guest::with_buffers(machine, 0, 0);
    for port in 0..30 {
        guest.connect(1, port);
    }
    guest.settle();
    assert_eq!(guest.unsent(), 20);
    // Buffers appear, and everything is answered.
    guest.add_buffers(64, 100);
    guest.wait(|guest| guest.socks.values().all(|sock| sock.reset).then_some(()), "answers are missing");
    assert_eq!(guest.unsent(), 0);
}

#[test]
fn connections_are_bounded() {
    let place = Place::new();
    let mut guest = place.guest(VsockLimits { connections: 3, ..quick() });
    let _listener = place.listen(1);
    let _clients: Vec<_> = (0..2).map(|_| place.connect(&mut guest)).collect();
    let third = guest.connect(1, 1);
    guest.wait(|guest| guest.socks[&third].open.then_some(()), "not accepted");
    let fourth = guest.connect(1, 2);
    guest.wait(|guest| guest.socks[&fourth].reset.then_some(()), "not refused");
    let mut client = place.client(PORT);
    assert_eq!(guest.wait(|_| read_line(&mut client), "still connected"), None);
    guest.close(third);
    guest.settle();
    let _ = place.connect(&mut guest);
}

#[test]
fn buffers_too_small_for_data_are_given_back_and_others_used() {
    let place = Place::new();
    let machine = Machine::new(place.device(quick()));
    let mut guest = Guest::with_buffers(machine, 0, 0);
    guest.listening.push(PORT);
    // For the request; after it only headers fit, or not even those.
    guest.add_buffers(1, 44);
    guest.lenient = true;
    let (mut client, key) = place.connect(&mut guest);
    client.write_all(b"finally").unwrap();
    guest.settle();
    for len in [10, 43, 44] {
        guest.add_buffers(3, len);
        guest.settle();
        assert_eq!(guest.socks[&key].inbox.len(), 0);
    }
    guest.add_buffers(2, 45);
    guest.wait(|guest| (guest.socks[&key].inbox.len() == 7).then_some(()), "nothing arrived");
    assert_eq!(guest.read(key, 7), b"finally");
}

/// Runs in a process of its own, where nobody else opens descriptors.
#[test]
#[ignore = "run by descriptors_do_not_leak"]
fn descriptors_do_not_leak_child() {
    let place = Place::new();
    let listener = place.listen(1);
    let mut guest = place.guest(VsockLimits { handshakes: 4, connections: 8, ..quick() });
    guest.settle();
    let before = crate::testing::open_fds();
    for round in 0..30u32 {
        let (client, key) = place.connect(&mut guest);
        let silent = UnixStream::connect(place.path()).unwrap();
        let mut garbage = UnixStream::connect(place.path()).unwrap();
        garbage.write_all(b"garbage\n").unwrap();
        let out = guest.connect(1, 100 + round);
        let refused = guest.connect(2, 100 + round);
        guest.wait(|guest| guest.socks[&refused].reset.then_some(()), "not refused");
        let accepted = listener.accept().unwrap();
        match round % 4 {
            0 => guest.close(key),
            1 => drop(client),
            2 => guest.say(key, Op::Reset),
            _ => guest.send(Header { op: 77, ..guest.header(key, Op::Data) }, &[]),
        }
        guest.write(out, &vec![1; 65536]);
        guest.settle();
        guest.shutdown(out, SHUTDOWN_BOTH);
        guest.settle();
        drop((silent, accepted));
        guest.settle();
    }
    std::thread::sleep(Duration::from_millis(850));
    guest.settle();
    assert_eq!(crate::testing::open_fds(), before);
    let image = guest.machine.snapshot();
    drop(guest);
    let closed = crate::testing::open_fds();
    for _ in 0..5 {
        drop(Machine::restore(&image, place.device(quick())));
    }
    assert_eq!(crate::testing::open_fds(), closed);
}

#[test]
fn descriptors_do_not_leak() {
    crate::testing::passes_alone("vsock::tests::hostile::descriptors_do_not_leak_child");
}

fn field() -> impl Strategy<Value = u32> {
    prop_oneof![0u32..4, Just(PORT), Just(1 << 30), Just((1 << 30) + 1), 4000u32..5000, any::<u32>()]
}

fn header() -> impl Strategy<Value = Header> {
    let cid = || prop_oneof![8 => Just(CID), 8 => Just(HOST_CID), 1 => any::<u64>()];
    let kind = prop_oneof![8 => Just(TYPE_STREAM), 1 => any::<u16>()];
    let op = prop_oneof![8 => 0u16..9, 1 => any::<u16>()];
    (cid(), cid(), field(), field(), field(), kind, op, field(), field(), field()).prop_map(
        |(src_cid, dst_cid, src_port, dst_port, len, kind, op, flags, buf_alloc, fwd_cnt)| Header {
            src_cid,
            dst_cid,
            src_port,
            dst_port,
            len,
            kind,
            op,
            flags,
            buf_alloc,
            fwd_cnt,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any packets, on connections that exist and on others: no panic, bounded answers, and a well-behaved connection
    /// beside them works.
    #[test]
    fn hostile_packets_do_no_harm(
        packets in prop::collection::vec((header(), prop::collection::vec(any::<u8>(), 0..300)), 1..60),
    ) {
        let place = Place::new();
        let listener = place.listen(1);
        let mut guest = place.guest(VsockLimits { connections: 8, ..VsockLimits::default() });
        let (mut victim, _) = place.connect(&mut guest);
        victim.write_all(&pattern(0, 5000)).unwrap();
        guest.raw = Some(Vec::new());
        let count = packets.len();
        for (header, data) in packets {
            let header = Header { src_cid: if header.src_cid == HOST_CID { CID } else { header.src_cid }, ..header };
            guest.send(header, &data);
            guest.step(0);
        }
        guest.settle();
        let answers = guest.raw.take().unwrap();
        // One per packet at most, and what belongs to the victim's bytes.
        prop_assert!(answers.len() <= count + 10, "{} answers to {count}", answers.len());
        guest.socks.clear();
        drop((victim, listener));
        guest.machine.probe(u64::MAX);
        let Guest { machine, .. } = guest;
        let mut guest = Guest::new(machine);
        guest.listening.push(PORT);
        let (mut client, key) = place.connect(&mut guest);
        client.write_all(b"fine").unwrap();
        guest.settle();
        prop_assert_eq!(guest.read(key, 10), b"fine");
    }

    /// Any descriptors in any of the three queues.
    #[test]
    fn hostile_chains_do_no_harm(
        descriptors in prop::collection::vec(
            (
                0usize..3,
                0u16..10,
                prop_oneof![Just(BUFFERS), Just(SEAM - 20), Just(MEMORY - 50), Just(0x10000u64), any::<u64>()],
                prop_oneof![0u32..100, Just(44), Just(4096), any::<u32>()],
                0u16..8,
                0u16..10,
            ),
            1..30,
        ),
        heads in prop::collection::vec((0usize..3, prop_oneof![0u16..10, any::<u16>()]), 1..30),
        header in header(),
    ) {
        let place = Place::new();
        let mut machine = Machine::new(place.device(VsockLimits::default()));
        let _clients: Vec<_> = (0..3).map(|_| place.client(PORT)).collect();
        machine.put(BUFFERS, &Header { src_cid: CID, ..header }.encode());
        for (queue, index, addr, len, flags, next) in descriptors {
            machine.describe(queue, index % machine.rings[queue].size, addr, len, flags, next);
        }
        for (queue, head) in heads {
            machine.publish(queue, head);
        }
        for queue in [RX, TX, EVENT] {
            machine.notify(queue);
        }
        machine.pump(0);
        machine.probe(u64::MAX);
        let mut guest = Guest::new(machine);
        guest.listening.push(PORT);
        let _ = place.connect(&mut guest);
    }
}
