use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::admission::Part;
use crate::config::{Binding, Limits, MIB};
use crate::events::{Refusal, Retirement};
use crate::ids::CallId;
use crate::policy::{Eviction, KeepAlive, Placement, Warm};
use crate::states::State;

mod audit;
mod order;
mod pace;
mod world;

use world::World;

fn fixed() -> Config {
    Config { keep_alive: KeepAlive::Fixed, headroom: 0.0, ..Config::default() }
}

fn node(mib: u64) -> NodeSpec {
    NodeSpec { memory: mib * MIB, max_sandboxes: 1000, blanks: 0, starts: u32::MAX }
}

fn function(tenant: TenantId, mib: u64) -> FunctionSpec {
    FunctionSpec::new(tenant, mib * MIB)
}

#[test]
fn a_burst_starts_what_fits_and_the_rest_waits_in_order() {
    let mut world = World::new(fixed(), &[node(400)]);
    let tenant = world.tenant();
    let f = world.register(function(tenant, 100));
    let calls: Vec<CallId> = (0..6).map(|_| world.call(f, 60)).collect();
    assert_eq!(world.starts.len(), 4, "as many as memory allows");
    assert_eq!(world.scheduler.waiting(), 6);
    world.run(10);
    assert_eq!(world.starts.len(), 4);
    assert_eq!(world.handed.iter().map(|hand| hand.call).collect::<Vec<_>>(), calls);
    world.scheduler.audit();
}

#[test]
fn warm_always_wins_and_idle_ones_end_in_time() {
    let mut world = World::new(Config { fixed_s: 5.0, ..fixed() }, &[node(400)]);
    let tenant = world.tenant();
    let f = world.register(function(tenant, 100));
    world.call(f, 60);
    world.run(3);
    world.call(f, 60);
    assert!(world.handed[1].at_once && !world.handed[1].first);
    assert_eq!(world.handed[0].sandbox, world.handed[1].sandbox);
    world.run(5);
    assert!(world.retired.is_empty());
    world.run(3);
    assert_eq!(world.retired, [(world.handed[0].sandbox, Retirement::Expired)]);
    assert_eq!(world.scheduler.node(NodeId(0)).unwrap().used(), 0);
}

#[test]
fn what_is_shared_counts_once_and_a_start_waits_for_what_drains() {
    let mut world = World::new(fixed(), &[node(100)]);
    let tenant = world.tenant();
    let base = world.scheduler.add_image(20 * MIB);
    let spec = FunctionSpec { snapshot: Some(30 * MIB), base: Some(base), ..function(tenant, 10) };
    let f = world.register(spec.clone());
    let g = world.register(spec);
    (0..6).for_each(|_| _ = world.call(f, 60));
    assert_eq!(world.starts.len(), 5, "50 shared, 5 of 10");
    world.run(4);
    assert!(world.refused.is_empty());
    world.call(g, 60);
    // 30 and 10 of its own: base shared with f. Two and more of f must go, and their memory come back.
    assert!(world.starts.len() == 5 && world.evicted.len() == 4, "{:?}", world.evicted);
    world.run(4);
    assert_eq!(world.handed.len(), 7);
    world.scheduler.audit();
}

#[test]
fn blanks_are_made_used_and_made_again() {
    let mut world = World::new(fixed(), &[NodeSpec { blanks: 2, ..node(400) }]);
    let tenant = world.tenant();
    let f = world.register(function(tenant, 100));
    world.run(1);
    assert_eq!((world.starts.len(), world.scheduler.node(NodeId(0)).unwrap().blanks), (2, 2));
    world.call(f, 60);
    assert!(world.starts[2].in_blank);
    world.run(3);
    assert_eq!((world.handed.len(), world.scheduler.node(NodeId(0)).unwrap().blanks), (1, 2));
    assert_eq!(world.scheduler.stats().blanks, 3);
    world.scheduler.audit();
}

