//! How much the set-up costs.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

fn read(clock: ClockId) -> Duration {
    // Neither clock ever reads negative.
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

/// Measures from its making; made first thing in `main`.
#[derive(Debug)]
pub(crate) struct Meter {
    start: Instant,
    last: Duration,
    kvm: Duration,
    phases: Vec<(&'static str, Duration)>,
}

/// What was measured, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// CPU time of the process since it was started.
    pub(crate) cpu_us: u64,
    /// The part of it spent in KVM system calls.
    pub(crate) kvm_us: u64,
    /// Wall-clock time since the meter was made.
    pub(crate) wall_us: u64,
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Meter {
    /// Starts now.
    pub(crate) fn new() -> Self {
        let last = read(ClockId::ProcessCPUTime);
        Self { start: Instant::now(), last, kvm: Duration::ZERO, phases: vec![("process start", last)] }
    }

    /// Ends a phase: the CPU time since the last one is its.
    pub(crate) fn phase(&mut self, name: &'static str) {
        let now = read(ClockId::ProcessCPUTime);
        self.phases.push((name, now.saturating_sub(self.last)));
        self.last = now;
    }

    /// Counts what `work` takes as KVM's.
    pub(crate) fn kvm<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let before = read(ClockId::ThreadCPUTime);
        let result = work();
        self.kvm += read(ClockId::ThreadCPUTime).saturating_sub(before);
        result
    }

    /// Everything until now.
    pub(crate) fn read(&self) -> Reading {
        Reading {
            cpu_us: micros(read(ClockId::ProcessCPUTime)),
            kvm_us: micros(self.kvm),
            wall_us: micros(self.start.elapsed()),
        }
    }

    /// The phases as a table for people.
    pub(crate) fn table(&self) -> String {
        self.phases.iter().map(|(name, took)| format!("{:>8} us  {name}\n", took.as_micros())).collect()
    }
}
