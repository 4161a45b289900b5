//! The ways we are compared with: figures 3.1 and 3.2 of Ao's dissertation, step by step, each step timed.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use mote_particle::netlink::{Netlink, index_of};
use mote_particle::netns::Netns;
use rtnetlink::LinkVeth;

use super::machine::{MTU, Machine, named, peer, settle};
use super::setup::{Sample, in_threads, ms};
use crate::Outcome;

/// Calls that [`Overlay::create`](mote_particle::overlay::Overlay::create) makes inside the tenant's namespace.
pub const OVERLAY_CALLS: u64 = 2;

/// Addresses sent to the kernel before its answers are read.
const BATCH: usize = 64;

/// A way to make endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A namespace each, a pair of devices each that is made in the machine's namespace and moved.
    Overlay,
    /// The same, but both devices are born where they belong.
    Born,
    /// One namespace for all, a pair each that is moved.
    Shared,
    /// The same, one step after the other for all of them.
    Batched,
    /// One namespace and one pair for all, an address each.
    Particle,
}

/// The steps of figure 3.1.
const STEPS: [&str; 6] = ["s1_ms", "s2_ms", "s3_ms", "s4_ms", "s5_ms", "s6_ms"];

/// What a thread did.
#[derive(Default)]
pub struct Made {
    /// Guests' namespaces, with the number of their endpoint.
    pub guests: Vec<(u16, Netns)>,
    steps: [Duration; 6],
    calls: u64,
    crossings: u32,
    devices: u32,
}

impl Made {
    /// Does one step, and times it.
    fn step<T>(&mut self, step: usize, work: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        let start = Instant::now();
        let done = work()?;
        if let Some(spent) = self.steps.get_mut(step - 1) {
            *spent += start.elapsed();
        }
        Ok(done)
    }
}

/// Address of guest `k`.
pub fn address(k: u16) -> Ipv4Addr {
    (u32::from(Ipv4Addr::new(10, 128, 0, 2)) + u32::from(k)).into()
}

/// Hardware address of guest `k`.
pub fn mac(k: u16) -> [u8; 6] {
    let [high, low] = k.to_be_bytes();
    [0x02, 0, 0, 1, high, low]
}

/// The end of guest `k`'s pair that is at the bridge.
fn local(k: u16) -> String {
    format!("l{k}")
}

/// The guest's end.
fn guest(k: u16) -> String {
    format!("g{k}")
}

/// Makes endpoints, and takes them down again.
pub fn measure(way: Way, endpoints: u16, threads: u16) -> Outcome<Sample> {
    let machine = Machine::new()?;
    let start = Instant::now();
    let shared = match way {
        Way::Overlay | Way::Born => None,
        Way::Shared | Way::Batched | Way::Particle => Some(Netns::create()?),
    };
    let all = in_threads(endpoints, threads, |range| match (way, &shared) {
        (Way::Overlay, _) => overlay(&machine, range),
        (Way::Born, _) => born(&machine, range),
        (Way::Particle, Some(shared)) => particle(&machine, shared, range),
        (Way::Batched, Some(shared)) => together(&machine, shared, range, usize::MAX),
        (_, Some(shared)) => together(&machine, shared, range, 1),
        (_, None) => Err("No namespace".into()),
    })?;
    let made = start.elapsed();
    let mut sample = Sample { made_ms: ms(made), ..Sample::default() };
    for (step, name) in STEPS.iter().enumerate() {
        let spent: Duration = all.iter().filter_map(|made| made.steps.get(step)).sum();
        if !spent.is_zero() && threads == 1 {
            sample.counts.insert(name, ms(spent));
        }
    }
    let sum = |of: fn(&Made) -> u32| f64::from(all.iter().map(of).sum::<u32>());
    sample.counts.insert("crossings", sum(|made| made.crossings));
    sample.counts.insert("devices", sum(|made| made.devices));
    sample.counts.insert("netlink_calls", sum(|made| u32::try_from(made.calls).unwrap_or(u32::MAX)));
    let gone = Instant::now();
    let netlink = machine.vtep.run(Netlink::open)??;
    for range in all.iter().flat_map(|made| &made.guests).map(|(k, _)| *k) {
        netlink.delete_link(&local(range))?;
    }
    if shared.is_some() && way != Way::Particle {
        for k in 0..endpoints {
            netlink.delete_link(&local(k))?;
        }
    }
    drop(all);
    drop(shared);
    settle()?;
    sample.counts.insert("teardown_ms", ms(gone.elapsed()));
    Ok(sample)
}

/// Figure 3.1: the Linux overlay.
pub fn overlay(machine: &Machine, range: Range<u16>) -> Outcome<Made> {
    let mut made = Made::default();
    let host = machine.host.run(Netlink::open)??;
    let vtep = machine.vtep.run(Netlink::open)??;
    for k in range {
        let netns = made.step(1, || Ok(Netns::create()?))?;
        pair(&mut made, &host, k)?;
        move_both(&mut made, &host, machine, &netns, k)?;
        attach(&mut made, &vtep, machine, k)?;
        let calls = made.step(6, || {
            Ok(netns.run(|| {
                let netlink = Netlink::open()?;
                configure(&netlink, k)?;
                Ok::<_, mote_particle::netlink::NetlinkError>(netlink.calls())
            })??)
        })?;
        made.calls += calls;
        made.guests.push((k, netns));
    }
    made.calls += host.calls() + vtep.calls();
    Ok(made)
}

