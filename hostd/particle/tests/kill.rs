//! What is left of a process that is killed: this test program once more holds the network.

#![cfg(test)]

#[path = "support/sandbox.rs"]
mod sandbox;
mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mote_particle::Shape;
use mote_particle::netlink::{Netlink, index_of};
use mote_particle::netns::Netns;
use mote_particle::process::{ProcessNetwork, ProcessShape};
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{LinkUnspec, LinkVeth};
use rustix::io::Errno;
use sandbox::{Folder, Sandbox, serve};
use support::{SHAPE, descriptors, devices, network, root};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const CHILD: &str = "MOTE_TEST_HOLDER";

/// What the holder is to hold: this, or the folder of a network for processes.
const TAPS: &str = "taps";

const TIMES: usize = 100;

/// Bound on what the kernel does behind everyone's back.
const SOON: Duration = Duration::from_secs(20);

#[test]
fn sandbox_process() {
    serve();
}

#[test]
fn holder() {
    let Ok(what) = std::env::var(CHILD) else { return };
    // SAFETY: the standard input is the socket the parent made, and nobody here uses it otherwise.
    let mut parent = unsafe { UnixStream::from_raw_fd(0) };
    if what == TAPS {
        let network = network(&Shape { endpoints: 256, ..SHAPE });
        let all: Vec<_> = (0..256).map(|_| network.attach().unwrap()).collect();
        until_killed(&mut parent, network.netns());
        drop(all);
    } else {
        let folder = File::open(&what).unwrap();
        let shape = ProcessShape { endpoints: 10, quarantine: Duration::ZERO };
        let network = ProcessNetwork::create(support::subnet(0, 7), &shape, folder.as_fd()).unwrap();
        let below = File::open(std::path::Path::new(&what).join("below")).unwrap();
        let _endpoint = network.attach(below.as_fd()).unwrap();
        until_killed(&mut parent, network.netns());
    }
}

/// Says by which descriptor the namespace is held.
fn until_killed(parent: &mut UnixStream, netns: &Netns) {
    parent.write_all(&netns.as_fd().as_raw_fd().to_ne_bytes()).unwrap();
    // Nobody writes. Should the test be gone, so is this.
    let _ = parent.read(&mut [0]);
    std::process::exit(1);
}

/// A process that holds something until it is killed.
struct Holder {
    child: Child,
    /// The way to its namespace.
    netns: String,
    _alive: UnixStream,
}

impl Holder {
    fn kill(&mut self) {
        assert_eq!(self.child.try_wait().unwrap(), None);
        self.child.kill().unwrap();
        assert_eq!(self.child.wait().unwrap().signal(), Some(libc::SIGKILL));
    }
}

fn hold(what: &str) -> Holder {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "holder", "--nocapture"]).env(CHILD, what);
    let mut child = command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).spawn().unwrap();
    drop(command);
    ours.set_read_timeout(Some(SOON)).unwrap();
    let mut number = [0; 4];
    if let Err(error) = ours.read_exact(&mut number) {
        let _ = child.kill();
        panic!("{error}: {:?}", child.wait());
    }
    let netns = format!("/proc/{}/fd/{}", child.id(), i32::from_ne_bytes(number));
    Holder { child, netns, _alive: ours }
}

/// Network namespaces some process is in.
fn namespaces() -> usize {
    let processes = std::fs::read_dir("/proc").unwrap();
    let links = processes.filter_map(|entry| std::fs::read_link(entry.ok()?.path().join("ns/net")).ok());
    links.collect::<std::collections::HashSet<_>>().len()
}

#[test]
fn nothing_is_left_of_a_process_that_is_killed() {
    if !root() {
        return;
    }
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let witness = Netns::create().unwrap();
    // Once, as the async runtime keeps what it opened first.
    witness.run(|| drop(Netlink::open().unwrap())).unwrap();
    let counts = || (descriptors(), devices(), witness.run(devices).unwrap(), namespaces());
    let before = counts();
    for _ in 0..TIMES {
        let mut holder = hold(TAPS);
        watch(&holder.netns, &witness);
        assert!(witness.run(|| index_of("far")).unwrap().is_ok());
        holder.kill();
        drop(holder);
        // The pair of devices goes with the namespace, which holds all there is.
        let end = Instant::now() + SOON;
        while witness.run(|| index_of("far")).unwrap().is_ok() {
            assert!(Instant::now() < end, "The namespace is not gone");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(counts(), before);
    }
}

/// Puts a device into the witness that goes with another process' namespace.
fn watch(netns: &str, witness: &Netns) {
    let file = File::open(netns).unwrap();
    let far = LinkUnspec::new_with_name("far").setns_by_fd(file.as_raw_fd()).build();
    // Both ends are gone as soon as one is.
    let pair = LinkVeth::new("far", "near").set_info_data(InfoData::Veth(InfoVeth::Peer(far))).build();
    witness.run(|| Netlink::open().unwrap().add_link("make a witness", pair).unwrap()).unwrap();
}

#[test]
fn sandboxes_stay_held_to_their_address_when_their_owner_is_killed() {
    if !root() {
        return;
    }
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(folder) = Folder::top() else { return };
    let below = folder.child("below");
    hold(&folder.path().display().to_string()).kill();
    let own = support::subnet(0, 7).endpoint(2).unwrap().v4;
    let mut sandbox = Sandbox::start(&Netns::create().unwrap(), &below);
    sandbox.tell("socket 4 udp 0").unwrap();
    assert_eq!(sandbox.tell("bind 0 10.64.0.9:53"), Err(Errno::PERM));
    sandbox.tell(&format!("bind 0 {own}:53")).unwrap();
    // The next owner begins anew: whoever is left has no address.
    let shape = ProcessShape { endpoints: 10, quarantine: Duration::ZERO };
    let network = ProcessNetwork::create(support::subnet(0, 7), &shape, folder.fd()).unwrap();
    sandbox.tell("socket 4 udp 0").unwrap();
    assert_eq!(sandbox.tell(&format!("bind 1 {own}:54")), Err(Errno::PERM));
    drop(sandbox);
    let _endpoint = network.attach(below.fd()).unwrap();
    let mut sandbox = Sandbox::start(network.netns(), &below);
    sandbox.tell("socket 4 udp 0").unwrap();
    assert_eq!(sandbox.tell("bind 0 0.0.0.0:53").unwrap(), format!("{own}:53"));
}