#[test]
fn while_a_snapshot_is_made_calls_wait_for_it() {
    let mut world = World::new(fixed(), &[node(1000)]);
    let tenant = world.tenant();
    let f = world.register(FunctionSpec {
        limits: Limits { provisioned: 2, ..Limits::default() },
        snapshot: Some(0),
        ..function(tenant, 100)
    });
    world.starts.clear();
    world.tell(Event::Building { function: f });
    (0..3).for_each(|_| _ = world.call(f, 60));
    world.run_ms(150);
    assert!(world.handed.is_empty());
    // The two that were on their way before serve, and serve again.
    world.run_ms(2500);
    assert_eq!((world.handed.len(), world.starts.len()), (3, 0));
    (0..3).for_each(|_| _ = world.call(f, 60));
    world.tell(Event::Snapshot { function: f, shared: Some(0) });
    assert_eq!(world.starts.len(), 1);
    world.run(10);
    assert_eq!((world.handed.len(), world.open()), (6, 0));
}

#[test]
fn a_fresh_call_has_a_sandbox_of_its_own_or_none() {
    let mut world = World::new(fixed(), &[node(250)]);
    let tenant = world.tenant();
    let f = world.register(function(tenant, 100));
    world.call(f, 60);
    world.run(3);
    let fresh = world.call_fresh(f, Duration::from_secs(60));
    assert_eq!(world.starts.len(), 2, "although one is idle");
    let ordinary = world.call(f, 60);
    world.run_ms(500);
    let by = |call: CallId| world.handed.iter().find(|hand| hand.call == call).map(|hand| hand.sandbox);
    assert_eq!(by(fresh), Some(world.starts[1].sandbox));
    assert_eq!(by(ordinary), Some(world.starts[0].sandbox));
    world.run_ms(100);
    let none = world.call_fresh(f, Duration::from_secs(60));
    assert!(matches!(world.refused[..], [(call, Refusal::NoRoom, _)] if call == none));
    world.run(10);
    assert_eq!(world.open(), 0);
}

#[test]
fn limits_refuse_at_once_and_say_when_to_try_again() {
    let mut world = World::new(Config { max_queue: 3, ..fixed() }, &[node(100)]);
    let tenant = world.tenant();
    let few = world.scheduler.add_tenant(TenantSpec { max_queue: 1, ..TenantSpec::default() });
    let f = world.register(FunctionSpec {
        limits: Limits { concurrency: 1, max_queue: 2, ..Limits::default() },
        ..function(tenant, 100)
    });
    let g = world.register(function(few, 100));
    let never = world.register(FunctionSpec {
        limits: Limits { concurrency: 0, ..Limits::default() },
        ..function(tenant, 10)
    });
    let big = world.register(function(tenant, 101));
    let reason = |world: &mut World, function| {
        let call = world.call(function, 60);
        world.refused.iter().find(|(refused, ..)| *refused == call).map(|(_, reason, after)| {
            assert!(*after >= Duration::from_secs(1));
            *reason
        })
    };
    assert_eq!(reason(&mut world, never), Some(Refusal::Forbidden));
    assert_eq!(reason(&mut world, big), Some(Refusal::TooBig));
    assert_eq!([(); 3].map(|()| reason(&mut world, f)), [None; 3], "one starts, two wait");
    assert_eq!(reason(&mut world, f), Some(Refusal::FunctionQueueFull));
    assert_eq!(reason(&mut world, g), None);
    assert_eq!(reason(&mut world, g), Some(Refusal::TenantQueueFull));
    let other = world.register(function(tenant, 100));
    assert_eq!(reason(&mut world, other), Some(Refusal::QueueFull));
    world.run(100);
    assert_eq!(world.open(), 0);
    world.scheduler.audit();
}

