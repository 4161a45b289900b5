use std::os::fd::OwnedFd;

use super::*;
use crate::vsock::handshake::parse;

#[test]
fn a_client_reaches_a_listening_port() {
    let place = Place::new();
    let mut guest = place.guest(quick());
    let (mut client, key) = place.connect(&mut guest);
    client.write_all(b"hello").unwrap();
    guest.wait(|guest| (guest.socks[&key].inbox.len() == 5).then_some(()), "nothing arrived");
    assert_eq!(guest.read(key, 100), b"hello");
    assert_eq!(guest.write(key, b"you too"), 7);
    guest.settle();
    assert_eq!(read_now(&mut client), (b"you too".to_vec(), false));
}

#[test]
fn bytes_behind_the_line_belong_to_the_guest() {
    let place = Place::new();
    let mut guest = place.guest(quick());
    let mut client = UnixStream::connect(place.path()).unwrap();
    client.write_all(b"CONNECT 1024\nand more").unwrap();
    let line = guest.wait(|_| read_line(&mut client), "no answer");
    assert!(line.unwrap().starts_with("OK "));
    guest.settle();
    let key = *guest.socks.keys().next().unwrap();
    assert_eq!(guest.read(key, 100), b"and more");
}

#[test]
fn a_line_may_come_byte_by_byte() {
    let place = Place::new();
    let mut guest = place.guest(VsockLimits::default());
    let mut client = UnixStream::connect(place.path()).unwrap();
    for byte in b"CONNECT 1024\n" {
        assert!(guest.socks.is_empty());
        client.write_all(&[*byte]).unwrap();
        guest.step(0);
        guest.step(0);
    }
    assert!(guest.wait(|_| read_line(&mut client), "no answer").unwrap().starts_with("OK "));
}

#[test]
fn what_is_no_line_is_hung_up_on() {
    let place = Place::new();
    let mut guest = place.guest(VsockLimits::default());
    let lines: [&[u8]; 7] = [
        b"CONNECT\n",
        b"CONNECT +5\n",
        b"CONNECT 4294967295\n",
        b"CONNECT 99999999999\n",
        b"GET / HTTP/1.1\n",
        b"\n",
        &[b'C'; 64],
    ];
    for line in lines {
        let mut client = UnixStream::connect(place.path()).unwrap();
        client.write_all(line).unwrap();
        assert_eq!(guest.wait(|_| read_line(&mut client), "still connected"), None, "{line:?}");
    }
    assert_eq!(guest.packets_seen, 0);
}

#[test]
fn a_silent_client_is_hung_up_on_in_time() {
    let place = Place::new();
    let mut guest = place.guest(quick());
    let start = Instant::now();
    let mut silent = UnixStream::connect(place.path()).unwrap();
    let mut slow = UnixStream::connect(place.path()).unwrap();
    slow.write_all(b"CONNECT 10").unwrap();
    assert_eq!(guest.wait(|_| read_line(&mut silent), "still connected"), None);
    assert_eq!(guest.wait(|_| read_line(&mut slow), "still connected"), None);
    assert!(start.elapsed() >= Duration::from_millis(390));
}

#[test]
fn a_port_nobody_listens_on_is_refused() {
    let place = Place::new();
    let mut guest = place.guest(VsockLimits::default());
    let mut client = place.client(77);
    assert_eq!(guest.wait(|_| read_line(&mut client), "still connected"), None);
}

#[test]
fn a_guest_that_does_not_answer_is_given_up() {
    let place = Place::new();
    let mut guest = place.guest(VsockLimits { connect_timeout: Duration::from_millis(200), ..quick() });
    let mut client = place.client(PORT);
    guest.raw = Some(Vec::new());
    assert_eq!(guest.wait(|_| read_line(&mut client), "still connected"), None);
    guest.settle();
    let ops: Vec<u16> = guest.raw.unwrap().iter().map(|(header, _)| header.op).collect();
    assert_eq!(ops, [Op::Request.to_wire(), Op::Reset.to_wire()]);
}

#[test]
fn an_open_connection_has_no_time_limit() {
    let place = Place::new();
    let mut guest = place.guest(VsockLimits { connect_timeout: Duration::from_millis(500), ..quick() });
    let (mut client, key) = place.connect(&mut guest);
    std::thread::sleep(Duration::from_millis(600));
    guest.settle();
    client.write_all(b"later").unwrap();
    guest.settle();
    assert_eq!(guest.read(key, 10), b"later");
}

