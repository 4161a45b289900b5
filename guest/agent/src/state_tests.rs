use super::*;
use mote_protocol::ResultKind::Response;
use proptest::prelude::*;

/// Every move there is. What is not here must not happen.
const MOVES: &[(Phase, Phase)] = {
    use Phase::*;
    &[
        (Blank, Prewarming),
        (Prewarming, AtFunction),
        (AtFunction, Prewarming),
        (Blank, Starting),
        (Prewarming, Starting),
        (AtFunction, Starting),
        (Starting, AtSnapshot),
        (Starting, Restoring),
        (Starting, Waiting),
        (Starting, Serving),
        (AtSnapshot, Starting),
        (AtSnapshot, Restoring),
        (Restoring, Waiting),
        (Restoring, Serving),
        (Away, Waiting),
        (Away, Serving),
        (Waiting, Away),
        (Waiting, Serving),
        (Serving, Away),
    ]
};

/// A long poll is held in these.
const HOLDING: &[Phase] = &[Phase::AtFunction, Phase::AtSnapshot, Phase::Waiting];

/// No function is known in these.
const BLANK: &[Phase] = &[Phase::Blank, Phase::Prewarming, Phase::AtFunction];

#[derive(Debug, Clone)]
enum Input {
    Prewarm,
    Function,
    Start,
    RestoreNext,
    Next,
    /// Answers the call with this number, counted back from the newest; a call never made if too large.
    Answer(usize),
    InitError,
    RestoreError,
    Left,
    Quiesce,
    Resume,
    Invoke,
    Unplugged,
    Exited,
}

fn inputs() -> impl Strategy<Value = Vec<Input>> {
    let input = prop_oneof![
        4 => Just(Input::RestoreNext),
        8 => Just(Input::Next),
        8 => (0usize..3).prop_map(Input::Answer),
        1 => Just(Input::InitError),
        1 => Just(Input::RestoreError),
        2 => Just(Input::Left),
        2 => Just(Input::Quiesce),
        3 => Just(Input::Resume),
        8 => Just(Input::Invoke),
        1 => Just(Input::Unplugged),
        1 => Just(Input::Exited),
    ];
    let base = prop_oneof![
        2 => Just(Input::Prewarm),
        4 => Just(Input::Function),
        1 => Just(Input::Left),
        2 => Just(Input::Quiesce),
        2 => Just(Input::Resume),
        1 => Just(Input::Unplugged),
    ];
    // Mostly in an order that leads somewhere.
    let sensible = (prop::collection::vec(base, 0..6), prop::collection::vec(input.clone(), 0..80)).prop_map(
        |(mut base, rest)| {
            base.push(Input::Start);
            base.extend(rest);
            base
        },
    );
    let odd = prop_oneof![1 => Just(Input::Prewarm), 1 => Just(Input::Function), 1 => Just(Input::Start), 9 => input];
    prop_oneof![4 => sensible, 1 => prop::collection::vec(odd, 0..40)]
}

proptest! {
    #[test]
    fn any_order_of_requests_keeps_the_rules(inputs in inputs()) {
        let mut state = State::default();
        let mut calls = Vec::<String>::new();
        let mut handed_over = Vec::<String>::new();
        let mut answered = Vec::<String>::new();
        let mut queued: Option<String> = None;
        let mut held: i32 = 0;
        let (mut ready, mut failed, mut resumes) = (0, 0, 0);
        let (mut prewarms, mut starts) = (0, 0);
        for input in inputs {
            let before = state.phase();
            let id = match input {
                Input::Invoke => { calls.push(format!("call-{}", calls.len())); calls.last().cloned() }
                Input::Answer(back) => calls.iter().rev().nth(back).cloned(),
                _ => None,
            }.unwrap_or_else(|| "never".to_owned());
            let event = match input {
                Input::Prewarm => Event::Prewarm { able: true },
                Input::Function => Event::Function,
                Input::Start => Event::Start,
                Input::RestoreNext => Event::RestoreNext,
                Input::Next => Event::Next,
                Input::Answer(_) => Event::Answer { request_id: &id, kind: Response },
                Input::InitError => Event::InitError,
                Input::RestoreError => Event::RestoreError,
                Input::Left => Event::Left,
                Input::Quiesce => Event::Quiesce,
                Input::Resume => { resumes += 1; Event::Resume }
                Input::Invoke => { queued.get_or_insert_with(|| id.clone()); Event::Invoke { request_id: &id } }
                Input::Unplugged => { queued = None; Event::Unplugged }
                Input::Exited => Event::Exited,
            };
            let of_runtime = matches!(event, Event::Function | Event::RestoreNext | Event::Next | Event::Answer { .. }
                | Event::InitError | Event::RestoreError);
            let actions = state.step(event);
            let after = state.phase();

            let replies = actions.iter()
                .filter(|a| matches!(a, Action::Hold | Action::Accept | Action::Refuse(_))).count();
            prop_assert_eq!(replies, usize::from(of_runtime), "{:?} got {:?}", event, actions);
            prop_assert!(before == after || after == Phase::Failed || MOVES.contains(&(before, after)),
                "{:?} -> {:?} by {:?}", before, after, event);
            if before == Phase::Failed {
                prop_assert_eq!(after, Phase::Failed);
                prop_assert!(actions.iter().all(|a| matches!(a, Action::Refuse(_))), "{:?}", actions);
            }
            if matches!(event, Event::Left) && HOLDING.contains(&before) {
                held -= 1;
            }
            for action in &actions {
                match action {
                    // A second request of the same kind replaces the first, which is refused.
                    Action::Hold => held = 1,
                    Action::Release => { prop_assert_eq!(held, 1); held = 0; }
                    Action::HandOver => {
                        prop_assert_eq!(held, 1);
                        held = 0;
                        let id = queued.take();
                        prop_assert_eq!(id.as_deref(), state.serving());
                        let id = id.unwrap();
                        prop_assert!(!handed_over.contains(&id));
                        handed_over.push(id);
                    }
                    Action::Result(_) => {
                        prop_assert!(handed_over.contains(&id) && !answered.contains(&id));
                        answered.push(id.clone());
                    }
                    Action::Ready => ready += 1,
                    Action::Resumed => { prop_assert!(resumes > 0); resumes = 0; }
                    Action::Settle => prop_assert!(after == Phase::Blank || HOLDING.contains(&after)),
                    Action::Prewarm => prewarms += 1,
                    Action::Start => { starts += 1; held = 0; ready = 0; }
                    Action::Fail(_) | Action::Violation(_) => { failed += 1; queued = None; }
                    Action::Accept | Action::Refuse(_) | Action::Forget => {}
                }
            }
            if after != Phase::Failed {
                prop_assert_eq!(held == 1, HOLDING.contains(&after));
                prop_assert_eq!(starts == 0, BLANK.contains(&after));
                prop_assert_eq!(state.serving().is_some(), after == Phase::Serving);
            }
        }
        prop_assert!(ready <= 1 && failed <= 1 && prewarms <= 1 && starts <= 1);
    }
}

