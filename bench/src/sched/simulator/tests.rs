use proptest::prelude::*;

use super::super::baseline::{NodeGrained, Policy};
use super::super::clients::Clients;
use super::super::mote::Mote;
use super::super::policies;
use super::*;

fn cluster(nodes: u32) -> Cluster {
    Cluster { nodes, node_mb: 100, creators: 1, dispatch: 0, rest: None, horizon: 10 * SECOND }
}

fn shape(memory_mb: u32) -> Shape {
    Shape { memory_mb, create: SECOND }
}

/// Calls at seconds, of functions, for seconds.
fn calls(rows: &[(u64, u32, u64)]) -> Vec<Call> {
    rows.iter().map(|&(at, function, run)| Call { at: at * SECOND, function, run: run * SECOND }).collect()
}

fn close(value: f64, expected: f64) {
    assert!((value - expected).abs() < 1e-9, "{value}, not {expected}");
}

#[test]
fn a_scenario_by_hand() {
    let (cluster, shapes) = (cluster(1), [shape(60), shape(60)]);
    // The second waits for the end of the first at 3 and takes its place; the third, that of the second at 5.
    let calls = calls(&[(0, 0, 2), (1, 1, 1), (5, 0, 1)]);
    let scheduler = NodeGrained::new(Policy::StickyRandom, &cluster, &shapes, 1);
    let mut scheduler = Clients::new(Box::new(scheduler), vec![60, 60], 1);
    let outcome = simulate(&cluster, &shapes, &calls, &mut scheduler).unwrap();
    assert_eq!(outcome.latencies_s, [1.0, 3.0, 1.0]);
    assert_eq!((outcome.answered, outcome.cold, outcome.created, outcome.refused), (3, 3, 3, 0));
    close(outcome.throughput, 0.3);
    // Seven of ten seconds one of them is made or runs; the last one is idle for the other three.
    close(outcome.memory, 0.7 * 0.6);
    close(outcome.imbalance, 0.0);
    close(outcome.waste_gb_s, 3.0 * 60.0 / 1024.0);
}

#[test]
fn an_idle_sandbox_serves_again_and_the_other_node_is_idle() {
    let (cluster, shapes) = (cluster(2), [shape(50)]);
    let calls = calls(&[(0, 0, 1), (4, 0, 1)]);
    let mut scheduler = NodeGrained::new(Policy::StickyRandom, &cluster, &shapes, 1);
    let outcome = simulate(&cluster, &shapes, &calls, &mut scheduler).unwrap();
    assert_eq!(outcome.latencies_s, [1.0, 0.0]);
    assert_eq!((outcome.cold, outcome.created), (1, 1));
    // Three seconds one of two nodes is half full: 25 %, and 25 % off the mean.
    close(outcome.memory, 0.3 * 0.25);
    close(outcome.imbalance, 0.3 * 0.25);
    close(outcome.waste_gb_s, (2.0 + 5.0) * 50.0 / 1024.0);
}

#[test]
fn of_clients_that_wait_those_go_first_who_fit_unless_they_stand_in_line() {
    let (cluster, shapes) = (cluster(1), [shape(40), shape(90), shape(30)]);
    // Two run until 4 and 8; of those who come meanwhile, the last fits at 4 and the one before it not until 8.
    let calls = calls(&[(0, 0, 3), (0, 0, 6), (2, 1, 1), (3, 2, 1)]);
    for (tries, expected) in [(1, [1.0, 2.0, 7.0, 8.0]), (2, [1.0, 2.0, 2.0, 7.0])] {
        let scheduler = NodeGrained::new(Policy::StickyRandom, &cluster, &shapes, 1);
        let mut scheduler = Clients::new(Box::new(scheduler), vec![40, 90, 30], tries);
        let outcome = simulate(&cluster, &shapes, &calls, &mut scheduler).unwrap();
        assert_eq!(outcome.latencies_s, expected, "{tries}");
    }
}

#[test]
fn sandboxes_of_a_node_are_made_in_turn() {
    let shapes = [shape(30), shape(30)];
    let calls = calls(&[(0, 0, 1), (0, 1, 1), (0, 0, 1)]);
    for (creators, expected) in [(1, [1.0, 2.0, 3.0]), (2, [1.0, 1.0, 2.0]), (3, [1.0; 3])] {
        let cluster = Cluster { creators, ..cluster(1) };
        let mut scheduler = NodeGrained::new(Policy::MaxAvailable, &cluster, &shapes, 1);
        let outcome = simulate(&cluster, &shapes, &calls, &mut scheduler).unwrap();
        assert_eq!(outcome.latencies_s, expected, "{creators}");
    }
}

#[test]
fn what_rests_makes_room_and_needs_it_again() {
    let shapes = [shape(60), shape(60)];
    // The second comes while the first idles, and has room beside it only when that one rests.
    let calls = calls(&[(0, 0, 1), (5, 1, 1), (9, 0, 1)]);
    let run = |rest: Option<Rest>| {
        let cluster = Cluster { rest, horizon: 20 * SECOND, ..cluster(1) };
        let mut scheduler = Mote::new(mote_sched::Config::default(), &cluster, &shapes, cluster.creators).unwrap();
        let outcome = simulate(&cluster, &shapes, &calls, &mut scheduler).unwrap();
        (outcome.begun, scheduler.stats().evictions)
    };
    let rest = |after| Some(Rest { after: after * SECOND, memory_mb: 20 });
    assert_eq!(run(None), (vec![(0, true), (1, true), (2, true)], 2));
    assert_eq!(run(rest(1)), (vec![(0, true), (1, true), (2, false)], 0));
    assert_eq!(run(rest(4)).1, 2, "too late");
}

