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
    cpu: Duration,
    last: Duration,
    last_wall: Duration,
    kvm: Duration,
    phases: Vec<Phase>,
}

/// A step of the set-up, and what it took.
#[derive(Clone, Copy, Debug)]
struct Phase {
    name: &'static str,
    cpu: Duration,
    wall: Duration,
}

/// What was measured, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// CPU time of the process since it was started, or since the meter was started over.
    pub(crate) cpu_us: u64,
    /// The part of it spent in KVM system calls.
    pub(crate) kvm_us: u64,
    /// Wall-clock time since the meter was made or started over.
    pub(crate) wall_us: u64,
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Meter {
    /// Starts now.
    pub(crate) fn new() -> Self {
        let last = read(ClockId::ProcessCPUTime);
        // How long the kernel took to start the process cannot be seen from inside.
        let phases = vec![Phase { name: "process start", cpu: last, wall: Duration::ZERO }];
        let (cpu, kvm) = (Duration::ZERO, Duration::ZERO);
        Self { start: Instant::now(), cpu, last, last_wall: Duration::ZERO, kvm, phases }
    }

    /// Starts over: what was measured counts no more.
    pub(crate) fn restart(&mut self) {
        let cpu = read(ClockId::ProcessCPUTime);
        let phases = Vec::new();
        let start = Instant::now();
        *self = Self { start, cpu, last: cpu, last_wall: Duration::ZERO, kvm: Duration::ZERO, phases };
    }

    /// Ends a phase: the time since the last one is its.
    pub(crate) fn phase(&mut self, name: &'static str) {
        let (now, wall) = (read(ClockId::ProcessCPUTime), self.start.elapsed());
        let phase =
            Phase { name, cpu: now.saturating_sub(self.last), wall: wall.saturating_sub(self.last_wall) };
        self.phases.push(phase);
        (self.last, self.last_wall) = (now, wall);
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
            cpu_us: micros(read(ClockId::ProcessCPUTime).saturating_sub(self.cpu)),
            kvm_us: micros(self.kvm),
            wall_us: micros(self.start.elapsed()),
        }
    }

    /// The phases as a table for people.
    pub(crate) fn table(&self) -> String {
        let row = |phase: &Phase| {
            format!("{:>8} us {:>8} us  {}\n", phase.cpu.as_micros(), phase.wall.as_micros(), phase.name)
        };
        std::iter::once("CPU time    wall-clock\n".to_owned()).chain(self.phases.iter().map(row)).collect()
    }
}