/// A runtime that was started.
fn starting() -> State {
    let mut state = State::default();
    assert_eq!(state.step(Event::Start), [Action::Start]);
    state
}

#[test]
fn a_base_without_a_runtime_waits_for_its_function() {
    let mut state = State::default();
    assert_eq!(state.step(Event::Quiesce), [Action::Settle]);
    assert_eq!(state.step(Event::Resume), [Action::Resumed]);
    assert_eq!(state.step(Event::Start), [Action::Start]);
    assert_eq!(state.step(Event::RestoreNext), [Action::Hold, Action::Ready]);
    assert!(matches!(state.step(Event::Start).as_slice(), [Action::Violation(_)]));
}

#[test]
fn a_runtime_that_cannot_start_without_its_function_is_ready_for_it_at_once() {
    let mut state = State::default();
    assert_eq!(state.step(Event::Prewarm { able: false }), [Action::Ready]);
    assert_eq!(state.step(Event::Quiesce), [Action::Settle]);
    assert_eq!(state.step(Event::Start), [Action::Start]);
    assert_eq!(state.step(Event::RestoreNext), [Action::Hold, Action::Ready]);
}

#[test]
fn a_prewarmed_runtime_is_ready_twice() {
    let mut state = State::default();
    assert_eq!(state.step(Event::Prewarm { able: true }), [Action::Prewarm]);
    // The order to settle may come before the runtime has loaded everything.
    assert_eq!(state.step(Event::Quiesce), []);
    assert_eq!(state.step(Event::Function), [Action::Hold, Action::Ready, Action::Settle]);
    assert_eq!(state.step(Event::Resume), [Action::Resumed]);
    assert_eq!(state.step(Event::Left), []);
    assert_eq!(state.step(Event::Function), [Action::Hold]);
    assert_eq!(state.step(Event::Start), [Action::Start]);
    assert_eq!(state.step(Event::Function), [Action::Refuse(Refusal::State(Phase::Starting))]);
    assert_eq!(state.step(Event::RestoreNext), [Action::Hold, Action::Ready]);
}

#[test]
fn a_function_comes_before_its_calls_and_a_runtime_once() {
    let able = Event::Prewarm { able: true };
    for events in [
        &[Event::Invoke { request_id: "a" }][..],
        &[able, Event::Invoke { request_id: "a" }],
        &[able, able],
        &[Event::Start, able],
    ] {
        let mut state = State::default();
        let actions: Vec<Action> = events.iter().flat_map(|event| state.step(*event)).collect();
        assert!(matches!(actions.last(), Some(Action::Violation(_))), "{actions:?}");
    }
}

