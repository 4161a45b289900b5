//! Endpoints of one network: who hears whom, what is dropped, what is left behind. One test after the other: they
//! count the process' descriptors.

#![cfg(test)]

mod support;

use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mote_particle::netlink::{Netlink, index_of};
use mote_particle::netns::Netns;
use mote_particle::tap::Sources;
use mote_particle::{AttachError, Ebpf, Network, Shape, Steering};
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{LinkUnspec, LinkVeth};
use support::{NEVER, SHAPE, SOON, both, descriptors, devices, network, receive, root, send, send_to, write};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// As on kernels with all of eBPF, with some, and with none.
const FORMS: [Ebpf; 3] = [Ebpf::All, Ebpf::Guards, Ebpf::None];

/// Root's turn, if this is root.
fn turn() -> Option<MutexGuard<'static, ()>> {
    root().then(|| ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner))
}

#[test]
fn endpoints_hear_each_other_by_both_protocols() {
    let Some(_turn) = turn() else { return };
    for ebpf in FORMS {
        // Making and ending hundreds of devices takes the kernel long.
        let (endpoints, devices) = if ebpf == Ebpf::All { (600, 3) } else { (30, 30) };
        let network = network(&Shape { endpoints, ebpf, ..SHAPE });
        assert_eq!(network.taps().len(), devices);
        let all: Vec<_> = (0..endpoints).map(|_| network.attach().unwrap()).collect();
        // Of one device, and of two.
        for (from, to) in [(0, 1), (1, 0), (0, 253), (10, 300), (599, 0), (520, 521)] {
            let [from, to] = [from, to].map(|number| number % all.len());
            for (source, target) in both(all[from].addresses()).into_iter().zip(both(all[to].addresses())) {
                send(&all[from], source, target, "hello");
                let heard = receive(&all[to], SOON);
                assert_eq!(heard, Some((source, target, "hello".to_owned())), "{from} to {to}");
            }
        }
        // And nobody else did.
        assert!(all.iter().all(|endpoint| receive(endpoint, Duration::ZERO).is_none()));
    }
}

/// IPv4 packets the calling thread's namespace passed on.
fn passed_on() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("Ip:"));
    let at = lines.next().unwrap().split(' ').position(|name| name == "ForwDatagrams").unwrap();
    lines.next().unwrap().split(' ').nth(at).unwrap().parse().unwrap()
}

#[test]
fn from_queue_to_queue_of_a_device_there_is_a_shortcut() {
    let Some(_turn) = turn() else { return };
    let network = network(&Shape { endpoints: 300, ..SHAPE });
    let all: Vec<_> = (0..300).map(|_| network.attach().unwrap()).collect();
    let passed = || network.netns().run(passed_on).unwrap();
    for (to, more) in [(1, 0), (253, 0), (254, 1), (299, 1)] {
        let before = passed();
        let [source, target] = [0, to].map(|number| both(all[number].addresses())[0]);
        send(&all[0], source, target, "hello");
        assert_eq!(receive(&all[to], SOON).unwrap().2, "hello");
        assert_eq!(passed() - before, more, "to {to}");
    }
}

#[test]
fn a_source_of_somebody_else_is_dropped() {
    let Some(_turn) = turn() else { return };
    for ebpf in FORMS {
        let network = network(&Shape { ebpf, ..SHAPE });
        let [liar, victim, target] = [(); 3].map(|()| network.attach().unwrap());
        let gateway = network.subnet().gateway();
        for (forged, to) in [
            (IpAddr::V4(victim.addresses().v4), IpAddr::V4(target.addresses().v4)),
            (gateway.v4.into(), target.addresses().v4.into()),
            ("192.0.2.1".parse().unwrap(), target.addresses().v4.into()),
            (victim.addresses().v6.into(), target.addresses().v6.into()),
            (gateway.v6.into(), target.addresses().v6.into()),
            ("fe80::1".parse().unwrap(), target.addresses().v6.into()),
        ] {
            // Where there is no program the kernel knows nothing of IPv6 sources.
            if ebpf == Ebpf::None && forged.is_ipv6() {
                continue;
            }
            send(&liar, forged, to, "forged");
            assert_eq!(receive(&target, NEVER), None, "{forged}");
        }
        // A broadcast, ARP, a tagged frame, nonsense.
        for ethertype in [[0x08, 0x06], [0x81, 0x00], [0, 0]] {
            let mut frame = vec![0; 12 + 60];
            frame[12..18].fill(0xff);
            frame[24..26].copy_from_slice(&ethertype);
            write(&liar, &frame);
        }
        let (from, to) = (liar.addresses().v4.into(), target.addresses().v4.into());
        send(&liar, from, to, "honest");
        assert_eq!(receive(&target, SOON), Some((from, to, "honest".to_owned())));
    }
}