#[test]
fn a_client_that_leaves_early_is_forgotten() {
    let place = Place::new();
    let mut guest = place.guest(VsockLimits::default());
    guest.raw = Some(Vec::new());
    let client = place.client(PORT);
    guest.settle();
    drop(client);
    guest.settle();
    let ops: Vec<u16> = guest.raw.take().unwrap().iter().map(|(header, _)| header.op).collect();
    assert_eq!(ops, [Op::Request.to_wire(), Op::Reset.to_wire()]);
    // A half-closed one is not gone.
    let mut client = place.client(PORT);
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(guest.wait(|_| read_line(&mut client), "no answer").unwrap().starts_with("OK "));
}

#[test]
fn handshakes_are_bounded_and_the_rest_waits() {
    let place = Place::new();
    let mut guest = place.guest(VsockLimits { handshakes: 2, ..quick() });
    let silent: Vec<_> = (0..2).map(|_| UnixStream::connect(place.path()).unwrap()).collect();
    guest.settle();
    let mut client = place.client(PORT);
    guest.settle();
    // Behind the silent ones until their time is up, then served.
    assert!(guest.wait(|_| read_line(&mut client), "never served").unwrap().starts_with("OK "));
    drop(silent);
}

#[test]
fn clients_wait_for_the_driver() {
    let place = Place::new();
    let mut machine = Machine::unprobed(place.device(VsockLimits::default()));
    let mut client = place.client(PORT);
    machine.pump(5);
    assert_eq!(read_line(&mut client), None);
    machine.probe(u64::MAX);
    let mut guest = Guest::new(machine);
    guest.listening.push(PORT);
    assert!(guest.wait(|_| read_line(&mut client), "no answer").unwrap().starts_with("OK "));
}

#[test]
fn an_inherited_listener_works_and_is_left_alone() {
    let place = Place::new();
    let socket = place.path().with_extension("inherited");
    let listener: OwnedFd = UnixListener::bind(&socket).unwrap().into();
    let config = VsockConfig { cid: CID, listener: VsockListener::Fd(listener), path: place.path() };
    let mut guest = Guest::new(Machine::new(Box::new(Vsock::new(config).unwrap())));
    guest.listening.push(PORT);
    let mut client = UnixStream::connect(&socket).unwrap();
    client.write_all(b"CONNECT 1024\n").unwrap();
    assert!(guest.wait(|_| read_line(&mut client), "no answer").unwrap().starts_with("OK "));
    drop(guest);
    assert!(socket.exists());
    assert!(!place.path().exists());
}

#[test]
fn its_own_socket_file_is_removed_and_no_other() {
    let place = Place::new();
    let device = place.device(quick());
    assert!(place.path().exists());
    let config = VsockConfig { cid: CID, listener: VsockListener::Bind, path: place.path() };
    assert!(matches!(Vsock::new(config), Err(VsockError::Listen { .. })));
    assert!(place.path().exists());
    drop(device);
    assert!(!place.path().exists());
}

#[test]
fn impossible_configurations_are_refused() {
    for cid in [0, 1, 2, u64::from(u32::MAX), 1 << 40] {
        let config = VsockConfig { cid, listener: VsockListener::Bind, path: "/nowhere/v".into() };
        assert!(matches!(Vsock::new(config), Err(VsockError::Cid(found)) if found == cid));
    }
    let path = PathBuf::from(format!("/tmp/{}", "x".repeat(100)));
    let config = VsockConfig { cid: 3, listener: VsockListener::Bind, path };
    assert!(matches!(Vsock::new(config), Err(VsockError::PathTooLong { max: 96, .. })));
}

#[test]
fn lines_are_parsed_strictly() {
    assert_eq!(parse(b"CONNECT 1024"), Some(1024));
    assert_eq!(parse(b"CONNECT 1024\r"), Some(1024));
    for line in
        [&b"CONNECT "[..], b"connect 1", b"CONNECT -1", b"CONNECT 1 2", b"CONNECT 1\r\r", b"CONNECT \xff"]
    {
        assert_eq!(parse(line), None, "{line:?}");
    }
}

#[test]
fn a_reset_while_a_client_hesitates_leaves_a_quiet_device() {
    let place = Place::new();
    let mut guest = place.guest(VsockLimits { handshake_timeout: Duration::from_millis(50), ..quick() });
    let _client = UnixStream::connect(place.path()).unwrap();
    guest.machine.pump(100);
    guest.machine.write(virtio_bindings::virtio_mmio::VIRTIO_MMIO_STATUS, 0);
    std::thread::sleep(Duration::from_millis(100));
    guest.machine.pump(0);
    assert_eq!(guest.machine.step(50), 0, "events of a device nobody drives");
}
