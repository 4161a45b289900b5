//! Placement decisions per second on one core: 100 nodes, a sample of 10 looked at.
//!
//! `cargo run --release -p mote-sched --example decisions`

use std::hint::black_box;
use std::time::{Duration, Instant};

use mote_sched::config::MIB;
use mote_sched::{
    CallId, Config, Decision, Event, FunctionId, FunctionSpec, NodeSpec, SandboxId, Scheduler, TenantSpec,
    Time,
};

const NODES: u32 = 100;
const TENANTS: u32 = 50;
/// Calls under way at a time.
const BUSY: usize = 4000;
const DECISIONS: u64 = 3_000_000;

fn main() {
    if cfg!(debug_assertions) {
        println!("skipped: only an optimised build is worth measuring (--release)");
        return;
    }
    println!(
        "{:<34} {:>14} {:>12} {:>10} {:>10}",
        "functions, sample", "decisions/s", "events/s", "started", "evicted"
    );
    for (name, functions, sample) in [
        ("1,000 (warm), 10", 1_000, 10),
        ("20,000 (a mixture), 10", 20_000, 10),
        ("200,000 (memory is short), 10", 200_000, 10),
        ("20,000 (a mixture), all", 20_000, 0),
    ] {
        measure(name, functions, sample);
    }
}

fn measure(name: &str, functions: u32, sample: u32) {
    let mut scheduler = Scheduler::new(Config { sample, headroom: 0.0, ..Config::default() });
    for _ in 0..NODES {
        scheduler.add_node(NodeSpec { memory: 40 << 30, max_sandboxes: 10_000, blanks: 0, starts: 16 });
    }
    let tenants: Vec<_> = (0..TENANTS).map(|_| scheduler.add_tenant(TenantSpec::default())).collect();
    let mut out = Vec::new();
    let mut random = 7u64;
    let mut draw = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        random >> 33
    };
    let ids: Vec<FunctionId> = (0..functions)
        .filter_map(|at| {
            let tenant = *tenants.get((at % TENANTS) as usize)?;
            let spec = FunctionSpec {
                snapshot: Some(20 * MIB),
                ..FunctionSpec::new(tenant, (64 + draw() % 192) * MIB)
            };
            scheduler.register(Time::default(), spec, &mut out).ok()
        })
        .collect();
    // Few functions get most calls, as published traces have it: the square of a uniform number, four times over.
    let mut function = || {
        let uniform = (0..4).fold(draw() & 0xffff, |value, _| (value * (draw() & 0xffff)) >> 16);
        ids.get(usize::try_from((uniform * ids.len() as u64) >> 16).unwrap_or(0)).copied()
    };
    let mut calls =
        Calls { now: Time::default(), made: 0, events: 0, placed: 0, busy: Vec::new(), inbox: Vec::new() };
    let warm_up = DECISIONS / 2;
    let mut began = Instant::now();
    let mut before = (0, 0, scheduler.stats());
    let mut turn = 1usize;
    while calls.placed < DECISIONS + warm_up {
        if before.0 == 0 && calls.placed >= warm_up {
            before = (calls.placed, calls.events, scheduler.stats());
            began = Instant::now();
        }
        let Some(f) = function() else { return };
        calls.made += 1;
        let deadline = calls.now.after(Duration::from_secs(60));
        calls.tell(
            &mut scheduler,
            Event::Arrived { call: CallId(calls.made), function: f, deadline, fresh: false },
            &mut out,
        );
        if calls.busy.len() >= BUSY {
            turn = turn.wrapping_mul(0x9e37_79b9).wrapping_add(12345) % calls.busy.len();
            let sandbox = calls.busy.swap_remove(turn);
            calls.tell(&mut scheduler, Event::Ended { sandbox, healthy: true }, &mut out);
        }
    }
    let took = began.elapsed().as_secs_f64();
    let stats = black_box(scheduler.stats());
    let per_second = |count: u64| (f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / took).round();
    let placed = calls.placed - before.0;
    let share = |count: u64| {
        100.0 * f64::from(u32::try_from(count).unwrap_or(0)) / f64::from(u32::try_from(placed).unwrap_or(1))
    };
    println!(
        "{name:<34} {:>14} {:>12} {:>8.1} % {:>8.1} %",
        per_second(placed),
        per_second(calls.events - before.1),
        share(stats.restores + stats.colds - before.2.restores - before.2.colds),
        share(stats.evictions - before.2.evictions),
    );
}

/// A cluster in which sandboxes come up and go at once.
struct Calls {
    now: Time,
    made: u64,
    events: u64,
    /// Decisions where a call is served: warm, or by which start.
    placed: u64,
    busy: Vec<SandboxId>,
    inbox: Vec<Event>,
}

impl Calls {
    fn tell(&mut self, scheduler: &mut Scheduler, event: Event, out: &mut Vec<Decision>) {
        self.now = Time(self.now.0 + 50);
        self.inbox.push(event);
        while let Some(event) = self.inbox.pop() {
            self.events += 1;
            out.clear();
            if scheduler.handle(self.now, event, out).is_err() {
                continue;
            }
            for decision in out.iter() {
                match *decision {
                    Decision::Start { sandbox, .. } => self.inbox.push(Event::Ready { sandbox }),
                    Decision::Hand { sandbox, .. } => {
                        self.placed += 1;
                        self.busy.push(sandbox);
                    }
                    Decision::Evict { sandbox, .. } | Decision::Retire { sandbox, .. } => {
                        self.inbox.push(Event::Gone { sandbox });
                    }
                    Decision::Queue { .. } | Decision::Refuse { .. } => {}
                }
            }
        }
    }
}