#[test]
fn a_call_whose_turn_would_come_too_late_is_told_so_at_once() {
    let mut world = World::new(fixed(), &[node(200)]);
    let tenant = world.tenant();
    let f = world.register(function(tenant, 100));
    world.call_ms.insert(f, 980);
    (0..2).for_each(|_| _ = world.call(f, 60));
    world.run(3);
    // Two at once, nearly a second each: the seventh of those that wait would have its turn after more than three.
    (0..8).for_each(|_| _ = world.call(f, 4));
    assert_eq!(world.refused, []);
    world.call(f, 4);
    assert!(
        matches!(world.refused[..], [(_, Refusal::Hopeless, after)] if after >= Duration::from_secs(3)),
        "{:?}",
        world.refused
    );
    world.run(10);
    assert_eq!((world.refused.len(), world.open()), (1, 0));
}

#[test]
fn reserved_is_kept_and_provisioned_is_there() {
    let mut world = World::new(Config { fixed_s: 1.0, ..fixed() }, &[node(1000)]);
    let tenant = world.scheduler.add_tenant(TenantSpec { max_concurrency: 3, ..TenantSpec::default() });
    let f = world.register(FunctionSpec {
        limits: Limits { provisioned: 2, ..Limits::default() },
        ..function(tenant, 100)
    });
    let g = world.register(FunctionSpec {
        limits: Limits { reserved: 1, ..Limits::default() },
        ..function(tenant, 100)
    });
    assert_eq!(world.starts.len(), 1, "the other may come from its snapshot");
    world.run(30);
    assert_eq!(world.starts.len(), 2);
    assert_eq!(world.scheduler.function(f).unwrap().idle, 2, "kept for ever");
    (0..4).for_each(|_| _ = world.call(f, 60));
    assert_eq!((world.handed.len(), world.scheduler.waiting()), (2, 2), "one is kept for g");
    world.call(g, 60);
    assert_eq!(world.starts.len(), 3);
    world.run(30);
    assert_eq!((world.open(), world.scheduler.function(f).unwrap().idle), (0, 2));
    let gone = world.handed[0].sandbox;
    world.tell(Event::Gone { sandbox: gone });
    assert_eq!(world.starts.len(), 4, "another in place of the lost one");
    world.scheduler.audit();
}

#[test]
fn provisioned_sandboxes_come_from_the_snapshot_that_the_first_makes() {
    let mut world = World::new(fixed(), &[node(1000)]);
    let tenant = world.tenant();
    let f = world.register(function(tenant, 100));
    world.tell(Event::Limited { function: f, limits: Limits { provisioned: 3, ..Limits::default() } });
    world.tell(Event::Building { function: f });
    world.run(10);
    assert_eq!(world.starts.len(), 1);
    world.tell(Event::Snapshot { function: f, shared: Some(10 * MIB) });
    assert_eq!(world.starts.len(), 3);
    world.run(1);
    assert_eq!(world.scheduler.stats().restores, 2);
    world.tell(Event::Limited { function: f, limits: Limits::default() });
    world.run(700);
    assert_eq!((world.retired.len(), world.scheduler.function(f).unwrap().idle), (3, 0));
    world.scheduler.audit();
}

#[test]
fn provisioned_sandboxes_that_do_not_come_up_are_tried_ever_more_seldom() {
    let mut world = World::new(fixed(), &[node(1000)]);
    world.acts = false;
    let tenant = world.tenant();
    let limits = Limits { provisioned: 1, ..Limits::default() };
    let f = world.register(FunctionSpec { limits, ..function(tenant, 100) });
    let mut failed = 0;
    let mut fail = |world: &mut World| {
        while let Some(started) = world.starts.get(failed).copied() {
            world.tell(Event::Failed { sandbox: started.sandbox, fatal: true });
            failed += 1;
        }
        failed
    };
    let (mut in_a_minute, mut later) = (0, 0);
    for half_second in 0..1200 {
        later = fail(&mut world);
        if half_second == 120 {
            in_a_minute = later;
        }
        world.run_ms(500);
    }
    assert!((4..=10).contains(&in_a_minute), "{in_a_minute}");
    assert!((8..=20).contains(&(later - in_a_minute)), "{later} in ten minutes");
    // A call does not wait for that, and neither does who changes the number.
    world.call(f, 60);
    assert_eq!(fail(&mut world), later + 1);
    world.tell(Event::Limited { function: f, limits });
    assert_eq!(world.starts.len(), later + 2);
    world.scheduler.audit();
}

