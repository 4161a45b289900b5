//! The network task against a router and a server in a namespace of their own, at the far end of a cable.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use dhcproto::v6::MessageType;
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket, sockopt};

use super::server::{Server, kind};
use crate::net::tests::{cables, in_namespace, ip, start, until, wish};

/// Managed, other configuration: flags of an advertisement.
const M: u8 = 0x80;
const O: u8 = 0x40;
/// Nothing is advertised.
const SILENT: u8 = 1;

/// What the far end does at the moment, and what it has heard.
struct Far {
    flags: AtomicU8,
    server: Mutex<Option<Server>>,
    heard: Mutex<Vec<MessageType>>,
    /// Another machine has the address that ends in 7.
    taken: AtomicBool,
    /// The cable is in.
    plugged: AtomicBool,
    stop: AtomicBool,
}

impl Far {
    fn serve(&self, server: Option<Server>) {
        *self.server.lock().unwrap() = server;
    }

    fn has_heard(&self, kind: MessageType) -> bool {
        self.heard.lock().unwrap().contains(&kind)
    }

    /// Everything that was heard so far is forgotten.
    fn forget(&self) {
        self.heard.lock().unwrap().clear();
    }

    /// The far end of the cable comes into this thread's namespace, then it is at work until it is told to stop.
    fn run(&self, identity: &mpsc::Sender<i32>, arrived: &mpsc::Receiver<()>) {
        // SAFETY: as in `in_namespace`.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
        identity.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
        arrived.recv().unwrap();
        // Its address is used at once.
        std::fs::write("/proc/sys/net/ipv6/conf/f0/accept_dad", "0").unwrap();
        ip("link set f0 up");
        let index: u32 = ip("-o link show f0").split(':').next().unwrap().trim().parse().unwrap();
        let everybody = SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, index);
        let router = socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6)).unwrap();
        sockopt::set_ipv6_multicast_hops(&router, 255).unwrap();
        let server = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 547)).unwrap();
        server.join_multicast_v6(&"ff02::1:2".parse().unwrap(), index).unwrap();
        server.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut buffer = [0; 1500];
        let mut plugged = true;
        while !self.stop.load(Ordering::SeqCst) {
            if plugged != self.plugged.load(Ordering::SeqCst) {
                plugged = !plugged;
                ip(&format!("link set f0 {}", if plugged { "up" } else { "down" }));
            }
            if self.taken.swap(false, Ordering::SeqCst) {
                ip("addr add 2001:db8::7/128 dev f0 nodad");
            }
            let flags = self.flags.load(Ordering::SeqCst);
            if flags != SILENT {
                // Without a cable nobody hears it.
                let _ = sendto(&router, &advertisement(flags), SendFlags::empty(), &everybody);
            }
            let Ok((length, from)) = server.recv_from(&mut buffer) else { continue };
            let asked = &buffer[..length];
            self.heard.lock().unwrap().push(kind(asked));
            let answer = self.server.lock().unwrap().as_ref().and_then(|server| server.answer(asked));
            if let (Some(answer), SocketAddr::V6(from)) = (answer, from) {
                let _ = server.send_to(&answer, from);
            }
        }
    }
}

/// A router's advertisement with a prefix for SLAAC; the kernel adds the sum.
fn advertisement(flags: u8) -> Vec<u8> {
    let head = [134, 0, 0, 0, 64, flags, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    let prefix = [3, 4, 64, 0xc0, 0, 0, 14, 16, 0, 0, 14, 16, 0, 0, 0, 0];
    let network = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0).octets();
    [&head[..], &prefix, &network].concat()
}

/// Sockets at the clients' port in this thread's namespace.
fn listening() -> usize {
    let table = std::fs::read_to_string("/proc/thread-self/net/udp6").unwrap();
    table
        .lines()
        .filter(|line| line.split_whitespace().nth(1).is_some_and(|at| at.ends_with(":0222")))
        .count()
}

/// Of few seconds.
fn short(last: u16) -> Server {
    let server = Server::new(last);
    let address = server.addresses[0].0;
    Server { addresses: vec![(address, 5, 7)], t1: 2, t2: 4, ..server }
}

