//! Making many endpoints, in every way, and what it takes.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use mote_particle::netlink::{Netlink, index_of};
use mote_particle::netns::Netns;
use mote_particle::nft::{Egress, Nft, TenantRules, tenant_table};
use mote_particle::overlay::{DEVICE, Overlay};
use mote_particle::{Ebpf, Endpoint, Network, Node, Plan, Shape, Tenant};

use super::baseline;
use super::machine::{MTU, Machine, settle, underlay};
use crate::Outcome;

/// One measurement.
#[derive(Debug, Default)]
pub struct Sample {
    /// Until all endpoints can be used, milliseconds.
    pub made_ms: f64,
    /// Further figures.
    pub counts: BTreeMap<&'static str, f64>,
}

/// A way to make endpoints.
pub struct Setup {
    pub name: &'static str,
    /// Makes so many endpoints by so many threads.
    pub measure: fn(u16, u16) -> Outcome<Sample>,
}

/// All of them.
pub const MODES: &[Setup] = &[
    Setup {
        name: "overlay",
        measure: |endpoints, threads| baseline::measure(baseline::Way::Overlay, endpoints, threads),
    },
    Setup {
        name: "born",
        measure: |endpoints, threads| baseline::measure(baseline::Way::Born, endpoints, threads),
    },
    Setup {
        name: "shared",
        measure: |endpoints, threads| baseline::measure(baseline::Way::Shared, endpoints, threads),
    },
    Setup {
        name: "batched",
        measure: |endpoints, threads| baseline::measure(baseline::Way::Batched, endpoints, threads),
    },
    Setup {
        name: "particle",
        measure: |endpoints, threads| baseline::measure(baseline::Way::Particle, endpoints, threads),
    },
    Setup { name: "tap", measure: tap },
];

/// Attachments that are averaged.
const ATTACHMENTS: u16 = 1000;

pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Does something for every endpoint, shared out among threads.
pub fn in_threads<T: Send>(
    endpoints: u16,
    threads: u16,
    work: impl Fn(std::ops::Range<u16>) -> Outcome<T> + Sync,
) -> Outcome<Vec<T>> {
    let share = endpoints.div_ceil(threads);
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (work, done) = (&work, &done);
            scope.spawn(move || {
                let range = (thread * share).min(endpoints)..((thread + 1) * share).min(endpoints);
                let outcome = work(range).map_err(|error| mote_monitor::error_chain(error.as_ref()));
                if let Ok(mut done) = done.lock() {
                    done.push(outcome);
                }
            });
        }
    });
    let done = done.into_inner().map_err(|_| "A thread panicked")?;
    done.into_iter().map(|outcome| outcome.map_err(Into::into)).collect()
}

/// The plan of all networks here.
pub fn plan() -> Outcome<Plan> {
    Ok(Plan::new("10.64.0.0/10".parse()?, "fd6d:6f74:6500::/48".parse()?, 22)?)
}

/// A tenant of this machine.
pub fn tenant() -> Outcome<Tenant> {
    Tenant::new(7).ok_or_else(|| "No tenant".into())
}

/// Messages to netfilter a network takes: its filter is one batch.
const FILTER_CALLS: u64 = 1;

/// A tenant's network with its filter, joined to the overlay of a machine.
pub fn network(host: &Netns, node: u8, endpoints: u16) -> Outcome<(Network, Overlay, u64)> {
    let (plan, tenant, node_number) = (plan()?, tenant()?, Node(node.into()));
    let shape = Shape { endpoints, mtu: MTU, quarantine: Duration::ZERO, ebpf: Ebpf::All };
    let network = Network::create(plan.subnet(node_number, tenant)?, &shape)?;
    let gateway = network.subnet().gateway();
    let rules = TenantRules { plan, tenant, gateway, egress: Egress::None, flows: 0 };
    network.netns().run(|| Nft::open()?.replace(&tenant_table(&rules)))??;
    let overlay = Overlay { plan, tenant, node: node_number, local: underlay(node).into(), mtu: MTU };
    let outer = host.run(Netlink::open)??;
    overlay.create(&outer, network.netns())?;
    Ok((network, overlay, outer.calls() + FILTER_CALLS))
}

/// Ours: everything that is made in advance is counted.
fn tap(endpoints: u16, threads: u16) -> Outcome<Sample> {
    let machine = Machine::new()?;
    let start = Instant::now();
    let (network, _, outer_calls) = network(&machine.host, 0, endpoints)?;
    let prepared = start.elapsed();
    let attach = |range: std::ops::Range<u16>| {
        range.map(|_| network.attach()).collect::<Result<Vec<Endpoint>, _>>().map_err(Into::into)
    };
    let all = in_threads(endpoints, threads, attach)?;
    let made = start.elapsed();
    let addresses: std::collections::HashSet<_> =
        all.iter().flatten().map(|endpoint| endpoint.addresses().v4).collect();
    if addresses.len() != usize::from(endpoints) {
        return Err(format!("{} addresses for {endpoints} endpoints", addresses.len()).into());
    }
    drop(all);
    let attach_us = attach_us(&network, endpoints)?;
    let all = in_threads(endpoints, 1, attach)?;
    let calls = network.netlink_calls() + outer_calls + super::baseline::OVERLAY_CALLS;
    let devices = network.taps().len() + usize::from(network.netns().run(|| index_of(DEVICE))?.is_ok());
    let gone = Instant::now();
    drop(all);
    drop(network);
    settle()?;
    let teardown = gone.elapsed();
    let counts = [
        ("prepare_ms", ms(prepared)),
        ("attach_us", attach_us),
        ("teardown_ms", ms(teardown)),
        ("netlink_calls", f64::from(u32::try_from(calls)?)),
        ("crossings", 0.0),
        ("devices", f64::from(u32::try_from(devices)?)),
    ];
    Ok(Sample { made_ms: ms(made), counts: counts.into() })
}

/// Cost of one attachment where `endpoints` are attached one after the other, over equally many attachments for every
/// number of endpoints; microseconds.
fn attach_us(network: &Network, endpoints: u16) -> Outcome<f64> {
    let mut spent = Duration::ZERO;
    let mut attached = 0u32;
    // One more, which warms the caches.
    for round in 0..=ATTACHMENTS.div_ceil(endpoints) {
        let mut held = Vec::with_capacity(endpoints.into());
        let start = Instant::now();
        for _ in 0..endpoints {
            held.push(network.attach()?);
        }
        if round > 0 {
            spent += start.elapsed();
            attached += u32::from(endpoints);
        }
    }
    Ok(spent.as_secs_f64() * 1e6 / f64::from(attached))
}
