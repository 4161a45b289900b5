//! Starts at once.

use super::*;

fn two_at_once() -> NodeSpec {
    NodeSpec { starts: 2, ..node(4000) }
}

#[test]
fn a_burst_starts_two_at_once_and_whatever_is_free_serves_the_rest() {
    let mut world = World::new(fixed(), &[two_at_once()]);
    let tenant = world.tenant();
    let f = world.register(function(tenant, 100));
    world.call_ms.insert(f, 10);
    let calls: Vec<CallId> = (0..20).map(|_| world.call(f, 60)).collect();
    assert_eq!(world.starts.len(), 2);
    world.run(20);
    assert_eq!(world.handed.iter().map(|hand| hand.call).collect::<Vec<_>>(), calls);
    assert!(world.starts.len() < 6, "short calls need no sandbox each: {}", world.starts.len());
    world.scheduler.audit();
}

#[test]
fn a_start_that_hangs_keeps_nobody_from_starting_for_long() {
    let mut world = World::new(fixed(), &[two_at_once()]);
    let tenant = world.tenant();
    let hanging: Vec<FunctionId> = (0..4).map(|_| world.register(function(tenant, 100))).collect();
    let well = world.register(function(tenant, 100));
    world.acts = false;
    hanging.iter().for_each(|f| _ = world.call(*f, 600));
    assert_eq!(world.starts.len(), 2);
    world.call(well, 600);
    for (at_ms, starts) in [(1999, 2), (2000, 4), (3999, 4), (4000, 5)] {
        world.now = Time(at_ms * 1000);
        world.tell(Event::Timer);
        assert_eq!(world.starts.len(), starts, "at {at_ms} ms");
    }
    assert!(world.starts.iter().any(|start| start.function == Some(well)));
    world.scheduler.audit();
}

#[test]
fn the_timer_knows_of_slow_starts() {
    let mut world = World::new(fixed(), &[two_at_once()]);
    let tenant = world.tenant();
    let f = world.register(function(tenant, 100));
    world.acts = false;
    (0..3).for_each(|_| _ = world.call(f, 600));
    let due = world.scheduler.next_timer().unwrap();
    assert!(due <= Time(2_000_000), "{due:?}");
    let sandbox = world.starts[0].sandbox;
    world.tell(Event::Ready { sandbox });
    assert_eq!(world.starts.len(), 3, "its place is free");
}

#[test]
fn fresh_calls_do_not_wait_for_others_to_start() {
    let mut world = World::new(fixed(), &[two_at_once()]);
    let tenant = world.tenant();
    let f = world.register(function(tenant, 100));
    (0..3).for_each(|_| _ = world.call_fresh(f, Duration::from_secs(60)));
    assert!(world.starts.len() == 3 && world.refused.is_empty());
    world.run(5);
    assert_eq!(world.handed.len(), 3);
    world.scheduler.audit();
}

#[test]
fn whoever_waits_for_starts_only_is_not_told_that_it_is_hopeless() {
    let mut world = World::new(fixed(), &[two_at_once()]);
    let tenant = world.tenant();
    let f = world.register(function(tenant, 100));
    // Calls take long: with all memory taken it would be.
    world.call_ms.insert(f, 60_000);
    world.call(f, 3600);
    world.run(70);
    let calls: Vec<CallId> = (0..10).map(|_| world.call(f, 10)).collect();
    world.run(5);
    assert!(world.refused.is_empty(), "{:?}", world.refused);
    assert_eq!(world.handed[1..].iter().map(|hand| hand.call).collect::<Vec<_>>(), calls);
    world.scheduler.audit();
}

#[test]
fn whoever_would_wait_too_long_for_starts_is_told_so() {
    let mut world = World::new(fixed(), &[two_at_once()]);
    let tenant = world.tenant();
    let f = world.register(function(tenant, 10));
    world.call_ms.insert(f, 60_000);
    world.call(f, 3600);
    world.run(70);
    // Two in 200 ms: in three quarters of a second about eight.
    (0..40).for_each(|_| _ = world.call(f, 1));
    let hopeless = world.refused.iter().filter(|refused| refused.1 == Refusal::Hopeless).count();
    assert!((20..38).contains(&hopeless), "{hopeless}");
}
