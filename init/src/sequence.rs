//! Runs tables of steps: a sequence of phases, in each phase tasks that run at the same time.
//!
//! Every task has a name, a bound on its time, and a meaning of failure. Nothing in a boot or a shutdown
//! happens outside such a table.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::log;
use crate::machine::Machine;
use crate::text::chain;

/// What a task says when it is done, or why it failed.
pub type Outcome = Result<String, Box<dyn Error + Send + Sync>>;

/// A task at work.
pub type Running = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// What it means when a task fails or is late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Something is missing; the machine goes on and says so in `boot.toml`.
    Degrades,
    /// The phases after this one make no sense.
    Ends,
}

/// A task of a phase.
#[derive(Debug)]
pub struct Task {
    /// Shown on the console.
    pub name: &'static str,
    /// Longest time it may take.
    pub bound: Duration,
    /// What its failure means.
    pub failure: Failure,
    /// The work.
    pub run: fn(Arc<Machine>) -> Running,
}

/// Tasks that run at the same time.
#[derive(Debug)]
pub struct Phase {
    /// Its name.
    pub name: &'static str,
    /// Its tasks.
    pub tasks: &'static [Task],
}

/// Runs phases one after the other. False when a task failed that ends the sequence.
pub async fn run(phases: &'static [Phase], machine: &Arc<Machine>) -> bool {
    for phase in phases {
        let mut running = JoinSet::new();
        for task in phase.tasks {
            running.spawn(run_task(task, Arc::clone(machine)));
        }
        let mut ended = false;
        while let Some(result) = running.join_next().await {
            ended |= !result.unwrap_or(false);
        }
        if ended {
            log::line(&format!("stopped after phase {}", phase.name));
            return false;
        }
    }
    true
}

/// True unless the failure ends the sequence.
async fn run_task(task: &'static Task, machine: Arc<Machine>) -> bool {
    let started = Instant::now();
    let outcome = tokio::time::timeout(task.bound, (task.run)(Arc::clone(&machine))).await;
    let took = started.elapsed().as_millis();
    let problem = match outcome {
        Ok(Ok(said)) => {
            log::step(&format!("{}: {said} ({took} ms)", task.name), false);
            return true;
        }
        Ok(Err(error)) => format!("{}: {}", task.name, chain(error.as_ref())),
        Err(_) => format!("{}: not done within {} s", task.name, task.bound.as_secs_f32()),
    };
    log::step(&format!("FAILED {problem}"), true);
    machine.problem(problem);
    task.failure == Failure::Degrades
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    static RAN: AtomicU32 = AtomicU32::new(0);

    const fn task(name: &'static str, failure: Failure, run: fn(Arc<Machine>) -> Running) -> Task {
        Task { name, bound: Duration::from_millis(50), failure, run }
    }

    fn good(_: Arc<Machine>) -> Running {
        RAN.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Ok("done".to_owned()) })
    }

    fn bad(_: Arc<Machine>) -> Running {
        Box::pin(async { Err("no such thing".into()) })
    }

    fn slow(_: Arc<Machine>) -> Running {
        Box::pin(std::future::pending())
    }

    const GOES_ON: &[Phase] = &[
        Phase {
            name: "one",
            tasks: &[task("slow", Failure::Degrades, slow), task("bad", Failure::Degrades, bad)],
        },
        Phase { name: "two", tasks: &[task("good", Failure::Ends, good)] },
    ];
    const ENDS: &[Phase] = &[
        Phase { name: "one", tasks: &[task("good", Failure::Ends, good), task("bad", Failure::Ends, bad)] },
        Phase { name: "two", tasks: &[task("good", Failure::Ends, good)] },
    ];

    #[tokio::test]
    async fn failures_degrade_or_end_and_lateness_is_a_failure() {
        let machine = Arc::new(Machine::default());
        assert!(run(GOES_ON, &machine).await);
        assert_eq!(RAN.load(Ordering::SeqCst), 1);
        let problems = machine.facts(|facts| facts.problems.clone());
        assert!(problems.contains(&"bad: no such thing".to_owned()), "{problems:?}");
        assert!(problems.iter().any(|text| text.starts_with("slow: not done within")), "{problems:?}");

        assert!(!run(ENDS, &machine).await);
        assert_eq!(RAN.load(Ordering::SeqCst), 2, "the second phase did not run");
    }
}
