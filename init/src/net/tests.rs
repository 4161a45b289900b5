//! The task as a whole, in a network namespace of its own with interfaces that are pairs of virtual ones.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rtnetlink::LinkVeth;
use tokio::sync::watch;

use super::*;

/// Bound on what takes milliseconds.
const SOON: Duration = Duration::from_secs(20);

pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub async fn until(what: &str, mut there: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + SOON;
    while !there() {
        assert!(tokio::time::Instant::now() < end, "{what}\n{}\n{}", ip("addr"), ip("route"));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn wish(interfaces: &str, dns: &[&str]) -> Wish {
    let text = format!("[machine]\ninterfaces = {interfaces}\n");
    let source = mote_config::Source::text(mote_config::Layer::UserData, "wish", text.as_bytes());
    let resolved = mote_config::resolve(&[source]);
    assert_eq!(resolved.problems(), Vec::<String>::new());
    Wish {
        hostname: "edge-7".to_owned(),
        interfaces: resolved.machine().unwrap().interfaces,
        dns: dns.iter().map(|text| text.parse().unwrap()).collect(),
    }
}

fn advertised(name: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}/accept_ra")).unwrap().trim().to_owned()
}

pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if !rustix::process::geteuid().is_root() || Command::new("ip").arg("-V").output().is_err() {
        println!("skipped: needs root and the ip program");
        return;
    }
    let thread = std::thread::spawn(move || {
        // SAFETY: only this thread moves to a new network namespace; no file descriptor table or memory is unshared, so
        // no other thread can see a difference.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
        test();
    });
    thread.join().unwrap();
}

/// The near ends are the machine's, `m0` and `m1`.
pub async fn cables(count: usize) {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    let task = tokio::spawn(connection);
    for number in 0..count {
        let (near, far) = (format!("m{number}"), format!("f{number}"));
        handle.link().add(LinkVeth::new(&near, &far).build()).execute().await.unwrap();
        ip(&format!("link set {far} up"));
    }
    task.abort();
}

pub fn start(etc: &Path, first: Wish) -> (watch::Sender<Wish>, watch::Receiver<State>) {
    let (wishes, receiver) = watch::channel(first);
    let state = watch::Sender::default();
    let seen = state.subscribe();
    let around = Around { etc: etc.to_owned(), ours: |name| name.starts_with('m') };
    tokio::spawn(run_in(around, receiver, state));
    (wishes, seen)
}