#[test]
fn what_was_sent_to_the_last_owner_never_reaches_the_next() {
    let Some(_turn) = turn() else { return };
    for ebpf in FORMS {
        let network = network(&Shape { endpoints: 2, ebpf, ..SHAPE });
        let [sender, old] = [(); 2].map(|()| network.attach().unwrap());
        let (from, to): (IpAddr, IpAddr) = (sender.addresses().v4.into(), old.addresses().v4.into());
        send(&sender, from, to, "for the old one");
        let number = old.number();
        drop(old);
        send(&sender, from, to, "for nobody");
        let next = network.attach().unwrap();
        assert_eq!(next.number(), number);
        assert_eq!(receive(&next, NEVER), None);
        send(&sender, from, to, "for the next one");
        assert_eq!(receive(&next, SOON).map(|(_, _, text)| text), Some("for the next one".to_owned()));
    }
}

#[test]
fn the_gateway_is_the_namespace_itself() {
    let Some(_turn) = turn() else { return };
    for ebpf in FORMS {
        let network = network(&Shape { ebpf, ..SHAPE });
        let endpoint = network.attach().unwrap();
        for (own, gateway) in both(endpoint.addresses()).into_iter().zip(both(network.subnet().gateway())) {
            let socket = network.netns().run(|| UdpSocket::bind((gateway, 53)).unwrap()).unwrap();
            socket.set_read_timeout(Some(SOON)).unwrap();
            send_to(&endpoint, own, gateway, 53, "who am I");
            let mut text = [0; 100];
            let (length, asker) = socket.recv_from(&mut text).unwrap();
            assert_eq!((&text[..length], asker.ip()), (&b"who am I"[..], own));
            socket.send_to(b"you", asker).unwrap();
            assert_eq!(receive(&endpoint, SOON), Some((gateway, own, "you".to_owned())));
        }
    }
}

#[test]
fn networks_with_the_same_addresses_hear_nothing_of_each_other() {
    let Some(_turn) = turn() else { return };
    for ebpf in FORMS {
        let [one, other] = [(); 2].map(|()| network(&Shape { ebpf, ..SHAPE }));
        let [ours, theirs] = [&one, &other].map(|network| [(); 2].map(|()| network.attach().unwrap()));
        assert_eq!(ours.each_ref().map(|end| end.addresses()), theirs.each_ref().map(|end| end.addresses()));
        let (from, to) = (ours[0].addresses().v4.into(), ours[1].addresses().v4.into());
        send(&ours[0], from, to, "among us");
        assert!(receive(&ours[1], SOON).is_some());
        assert_eq!(receive(&theirs[1], NEVER), None);
    }
}

#[test]
fn an_empty_pool_says_so_and_an_address_rests() {
    let Some(_turn) = turn() else { return };
    let rest = Duration::from_millis(200);
    let network = network(&Shape { endpoints: 2, quarantine: rest, ..SHAPE });
    let [first, _second] = [(); 2].map(|()| network.attach().unwrap());
    let given_back = Instant::now();
    drop(first);
    match network.attach() {
        Err(AttachError::Exhausted(exhausted)) => {
            assert_eq!((exhausted.total, exhausted.resting), (2, 1));
            assert_eq!(
                exhausted.to_string(),
                "All 2 endpoints are in use, 1 of them not long enough out of use"
            );
        }
        other => panic!("{other:?}"),
    }
    std::thread::sleep(rest.saturating_sub(given_back.elapsed()) + Duration::from_millis(5));
    assert!(network.attach().is_ok());
}

