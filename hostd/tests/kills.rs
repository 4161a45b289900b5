//! What is left of a hostd that is killed: nothing, and the next one begins as the first did.

#![cfg(test)]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mote_particle::netlink::Netlink;
use mote_particle::netns::Netns;
use mote_particle::nft::Nft;
use rtnetlink::LinkUnspec;

const TIMES: usize = 100;

const PORT: u16 = 8080;

/// Bound on a start, and on what the kernel does behind everyone's back.
const SOON: Duration = Duration::from_secs(30);

const BUILT_IN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/mote.toml");

/// Device of the tenant's way out, in the machine's namespace.
const UPLINK: &str = "mt-000001";

/// A hostd in a namespace that stands for the machine.
struct Hostd(Child);

impl Hostd {
    fn start(machine: &Netns, folder: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hostd"));
        command.arg("--config").arg(folder.join("mote.toml")).arg("--boot").arg(folder.join("boot.toml"));
        let log = std::fs::File::create(folder.join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log).stderr(Stdio::inherit());
        Self(machine.run(|| command.spawn().unwrap()).unwrap())
    }

    fn kill(&mut self) {
        assert_eq!(self.0.try_wait().unwrap(), None, "hostd ended by itself");
        self.0.kill().unwrap();
        assert_eq!(self.0.wait().unwrap().signal(), Some(libc::SIGKILL));
    }
}

impl Drop for Hostd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn get(machine: &Netns, path: &str) -> Option<String> {
    let mut stream = machine.run(|| TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))).unwrap().ok()?;
    stream.set_read_timeout(Some(SOON)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer.split_once("\r\n\r\n")?.1.to_owned())
}

/// What the default tenant's network is, once it is made.
fn network(machine: &Netns) -> Option<serde_json::Value> {
    let status: serde_json::Value = serde_json::from_str(&get(machine, "/system/status")?).ok()?;
    status.pointer("/network/tenants/default/network").filter(|network| !network.is_null()).cloned()
}

/// Waits until something is there.
fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + SOON;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn devices() -> BTreeSet<String> {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Network namespaces some process is in.
fn namespaces() -> usize {
    let processes = std::fs::read_dir("/proc").unwrap();
    let links = processes.filter_map(|entry| std::fs::read_link(entry.ok()?.path().join("ns/net")).ok());
    links.collect::<BTreeSet<_>>().len()
}

fn configuration(folder: &Path) -> String {
    let run = folder.join("run");
    let text = std::fs::read_to_string(BUILT_IN).unwrap();
    let changes = [
        ("0.0.0.0:8080".to_owned(), format!("127.0.0.1:{PORT}")),
        ("\"/data\"".to_owned(), format!("{:?}", folder.join("data"))),
        ("\"/run/mote\"".to_owned(), format!("{run:?}")),
        ("egress = \"none\"".to_owned(), "egress = \"internet\"".to_owned()),
        // The overlay's device is known to the kernel by its number, until its namespace is gone.
        ("peers = []".to_owned(), "peers = [{ node = 1, address = \"127.0.0.2\" }]".to_owned()),
    ];
    changes.iter().fold(text, |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    })
}

#[test]
fn nothing_is_left_of_a_hostd_that_is_killed() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root, for network namespaces");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("data")).unwrap();
    std::fs::write(folder.path().join("mote.toml"), configuration(folder.path())).unwrap();
    std::fs::write(folder.path().join("boot.toml"), "").unwrap();
    let machine = Netns::create().unwrap();
    let up =
        || Netlink::open().unwrap().set_link("bring up lo", LinkUnspec::new_with_name("lo").up().build());
    machine.run(up).unwrap().unwrap();

    let counts = || (descriptors(), namespaces(), machine.run(devices).unwrap());
    let before = counts();
    let mut first = None;
    for _ in 0..TIMES {
        let mut hostd = Hostd::start(&machine, folder.path());
        let made = wait("The tenant has no network", || {
            assert_eq!(hostd.0.try_wait().unwrap(), None, "hostd ended by itself");
            network(&machine)
        });
        // The same subnet, nothing leased: no address is lost by what came before.
        assert_eq!(first.get_or_insert_with(|| made.clone()), &made);
        assert_eq!(made["leased"], 0);
        let during = machine.run(devices).unwrap();
        assert_eq!(during.difference(&before.2).collect::<Vec<_>>(), [UPLINK]);
        hostd.kill();
        drop(hostd);
        wait("The way out is still there", || {
            (!machine.run(devices).unwrap().contains(UPLINK)).then_some(())
        });
        wait("More than before", || (counts() == before).then_some(()));
    }
    // The filters stay, once each: what is left of a hostd lets less through, not more.
    for (table, counter) in [("mote_uplink", "refused"), ("mote_overlay", "lie")] {
        let counted = machine.run(|| Nft::open().unwrap().count(table, counter)).unwrap();
        assert_eq!(counted.unwrap().packets, 0, "{table}");
    }
}