#[test]
fn wishes_may_change_while_the_machine_is_up() {
    in_namespace(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            cables(2).await;
            let etc = tempfile::tempdir().unwrap();
            let read = |name: &str| std::fs::read_to_string(etc.path().join(name)).unwrap();
            let mac = std::fs::read_to_string("/sys/class/net/m1/address").unwrap_or_default();
            // /sys shows the namespace it was mounted in: the kernel is asked instead.
            let shown = ip("-br link show m1");
            let mac = shown.split_whitespace().nth(2).unwrap_or(mac.trim()).to_owned();

            let by_hand = format!(
                "[{{ name = 'm0', addresses = ['192.0.2.7/24', '2001:db8::7/64'], gateways = ['192.0.2.1', 'fe80::1'] }},
                  {{ name = '{mac}', addresses = ['198.51.100.7/24'], mtu = 1400 }}]"
            );
            let (wishes, mut state) = start(etc.path(), wish(&by_hand, &["2001:db8::53"]));
            until("no addresses", || {
                let shown = ip("addr");
                ["192.0.2.7/24", "2001:db8::7/64", "198.51.100.7/24"].iter().all(|address| shown.contains(address))
            })
            .await;
            until("no routes", || ip("-6 route").contains("default via fe80::1")).await;
            assert!(ip("route").contains("default via 192.0.2.1 dev m0"), "{}", ip("route"));
            assert!(ip("link show m1").contains("mtu 1400"), "{}", ip("link show m1"));
            state.wait_for(|state| state.settled).await.unwrap();
            assert_eq!(state.borrow().address, Some(IpAddr::from([192, 0, 2, 7])));
            until("no names", || read("hosts").contains("192.0.2.7 edge-7")).await;
            assert!(read("resolv.conf").contains("nameserver 2001:db8::53"));
            assert_eq!((advertised("m0").as_str(), advertised("m1").as_str()), ("0", "2"));

            // Another address on one, nothing on the other.
            let other = "[{ name = 'm0', addresses = ['192.0.2.8/24'], gateways = ['192.0.2.254'] }]";
            wishes.send(wish(other, &[])).unwrap();
            until("the old addresses stay", || {
                let shown = ip("addr");
                shown.contains("192.0.2.8/24")
                    && !["192.0.2.7", "2001:db8::7", "198.51.100.7"].iter().any(|address| shown.contains(address))
            })
            .await;
            until("the old routes stay", || {
                ip("route").contains("default via 192.0.2.254") && !ip("-6 route").contains("default")
            })
            .await;
            assert!(!ip("route").contains("192.0.2.1 "), "{}", ip("route"));
            until("the old names stay", || !read("resolv.conf").contains("nameserver")).await;
            state.wait_for(|state| state.address == Some(IpAddr::from([192, 0, 2, 8]))).await.unwrap();
            assert_eq!((advertised("m0").as_str(), advertised("m1").as_str()), ("2", "0"));

            // No wish at all: DHCP, which nobody answers here.
            wishes.send(wish("[]", &[])).unwrap();
            until("an address stays", || !ip("-4 addr show m0").contains("inet")).await;
            state.wait_for(|state| state.address.is_none()).await.unwrap();
            assert_eq!(ip("route"), "");
            assert!(read("hosts").contains("127.0.1.1 edge-7"));
            assert_eq!(advertised("m1"), "2");

            // And back, although the interfaces have been up for long.
            wishes.send(wish("[{ addresses = ['192.0.2.9/24'] }]", &[])).unwrap();
            state.wait_for(|state| state.address == Some(IpAddr::from([192, 0, 2, 9]))).await.unwrap();
            assert!(ip("-4 addr show m0").contains("192.0.2.9/24"), "{}", ip("addr"));
            assert!(!ip("-4 addr show m1").contains("inet"), "{}", ip("addr"));
        });
    });
}

#[test]
fn an_interface_that_comes_later_gets_what_is_meant_for_it() {
    in_namespace(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let etc = tempfile::tempdir().unwrap();
            let (_wishes, mut state) =
                start(etc.path(), wish("[{ name = 'm0', addresses = ['2001:db8::7/64'] }]", &[]));
            state.wait_for(|state| state.settled).await.unwrap();
            cables(1).await;
            let address: IpAddr = "2001:db8::7".parse().unwrap();
            state.wait_for(|state| state.address == Some(address)).await.unwrap();
            ip("link del m0");
            state.wait_for(|state| state.address.is_none()).await.unwrap();
            cables(1).await;
            state.wait_for(|state| state.address == Some(address)).await.unwrap();
            assert!(ip("addr show m0").contains("2001:db8::7/64"));
        });
    });
}

#[test]
fn interfaces_without_an_address_are_told_of_by_name() {
    let mut state = State::default();
    assert_eq!(state.problem(), None);
    state.cards = Some((0, 0));
    assert_eq!(state.problem().unwrap(), "No network card was found");
    state.cards = Some((2, 0));
    assert_eq!(state.problem().unwrap(), "No network card has a connection");
    state.cards = Some((2, 1));
    assert_eq!(state.problem(), None, "it may have an address yet");
    state.troubles.insert("eth1".to_owned(), "No DHCP lease within 30 s".to_owned());
    state.troubles.insert("eth0".to_owned(), "x".to_owned());
    assert_eq!(state.problem().unwrap(), "eth0: x; eth1: No DHCP lease within 30 s");
}