/// Both devices are made in place, in one call from inside the guest's namespace.
pub fn born(machine: &Machine, range: Range<u16>) -> Outcome<Made> {
    let mut made = Made::default();
    let vtep = machine.vtep.run(Netlink::open)??;
    for k in range {
        let netns = made.step(1, || Ok(Netns::create()?))?;
        let calls = made.step(2, || {
            Ok(netns.run(|| {
                let netlink = Netlink::open()?;
                let far =
                    named(&local(k)).setns_by_fd(machine.vtep.as_fd().as_raw_fd()).mtu(MTU.into()).build();
                let pair = LinkVeth::new(&guest(k), &local(k)).set_info_data(peer(far));
                netlink.add_link(
                    "make a pair of devices",
                    pair.address(mac(k).to_vec()).mtu(MTU.into()).up().build(),
                )?;
                netlink.add_address(index_of(&guest(k))?, address(k).into(), 9)?;
                Ok::<_, mote_particle::netlink::NetlinkError>(netlink.calls())
            })??)
        })?;
        made.calls += calls;
        made.devices += 2;
        attach(&mut made, &vtep, machine, k)?;
        made.guests.push((k, netns));
    }
    made.calls += vtep.calls();
    Ok(made)
}

/// One namespace for all guests; each step for `batch` of them before the next step.
fn together(machine: &Machine, shared: &Netns, range: Range<u16>, batch: usize) -> Outcome<Made> {
    let mut made = Made::default();
    let host = machine.host.run(Netlink::open)??;
    let vtep = machine.vtep.run(Netlink::open)??;
    let inside = shared.run(Netlink::open)??;
    let all: Vec<u16> = range.collect();
    for batch in all.chunks(batch.min(all.len().max(1))) {
        for k in batch {
            pair(&mut made, &host, *k)?;
        }
        for k in batch {
            move_both(&mut made, &host, machine, shared, *k)?;
        }
        for k in batch {
            attach(&mut made, &vtep, machine, *k)?;
        }
        made.step(6, || Ok(shared.run(|| batch.iter().try_for_each(|k| configure(&inside, *k)))??))?;
    }
    made.calls += host.calls() + vtep.calls() + inside.calls();
    Ok(made)
}

/// Figure 3.3: one pair, made by whoever comes first, and an address each.
fn particle(machine: &Machine, shared: &Netns, range: Range<u16>) -> Outcome<Made> {
    let mut made = Made::default();
    let inside = shared.run(Netlink::open)??;
    if range.start == 0 {
        let host = machine.host.run(Netlink::open)??;
        let vtep = machine.vtep.run(Netlink::open)??;
        pair(&mut made, &host, 0)?;
        move_both(&mut made, &host, machine, shared, 0)?;
        attach(&mut made, &vtep, machine, 0)?;
        inside.set_link("bring up a device", named(&guest(0)).up().build())?;
        made.calls += host.calls() + vtep.calls();
    }
    let index = appears(shared)?;
    let addresses: Vec<(IpAddr, u8)> = range.map(|k| (address(k).into(), 9)).collect();
    made.step(6, || {
        for batch in addresses.chunks(BATCH) {
            inside.add_addresses(index, batch)?;
        }
        Ok(())
    })?;
    made.calls += inside.calls();
    Ok(made)
}

/// Waits for the pair, which another thread makes.
fn appears(shared: &Netns) -> Outcome<u32> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match shared.run(|| index_of(&guest(0)))? {
            Ok(index) => return Ok(index),
            Err(error) if Instant::now() > end => return Err(error.into()),
            Err(_) => std::thread::sleep(Duration::from_micros(200)),
        }
    }
}

fn pair(made: &mut Made, host: &Netlink, k: u16) -> Outcome<()> {
    made.devices += 2;
    made.step(2, || {
        let far = named(&guest(k)).mtu(MTU.into()).build();
        let pair = LinkVeth::new(&local(k), &guest(k)).set_info_data(peer(far)).mtu(MTU.into());
        Ok(host.add_link("make a pair of devices", pair.build())?)
    })
}

fn move_both(made: &mut Made, host: &Netlink, machine: &Machine, guest_ns: &Netns, k: u16) -> Outcome<()> {
    made.crossings += 2;
    let moves = [(3, local(k), &machine.vtep), (4, guest(k), guest_ns)];
    for (step, name, to) in moves {
        let link = named(&name).setns_by_fd(to.as_fd().as_raw_fd()).build();
        made.step(step, || Ok(host.set_link("move a device", link)?))?;
    }
    Ok(())
}

fn attach(made: &mut Made, vtep: &Netlink, machine: &Machine, k: u16) -> Outcome<()> {
    let link = named(&local(k)).controller(machine.bridge).up().build();
    made.step(5, || Ok(vtep.set_link("join a device to the bridge", link)?))
}

/// In the calling thread's namespace, which is the guest's.
fn configure(netlink: &Netlink, k: u16) -> Result<(), mote_particle::netlink::NetlinkError> {
    netlink.set_link("bring up a device", named(&guest(k)).address(mac(k).to_vec()).up().build())?;
    netlink.add_address(index_of(&guest(k))?, address(k).into(), 9)
}

/// Name of guest `k`'s device in its namespace.
pub fn device(k: u16) -> String {
    guest(k)
}
