//! Any order of events: nothing outside the table, nothing beyond a budget, every call answered once, nobody starved.

use super::world::Known;
use super::*;

#[derive(Debug, Clone)]
enum Op {
    Call { function: u8, patience_ms: u16 },
    Cancel(u8),
    Ready(u8),
    Failed(u8, bool),
    Ended(u8, bool),
    Gone(u8),
    Lost(u8),
    Measured(u8, u8),
    Wait(u16),
    Fresh { function: u8, patience_ms: u16 },
    Building(u8),
    Limit(u8, u8, u8),
    Snapshot(u8, Option<u8>),
    Change(u8, u8),
    Remove(u8),
    Register(u8, u8),
    Withhold(u8, u8),
    Nonsense(u8, u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (any::<u8>(), 0u16..5000).prop_map(|(function, patience_ms)| Op::Call { function, patience_ms }),
        1 => any::<u8>().prop_map(Op::Cancel),
        6 => any::<u8>().prop_map(Op::Ready),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(which, fatal)| Op::Failed(which, fatal)),
        6 => (any::<u8>(), prop::bool::weighted(0.9)).prop_map(|(which, healthy)| Op::Ended(which, healthy)),
        5 => any::<u8>().prop_map(Op::Gone),
        1 => any::<u8>().prop_map(Op::Lost),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(which, mib)| Op::Measured(which, mib)),
        4 => (0u16..3000).prop_map(Op::Wait),
        1 => (any::<u8>(), 0u16..5000).prop_map(|(function, patience_ms)| Op::Fresh { function, patience_ms }),
        1 => any::<u8>().prop_map(Op::Building),
        1 => (any::<u8>(), 0u8..3, 0u8..3).prop_map(|(which, most, always)| Op::Limit(which, most, always)),
        2 => (any::<u8>(), any::<Option<u8>>()).prop_map(|(function, mib)| Op::Snapshot(function, mib)),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(function, mib)| Op::Change(function, mib)),
        1 => any::<u8>().prop_map(Op::Remove),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(which, mib)| Op::Register(which, mib)),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(node, mib)| Op::Withhold(node, mib)),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(slot, generation)| Op::Nonsense(slot, generation)),
    ]
}

fn config() -> impl Strategy<Value = Config> {
    let warm = prop::sample::select(vec![Warm::MaxAvailable, Warm::Sticky, Warm::None]);
    let placement = prop::sample::select(vec![
        Placement::MaxAvailable,
        Placement::MinCost,
        Placement::StickyRandom,
        Placement::Random,
        Placement::StickyMaxAvailable,
    ]);
    let eviction = prop::sample::select(vec![Eviction::MinCost, Eviction::GreedyDual, Eviction::Lru]);
    let keep = prop::sample::select(vec![KeepAlive::Fixed, KeepAlive::HybridHistogram]);
    let binding = prop::sample::select(vec![Binding::Early, Binding::Late]);
    let numbers = (0u32..3, 0.5f64..5.0, 0u64..2000, prop::bool::ANY, 1u32..12, any::<u64>());
    (warm, placement, eviction, keep, binding, numbers).prop_map(
        |(warm, placement, eviction, keep_alive, binding, numbers)| Config {
            warm,
            placement,
            eviction,
            keep_alive,
            binding,
            sample: numbers.0,
            fixed_s: numbers.1,
            fair_wait_ms: numbers.2,
            headroom: if numbers.3 { 0.2 } else { 0.0 },
            max_queue: numbers.4,
            seed: numbers.5,
            // Histograms that say something soon.
            histogram: crate::config::HistogramConfig {
                bin_s: 1.0,
                fallback_s: numbers.1,
                min_samples: 2,
                ..crate::config::HistogramConfig::default()
            },
            ..Config::default()
        },
    )
}

/// Less than so many blanks, plus four for each start at once if that is bounded.
fn pace_and_blanks(blanks: u8) -> impl Strategy<Value = u8> {
    (0u8..4, 0..blanks).prop_map(|(starts, blanks)| starts * 4 + blanks)
}

fn limits(limit: u8, reserved: u8, provisioned: u8) -> Limits {
    Limits {
        concurrency: if limit == 0 { u32::MAX } else { u32::from(limit) },
        reserved: u32::from(reserved),
        provisioned: u32::from(provisioned),
        ..Limits::default()
    }
}

type Size = (u8, u8, Option<u8>, u8, u8, u8);

