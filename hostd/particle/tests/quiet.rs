//! What attaching does not do, and what is done where the kernel refuses eBPF: seen through filters of system calls.

#![cfg(test)]

#[path = "support/filter.rs"]
mod filter;
#[path = "support/sandbox.rs"]
mod sandbox;
mod support;

use std::ffi::c_long;
use std::time::Duration;

use filter::{never, only};
use mote_particle::process::{ProcessNetwork, ProcessShape};
use mote_particle::tap::Sources;
use mote_particle::{Ebpf, Network, Shape, Steering};
use sandbox::Folder;
use support::{SHAPE, SOON, both, network, receive, root, send};

const TIMES: usize = 1000;

/// What any thread does: memory, locks, the end, and words about a failure.
const LIVE: [c_long; 13] = [
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_clock_gettime,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_write,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// A copy of a descriptor, frames thrown away.
const TAP: [c_long; 3] = [libc::SYS_fcntl, libc::SYS_read, libc::SYS_close];

/// Two looks at a folder, an entry of a map. Descriptors are not even copied.
const PROCESS: [c_long; 5] =
    [libc::SYS_fstat, libc::SYS_fstatfs, libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_bpf];

/// In a thread that ends with its filter.
fn in_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap())
}

#[test]
fn attaching_copies_a_descriptor_and_does_nothing_else() {
    if !root() {
        return;
    }
    for ebpf in [Ebpf::All, Ebpf::Guards, Ebpf::None] {
        let network = network(&Shape { ebpf, ..SHAPE });
        in_thread(|| {
            only(&[&LIVE[..], &TAP].concat());
            let refused = std::net::UdpSocket::bind("127.0.0.1:0").unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
            assert!(std::fs::File::open("/dev/net/tun").is_err());
            for _ in 0..TIMES {
                drop(network.attach().unwrap());
            }
            let all: Vec<_> = (0..SHAPE.endpoints).map(|_| network.attach().unwrap()).collect();
            assert_eq!(network.leased(), all.len());
        });
        assert_eq!(network.leased(), 0);
    }
}

#[test]
fn attaching_a_process_is_an_entry_and_nothing_else() {
    if !root() {
        return;
    }
    let Some(folder) = Folder::top() else { return };
    let below = folder.child("below");
    let shape = ProcessShape { endpoints: 10, quarantine: Duration::ZERO };
    let network = ProcessNetwork::create(support::subnet(0, 7), &shape, folder.fd()).unwrap();
    in_thread(|| {
        only(&[&LIVE[..], &PROCESS].concat());
        assert!(std::net::UdpSocket::bind("127.0.0.1:0").is_err());
        for _ in 0..TIMES {
            drop(network.attach(below.fd()).unwrap());
        }
    });
    assert_eq!(network.leased(), 0);
}

/// `TUNSETSTEERINGEBPF`.
const SET_STEERING: u32 = 0x8004_54e0;

#[test]
fn a_kernel_without_ebpf_gets_a_device_per_endpoint() {
    if !root() {
        return;
    }
    let cases = [
        (libc::SYS_bpf, None, libc::EPERM, Sources::Routes, "eBPF"),
        (libc::SYS_bpf, None, libc::ENOSYS, Sources::Routes, "eBPF"),
        (libc::SYS_ioctl, Some(SET_STEERING), libc::EINVAL, Sources::Programs, "Cannot set the steering"),
    ];
    for (call, second, errno, expected, words) in cases {
        let network = in_thread(|| {
            never(call, second, errno);
            network(&SHAPE)
        });
        let Steering::TapPerEndpoint { reason: Some(reason), sources } = network.steering() else {
            panic!("{:?}", network.steering())
        };
        assert_eq!(*sources, expected);
        let chain = std::iter::successors(Some(reason as &dyn std::error::Error), |error| error.source());
        let chain: Vec<_> = chain.map(ToString::to_string).collect();
        assert!(chain.iter().any(|word| word.contains(words)), "{chain:?}");
        hear_each_other(&network);
    }
    // Any other refusal is one.
    let failed = in_thread(|| {
        never(libc::SYS_bpf, None, libc::ENOMEM);
        Network::create(support::subnet(0, 7), &SHAPE).map(drop)
    });
    assert!(failed.is_err());
}

fn hear_each_other(network: &Network) {
    let [one, other] = [(); 2].map(|()| network.attach().unwrap());
    for (from, to) in both(one.addresses()).into_iter().zip(both(other.addresses())) {
        send(&one, from, to, "hello");
        assert_eq!(receive(&other, SOON), Some((from, to, "hello".to_owned())));
    }
}