#[test]
fn patience_ends() {
    let (cluster, shapes) = (cluster(1), [shape(60)]);
    let calls = calls(&[(0, 0, 8), (1, 0, 1), (2, 0, 1)]);
    let scheduler = Mote::new(mote_sched::Config::default(), &cluster, &shapes, cluster.creators).unwrap();
    let mut scheduler = scheduler.restoring(3 * SECOND, 10).unwrap();
    let outcome = simulate(&cluster, &shapes, &calls, &mut scheduler).unwrap();
    assert_eq!((outcome.answered, outcome.refused, scheduler.stats().restores), (1, 2, 1));
}

/// Does what it is told, once.
struct Script(Vec<(Input, Vec<Action>)>);

impl Scheduler for Script {
    fn step(&mut self, _: Time, input: Input, actions: &mut Vec<Action>) {
        if let Some(at) = self.0.iter().position(|(expected, _)| *expected == input) {
            actions.extend(self.0.remove(at).1);
        }
    }
}

#[test]
fn impossible_decisions_are_found() {
    let (cluster, shapes) = (cluster(1), [shape(60), shape(30)]);
    let came = Input::Call { call: 0, function: 0 };
    let ready = Input::Ready { sandbox: 1 };
    let create = Action::Create { sandbox: 1, function: 0, node: 0 };
    let other = Action::Create { sandbox: 1, function: 1, node: 0 };
    let run = Action::Run { call: 0, sandbox: 1 };
    let stop = Action::Stop { sandbox: 1 };
    let done = Input::Done { sandbox: 1 };
    let refuse = Action::Refuse { call: 0 };
    let second = Action::Create { sandbox: 2, function: 0, node: 0 };
    let nowhere = Action::Create { sandbox: 2, function: 0, node: 1 };
    type Lines<'a> = &'a [(Input, &'a [Action])];
    let cases: [(Lines<'_>, Violation); 10] = [
        (&[], Violation::Unanswered(1)),
        (&[(came, &[create]), (ready, &[run]), (done, &[run])], Violation::Call(0)),
        (&[(came, &[refuse, refuse])], Violation::Call(0)),
        (&[(came, &[Action::Refuse { call: 1 }])], Violation::Call(1)),
        (&[(came, &[create, run])], Violation::Sandbox(1)),
        (&[(came, &[create, stop])], Violation::Sandbox(1)),
        (&[(came, &[create]), (ready, &[run, stop])], Violation::Sandbox(1)),
        (&[(came, &[other]), (ready, &[run])], Violation::Function(0)),
        (&[(came, &[create, second])], Violation::Memory(0)),
        (&[(came, &[nowhere])], Violation::Memory(1)),
    ];
    for (script, violation) in cases {
        let mut script = Script(script.iter().map(|(input, actions)| (*input, actions.to_vec())).collect());
        let found = simulate(&cluster, &shapes, &calls(&[(0, 0, 1)]), &mut script);
        assert_eq!(found, Err(violation));
    }
}

/// Wants to be woken all the time.
struct Sleepless(bool);

impl Scheduler for Sleepless {
    fn step(&mut self, _: Time, input: Input, actions: &mut Vec<Action>) {
        if let Input::Call { call, .. } = input {
            actions.push(Action::Refuse { call });
        }
        self.0 |= input == Input::Wake;
    }

    fn wake(&mut self) -> Option<Time> {
        Some(5 * SECOND)
    }
}

#[test]
fn timers_come_and_the_end_comes_all_the_same() {
    let (cluster, shapes) = (Cluster { horizon: 6 * SECOND, ..cluster(1) }, [shape(60)]);
    let mut scheduler = Sleepless(false);
    let outcome = simulate(&cluster, &shapes, &calls(&[(0, 0, 1)]), &mut scheduler).unwrap();
    assert_eq!((outcome.refused, outcome.answered), (1, 0));
    assert!(scheduler.0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes, every scheduler answers every call once and does nothing impossible, twice the same.
    #[test]
    fn every_call_is_answered_once(
        rows in prop::collection::vec((0u64..20_000_000, 0u32..6, 1u64..3_000_000), 1..120),
        nodes in 1u32..5,
        creators in 1u32..3,
        rest in prop::option::of((0u64..3_000_000, 1u32..60)),
        seed: u64,
    ) {
        let mut calls: Vec<Call> = rows.into_iter().map(|(at, function, run)| Call { at, function, run }).collect();
        calls.sort_unstable();
        let rest = rest.map(|(after, memory_mb)| Rest { after, memory_mb });
        let cluster = Cluster { nodes, node_mb: 100, creators, dispatch: 1000, rest, horizon: 20 * SECOND };
        let shapes: Vec<Shape> = (1..=6).map(|size| shape(15 * size)).collect();
        let kinds = policies::all().into_iter().chain(policies::timed()).chain(policies::keep_alive());
        for (name, kind) in kinds {
            let run = || {
                let mut scheduler = kind.build(&cluster, &shapes, seed, policies::TRIES).unwrap();
                simulate(&cluster, &shapes, &calls, scheduler.as_mut())
            };
            let outcome = run();
            prop_assert!(outcome.is_ok(), "{name}: {outcome:?}");
            let outcome = outcome.unwrap();
            prop_assert_eq!((outcome.answered as usize, outcome.refused), (calls.len(), 0), "{}", name);
            prop_assert!(outcome.latencies_s.iter().all(|latency| *latency >= 0.001), "{}", name);
            prop_assert!(outcome.cold <= outcome.created && outcome.memory <= 1.0, "{}: {:?}", name, outcome);
            prop_assert_eq!(run(), Ok(outcome), "{}", name);
        }
    }
}