fn build(config: Config, nodes: &[(u8, u8, u8)], sizes: &[Size]) -> (World, Vec<FunctionId>) {
    let nodes: Vec<NodeSpec> = nodes
        .iter()
        .map(|(mib, most, blanks)| NodeSpec {
            memory: (u64::from(*mib) + 50) * MIB,
            max_sandboxes: u32::from(*most),
            blanks: u32::from(*blanks % 4),
            starts: if *blanks < 4 { u32::MAX } else { u32::from(*blanks / 4) },
        })
        .collect();
    let mut world = World::new(config, &nodes);
    world.acts = false;
    let base = world.scheduler.add_image(5 * MIB);
    let tenants = [
        world.scheduler.add_tenant(TenantSpec { weight: 3, ..TenantSpec::default() }),
        world.scheduler.add_tenant(TenantSpec { max_concurrency: 3, max_queue: 5, ..TenantSpec::default() }),
        world.scheduler.add_tenant(TenantSpec { max_memory: 90 * MIB, ..TenantSpec::default() }),
    ];
    let functions = sizes
        .iter()
        .map(|(tenant, mib, snapshot, limit, reserved, provisioned)| {
            world.register(FunctionSpec {
                snapshot: snapshot.map(|mib| u64::from(mib % 40) * MIB),
                base: (mib % 2 == 0).then_some(base),
                limits: limits(*limit, *reserved, *provisioned),
                ..function(tenants[usize::from(*tenant) % 3], u64::from(*mib % 80) + 1)
            })
        })
        .collect();
    (world, functions)
}

impl World {
    fn pick(&self, which: u8, states: &[Known]) -> Option<SandboxId> {
        let fit: Vec<SandboxId> =
            self.known.iter().filter(|(_, known)| states.contains(&known.0)).map(|(id, _)| *id).collect();
        fit.get(usize::from(which) % fit.len().max(1)).copied()
    }

