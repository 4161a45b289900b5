//! A responder in a tenant's namespace, asked over its sockets. One test after the other: they count the process'
//! descriptors.

#![cfg(test)]

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType, rdata};
use mote_particle::dns::{Directory, Here, Limits, ServeError, Sockets, Upstream, Zone, serve};
use mote_particle::tap::{HEADER, MAC};
use mote_particle::{Endpoint, Network, Shape};
use support::{NEVER, SHAPE, SOON, both, descriptors, network, plan, root, subnet, write};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Root's turn, if this is root.
fn turn() -> Option<MutexGuard<'static, ()>> {
    root().then(|| ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Small, and patient enough for a machine that has other work.
const LIMITS: fn() -> Limits = || Limits {
    connections: 3,
    connections_each: 2,
    idle: Duration::from_millis(1500),
    upstream: Duration::from_millis(1000),
    ..Limits::default()
};

/// A network and a responder in it.
struct Tenant {
    runtime: Runtime,
    network: Network,
    directory: Directory,
    upstream: Upstream,
    end: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Tenant {
    fn new() -> Self {
        Self::with(LIMITS())
    }

    fn with(limits: Limits) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let network = network(&Shape { endpoints: 10, ..SHAPE });
        let directory = Directory::new(500);
        let upstream = Upstream::new(Here, 2);
        let (end, task) = start(&runtime, &network, &directory, &upstream, limits);
        Self { runtime, network, directory, upstream, end, task }
    }

    fn gateways(&self) -> [IpAddr; 2] {
        both(self.network.subnet().gateway())
    }

    /// A datagram socket in the namespace, to a gateway's address. Its own is the same.
    fn udp(&self, gateway: IpAddr) -> UdpSocket {
        let made = self.network.netns().run(|| {
            let socket = UdpSocket::bind((gateway, 0)).unwrap();
            socket.connect((gateway, 53)).unwrap();
            socket
        });
        let socket = made.unwrap();
        socket.set_read_timeout(Some(5 * SOON)).unwrap();
        socket
    }

    fn tcp(&self, gateway: IpAddr) -> TcpStream {
        let stream = self.network.netns().run(|| TcpStream::connect((gateway, 53)).unwrap()).unwrap();
        stream.set_read_timeout(Some(5 * SOON)).unwrap();
        stream
    }

    /// What is said to a question, by both protocols and all transports; always the same.
    fn ask(&self, name: &str, kind: RecordType) -> Message {
        let mut all = self.gateways().into_iter().flat_map(|gateway| {
            [ask_udp(&self.udp(gateway), name, kind), ask_tcp(&mut self.tcp(gateway), name, kind).unwrap()]
        });
        let first = all.next().unwrap();
        for other in all {
            assert_eq!(other.metadata, first.metadata);
            assert_eq!(addresses(&other), addresses(&first));
        }
        first
    }

    fn stop(self) -> (Runtime, Network) {
        self.end.send(()).unwrap();
        self.runtime.block_on(self.task).unwrap().unwrap();
        (self.runtime, self.network)
    }
}

fn start(
    runtime: &Runtime,
    network: &Network,
    directory: &Directory,
    upstream: &Upstream,
    limits: Limits,
) -> (oneshot::Sender<()>, JoinHandle<Result<(), ServeError>>) {
    let gateway = network.subnet().gateway();
    let sockets = network.netns().run(|| Sockets::open(gateway)).unwrap().unwrap();
    let zone = Zone::new("acme", plan(), *network.subnet(), directory.clone()).unwrap();
    let (end, ended) = oneshot::channel::<()>();
    let ended = async move { drop(ended.await) };
    (end, runtime.spawn(serve(sockets, zone, upstream.clone(), limits, ended)))
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

fn ask_udp(socket: &UdpSocket, name: &str, kind: RecordType) -> Message {
    socket.send(&query(name, kind)).unwrap();
    read_udp(socket)
}

fn read_udp(socket: &UdpSocket) -> Message {
    let mut bytes = [0; 4096];
    let length = socket.recv(&mut bytes).unwrap();
    let message = Message::from_vec(&bytes[..length]).unwrap();
    assert_eq!(message.metadata.id, 4711);
    message
}

fn ask_tcp(stream: &mut TcpStream, name: &str, kind: RecordType) -> std::io::Result<Message> {
    write_frame(stream, &query(name, kind))?;
    Ok(Message::from_vec(&read_frame(stream)?).unwrap())
}

fn write_frame(stream: &mut TcpStream, message: &[u8]) -> std::io::Result<()> {
    stream.write_all(&[&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat())
}

fn read_frame(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut bytes = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn addresses(message: &Message) -> Vec<IpAddr> {
    let mut all: Vec<_> = message
        .answers
        .iter()
        .map(|record| match &record.data {
            RData::A(rdata::A(v4)) => IpAddr::V4(*v4),
            RData::AAAA(rdata::AAAA(v6)) => IpAddr::V6(*v6),
            other => panic!("{other:?}"),
        })
        .collect();
    all.sort();
    all
}

#[test]
fn names_are_answered_by_both_protocols_and_transports() {
    let Some(_turn) = turn() else { return };
    let tenant = Tenant::new();
    let here = tenant.network.attach().unwrap();
    let far = subnet(1, 7).endpoint(9).unwrap();
    let listed = tenant.directory.insert("Hello", here.addresses()).unwrap();
    let _far = tenant.directory.insert("Hello", far).unwrap();
    for (place, kind) in [RecordType::A, RecordType::AAAA].into_iter().enumerate() {
        let mut expected = [both(here.addresses())[place], both(far)[place]];
        expected.sort();
        let message = tenant.ask("hello.ACME.mote.", kind);
        assert_eq!(
            (message.metadata.response_code, message.metadata.authoritative),
            (ResponseCode::NoError, true)
        );
        assert_eq!(addresses(&message), expected);
        assert_eq!(addresses(&tenant.ask("self.", kind)), [tenant.gateways()[place]]);
        drop(tenant.ask("nobody.acme.mote.", kind));
    }
    for name in ["nobody.acme.mote.", "hello.other.mote."] {
        assert_eq!(tenant.ask(name, RecordType::A).metadata.response_code, ResponseCode::NXDomain);
    }
    assert_eq!(tenant.ask("example.com.", RecordType::A).metadata.response_code, ResponseCode::Refused);
    drop(listed);
    assert_eq!(addresses(&tenant.ask("hello.acme.mote.", RecordType::A)), [IpAddr::V4(far.v4)]);
}

/// Sends a datagram as a microVM would.
fn send_query(endpoint: &Endpoint, from: IpAddr, to: IpAddr, query: &[u8]) {
    let builder = PacketBuilder::ethernet2(MAC, MAC);
    let builder = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), 64),
        _ => panic!("two families"),
    };
    let mut frame = vec![0; HEADER];
    builder.udp(9000, 53).write(&mut frame, query).unwrap();
    write(endpoint, &frame);
}

/// The next datagram at an endpoint, if one comes in time; it has to be from the gateway's port.
fn receive_answer(endpoint: &Endpoint, gateway: IpAddr, within: Duration) -> Option<Vec<u8>> {
    let mut file = std::fs::File::from(endpoint.as_fd().try_clone_to_owned().unwrap());
    let mut frame = vec![0; 70_000];
    let end = Instant::now() + within;
    while Instant::now() < end {
        let Ok(length) = file.read(&mut frame) else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        let packet = PacketHeaders::from_ethernet_slice(&frame[HEADER..length]).unwrap();
        let Some(TransportHeader::Udp(udp)) = packet.transport else { continue };
        let source: IpAddr = match packet.net.unwrap() {
            NetHeaders::Ipv4(header, _) => header.source.into(),
            NetHeaders::Ipv6(header, _) => header.source.into(),
            NetHeaders::Arp(_) => continue,
        };
        assert_eq!((source, udp.source_port, udp.destination_port), (gateway, 53, 9000));
        return Some(packet.payload.slice().to_vec());
    }
    None
}

#[test]
fn an_endpoint_finds_itself_and_hears_from_whom_it_asked() {
    let Some(_turn) = turn() else { return };
    let tenant = Tenant::new();
    let endpoint = tenant.network.attach().unwrap();
    for (own, gateway) in both(endpoint.addresses()).into_iter().zip(tenant.gateways()) {
        for (kind, expected) in [RecordType::A, RecordType::AAAA].into_iter().zip(both(endpoint.addresses()))
        {
            send_query(&endpoint, own, gateway, &query("self.mote.", kind));
            let answer = receive_answer(&endpoint, gateway, SOON).unwrap();
            assert_eq!(addresses(&Message::from_vec(&answer).unwrap()), [expected]);
        }
        // No answer to what is none, and none to an answer.
        let mut answer = query("self.", RecordType::A);
        answer[2] |= 0x80;
        send_query(&endpoint, own, gateway, &answer);
        send_query(&endpoint, own, gateway, b"");
        assert_eq!(receive_answer(&endpoint, gateway, NEVER), None);
    }
}

#[test]
fn what_does_not_fit_is_asked_for_by_tcp() {
    let Some(_turn) = turn() else { return };
    let tenant = Tenant::new();
    let all = |k: u16| subnet(2, 7).endpoint(k).unwrap();
    let _listed: Vec<_> = (10..210).map(|k| tenant.directory.insert("many", all(k)).unwrap()).collect();
    let gateway = tenant.gateways()[0];
    let short = ask_udp(&tenant.udp(gateway), "many.acme.mote.", RecordType::AAAA);
    assert!(short.metadata.truncation);
    // Several by one connection, one after the other.
    let mut stream = tenant.tcp(gateway);
    for _ in 0..5 {
        let full = ask_tcp(&mut stream, "many.acme.mote.", RecordType::AAAA).unwrap();
        assert_eq!((full.metadata.truncation, addresses(&full).len()), (false, 64));
    }
}

/// Whether the other side ends a connection, and how long it took.
fn ended(stream: &mut TcpStream) -> Option<Duration> {
    let start = Instant::now();
    // By an end or by a reset.
    let end = match stream.read(&mut [0; 10]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    };
    end.then(|| start.elapsed())
}

#[test]
fn connections_are_bounded() {
    let Some(_turn) = turn() else { return };
    let tenant = Tenant::new();
    let [v4, v6] = tenant.gateways();
    let ask = |stream: &mut TcpStream| ask_tcp(stream, "self.", RecordType::A);
    let mut open: Vec<_> = [v4, v4, v6].map(|gateway| tenant.tcp(gateway)).into();
    for stream in &mut open {
        ask(stream).unwrap();
    }
    // One address has two, all have three.
    for gateway in [v4, v6] {
        assert!(ended(&mut tenant.tcp(gateway)).unwrap() < LIMITS().idle);
    }
    // Whoever says nothing, or not all of it, makes room.
    open[0].write_all(&[0]).unwrap();
    open[1].write_all(&[0, 40, 1, 2, 3]).unwrap();
    for stream in &mut open {
        assert!(ended(stream).is_some());
    }
    // Too long, and no query.
    let mut long = tenant.tcp(v4);
    long.write_all(&[0xff, 0xff, 1, 2]).unwrap();
    assert!(ended(&mut long).unwrap() < LIMITS().idle);
    let mut short = tenant.tcp(v4);
    write_frame(&mut short, b"short").unwrap();
    assert!(ended(&mut short).unwrap() < LIMITS().idle);
    ask(&mut tenant.tcp(v4)).unwrap();
}

/// A server upstream, in the host's namespace, by UDP and TCP at one port of 127.0.0.1.
struct Server {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    end: Arc<AtomicUsize>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

/// What a server says.
type Reply = fn(Message) -> Vec<Message>;

/// How long a server waits before it looks whether it is to end.
const BEAT: Duration = Duration::from_millis(20);

impl Server {
    fn new(reply: Reply) -> Self {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = udp.local_addr().unwrap();
        let tcp = TcpListener::bind(address).unwrap();
        tcp.set_nonblocking(true).unwrap();
        udp.set_read_timeout(Some(BEAT)).unwrap();
        let [asked, end] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let by_udp = {
            let (asked, end) = (Arc::clone(&asked), Arc::clone(&end));
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while end.load(Ordering::SeqCst) == 0 {
                    let Ok((length, from)) = udp.recv_from(&mut bytes) else { continue };
                    asked.fetch_add(1, Ordering::SeqCst);
                    for message in reply(Message::from_vec(&bytes[..length]).unwrap()) {
                        udp.send_to(&message.to_vec().unwrap(), from).unwrap();
                    }
                }
            })
        };
        let by_tcp = {
            let end = Arc::clone(&end);
            std::thread::spawn(move || {
                while end.load(Ordering::SeqCst) == 0 {
                    let Ok((mut stream, _)) = tcp.accept() else {
                        std::thread::sleep(BEAT);
                        continue;
                    };
                    stream.set_nonblocking(false).unwrap();
                    let Ok(query) = read_frame(&mut stream) else { continue };
                    for mut message in reply(Message::from_vec(&query).unwrap()) {
                        message.metadata.truncation = false;
                        // Whoever heard a lie may have gone.
                        let _ = write_frame(&mut stream, &message.to_vec().unwrap());
                    }
                }
            })
        };
        Self { address, asked, end, threads: vec![by_udp, by_tcp] }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end.store(1, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
    }
}

fn found(query: Message) -> Message {
    let name = query.queries[0].name().clone();
    let mut message = query.into_response();
    message.add_answer(Record::from_rdata(name, 60, RData::A(rdata::A([192, 0, 2, 1].into()))));
    message
}

fn with(mut message: Message, change: impl FnOnce(&mut Message)) -> Message {
    change(&mut message);
    message
}

/// The right answer, behind three that are none.
fn behind_lies(query: Message) -> Vec<Message> {
    let lie = |change: fn(&mut Message)| with(found(query.clone()), change);
    vec![
        lie(|message| message.metadata.id ^= 1),
        lie(|message| message.metadata.message_type = MessageType::Query),
        lie(|message| _ = message.queries[0].set_query_type(RecordType::MX)),
        lie(|message| message.metadata.truncation = true),
    ]
}

#[test]
fn other_names_are_asked_for_upstream() {
    let Some(_turn) = turn() else { return };
    let tenant = Tenant::new();
    let silent = Server::new(|_| Vec::new());
    let broken = Server::new(|query| {
        vec![with(query.into_response(), |message| message.metadata.response_code = ResponseCode::ServFail)]
    });
    let good = Server::new(behind_lies);
    let nobody: SocketAddr = ([127, 0, 0, 1], 1).into();
    let expected = [IpAddr::from([192, 0, 2, 1])];
    let udp = tenant.udp(tenant.gateways()[0]);
    for first in [good.address, silent.address, broken.address, nobody] {
        tenant.upstream.set(&[first, good.address]);
        let message = ask_udp(&udp, "Example.com.", RecordType::A);
        assert_eq!(addresses(&message), expected, "{first}");
        // It goes back to the asker as it came.
        assert!(message.metadata.truncation && !message.metadata.authoritative);
    }
    assert!(silent.asked() > 0 && broken.asked() > 0);
    // The tenant's own names are nobody else's business.
    let before = good.asked();
    assert_eq!(ask_udp(&udp, "a.other.mote.", RecordType::A).metadata.response_code, ResponseCode::NXDomain);
    // Nor may it go out any more.
    tenant.upstream.set(&[]);
    let refused = ask_udp(&udp, "example.com.", RecordType::A);
    assert_eq!(
        (refused.metadata.response_code, refused.metadata.recursion_available),
        (ResponseCode::Refused, false)
    );
    assert_eq!(good.asked(), before);
    // Nobody answers: the last that was said, or that nothing was.
    for servers in [vec![silent.address], vec![nobody], vec![broken.address, silent.address]] {
        tenant.upstream.set(&servers);
        let failed = ask_udp(&udp, "example.com.", RecordType::A);
        assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
    }
}

#[test]
fn other_names_are_asked_for_by_tcp() {
    let Some(_turn) = turn() else { return };
    let tenant = Tenant::new();
    let silent = Server::new(|_| Vec::new());
    let good = Server::new(|query| vec![found(query)]);
    tenant.upstream.set(&[([127, 0, 0, 1], 1).into(), silent.address, good.address]);
    for gateway in tenant.gateways() {
        let message = ask_tcp(&mut tenant.tcp(gateway), "example.com.", RecordType::A).unwrap();
        assert_eq!(addresses(&message), [IpAddr::from([192, 0, 2, 1])]);
    }
    // By a connection there is one answer to a question: a lie ends it.
    let liar = Server::new(behind_lies);
    tenant.upstream.set(&[liar.address]);
    let failed = ask_tcp(&mut tenant.tcp(tenant.gateways()[0]), "example.com.", RecordType::A).unwrap();
    assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(silent.asked() + good.asked() + liar.asked(), 0, "by datagrams");
}

#[test]
fn questions_under_way_hold_up_nobody() {
    let Some(_turn) = turn() else { return };
    let tenant = Tenant::new();
    let silent = Server::new(|_| Vec::new());
    tenant.upstream.set(&[silent.address]);
    let sockets: Vec<_> = (0..5).map(|_| tenant.udp(tenant.gateways()[0])).collect();
    let start = Instant::now();
    for socket in &sockets {
        socket.send(&query("example.com.", RecordType::A)).unwrap();
    }
    let own = tenant.udp(tenant.gateways()[0]);
    assert_eq!(ask_udp(&own, "self.", RecordType::A).answers.len(), 1);
    assert!(start.elapsed() < LIMITS().upstream);
    // Two may be under way; the others are told at once.
    let times: Vec<_> = sockets
        .iter()
        .rev()
        .map(|socket| {
            assert_eq!(read_udp(socket).metadata.response_code, ResponseCode::ServFail);
            start.elapsed() >= LIMITS().upstream
        })
        .collect();
    assert_eq!(times, [false, false, false, true, true]);
    assert_eq!(silent.asked(), 2);
}

/// Sockets of a server that never hears anything, by UDP and TCP at one port of 127.0.0.1: connections are made by the
/// kernel, and nobody takes a descriptor for them.
fn deaf() -> (UdpSocket, TcpListener) {
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let tcp = TcpListener::bind(udp.local_addr().unwrap()).unwrap();
    (udp, tcp)
}

#[test]
fn nothing_is_left() {
    let Some(_turn) = turn() else { return };
    let server = deaf();
    let before = settled();
    // Asked to end, and dropped, with everything under way.
    for asked in [true, false] {
        let tenant = Tenant::with(Limits::default());
        tenant.upstream.set(&[server.0.local_addr().unwrap()]);
        let gateway = tenant.gateways()[0];
        let held = descriptors();
        let udp = tenant.udp(gateway);
        let mut streams = [(); 2].map(|()| tenant.tcp(gateway));
        ask_tcp(&mut streams[0], "self.", RecordType::A).unwrap();
        write_frame(&mut streams[1], &query("example.com.", RecordType::A)).unwrap();
        udp.send(&query("example.com.", RecordType::A)).unwrap();
        // Ours, theirs, and two to the server.
        wait_for(held + 3 + 2 + 2);
        let (directory, upstream) = (tenant.directory.clone(), tenant.upstream.clone());
        let (runtime, network) = if asked {
            tenant.stop()
        } else {
            tenant.task.abort();
            assert!(tenant.runtime.block_on(tenant.task).unwrap_err().is_cancelled());
            (tenant.runtime, tenant.network)
        };
        // All of the responder's are gone, and at once: four sockets, two connections, two to the server.
        assert_eq!(descriptors(), held + 3 - 4);
        for stream in &mut streams {
            assert!(ended(stream).is_some());
        }
        // The next one can begin at once, where its connections were.
        let (end, task) = start(&runtime, &network, &directory, &upstream, LIMITS());
        assert_eq!(ask_udp(&udp, "self.", RecordType::A).answers.len(), 1);
        end.send(()).unwrap();
        runtime.block_on(task).unwrap().unwrap();
        drop((udp, streams, network, runtime));
        wait_for(before);
    }
}

/// Descriptors there are without a tenant, when everything was used once: the first runtime keeps some for the whole
/// process, and so may the first random number.
fn settled() -> usize {
    let first = Tenant::new();
    first.ask("self.", RecordType::A);
    drop(first.stop());
    descriptors()
}

/// Other threads may still be at it.
fn wait_for(count: usize) {
    let end = Instant::now() + 5 * SOON;
    while descriptors() != count {
        assert!(Instant::now() < end, "{} descriptors, not {count}", descriptors());
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn who_cannot_listen_says_where() {
    let Some(_turn) = turn() else { return };
    let before = settled();
    let tenant = Tenant::new();
    let gateway = tenant.network.subnet().gateway();
    let failed = tenant.network.netns().run(|| Sockets::open(gateway)).unwrap().unwrap_err();
    assert_eq!(failed.to_string(), format!("Cannot listen for queries on UDP {}:53", gateway.v4));
    drop(tenant.stop());
    wait_for(before);
}
