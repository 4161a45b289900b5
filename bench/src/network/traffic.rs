//! How quickly frames pass between two endpoints, and how many bytes: of one machine, and of two.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use mote_particle::netlink::Netlink;
use mote_particle::netns::Netns;
use mote_particle::overlay::Peer;
use mote_particle::{Network, Node};
use rtnetlink::LinkVeth;

use super::baseline;
use super::machine::{MTU, Machine, named, peer, settle, underlay};
use super::port::{LARGE, Port};
use super::setup;
use crate::Outcome;
use crate::figures::{Mode, Report, quantile};

/// Frames there and back.
const ROUNDS: u32 = 5000;

/// Large frames sent.
const FRAMES: u32 = 8000;

/// Large frames under way.
const WINDOW: u32 = 16;

/// Bytes of a frame that only has to arrive.
const SMALL: usize = 16;

/// Largest frame behind its header.
const BUFFER: usize = 66_000;

/// Two endpoints that can reach each other, and what keeps them.
pub struct Joined {
    pub ports: [Port; 2],
    _networks: Vec<Network>,
    _namespaces: Vec<Netns>,
    _machines: Vec<Machine>,
}

/// A way to join them.
struct Join {
    name: &'static str,
    make: fn() -> Outcome<Joined>,
}

/// On one machine.
const NEAR: &[Join] = &[
    Join { name: "veth", make: veth },
    Join { name: "overlay", make: || overlay(false) },
    Join { name: "tap", make: || tap(false) },
];

/// On two.
const FAR: &[Join] =
    &[Join { name: "overlay", make: || overlay(true) }, Join { name: "tap", make: || tap(true) }];

/// Adds latency and throughput to a report.
pub fn measure(report: &mut Report, runs: u32) -> Outcome<()> {
    for (place, joins) in [("one machine", NEAR), ("two machines", FAR)] {
        let mut latency: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        let mut rate: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for round in 0..=runs {
            for join in joins {
                settle()?;
                let joined = (join.make)()?;
                meet(&joined.ports)?;
                let took = there_and_back(&joined.ports)
                    .map_err(|error| format!("Latency of {} ({place}): {error}", join.name))?;
                let bytes_per_s = throughput(&joined.ports)
                    .map_err(|error| format!("Throughput of {} ({place}): {error}", join.name))?;
                if round > 0 {
                    latency.entry(join.name).or_default().push(setup::ms(took));
                    rate.entry(join.name).or_default().push(bytes_per_s / 1e6);
                }
            }
        }
        let part = report.parts.entry(place.to_owned()).or_default();
        for (name, samples) in latency {
            let mut mode = Mode::of(&samples);
            let rate = rate.get(name).map(|rates| quantile(rates, 0.5)).unwrap_or_default();
            mode.counts.insert("mb_per_s".to_owned(), rate);
            part.modes.insert(name.to_owned(), mode);
        }
        let place = place.replace(' ', "-");
        for slow in ["veth", "overlay"] {
            let (Some(other), Some(tap)) = (part.modes.get(slow), part.modes.get("tap")) else { continue };
            let rate = |mode: &Mode| mode.counts.get("mb_per_s").copied().unwrap_or_default();
            let ratios = [
                (format!("latency:{slow}/tap"), other.median_ms / tap.median_ms),
                (format!("throughput:tap/{slow}"), rate(tap) / rate(other)),
            ];
            for (key, ratio) in ratios {
                report.ratios.insert(format!("{key}@{place}"), ratio);
            }
        }
    }
    Ok(())
}

/// Two namespaces and a pair of devices, nothing in between.
fn veth() -> Outcome<Joined> {
    let namespaces = [Netns::create()?, Netns::create()?];
    let [one, other] = &namespaces;
    let device = |k| named("eth0").address(baseline::mac(k).to_vec()).mtu(MTU.into());
    one.run(|| {
        let far = device(1).setns_by_fd(other.as_fd().as_raw_fd()).build();
        let pair = LinkVeth::new("eth0", "eth0").set_info_data(peer(far));
        let pair = pair.address(baseline::mac(0).to_vec()).mtu(MTU.into()).up().build();
        Netlink::open()?.add_link("make a pair of devices", pair)
    })??;
    other.run(|| Netlink::open()?.set_link("bring up a device", named("eth0").up().build()))??;
    let port = |netns, k| Port::device(netns, "eth0", baseline::mac(k), silent(k));
    let ports = [port(one, 0)?, port(other, 1)?];
    Ok(Joined { ports, _networks: Vec::new(), _namespaces: namespaces.into(), _machines: Vec::new() })
}