#[test]
fn after_a_stall_there_is_no_herd() {
    let mut world = World::new(fixed(), &[node(400)]);
    let tenant = world.tenant();
    let f = world.register(function(tenant, 100));
    // Nothing comes up for long, and clients come again and again.
    world.acts = false;
    for _ in 0..10 {
        (0..20).for_each(|_| _ = world.call(f, 5));
        world.run(6);
    }
    assert_eq!((world.starts.len(), world.refused.len(), world.open()), (4, 200, 0));
    assert!(world.refused.iter().all(|(_, why, _)| *why == Refusal::Expired));
    // Then everything goes on: those who wait now are served by what was started, in order, and nobody else.
    let calls: Vec<CallId> = (0..8).map(|_| world.call(f, 60)).collect();
    world.acts = true;
    for started in world.starts.clone() {
        world.tell(Event::Ready { sandbox: started.sandbox });
    }
    world.run(10);
    assert_eq!(world.handed.iter().map(|hand| hand.call).collect::<Vec<_>>(), calls);
    assert_eq!((world.starts.len(), world.open()), (4, 0));
    world.scheduler.audit();
}

#[test]
fn a_function_that_does_not_come_up_fails_its_calls_after_a_few_attempts() {
    let mut world = World::new(fixed(), &[node(100)]);
    let tenant = world.tenant();
    let f = world.register(function(tenant, 100));
    let call = world.call(f, 600);
    for attempt in 1..=3 {
        assert_eq!(world.starts.len(), attempt);
        let sandbox = world.starts[attempt - 1].sandbox;
        world.tell(Event::Failed { sandbox, fatal: false });
    }
    assert_eq!(
        world.refused.iter().map(|(call, why, _)| (*call, *why)).collect::<Vec<_>>(),
        [(call, Refusal::StartFailed)]
    );
    world.call(f, 600);
    let sandbox = world.starts[3].sandbox;
    world.tell(Event::Failed { sandbox, fatal: true });
    assert_eq!((world.refused.len(), world.open()), (2, 0));
    world.scheduler.audit();
}

#[test]
fn a_changed_function_serves_as_it_is_now_and_a_removed_one_not_at_all() {
    let mut world = World::new(fixed(), &[node(200)]);
    let tenant = world.tenant();
    let f = world.register(function(tenant, 100));
    let calls = [(); 3].map(|()| world.call(f, 60));
    world.step_until_handed(2);
    world.tell(Event::Changed { function: f, spec: Box::new(function(tenant, 50)) });
    world.run(3);
    assert!(world.retired.iter().filter(|(_, why)| *why == Retirement::Outdated).count() == 2);
    assert_eq!(world.handed[2].call, calls[2]);
    assert_eq!(world.scheduler.node(NodeId(0)).unwrap().used(), 50 * MIB);
    world.call(f, 60);
    let waiting = [(); 8].map(|()| world.call(f, 60));
    world.tell(Event::Removed { function: f });
    assert!(world.refused.iter().any(|(call, why, _)| *call == waiting[7] && *why == Refusal::Gone));
    let late = world.call(f, 60);
    assert!(world.refused.iter().any(|(call, why, _)| *call == late && *why == Refusal::Gone));
    world.run(10);
    assert_eq!((world.open(), world.scheduler.node(NodeId(0)).unwrap().used()), (0, 0));
    world.scheduler.audit();
}

