//! Networks that are ready before their tenants come.

#![cfg(test)]

mod support;

use std::time::{Duration, Instant};

use mote_particle::Shape;
use mote_particle::network::Blank;
use mote_particle::pool::Pool;
use support::{SHAPE, both, descriptors, devices, receive, root, send, subnet};

const SOON: Duration = Duration::from_secs(10);

fn wait(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn blanks_become_tenants_networks_and_others_are_made() {
    if !root() {
        return;
    }
    let shape = Shape { endpoints: 300, ..SHAPE };
    // What is made with the first namespace stays.
    drop(Blank::create(&subnet(0, 1), &shape).unwrap());
    let before = (descriptors(), devices());
    let pool = Pool::start(subnet(0, 1), shape, 2).unwrap();
    wait("No blanks", || pool.ready() == 2);
    let networks = [pool.take(subnet(0, 7)).unwrap(), pool.take(subnet(0, 8)).unwrap()];
    wait("No new blanks", || pool.ready() == 2);
    for (network, vni) in networks.iter().zip([7, 8]) {
        let [one, other] = [network.attach().unwrap(), network.attach().unwrap()];
        assert_eq!(one.addresses(), subnet(0, vni).endpoint(one.number()).unwrap());
        for (from, to) in both(one.addresses()).into_iter().zip(both(other.addresses())) {
            send(&one, from, to, "hello");
            assert_eq!(receive(&other, SOON).unwrap().2, "hello");
        }
        // Of the tenant whose subnet the blanks were made with.
        let [_, theirs] = both(subnet(0, 1).endpoint(one.number()).unwrap());
        let [_, to] = both(other.addresses());
        send(&one, theirs, to, "forged");
        assert!(receive(&other, Duration::from_millis(100)).is_none());
    }
    drop((networks, pool));
    wait("Something is left", || (descriptors(), devices()) == before);
}

#[test]
fn an_empty_pool_makes_what_is_asked_for() {
    if !root() {
        return;
    }
    let pool = Pool::start(subnet(0, 1), SHAPE, 0).unwrap();
    let network = pool.take(subnet(0, 3)).unwrap();
    assert_eq!((pool.ready(), network.leased()), (0, 0));
}
