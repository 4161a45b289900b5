//! Sandboxes that are processes: who may use which address. One test after the other: they count descriptors.

#![cfg(test)]

#[path = "support/sandbox.rs"]
mod sandbox;
mod support;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mote_particle::bpf::{CgroupGuard, Table};
use mote_particle::process::{
    FolderError, ProcessAttachError, ProcessEndpoint, ProcessNetwork, ProcessNetworkError, ProcessShape,
};
use rustix::io::Errno;
use sandbox::{Folder, Sandbox, serve};
use support::{both, descriptors, root};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const SHAPE: ProcessShape = ProcessShape { endpoints: 10, quarantine: Duration::ZERO };

#[test]
fn sandbox_process() {
    serve();
}

/// A network, with the folder its sandboxes are in.
struct Scene {
    network: ProcessNetwork,
    folder: Folder,
    _turn: MutexGuard<'static, ()>,
}

impl Scene {
    fn new() -> Option<Self> {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        if !root() {
            return None;
        }
        let folder = Folder::top()?;
        let network = ProcessNetwork::create(support::subnet(0, 7), &SHAPE, folder.fd()).unwrap();
        Some(Self { network, folder, _turn: turn })
    }

    fn actor(&self, name: &str) -> Actor {
        let folder = self.folder.child(name);
        let endpoint = self.network.attach(folder.fd()).unwrap();
        Actor { sandbox: Sandbox::start(self.network.netns(), &folder), endpoint: Some(endpoint), folder }
    }

    fn actors(&self) -> [Actor; 2] {
        ["one", "other"].map(|name| self.actor(name))
    }
}

/// A sandbox with its address.
struct Actor {
    sandbox: Sandbox,
    endpoint: Option<ProcessEndpoint>,
    folder: Folder,
}

impl Actor {
    fn addresses(&self) -> [IpAddr; 2] {
        both(self.endpoint.as_ref().unwrap().addresses())
    }

    fn tell(&mut self, line: &str) -> Result<String, Errno> {
        self.sandbox.tell(line)
    }

    /// A new socket, by its number.
    fn socket(&mut self, to: IpAddr, kind: &str) -> String {
        self.tell(&format!("socket {} {kind} 0", if to.is_ipv4() { 4 } else { 6 })).unwrap()
    }

