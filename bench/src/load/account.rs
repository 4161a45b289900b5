//! Calls become figures, the same of those that were made and of those that were simulated. Pure.

use std::collections::BTreeMap;

use mote_sched::Stats;
use num_traits::ToPrimitive;

use crate::figures::{Mode, quantile};
use crate::load::fire::{Ended, Fired};
use crate::load::plan::Plan;
use crate::sched::simulator::Outcome as Simulated;

/// How a call is served: what is told of each is the part of the calls, percent, and the median latency.
const WAYS: [&str; 3] = ["warm", "restore", "cold"];

/// All calls of one kind: measured or predicted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Account {
    /// How each call that was served was, and milliseconds until it began, by its number.
    pub served: BTreeMap<u32, (&'static str, f64)>,
    /// Calls refused.
    pub refused: u32,
    /// Calls that were answered in no other way.
    pub failed: u32,
}

impl Account {
    /// Of calls that were made.
    pub fn measured(fired: &[Fired]) -> Self {
        let mut account = Self::default();
        for one in fired {
            match &one.ended {
                Ended::Refused => account.refused += 1,
                Ended::Failed(_) => account.failed += 1,
                Ended::Served(served) => match WAYS.into_iter().find(|way| *way == served.by) {
                    Some(way) => _ = account.served.insert(one.call, (way, served.start_ms)),
                    None => account.failed += 1,
                },
            }
        }
        account
    }

    /// Of calls that were simulated: whoever waited for a sandbox waited for a restore.
    pub fn predicted(outcome: &Simulated) -> Self {
        let way = |made: bool| if made { "restore" } else { "warm" };
        let served = outcome.begun.iter().zip(&outcome.latencies_s);
        Self {
            served: served.map(|(&(call, made), latency)| (call, (way(made), latency * 1000.0))).collect(),
            refused: outcome.refused,
            failed: 0,
        }
    }

    /// All calls.
    pub fn calls(&self) -> usize {
        self.served.len().saturating_add(count(self.refused)).saturating_add(count(self.failed))
    }

    /// An error unless there is each call of the plan exactly once.
    pub fn complete(&self, plan: &Plan) -> Result<(), String> {
        match self.calls() {
            calls if calls == plan.calls.len() => Ok(()),
            calls => Err(format!("{calls} of {} calls are accounted for", plan.calls.len())),
        }
    }

    /// The part of all calls that were served in the same way in both, percent.
    pub fn agreement(&self, other: &Self) -> f64 {
        let same = |(call, (way, _)): &(&u32, &(&str, f64))| {
            other.served.get(call).is_some_and(|(others, _)| others == way)
        };
        percent(self.served.iter().filter(same).count(), self.calls())
    }

    /// The figures, with what the scheduler decided meanwhile.
    pub fn mode(&self, stats: &Stats) -> Mode {
        let all: Vec<f64> = self.served.values().map(|(_, ms)| *ms).collect();
        let mut mode = Mode::of(&all);
        let sum: f64 = all.iter().sum();
        let mut add = |name: &str, value: f64| _ = mode.counts.insert(name.to_owned(), value);
        add("mean_ms", sum / all.len().max(1).to_f64().unwrap_or(1.0));
        add("p90_ms", quantile(&all, 0.9));
        add("p99_ms", quantile(&all, 0.99));
        add("calls", self.calls().to_f64().unwrap_or(f64::MAX));
        add("refused", f64::from(self.refused));
        add("failed", f64::from(self.failed));
        for way in WAYS {
            let some: Vec<f64> =
                self.served.values().filter(|(own, _)| *own == way).map(|(_, ms)| *ms).collect();
            add(&format!("{way}_percent"), percent(some.len(), self.served.len()));
            if !some.is_empty() {
                add(&format!("{way}_ms"), quantile(&some, 0.5));
            }
        }
        for (name, decided) in [
            ("evictions", stats.evictions),
            ("retirements", stats.retirements),
            ("restores", stats.restores),
            ("waited", stats.waited),
        ] {
            add(name, decided.to_f64().unwrap_or(f64::MAX));
        }
        mode
    }
}