#[test]
fn routers_decide_what_is_asked_and_servers_what_there_is() {
    in_namespace(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let far = Arc::new(Far {
            flags: AtomicU8::new(SILENT),
            server: Mutex::new(None),
            heard: Mutex::new(Vec::new()),
            taken: AtomicBool::new(false),
            plugged: AtomicBool::new(true),
            stop: AtomicBool::new(false),
        });
        let (identity, identified) = mpsc::channel();
        let (arrive, arrived) = mpsc::channel();
        let thread = std::thread::spawn({
            let far = Arc::clone(&far);
            move || far.run(&identity, &arrived)
        });
        let story = async {
            cables(1).await;
            ip(&format!("link set f0 netns {}", identified.recv().unwrap()));
            arrive.send(()).unwrap();
            let etc = tempfile::tempdir().unwrap();
            let read = |name: &str| std::fs::read_to_string(etc.path().join(name)).unwrap();
            let (wishes, mut state) = start(etc.path(), wish("[]", &[]));
            let has = |address: &str| ip("-6 addr show m0").contains(address);

            // By itself the kernel gets an address, and nobody asks anything.
            far.serve(Some(short(5)));
            far.flags.store(0, Ordering::SeqCst);
            until("no SLAAC", || has("2001:db8:1:")).await;
            assert_eq!((listening(), far.heard.lock().unwrap().len()), (0, 0));

            far.flags.store(O, Ordering::SeqCst);
            until("no name server", || read("resolv.conf").contains("nameserver 2001:db8::53\n")).await;
            assert!(far.has_heard(MessageType::InformationRequest) && !far.has_heard(MessageType::Solicit));
            assert!(!has("2001:db8::5/128") && state.borrow().address.is_none());
            assert_eq!(listening(), 1);

            // For more than one renewal.
            far.flags.store(O | M, Ordering::SeqCst);
            let address: IpAddr = "2001:db8::5".parse().unwrap();
            state.wait_for(|state| state.address == Some(address)).await.unwrap();
            assert!(has("2001:db8::5/128") && has("2001:db8:1:"), "{}", ip("addr"));
            assert!(state.borrow().settled && read("hosts").contains("2001:db8::5 edge-7"));
            let shown = ip("-6 -o addr show m0 to 2001:db8::5");
            assert!(shown.contains("valid_lft") && !shown.contains("forever"), "{shown}");
            assert_eq!(listening(), 1);
            tokio::time::sleep(Duration::from_secs(8)).await;
            assert!(far.has_heard(MessageType::Request) && far.has_heard(MessageType::Renew));
            assert!(!far.has_heard(MessageType::Rebind), "{:?}", far.heard.lock().unwrap());
            assert!(has("2001:db8::5/128"), "it was granted for 7 s each time");

            // A router that says otherwise changes nothing; a server that is gone does, in the end.
            far.flags.store(0, Ordering::SeqCst);
            far.serve(None);
            state.wait_for(|state| state.address.is_none()).await.unwrap();
            until("the address stays", || !has("2001:db8::5")).await;
            assert!(far.has_heard(MessageType::Rebind) && has("2001:db8:1:"));
            until("the name server stays", || !read("resolv.conf").contains("nameserver")).await;

            // Another one, at once.
            far.serve(Some(Server { rapid: true, ..Server::new(6) }));
            let address: IpAddr = "2001:db8::6".parse().unwrap();
            state.wait_for(|state| state.address == Some(address)).await.unwrap();

            // An address that is in use already is given back.
            far.serve(None);
            far.taken.store(true, Ordering::SeqCst);
            far.flags.store(M, Ordering::SeqCst);
            wishes.send(wish("[{ name = 'm0', dhcp6 = false, dhcp = true }]", &[])).unwrap();
            until("the address stays", || !has("2001:db8::6") && listening() == 0).await;
            far.forget();
            far.serve(Some(Server { rapid: true, ..Server::new(7) }));
            wishes.send(wish("[]", &[])).unwrap();
            until("takes what another has", || far.has_heard(MessageType::Decline)).await;
            assert!(!has("2001:db8::7"), "{}", ip("addr"));
            far.serve(Some(Server { rapid: true, ..Server::new(6) }));
            state.wait_for(|state| state.address == Some(address)).await.unwrap();

            // Without the cable nothing is asked; the address stays until its time is over.
            far.plugged.store(false, Ordering::SeqCst);
            until("asks without a cable", || listening() == 0).await;
            assert!(has("2001:db8::6/128"), "{}", ip("addr"));
            far.forget();
            far.plugged.store(true, Ordering::SeqCst);
            until("does not ask again", || far.has_heard(MessageType::Solicit)).await;
            assert!(has("2001:db8::6/128") && listening() == 1, "{}", ip("addr"));

            // IPv4 only.
            wishes.send(wish("[{ name = 'm0', dhcp = true, dhcp6 = false }]", &[])).unwrap();
            state.wait_for(|state| state.address.is_none()).await.unwrap();
            until("asks although unwanted", || listening() == 0 && !has("2001:db8::6")).await;
            assert!(has("2001:db8:1:"), "{}", ip("addr"));
            // And back, although the routers' word is old.
            far.flags.store(SILENT, Ordering::SeqCst);
            wishes.send(wish("[{ name = 'm0', dhcp6 = true }]", &[])).unwrap();
            state.wait_for(|state| state.address == Some(address)).await.unwrap();
            assert_eq!(listening(), 1);
            // Gone with the interface.
            ip("link del m0");
            state.wait_for(|state| state.address.is_none()).await.unwrap();
            until("a socket is left", || listening() == 0).await;
        };
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(120), story).await.unwrap() });
        far.stop.store(true, Ordering::SeqCst);
        thread.join().unwrap();
    });
}