    /// A new socket that is bound; its number and address.
    fn bound(&mut self, to: IpAddr, port: u16, kind: &str) -> Result<(String, SocketAddr), Errno> {
        let socket = self.socket(to, kind);
        let bound = self.tell(&format!("bind {socket} {}", SocketAddr::new(to, port)))?;
        if kind == "tcp" {
            self.tell(&format!("listen {socket}")).unwrap();
        }
        Ok((socket, bound.parse().unwrap()))
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// An IPv4 address in an IPv6 one.
fn mapped(address: IpAddr) -> IpAddr {
    let IpAddr::V4(address) = address else { panic!("{address}") };
    address.to_ipv6_mapped().into()
}

/// A connection from one to the other: what it is bound to, or the error.
fn connect(from: &mut Actor, to: IpAddr, port: u16) -> Result<IpAddr, Errno> {
    let socket = from.socket(to, "tcp");
    let own = from.tell(&format!("connect {socket} {}", SocketAddr::new(to, port)))?;
    Ok(own.parse::<SocketAddr>().unwrap().ip())
}

fn peer(server: &mut Actor, socket: &str) -> Result<IpAddr, Errno> {
    Ok(server.tell(&format!("accept {socket}"))?.parse::<SocketAddr>().unwrap().ip())
}

#[test]
fn all_serve_on_the_same_port_each_at_its_own_address() {
    let Some(scene) = Scene::new() else { return };
    let [mut one, mut other] = scene.actors();
    for (any, family) in [("0.0.0.0", 0), ("::", 1)] {
        let (at_one, name) = one.bound(ip(any), 8080, "tcp").unwrap();
        assert_eq!(name, SocketAddr::new(one.addresses()[family], 8080));
        let (at_other, name) = other.bound(ip(any), 8080, "tcp").unwrap();
        assert_eq!(name, SocketAddr::new(other.addresses()[family], 8080));
        // To the other, and to oneself; without a name, by the own, and by the loopback address.
        let to = other.addresses()[family];
        assert_eq!(connect(&mut one, to, 8080), Ok(one.addresses()[family]));
        assert_eq!(peer(&mut other, &at_other), Ok(one.addresses()[family]));
        let loopback = ip(if family == 0 { "127.0.0.1" } else { "::1" });
        for to in [one.addresses()[family], loopback, ip(any)] {
            assert_eq!(connect(&mut one, to, 8080), Ok(one.addresses()[family]), "{to}");
            assert_eq!(peer(&mut one, &at_one), Ok(one.addresses()[family]), "{to}");
        }
        assert_eq!(peer(&mut other, &at_other), Err(Errno::TIMEDOUT));
    }
}

#[test]
fn an_ipv6_socket_for_ipv4_is_held_as_well() {
    let Some(scene) = Scene::new() else { return };
    let [mut one, mut other] = scene.actors();
    for (to, port) in [("0.0.0.0", 8081), ("127.0.0.1", 8082)] {
        let (_, name) = one.bound(mapped(ip(to)), port, "tcp").unwrap();
        assert_eq!(name, SocketAddr::new(one.addresses()[0], port));
    }
    let (server, _) = other.bound(mapped(other.addresses()[0]), 8080, "tcp").unwrap();
    let to = other.addresses()[0];
    assert_eq!(connect(&mut one, mapped(to), 8080), Ok(one.addresses()[0]));
    assert_eq!(peer(&mut other, &server), Ok(one.addresses()[0]));
    assert_eq!(connect(&mut other, mapped(ip("127.0.0.1")), 8080), Ok(other.addresses()[0]));
    assert_eq!(peer(&mut other, &server), Ok(other.addresses()[0]));
    // Datagrams, from a socket that is bound to nothing.
    let (server, _) = other.bound(mapped(ip("0.0.0.0")), 53, "udp").unwrap();
    let client = one.socket(Ipv6Addr::UNSPECIFIED.into(), "udp");
    one.tell(&format!("send {client} {} who", SocketAddr::new(mapped(to), 53))).unwrap();
    let heard = other.tell(&format!("hear {server}")).unwrap();
    assert!(heard.starts_with(&format!("{}:", one.addresses()[0])) && heard.ends_with(" who"), "{heard}");
}

#[test]
fn no_address_but_the_own_can_be_bound_to() {
    let Some(scene) = Scene::new() else { return };
    let [mut one, other] = scene.actors();
    let (theirs, gateway) = (other.addresses(), both(scene.network.subnet().gateway()));
    for kind in ["tcp", "udp"] {
        for foreign in [
            theirs[0],
            theirs[1],
            mapped(theirs[0]),
            gateway[0],
            gateway[1],
            mapped(gateway[0]),
            ip("192.0.2.1"),
            ip("::2"),
            ip("224.0.0.1"),
        ] {
            assert_eq!(one.bound(foreign, 8080, kind).unwrap_err(), Errno::PERM, "{kind} {foreign}");
        }
        for own in one.addresses() {
            assert_eq!(one.bound(own, 8080, kind).unwrap().1, SocketAddr::new(own, 8080));
        }
    }
}

#[test]
fn datagrams_come_from_the_own_address() {
    let Some(scene) = Scene::new() else { return };
    let [mut one, mut other] = scene.actors();
    for family in [0, 1] {
        let (own, to) = (one.addresses()[family], other.addresses()[family]);
        let any = ip(["0.0.0.0", "::"][family]);
        let (server, _) = other.bound(any, 53, "udp").unwrap();
        let hear = |other: &mut Actor| {
            let heard = other.tell(&format!("hear {server}"))?;
            let (from, text) = heard.split_once(' ').unwrap();
            Ok::<_, Errno>((from.parse::<SocketAddr>().unwrap(), text.to_owned()))
        };
        let to = SocketAddr::new(to, 53);
        // Bound to nothing, connected, bound.
        let client = one.socket(own, "udp");
        one.tell(&format!("send {client} {to} first")).unwrap();
        let (from, text) = hear(&mut other).unwrap();
        assert_eq!((from.ip(), text.as_str()), (own, "first"));
        let client = one.socket(own, "udp");
        one.tell(&format!("connect {client} {to}")).unwrap();
        one.tell(&format!("say {client} second")).unwrap();
        let (from, text) = hear(&mut other).unwrap();
        assert_eq!((from.ip(), text.as_str()), (own, "second"));
        // There is a way back.
        other.tell(&format!("send {server} {from} back")).unwrap();
        assert_eq!(one.tell(&format!("hear {client}")), Ok(format!("{to} back")));
        // With a source of one's choice, which is none.
        let victim = other.addresses()[family];
        one.tell(&format!("say-from {client} {victim} forged")).unwrap();
        let (from, text) = hear(&mut other).unwrap();
        assert_eq!((from.ip(), text.as_str()), (own, "forged"));
        let (client, _) = one.bound(any, 0, "udp").unwrap();
        one.tell(&format!("send {client} {to} third")).unwrap();
        let (from, text) = hear(&mut other).unwrap();
        assert_eq!((from.ip(), text.as_str()), (own, "third"));
        assert_eq!(hear(&mut other), Err(Errno::TIMEDOUT));
    }
}

#[test]
fn what_is_served_on_the_loopback_address_is_ones_own() {
    let Some(scene) = Scene::new() else { return };
    let [mut one, mut other] = scene.actors();
    for (family, loopback) in [(0, "127.0.0.1"), (1, "::1"), (0, "127.1.2.3")] {
        let port = if loopback == "127.1.2.3" { 9002 } else { 9001 };
        let (at_one, name) = one.bound(ip(loopback), port, "tcp").unwrap();
        assert_eq!(name.ip(), one.addresses()[family]);
        let (at_other, _) = other.bound(ip(loopback), port, "tcp").unwrap();
        for (actor, server) in [(&mut one, &at_one), (&mut other, &at_other)] {
            assert_eq!(connect(actor, ip(loopback), port), Ok(actor.addresses()[family]));
            assert_eq!(peer(actor, server), Ok(actor.addresses()[family]));
        }
        let to = other.addresses()[family];
        assert_eq!(connect(&mut one, to, port), Err(Errno::TIMEDOUT));
        let (at_one, _) = one.bound(ip(loopback), port, "udp").unwrap();
        let to = SocketAddr::new(one.addresses()[family], port);
        let client = other.socket(ip(loopback), "udp");
        other.tell(&format!("send {client} {to} theirs")).unwrap();
        let client = one.socket(ip(loopback), "udp");
        one.tell(&format!("send {client} {} own", SocketAddr::new(ip(loopback), port))).unwrap();
        let heard = one.tell(&format!("hear {at_one}")).unwrap();
        let (from, text) = heard.split_once(' ').unwrap();
        let from: SocketAddr = from.parse().unwrap();
        assert_eq!((from.ip(), text), (one.addresses()[family], "own"));
    }
}

#[test]
fn a_socket_that_was_never_bound_hears_nothing_for_others() {
    let Some(scene) = Scene::new() else { return };
    let [mut one, mut other] = scene.actors();
    // The kernel binds it to any address.
    let server = one.socket(ip("0.0.0.0"), "tcp");
    let name: SocketAddr = one.tell(&format!("listen {server}")).unwrap().parse().unwrap();
    assert_eq!(name.ip(), ip("0.0.0.0"));
    let (own, theirs) = (one.addresses()[0], other.addresses()[0]);
    assert_eq!(connect(&mut other, own, name.port()), Ok(theirs));
    assert_eq!(connect(&mut other, theirs, name.port()), Err(Errno::TIMEDOUT));
    // Sent before it is connected: then it has no source, and the kernel's choice is refused.
    let client = one.socket(ip("0.0.0.0"), "udp");
    one.tell(&format!("send {client} {} a", SocketAddr::new(theirs, 1))).unwrap();
    one.tell(&format!("connect {client} {}", SocketAddr::new(scene.network.subnet().gateway().v4.into(), 1)))
        .unwrap();
    let name: SocketAddr = one.tell(&format!("name {client}")).unwrap().parse().unwrap();
    assert_ne!(name.ip(), own);
    assert_eq!(one.tell(&format!("say {client} b")), Err(Errno::PERM));
}

#[test]
fn sockets_of_other_kinds_are_refused() {
    let Some(scene) = Scene::new() else { return };
    let mut one = scene.actor("one");
    for (family, kind, protocol) in [
        (4, "raw", libc::IPPROTO_UDP),
        (4, "raw", libc::IPPROTO_RAW),
        (6, "raw", libc::IPPROTO_ICMPV6),
        (4, "udp", libc::IPPROTO_UDPLITE),
    ] {
        let refused = one.tell(&format!("socket {family} {kind} {protocol}")).unwrap_err();
        let unknown = refused == Errno::PROTONOSUPPORT && kind == "udp";
        assert!(refused == Errno::PERM || unknown, "{kind} {protocol}: {refused}");
    }
}

#[test]
fn without_an_address_there_is_no_network() {
    let Some(scene) = Scene::new() else { return };
    let [mut one, mut other] = scene.actors();
    let (server, _) = other.bound(ip("0.0.0.0"), 8080, "tcp").unwrap();
    let (own, to) = (one.addresses()[0], SocketAddr::new(other.addresses()[0], 8080));
    let client = one.socket(own, "tcp");
    one.tell(&format!("connect {client} {to}")).unwrap();
    other.tell(&format!("accept {server}")).unwrap();
    other.tell("say 1 before").unwrap();
    assert_eq!(one.tell(&format!("hear {client}")).unwrap().trim(), "before");
    // Never attached, below, and given back.
    let folders = [scene.folder.child("stranger"), one.folder.child("below")];
    for folder in &folders {
        let mut stranger = Sandbox::start(scene.network.netns(), folder);
        for line in ["socket 4 udp 0", "socket 6 udp 0"] {
            stranger.tell(line).unwrap();
        }
        for line in ["bind 0 0.0.0.0:9", "bind 1 [::]:9", "connect 0 10.64.0.1:9", "connect 1 [::1]:9"] {
            assert_eq!(stranger.tell(line), Err(Errno::PERM), "{line}");
        }
        assert_eq!(stranger.tell("send 0 10.64.0.1:9 x"), Err(Errno::PERM));
    }
    drop(folders);
    drop(one.endpoint.take());
    let late = one.socket(own, "udp");
    assert_eq!(one.tell(&format!("bind {late} 0.0.0.0:9")), Err(Errno::PERM));
    let _ = one.tell(&format!("say {client} after"));
    assert_eq!(other.tell("hear 1"), Err(Errno::TIMEDOUT));
}

#[test]
fn a_thousand_times_attached_nothing_is_left() {
    let Some(scene) = Scene::new() else { return };
    let folder = scene.folder.child("again");
    let before = descriptors();
    for _ in 0..1000 {
        let endpoint = scene.network.attach(folder.fd()).unwrap();
        assert_eq!((descriptors(), scene.network.leased()), (before, 1));
        drop(endpoint);
    }
    assert_eq!((descriptors(), scene.network.leased()), (before, 0));
    // The kernel's table has room for all of them still.
    let folders: Vec<_> = (0..10).map(|number| scene.folder.child(&format!("all{number}"))).collect();
    let all: Vec<_> = folders.iter().map(|folder| scene.network.attach(folder.fd()).unwrap()).collect();
    let addresses: std::collections::HashSet<_> = all.iter().map(ProcessEndpoint::addresses).collect();
    assert_eq!(addresses.len(), 10);
    let refused = scene.network.attach(folder.fd()).unwrap_err();
    assert!(matches!(refused, ProcessAttachError::Exhausted(exhausted) if exhausted.total == 10));
    drop(all);
    assert!(scene.network.attach(folder.fd()).is_ok());
}

#[test]
fn a_network_leaves_neither_descriptors_nor_programs() {
    let Some(scene) = Scene::new() else { return };
    let folder = Folder::top().unwrap();
    let before = descriptors();
    for _ in 0..3 {
        let network = ProcessNetwork::create(support::subnet(0, 8), &SHAPE, folder.fd()).unwrap();
        assert!(network.netlink_calls() > 20);
        drop(network);
    }
    assert_eq!(descriptors(), before);
    // Nothing holds there any more.
    let child = folder.child("free");
    let mut free = Sandbox::start(scene.network.netns(), &child);
    free.tell("socket 4 udp 0").unwrap();
    assert_eq!(free.tell("bind 0 0.0.0.0:9").unwrap(), "0.0.0.0:9");
}

#[test]
fn folders_that_are_none_are_refused() {
    let Some(scene) = Scene::new() else { return };
    let [one, below] = [scene.folder.child("one"), scene.folder.child("two").child("below")];
    let refusal = |folder: std::os::fd::BorrowedFd<'_>| match scene.network.attach(folder) {
        Err(ProcessAttachError::Folder(error)) => error,
        other => panic!("{other:?}"),
    };
    let tmp = std::fs::File::open("/tmp").unwrap();
    assert!(matches!(refusal(tmp.as_fd()), FolderError::Kind));
    assert!(matches!(refusal(below.fd()), FolderError::Elsewhere));
    assert!(matches!(refusal(scene.folder.fd()), FolderError::Elsewhere));
    let _held = scene.network.attach(one.fd()).unwrap();
    assert!(matches!(refusal(one.fd()), FolderError::Taken));
    assert_eq!(scene.network.leased(), 1);
    let failed = ProcessNetwork::create(support::subnet(0, 8), &SHAPE, tmp.as_fd());
    assert!(matches!(failed, Err(ProcessNetworkError::Folder(FolderError::Kind))));
    drop(below);
    let _ = std::fs::remove_dir(scene.folder.path().join("two"));
}

/// Why one set of programs looks addresses up: the other way is a set of them for every sandbox.
#[test]
fn an_entry_is_cheaper_than_programs_of_ones_own() {
    let Some(scene) = Scene::new() else { return };
    let top = Folder::top().unwrap();
    let pairs: Vec<_> = (0..10).map(|k| [&scene.folder, &top].map(|top| top.child(&k.to_string()))).collect();
    let [mut entry, mut programs] = [Duration::MAX; 2];
    for [below, own] in &pairs {
        let start = Instant::now();
        let endpoint = scene.network.attach(below.fd()).unwrap();
        entry = entry.min(start.elapsed());
        drop(endpoint);
        let start = Instant::now();
        let table = Table::new(1).unwrap();
        let guard = CgroupGuard::place(own.fd(), &table).unwrap();
        programs = programs.min(start.elapsed());
        drop((guard, table));
    }
    println!("attaching: an entry takes {entry:?}, programs of one's own {programs:?}");
    assert!(entry * 5 < programs, "{entry:?}, {programs:?}");
}