/// What was decided between two times.
pub fn between(before: &Stats, after: &Stats) -> Stats {
    let difference = |of: fn(&Stats) -> u64| of(after).saturating_sub(of(before));
    Stats {
        arrived: difference(|stats| stats.arrived),
        warm: difference(|stats| stats.warm),
        waited: difference(|stats| stats.waited),
        refused: difference(|stats| stats.refused),
        expired: difference(|stats| stats.expired),
        cancelled: difference(|stats| stats.cancelled),
        restores: difference(|stats| stats.restores),
        colds: difference(|stats| stats.colds),
        blanks: difference(|stats| stats.blanks),
        prewarms: difference(|stats| stats.prewarms),
        evictions: difference(|stats| stats.evictions),
        retirements: difference(|stats| stats.retirements),
    }
}

fn percent(part: usize, all: usize) -> f64 {
    100.0 * part.to_f64().unwrap_or(0.0) / all.max(1).to_f64().unwrap_or(1.0)
}

fn count(number: u32) -> usize {
    number.to_usize().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::fire::Served;
    use crate::sched::trace::Call;

    fn served(by: &str, start_ms: f64) -> Ended {
        Ended::Served(Served { by: by.to_owned(), start_ms, total_ms: start_ms + 5.0, ran_ms: 5.0 })
    }

    fn account(ended: Vec<Ended>) -> Account {
        let fired = (0..).zip(ended).map(|(call, ended)| Fired { call, late_ms: 0.0, ended });
        Account::measured(&fired.collect::<Vec<_>>())
    }

    fn plan(calls: u64) -> Plan {
        let calls = (0..calls).map(|at| Call { at, function: 0, run: 1 }).collect();
        Plan { functions_mb: vec![128], calls }
    }

    fn close(mode: &Mode, name: &str, expected: f64) {
        let found = mode.counts[name];
        assert!((found - expected).abs() < 1e-9, "{name} {found}, not {expected}");
    }

    #[test]
    fn every_call_is_in_one_place() {
        let ended = vec![
            served("warm", 10.0),
            served("warm", 20.0),
            served("restore", 300.0),
            Ended::Refused,
            Ended::Failed("gone".to_owned()),
            served("by magic", 1.0),
        ];
        let account = account(ended);
        assert_eq!((account.refused, account.failed, account.calls()), (1, 2, 6));
        assert_eq!(account.complete(&plan(6)), Ok(()));
        assert!(account.complete(&plan(7)).is_err_and(|text| text.contains("6 of 7")));
        let mode = account.mode(&Stats { evictions: 4, ..Stats::default() });
        assert!((mode.median_ms - 20.0).abs() < 1e-9);
        for (name, expected) in [
            ("warm_percent", 200.0 / 3.0),
            ("restore_percent", 100.0 / 3.0),
            ("cold_percent", 0.0),
            ("warm_ms", 15.0),
            ("mean_ms", 110.0),
            ("evictions", 4.0),
            ("calls", 6.0),
        ] {
            close(&mode, name, expected);
        }
        assert!(!mode.counts.contains_key("cold_ms"));
    }

    #[test]
    fn what_is_simulated_is_told_in_the_same_way() {
        let outcome = Simulated {
            latencies_s: vec![0.4, 0.02],
            begun: vec![(1, true), (0, false)],
            refused: 1,
            ..Simulated::default()
        };
        let predicted = Account::predicted(&outcome);
        assert_eq!(predicted.served, [(0, ("warm", 20.0)), (1, ("restore", 400.0))].into());
        assert_eq!(predicted.calls(), 3);
        let measured = account(vec![served("warm", 1.0), served("warm", 2.0), Ended::Refused]);
        assert!((measured.agreement(&predicted) - 100.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn without_calls_there_is_nothing_and_no_division_by_it() {
        let mode = Account::default().mode(&Stats::default());
        assert!(mode.counts.values().all(|value| *value == 0.0), "{mode:?}");
    }

    #[test]
    fn only_what_was_decided_meanwhile_counts() {
        let before = Stats { evictions: 2, restores: 9, ..Stats::default() };
        let after = Stats { evictions: 5, restores: 9, waited: 1, ..Stats::default() };
        let expected = Stats { evictions: 3, waited: 1, ..Stats::default() };
        assert_eq!(between(&before, &after), expected);
    }
}
