//! Calls at their times, whatever became of those before: an answer that is late delays nobody.

use std::time::{Duration, Instant};

use num_traits::ToPrimitive;
use serde_json::{Value, json};

use crate::client::{Client, Reply};
use crate::load::place::name;
use crate::sched::trace::Call;

/// The phase in which the function runs.
const EXECUTION: &str = "invoke";

/// Status of a call that is refused because too many wait.
const TOO_MANY: u16 = 429;

/// How a call ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ended {
    /// With its own answer.
    Served(Served),
    /// Too many waited.
    Refused,
    /// In any other way; what was said.
    Failed(String),
}

/// A call with its own answer. Milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Served {
    /// `warm`, `restore` or `cold`.
    pub by: String,
    /// From its coming until the function ran.
    pub start_ms: f64,
    /// From its coming until its answer.
    pub total_ms: f64,
    /// While the function ran, as the appliance sees it.
    pub ran_ms: f64,
}

/// A call that was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Fired {
    /// Which of the plan.
    pub call: u32,
    /// How long after its time it was made, milliseconds: nothing the appliance is to blame for.
    pub late_ms: f64,
    /// What became of it.
    pub ended: Ended,
}

/// What the function is told. It runs for so long and answers with its number.
pub fn event(number: u32, run_us: u64) -> Value {
    json!({"call": number, "ms": run_us / 1000})
}

/// Makes all calls, each in a thread of its own, and waits for all of them.
pub fn fire(client: &Client, calls: &[Call]) -> Vec<Fired> {
    let began = Instant::now();
    std::thread::scope(|scope| {
        let mut under_way = Vec::new();
        for (number, call) in (0..).zip(calls) {
            let due = began + Duration::from_micros(call.at);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let one = move || {
                let late_ms = ms(due.elapsed());
                let reply = client.call(&name(call.function), &event(number, call.run));
                let ended = match reply {
                    Ok(reply) => judge(reply, number),
                    Err(error) => Ended::Failed(error.to_string()),
                };
                Fired { call: number, late_ms, ended }
            };
            under_way.push((number, scope.spawn(one)));
        }
        let fired = under_way.into_iter().map(|(number, thread)| {
            let broken = || Ended::Failed("The caller panicked".to_owned());
            thread.join().unwrap_or_else(|_| Fired { call: number, late_ms: 0.0, ended: broken() })
        });
        fired.collect()
    })
}

/// Takes an answer for what it is: it has to be that of this very call.
pub fn judge(reply: Reply, number: u32) -> Ended {
    let Reply { status, by, value, error, ms, phases } = reply;
    if status == TOO_MANY {
        return Ended::Refused;
    }
    let own = value["call"].as_u64() == Some(u64::from(number)) && value["began"].is_f64();
    if status != 200 || error || !own {
        return Ended::Failed(format!("Call {number} was answered {status} by '{by}': {value}"));
    }
    let ran_ms = phases.get(EXECUTION).copied().unwrap_or(0.0);
    Ended::Served(Served { by, start_ms: ms - ran_ms, total_ms: ms, ran_ms })
}

fn ms(time: Duration) -> f64 {
    time.as_micros().to_f64().unwrap_or(f64::MAX) / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, value: Value, error: bool) -> Reply {
        let phases = [("wait".to_owned(), 5.0), ("invoke".to_owned(), 30.0)].into();
        Reply { status, by: "warm".to_owned(), value, error, ms: 42.0, phases }
    }

    #[test]
    fn only_its_own_answer_counts() {
        let good = judge(reply(200, json!({"call": 7, "began": 1.5}), false), 7);
        let served = Served { by: "warm".to_owned(), start_ms: 12.0, total_ms: 42.0, ran_ms: 30.0 };
        assert_eq!(good, Ended::Served(served));
        assert_eq!(judge(reply(429, json!({"Reason": "x"}), false), 7), Ended::Refused);
        for (status, value, error) in [
            (200, json!({"call": 8, "began": 1.5}), false),
            (200, json!({"call": 7}), false),
            (200, json!({"call": 7, "began": 1.5}), true),
            (200, json!("text"), false),
            (502, json!({"call": 7, "began": 1.5}), false),
        ] {
            let ended = judge(reply(status, value, error), 7);
            assert!(matches!(ended, Ended::Failed(_)), "{ended:?}");
        }
    }

    #[test]
    fn every_call_is_accounted_for_and_none_waits_for_another() {
        // Nobody listens there.
        let client = Client::new("http://127.0.0.1:1");
        let calls: Vec<Call> = (0..20).map(|at| Call { at: at * 5000, function: 0, run: 1000 }).collect();
        let began = Instant::now();
        let fired = fire(&client, &calls);
        assert!(began.elapsed() >= Duration::from_millis(95));
        assert_eq!(fired.iter().map(|one| one.call).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
        assert!(fired.iter().all(|one| matches!(one.ended, Ended::Failed(_))));
    }

    #[test]
    fn the_event_says_for_how_long() {
        assert_eq!(event(3, 120_000), json!({"call": 3, "ms": 120}));
    }
}