    fn apply(&mut self, op: &Op, functions: &mut [FunctionId]) {
        let at = |which: u8| usize::from(which) % functions.len();
        let function = |which: u8| functions[at(which)];
        match *op {
            Op::Call { function: which, patience_ms } => {
                self.call_for(function(which), Duration::from_millis(u64::from(patience_ms)));
            }
            Op::Cancel(which) => {
                let mut open: Vec<CallId> = self.calls.keys().copied().collect();
                open.sort_unstable();
                if let Some(call) = open.get(usize::from(which) % open.len().max(1)).copied() {
                    let (function, _) = self.calls.remove(&call).unwrap();
                    self.tell(Event::Cancelled { call, function });
                }
            }
            Op::Ready(which) => {
                if let Some(sandbox) = self.pick(which, &[Known::Starting]) {
                    self.tell(Event::Ready { sandbox });
                }
            }
            Op::Failed(which, fatal) => {
                if let Some(sandbox) = self.pick(which, &[Known::Starting]) {
                    self.tell(Event::Failed { sandbox, fatal });
                }
            }
            Op::Ended(which, healthy) => {
                if let Some(sandbox) = self.pick(which, &[Known::Busy]) {
                    self.tell(Event::Ended { sandbox, healthy });
                }
            }
            Op::Gone(which) => {
                if let Some(sandbox) = self.pick(which, &[Known::Draining]) {
                    self.tell(Event::Gone { sandbox });
                }
            }
            Op::Lost(which) => {
                let any = [Known::Starting, Known::Blank, Known::Up, Known::Busy];
                if let Some(sandbox) = self.pick(which, &any) {
                    self.tell(Event::Gone { sandbox });
                }
            }
            Op::Measured(which, mib) => {
                if let Some(sandbox) = self.pick(which, &[Known::Up, Known::Busy]) {
                    self.tell(Event::Measured { sandbox, private: u64::from(mib) * MIB / 2 });
                }
            }
            Op::Wait(ms) => {
                self.now = self.now.after(Duration::from_millis(u64::from(ms)));
                self.tell(Event::Timer);
            }
            Op::Fresh { function: which, patience_ms } => {
                self.call_fresh(function(which), Duration::from_millis(u64::from(patience_ms)));
            }
            Op::Limit(which, most, always) => {
                let limits = limits(most, always / 2, always);
                self.tell_or_gone(Event::Limited { function: function(which), limits });
            }
            Op::Building(which) => {
                self.tell_or_gone(Event::Building { function: function(which) });
            }
            Op::Snapshot(which, mib) => {
                let shared = mib.map(|mib| u64::from(mib % 60) * MIB);
                self.tell_or_gone(Event::Snapshot { function: function(which), shared });
            }
            Op::Change(which, mib) => {
                let f = function(which);
                let old = self.scheduler.spec(f).unwrap().clone();
                let spec = FunctionSpec { private: (u64::from(mib % 80) + 1) * MIB, ..old };
                self.tell_or_gone(Event::Changed { function: f, spec: Box::new(spec) });
            }
            Op::Remove(which) => {
                if which % 4 == 0 {
                    let removed = function(which / 4);
                    self.tell_or_gone(Event::Removed { function: removed });
                    self.removed.insert(removed);
                }
            }
            Op::Register(which, mib) => {
                let old = function(which);
                if self.removed.remove(&old) {
                    let spec = FunctionSpec {
                        private: (u64::from(mib % 80) + 1) * MIB,
                        snapshot: None,
                        ..self.scheduler.spec(old).unwrap().clone()
                    };
                    functions[at(which)] = self.register(spec);
                }
            }
            Op::Withhold(node, mib) => {
                let node = NodeId(u32::from(node) % number(self.scheduler.nodes.len()));
                self.tell(Event::Withheld { node, bytes: u64::from(mib) * MIB });
            }
            Op::Nonsense(slot, generation) => {
                let sandbox = SandboxId { slot: u32::from(slot % 8), generation: u32::from(generation % 4) };
                let wrong = match self.known.get(&sandbox).map(|known| known.0) {
                    None => vec![
                        Event::Ready { sandbox },
                        Event::Ended { sandbox, healthy: true },
                        Event::Gone { sandbox },
                    ],
                    Some(Known::Starting) => vec![Event::Ended { sandbox, healthy: true }],
                    Some(Known::Draining) => {
                        vec![Event::Ready { sandbox }, Event::Ended { sandbox, healthy: true }]
                    }
                    Some(Known::Busy) => {
                        vec![Event::Ready { sandbox }, Event::Failed { sandbox, fatal: true }]
                    }
                    Some(Known::Up | Known::Blank) => {
                        vec![Event::Ready { sandbox }, Event::Ended { sandbox, healthy: false }]
                    }
                };
                for event in wrong {
                    self.refused_event(event);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_events_keeps_all_promises(
        config in config(),
        nodes in prop::collection::vec((0u8..150, 1u8..8, pace_and_blanks(3)), 1..4),
        sizes in prop::collection::vec((0u8..3, any::<u8>(), any::<Option<u8>>(), 0u8..3, 0u8..2, 0u8..2), 1..6),
        ops in prop::collection::vec(op(), 1..150),
    ) {
        let (mut world, mut functions) = build(config, &nodes, &sizes);
        for op in &ops {
            world.apply(op, &mut functions);
            world.scheduler.audit();
            world.scheduler.nothing_lies_idle();
        }
        // Everything comes to an end: calls are over, nobody fails, deadlines pass.
        for round in 0u32.. {
            prop_assert!(round < 2000, "no end");
            if world.calls.is_empty() && !world.known.values().any(|known| known.0 == Known::Busy) {
                break;
            }
            for op in [Op::Ready(0), Op::Ended(0, true), Op::Gone(0), Op::Wait(50)] {
                world.apply(&op, &mut functions);
                world.scheduler.audit();
            }
        }
        let stats = world.scheduler.stats();
        prop_assert_eq!(
            stats.arrived,
            stats.warm + stats.waited + stats.refused + stats.expired + stats.cancelled
        );
        // What is left goes when the functions do.
        for function in functions {
            world.tell_or_gone(Event::Removed { function });
        }
        while let Some(sandbox) = world.pick(0, &[Known::Draining, Known::Blank, Known::Starting, Known::Up]) {
            if world.known[&sandbox] != (Known::Draining, None) && world.known[&sandbox].1.is_none() {
                world.known.remove(&sandbox);
            } else {
                prop_assert_eq!(world.known[&sandbox].0, Known::Draining);
                world.tell(Event::Gone { sandbox });
            }
        }
        world.scheduler.audit();
        for n in 0..nodes.len() {
            let view = world.scheduler.node(NodeId(number(n))).unwrap();
            prop_assert_eq!((view.shared, view.idle, view.draining, view.promised), (0, 0, 0, 0));
        }
    }

    // Without sampling, the choice is the one of a search through everything.
    #[test]
    fn placement_is_that_of_the_naive_search(
        config in config(),
        placement in prop::sample::select(vec![Placement::MaxAvailable, Placement::MinCost]),
        nodes in prop::collection::vec((0u8..150, 2u8..8, pace_and_blanks(1)), 2..5),
        sizes in prop::collection::vec((0u8..1, any::<u8>(), any::<Option<u8>>(), 0u8..1, 0u8..1, 0u8..1), 1..6),
        ops in prop::collection::vec(op(), 1..100),
    ) {
        let config = Config { placement, sample: 0, headroom: 0.0, fixed_s: 100.0, ..config };
        let (mut world, mut functions) = build(config, &nodes, &sizes);
        for op in &ops {
            world.apply(op, &mut functions);
            for f in 0..number(functions.len()) {
                let best = world.scheduler.best_nodes(f);
                match world.scheduler.choose_node(f, true) {
                    Some(n) => prop_assert!(best.contains(&n), "{n} of {best:?}"),
                    None => prop_assert!(best.is_empty(), "none of {best:?}"),
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    // Every function has calls that wait at any moment: each is served again and again, whatever its size and
    // whatever the others take.
    #[test]
    fn nobody_starves(
        sizes in prop::collection::vec((0u8..3, 1u64..100, 1u64..3000), 2..8),
        weights in prop::collection::vec(1u32..5, 3),
        nodes in 1usize..3,
        starts in prop::sample::select(vec![1, 3, u32::MAX]),
        binding in prop::sample::select(vec![Binding::Early, Binding::Late]),
        headroom in prop::bool::ANY,
    ) {
        let config = Config { binding, headroom: if headroom { 0.1 } else { 0.0 }, ..fixed() };
        let mut world = World::new(config, &vec![NodeSpec { starts, ..node(100) }; nodes]);
        let tenants: Vec<TenantId> = weights
            .iter()
            .map(|weight| world.scheduler.add_tenant(TenantSpec { weight: *weight, ..TenantSpec::default() }))
            .collect();
        let functions: Vec<FunctionId> = sizes
            .iter()
            .map(|(tenant, mib, call_ms)| {
                let f = world.register(function(tenants[usize::from(*tenant)], *mib));
                world.call_ms.insert(f, *call_ms);
                f
            })
            .collect();
        let longest: u64 = sizes.iter().map(|size| size.2).max().unwrap_or(0);
        // Starved for 4 s, it is in line; each of those before has a node emptied, starts and has its turn.
        let bound = 8000 + (longest + 1000) * u64::try_from(sizes.len()).unwrap();
        let mut last: HashMap<FunctionId, Time> = functions.iter().map(|f| (*f, Time::default())).collect();
        let mut seen = 0;
        while world.now < Time::from_secs(240) {
            for f in &functions {
                while world.scheduler.function(*f).unwrap().waiting < 3 {
                    world.call(*f, 100_000);
                }
            }
            world.run_ms(100);
            for hand in &world.handed[seen..] {
                last.insert(hand.function, hand.at);
            }
            seen = world.handed.len();
            for (f, at) in &last {
                let waits = world.now.since(*at);
                prop_assert!(waits <= Duration::from_millis(bound), "{f:?} waits {waits:?} of {bound} ms");
            }
        }
        world.scheduler.audit();
    }
}

#[test]
fn a_slow_function_does_not_hold_back_another_tenants() {
    let mut world = World::new(Config { keep_alive: KeepAlive::Fixed, ..Config::default() }, &[node(1000)]);
    let (hog, other) = (world.tenant(), world.tenant());
    let slow = world.register(function(hog, 100));
    let quick = world.register(function(other, 100));
    world.call_ms.insert(slow, 900_000);
    world.call_ms.insert(quick, 10);
    (0..50).for_each(|_| _ = world.call(slow, 3600));
    world.run(10);
    assert_eq!(world.scheduler.function(slow).unwrap().busy, 9, "a part is kept free");
    for _ in 0..20 {
        let called = world.now;
        let call = world.call(quick, 10);
        world.run(1);
        let hand = world.handed.iter().find(|hand| hand.call == call).expect("served");
        assert!(hand.at.since(called) <= Duration::from_millis(250));
    }
}

#[test]
fn a_flood_of_short_calls_gives_way_to_others() {
    let mut world = World::new(fixed(), &[node(400)]);
    let (hog, other) = (world.tenant(), world.tenant());
    let flood = world.register(function(hog, 100));
    let rare = world.register(function(other, 100));
    world.call_ms.insert(flood, 50);
    for round in 0..100 {
        (0..100).for_each(|_| _ = world.call(flood, 3600));
        if round % 10 == 5 {
            world.call(rare, 3600);
        }
        world.run_ms(500);
        for (function, came) in world.calls.values() {
            let waits = world.now.since(*came);
            assert!(*function != rare || waits < Duration::from_millis(1000), "{waits:?}");
        }
    }
    let served = world.handed.iter().filter(|hand| hand.function == flood).count();
    assert!(served > 3000, "and the flood goes on: {served}");
}