#[test]
fn many_at_once_get_an_endpoint_each() {
    let Some(_turn) = turn() else { return };
    for ebpf in FORMS {
        let each = if ebpf == Ebpf::All { 50 } else { 5 };
        let network = network(&Shape { endpoints: 8 * each, ebpf, ..SHAPE });
        let attach = || (0..each).map(|_| network.attach().unwrap()).collect::<Vec<_>>();
        let all: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(attach)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        let addresses: std::collections::HashSet<_> =
            all.iter().map(|endpoint| endpoint.addresses()).collect();
        assert_eq!([addresses.len(), network.leased()], [usize::from(8 * each); 2]);
        drop(all);
        assert_eq!(network.leased(), 0);
    }
}

#[test]
fn a_thousand_times_attached_nothing_is_left() {
    let Some(_turn) = turn() else { return };
    for ebpf in FORMS {
        let witness = Netns::create().unwrap();
        let before = (descriptors(), devices());
        let network = network(&Shape { ebpf, ..SHAPE });
        let held = descriptors();
        let inside = network.netns().run(devices).unwrap();
        for _ in 0..1000 {
            let endpoint = network.attach().unwrap();
            assert_eq!(descriptors(), held + 1);
            drop(endpoint);
        }
        assert_eq!((descriptors(), network.leased()), (held, 0));
        assert_eq!(network.netns().run(devices).unwrap(), inside);
        // An endpoint may outlive what made it; then the last one takes the namespace along.
        let endpoint = network.attach().unwrap();
        watch(&network, &witness);
        drop(network);
        assert!(witness.run(|| index_of("far")).unwrap().is_ok());
        drop(endpoint);
        assert_eq!((descriptors(), devices()), before);
        let end = Instant::now() + 5 * SOON;
        while witness.run(|| index_of("far")).unwrap().is_ok() {
            assert!(Instant::now() < end, "The namespace is not gone");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Puts a device into the witness that goes with the network's namespace.
fn watch(network: &Network, witness: &Netns) {
    let far = LinkUnspec::new_with_name("far").setns_by_fd(witness.as_fd().as_raw_fd()).build();
    let pair = LinkVeth::new("near", "far").set_info_data(InfoData::Veth(InfoVeth::Peer(far))).build();
    network.netns().run(|| Netlink::open().unwrap().add_link("make a witness", pair).unwrap()).unwrap();
}

#[test]
fn what_cannot_be_is_an_error() {
    let Some(_turn) = turn() else { return };
    for ebpf in FORMS {
        let before = descriptors();
        let failed = Network::create(support::subnet(0, 7), &Shape { mtu: 3, ebpf, ..SHAPE }).unwrap_err();
        let chain = std::iter::successors(Some(&failed as &dyn std::error::Error), |error| error.source());
        let words: Vec<_> = chain.map(ToString::to_string).collect();
        assert!(words.iter().any(|word| word.contains("tap0")), "{words:?}");
        assert_eq!(descriptors(), before);
    }
}

#[test]
fn a_network_tells_how_frames_find_their_endpoint() {
    let Some(_turn) = turn() else { return };
    let calls = FORMS.map(|ebpf| {
        let network = network(&Shape { ebpf, ..SHAPE });
        match (ebpf, network.steering()) {
            (Ebpf::All, Steering::Ebpf)
            | (Ebpf::Guards, Steering::TapPerEndpoint { reason: None, sources: Sources::Programs })
            | (Ebpf::None, Steering::TapPerEndpoint { reason: None, sources: Sources::Routes }) => {}
            other => panic!("{other:?}"),
        }
        network.netlink_calls()
    });
    assert_eq!(calls[1], calls[2]);
    assert_eq!(calls[1], calls[0] + 4 * 9);
}