#[test]
fn a_regular_function_is_there_again_just_before_its_call() {
    let config = Config { keep_alive: KeepAlive::HybridHistogram, ..fixed() };
    let mut world = World::new(config, &[node(200)]);
    let tenant = world.tenant();
    let f = world.register(function(tenant, 100));
    for _ in 0..30 {
        world.call(f, 60);
        world.run(30 * 60);
    }
    assert!(world.handed[29].at_once && world.handed[29].first);
    let stats = world.scheduler.stats();
    assert!(stats.prewarms >= 15, "{stats:?}");
    assert!(stats.colds - stats.prewarms <= 13, "cold while it learned: {stats:?}");
    world.scheduler.audit();
}

#[test]
fn a_measured_sandbox_takes_what_it_has_and_gets_back_what_it_may_need() {
    let mut world = World::new(fixed(), &[node(200)]);
    let tenant = world.tenant();
    let f = world.register(function(tenant, 100));
    let g = world.register(function(tenant, 150));
    world.call(f, 60);
    world.run(3);
    let sandbox = world.handed[0].sandbox;
    world.tell(Event::Measured { sandbox, private: 40 * MIB });
    world.call(g, 60);
    assert_eq!((world.starts.len(), world.evicted.len()), (2, 0), "150 and 40 of 200");
    world.call(f, 60);
    assert_eq!(world.handed.len(), 1, "no room to grow to 100");
    world.run(10);
    assert_eq!(world.open(), 0);
    world.scheduler.audit();
}

#[test]
fn what_is_withheld_is_made_room_for_and_comes_back() {
    let mut world = World::new(fixed(), &[node(400)]);
    let tenant = world.tenant();
    let f = world.register(function(tenant, 100));
    (0..3).for_each(|_| _ = world.call(f, 60));
    world.run(5);
    assert_eq!((world.starts.len(), world.open()), (3, 0));
    let bytes = 250 * MIB;
    world.tell(Event::Withheld { node: NodeId(0), bytes });
    assert_eq!(world.evicted.len(), 2, "150 are left for three of 100");
    world.run(5);
    assert_eq!(world.scheduler.node(NodeId(0)).unwrap().used(), 100 * MIB);
    // One is served at a time, by the one that is left: nothing is started beyond what is left.
    (0..3).for_each(|_| _ = world.call(f, 60));
    assert_eq!((world.starts.len(), world.scheduler.waiting()), (3, 2));
    world.tell(Event::Withheld { node: NodeId(0), bytes: 380 * MIB });
    assert_eq!(world.evicted.len(), 2, "a call under way is not interrupted");
    world.tell(Event::Withheld { node: NodeId(0), bytes: 0 });
    assert_eq!(world.starts.len(), 5, "those that wait are started for at once");
    world.run(10);
    assert_eq!(world.open(), 0);
    world.scheduler.audit();
    let unknown = Event::Withheld { node: NodeId(7), bytes: 0 };
    let told = world.scheduler.handle(world.scheduler.now, unknown, &mut Vec::new());
    assert_eq!(told, Err(EventError::UnknownNode(NodeId(7))));
}

#[test]
fn the_names_of_policies_are_read_and_written() {
    for (name, placement) in
        [("min-cost", Placement::MinCost), ("sticky-max-available", Placement::StickyMaxAvailable)]
    {
        let config: Config = toml::from_str(&format!("placement = \"{name}\"")).unwrap();
        assert_eq!(config.placement, placement);
    }
    let config: Config = toml::from_str(
        "warm = \"none\"\neviction = \"greedy-dual\"\nkeep_alive = \"hybrid-histogram\"\nbinding = \"early\"",
    )
    .unwrap();
    assert_eq!((config.warm, config.eviction), (Warm::None, Eviction::GreedyDual));
    assert!(toml::from_str::<Config>("placement = \"best\"").is_err());
    assert!(toml::from_str::<Config>("place = 1").is_err());
}