#[test]
fn a_snapshot_started_runtime_serves_calls() {
    let mut state = starting();
    assert_eq!(state.step(Event::RestoreNext), [Action::Hold, Action::Ready]);
    assert_eq!(state.step(Event::Quiesce), [Action::Settle]);
    assert_eq!(state.step(Event::Resume), [Action::Release]);
    assert_eq!(state.step(Event::Invoke { request_id: "a" }), []);
    assert_eq!(state.step(Event::Next), [Action::Hold, Action::Resumed, Action::HandOver]);
    let wrong = Event::Answer { request_id: "b", kind: Response };
    assert_eq!(state.step(wrong), [Action::Refuse(Refusal::RequestId)]);
    let answer = Event::Answer { request_id: "a", kind: Response };
    assert_eq!(state.step(answer), [Action::Result(Response), Action::Accept]);
    assert_eq!(state.step(answer), [Action::Refuse(Refusal::State(Phase::Away))]);
    // The order to settle may come before the runtime is back.
    assert_eq!(state.step(Event::Quiesce), []);
    assert_eq!(state.step(Event::Next), [Action::Hold, Action::Settle]);
    assert_eq!(state.step(Event::Resume), [Action::Resumed]);
    assert_eq!(state.step(Event::Invoke { request_id: "c" }), [Action::HandOver]);
    assert_eq!(state.step(Event::Exited), [Action::Fail(FailureKind::Exit)]);
    assert_eq!(state.step(Event::Exited), []);
}

#[test]
fn a_runtime_without_hooks_is_ready_at_its_first_next() {
    let mut state = starting();
    assert_eq!(state.step(Event::Next), [Action::Hold, Action::Ready]);
    assert_eq!(state.step(Event::RestoreNext), [Action::Refuse(Refusal::State(Phase::Waiting))]);
    assert_eq!(state.step(Event::Quiesce), [Action::Settle]);
    assert_eq!(state.step(Event::Resume), [Action::Resumed]);
    assert_eq!(state.step(Event::Invoke { request_id: "a" }), [Action::HandOver]);
}

#[test]
fn a_lost_session_takes_its_call_along() {
    let mut state = starting();
    state.step(Event::Next);
    state.step(Event::Invoke { request_id: "a" });
    assert_eq!(state.step(Event::Unplugged), []);
    assert_eq!(state.step(Event::Invoke { request_id: "b" }), []);
    assert_eq!(state.step(Event::Answer { request_id: "a", kind: Response }), [Action::Accept]);
    assert_eq!(state.step(Event::Unplugged), [Action::Forget]);
    assert_eq!(state.step(Event::Next), [Action::Hold]);
}

#[test]
fn overlapping_calls_are_the_hosts_fault() {
    let mut state = starting();
    state.step(Event::Invoke { request_id: "a" });
    let actions = state.step(Event::Invoke { request_id: "b" });
    assert!(matches!(actions.as_slice(), [Action::Violation(_)]), "{actions:?}");
    assert_eq!(state.phase(), Phase::Failed);
}

#[test]
fn init_and_restore_errors_are_accepted_only_in_their_phase() {
    let mut state = starting();
    assert_eq!(state.step(Event::RestoreError), [Action::Refuse(Refusal::State(Phase::Starting))]);
    assert_eq!(state.step(Event::InitError), [Action::Fail(FailureKind::Init), Action::Accept]);
    let mut state = starting();
    state.step(Event::RestoreNext);
    state.step(Event::Resume);
    assert_eq!(state.step(Event::InitError), [Action::Refuse(Refusal::State(Phase::Restoring))]);
    assert_eq!(state.step(Event::RestoreError), [Action::Fail(FailureKind::Init), Action::Accept]);
}

/// A runtime that waits for its second call, on a session of its own.
fn waiting() -> State {
    let mut state = starting();
    for event in [Event::RestoreNext, Event::Resume, Event::Next, Event::Invoke { request_id: "a" }] {
        state.step(event);
    }
    state.step(Event::Answer { request_id: "a", kind: Response });
    assert_eq!(state.step(Event::Next), [Action::Hold]);
    state
}

#[test]
fn a_warm_runtime_is_settled_and_restored_again_and_again() {
    let mut state = waiting();
    for id in ["b", "c", "d"] {
        assert_eq!(state.step(Event::Quiesce), [Action::Settle]);
        assert_eq!(state.phase(), Phase::Waiting);
        // Of the host that settled it nothing is left; one that went away without a word, neither.
        assert_eq!(state.step(Event::Unplugged), []);
        assert_eq!(state.step(Event::Resume), [Action::Resumed]);
        assert_eq!(state.step(Event::Invoke { request_id: id }), [Action::HandOver]);
        let answer = Event::Answer { request_id: id, kind: Response };
        assert_eq!(state.step(answer), [Action::Result(Response), Action::Accept]);
        assert_eq!(state.step(Event::Next), [Action::Hold]);
    }
}

#[test]
fn a_warm_runtime_whose_hooks_fail_says_so_with_the_call_in_hand() {
    let mut state = waiting();
    assert_eq!(state.step(Event::RestoreError), [Action::Refuse(Refusal::State(Phase::Waiting))]);
    state.step(Event::Quiesce);
    state.step(Event::Resume);
    state.step(Event::Invoke { request_id: "b" });
    assert_eq!(state.step(Event::RestoreError), [Action::Fail(FailureKind::Init), Action::Accept]);
    assert_eq!(state.step(Event::Exited), []);
}
