//! The status screen of every console: at the top of a terminal; on a serial line, a few lines when something changes.

pub mod text;

use std::sync::Arc;
use std::time::Duration;

use crate::clock::since_boot;
use crate::log;
use crate::machine::Machine;
use crate::service::health::Heard;
use crate::service::hostd::Status as Running;
use text::{Phase, Status};

/// What changes at the same time is drawn at once, and what changes all the time this often.
const SETTLE: Duration = Duration::from_secs(2);

/// How often it is looked at without being told that something changed.
const LOOK: Duration = Duration::from_secs(30);

/// Without a word for so long, hostd is silent.
const SILENT: Duration = Duration::from_secs(60);

/// Draws for ever, when something is other than it was.
pub async fn run(machine: Arc<Machine>) {
    let mut running = machine.hostd.status();
    let mut health = machine.hostd.health();
    let mut network = machine.network.subscribe();
    let mut time = machine.time.subscribe();
    // When hostd was started last; before, nothing was said by this one.
    let mut started = Duration::ZERO;
    let mut drawn: Option<Status> = None;
    loop {
        if running.has_changed().unwrap_or(false) {
            started = since_boot();
        }
        let now = since_boot();
        let phase = phase(*running.borrow_and_update(), &health.borrow_and_update(), started, now);
        let status = status(&machine, phase);
        if drawn.as_ref() != Some(&status) {
            log::board(|columns| text::board(&status, columns), &text::lines(&status));
            drawn = Some(status);
        }
        tokio::time::sleep(SETTLE).await;
        // Whoever tells that something changed is told of by looking.
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            Ok(()) = running.changed() => running.mark_changed(),
            Ok(()) = health.changed() => {}
            Ok(()) = network.changed() => {}
            Ok(()) = time.changed() => {}
        }
    }
}

fn phase(running: Running, heard: &Heard, started: Duration, now: Duration) -> Phase {
    let fresh = heard.at > started && !heard.at.is_zero();
    match running {
        Running::Down if started.is_zero() => Phase::Starting,
        Running::Down | Running::Again | Running::Stopped => Phase::Down,
        Running::Running(_) if !fresh && now.saturating_sub(started) < SILENT => Phase::Starting,
        Running::Running(_) if !fresh || now.saturating_sub(heard.at) > SILENT => Phase::Silent,
        Running::Running(_) if heard.ready => Phase::Ready,
        Running::Running(_) if heard.good => Phase::NotReady,
        Running::Running(_) => Phase::Starting,
    }
}

fn status(machine: &Machine, phase: Phase) -> Status {
    let heard = machine.hostd.health().borrow().clone();
    let options = machine.configuration.options();
    let mut problems = machine.facts(|facts| facts.problems.clone());
    match phase {
        // What it says is all there is to say, the clock included.
        Phase::Ready | Phase::NotReady => problems.extend(heard.problems),
        _ => problems.extend(machine.time.borrow().problem()),
    }
    let mut seen = std::collections::BTreeSet::new();
    problems.retain(|problem| seen.insert(problem.clone()));
    Status {
        hostname: options.hostname,
        version: heard.version,
        slot: machine.cmdline.options().remove("slot").filter(|slot| matches!(slot.as_str(), "a" | "b")),
        address: machine.network.borrow().address,
        port: options.port,
        phase,
        problems,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn phases_follow_what_is_heard() {
        let heard = |at: u64, good: bool, ready: bool| Heard { at: S(at), good, ready, ..Heard::default() };
        let up = Running::Running(7);
        for (running, heard, started, now, want) in [
            (Running::Down, heard(0, false, false), 0, 5, Phase::Starting),
            (up, heard(0, false, false), 5, 6, Phase::Starting),
            (up, heard(7, false, false), 5, 8, Phase::Starting),
            (up, heard(7, true, false), 5, 8, Phase::NotReady),
            (up, heard(7, true, true), 5, 8, Phase::Ready),
            (up, heard(7, true, true), 5, 80, Phase::Silent),
            (up, heard(0, false, false), 5, 80, Phase::Silent),
            // Of the one before.
            (up, heard(7, true, true), 9, 10, Phase::Starting),
            (Running::Again, heard(7, true, true), 9, 10, Phase::Down),
            (Running::Again, heard(0, false, false), 0, 5, Phase::Down),
        ] {
            assert_eq!(phase(running, &heard, S(started), S(now)), want, "{heard:?} {started} {now}");
        }
    }

    #[test]
    fn the_slot_and_the_port_are_those_of_the_command_line() {
        let line = crate::cmdline::Cmdline::parse("mote.slot=b mote.api.listen=0.0.0.0:9090");
        let machine = Machine::new(line, tokio::sync::mpsc::channel(1).0);
        let status = status(&machine, Phase::Ready);
        assert_eq!((status.slot.as_deref(), status.port), (Some("b"), 9090));
    }
}