/// An address the namespace does not have, or its own stack would answer.
fn silent(k: u16) -> std::net::Ipv4Addr {
    (u32::from(baseline::address(k)) + (1 << 24)).into()
}

fn overlay(far: bool) -> Outcome<Joined> {
    let machines = machines(far)?;
    let (mut namespaces, mut ports) = (Vec::new(), Vec::new());
    for (k, machine) in (0..2).zip(machines.iter().cycle()) {
        let made = baseline::overlay(machine, k..k + 1)?;
        for (k, netns) in made.guests {
            ports.push(Port::device(&netns, &baseline::device(k), baseline::mac(k), silent(k))?);
            namespaces.push(netns);
        }
    }
    let ports = ports.try_into().map_err(|_| "Not two endpoints")?;
    Ok(Joined { ports, _networks: Vec::new(), _namespaces: namespaces, _machines: machines })
}

fn tap(far: bool) -> Outcome<Joined> {
    let machines = machines(far)?;
    let (mut networks, mut ports) = (Vec::new(), Vec::new());
    for (node, machine) in (0..).zip(&machines) {
        let (network, overlay, _) = setup::network(&machine.host, node, 2)?;
        if far {
            let peer = Peer { node: Node((1 - node).into()), address: underlay(1 - node).into() };
            network.netns().run(|| overlay.add_peer(&Netlink::open()?, &peer))??;
        }
        networks.push(network);
    }
    for network in networks.iter().cycle().take(2) {
        ports.push(Port::tap(network.attach()?)?);
    }
    let ports = ports.try_into().map_err(|_| "Not two endpoints")?;
    Ok(Joined { ports, _networks: networks, _namespaces: Vec::new(), _machines: machines })
}

fn machines(far: bool) -> Outcome<Vec<Machine>> {
    Ok(if far { Machine::pair()?.into() } else { vec![Machine::new()?] })
}

/// Both have heard of each other.
pub fn meet([one, other]: &[Port; 2]) -> Outcome<()> {
    let mut buffer = vec![0; BUFFER];
    one.reach(other, &mut buffer)?;
    other.reach(one, &mut buffer)
}

/// One small frame and its echo; the mean.
fn there_and_back([one, other]: &[Port; 2]) -> Outcome<Duration> {
    let echo = || -> Outcome<()> {
        let mut buffer = vec![0; BUFFER];
        for _ in 0..ROUNDS {
            let (number, _) = other.receive(&mut buffer)?;
            other.send(&other.frame(one, number, SMALL)?)?;
        }
        Ok(())
    };
    let call = || -> Outcome<Duration> {
        let mut buffer = vec![0; BUFFER];
        let start = Instant::now();
        for number in 0..ROUNDS {
            one.send(&one.frame(other, number, SMALL)?)?;
            if one.receive(&mut buffer)?.0 != number {
                return Err(format!("Frame {number} was answered by another").into());
            }
        }
        Ok(start.elapsed() / ROUNDS)
    };
    both(echo, call)
}

/// Large frames, of which a window is under way; bytes of data per second.
fn throughput(ports: &[Port; 2]) -> Outcome<f64> {
    let start = Instant::now();
    transfer(ports, FRAMES)?;
    let bytes = f64::from(FRAMES) * f64::from(u32::try_from(LARGE)?);
    Ok(bytes / start.elapsed().as_secs_f64())
}

/// Sends so many large frames from the first to the second, each of which is confirmed.
pub fn transfer([one, other]: &[Port; 2], frames: u32) -> Outcome<()> {
    let sink = || -> Outcome<()> {
        let mut buffer = vec![0; BUFFER];
        let mut got = 0;
        for _ in 0..frames {
            let (_, bytes) = other.receive(&mut buffer)?;
            if bytes != LARGE {
                return Err(format!("A frame with {bytes} bytes of data came, not {LARGE}").into());
            }
            got += 1;
            other.send(&other.frame(one, got, SMALL)?)?;
        }
        Ok(())
    };
    let source = || -> Outcome<()> {
        let mut buffer = vec![0; BUFFER];
        let large = one.frame(other, 0, LARGE)?;
        let mut confirmed = 0;
        for sent in 0..frames {
            while sent - confirmed >= WINDOW {
                confirmed = one.receive(&mut buffer)?.0;
            }
            one.send(&large)?;
        }
        while confirmed < frames {
            confirmed = one.receive(&mut buffer)?.0;
        }
        Ok(())
    };
    both(sink, source)
}

/// Both at once; the second one's answer.
fn both<T>(other: impl FnOnce() -> Outcome<()> + Send, here: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || other().map_err(|error| error.to_string()));
        let answer = here()?;
        thread.join().map_err(|_| "A thread panicked")??;
        Ok(answer)
    })
}
