//! Clients that wait: calls a scheduler cannot take queue with those who make them, who try again when memory is
//! available, the longest waiting first. What fits goes first.
//!
//! So it is in the dissertation, whichever policy is tried: "requests queue on the clients until the system can accept
//! them". How they try again it does not say. That they learn of every end of a call at once is the kindest to all of
//! them.

use std::collections::VecDeque;

use super::simulator::{Action, Input, Scheduler, Time};

/// A scheduler that refuses what it cannot serve at once, and its clients.
pub struct Clients {
    scheduler: Box<dyn Scheduler>,
    shapes_mb: Vec<u32>,
    waiting: VecDeque<Waiting>,
    /// So many try again at a time.
    tries: usize,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    call: u32,
    function: u32,
    memory_mb: u32,
}

impl Clients {
    /// With nobody waiting. Memory of the functions' sandboxes, in MB.
    pub fn new(scheduler: Box<dyn Scheduler>, shapes_mb: Vec<u32>, tries: usize) -> Self {
        Self { scheduler, shapes_mb, waiting: VecDeque::new(), tries }
    }

    /// Whether the scheduler took the call.
    fn tries(&mut self, now: Time, call: u32, function: u32, actions: &mut Vec<Action>) -> bool {
        let before = actions.len();
        self.scheduler.step(now, Input::Call { call, function }, actions);
        let refused = actions.iter().skip(before).position(|action| *action == Action::Refuse { call });
        refused.map(|at| actions.remove(before + at)).is_none()
    }

    fn memory(&self, function: u32) -> u32 {
        usize::try_from(function).ok().and_then(|at| self.shapes_mb.get(at)).copied().unwrap_or(0)
    }

    fn try_again(&mut self, now: Time, actions: &mut Vec<Action>) {
        // No node had this much: nor has it for others that need as much or more.
        let mut too_much = u32::MAX;
        let mut at = 0;
        while at < self.tries {
            // Those that need too much are many, and passed by quickly.
            let mut few = self.waiting.iter().take(self.tries).skip(at);
            let Some(next) = few.position(|one| one.memory_mb < too_much) else { return };
            at += next;
            let Some(&Waiting { call, function, memory_mb }) = self.waiting.get(at) else { return };
            if self.tries(now, call, function, actions) {
                self.waiting.remove(at);
            } else {
                too_much = memory_mb;
                at += 1;
            }
        }
    }
}

impl Scheduler for Clients {
    fn step(&mut self, now: Time, input: Input, actions: &mut Vec<Action>) {
        if let Input::Call { call, function } = input {
            if !self.tries(now, call, function, actions) {
                let memory_mb = self.memory(function);
                self.waiting.push_back(Waiting { call, function, memory_mb });
            }
            return;
        }
        self.scheduler.step(now, input, actions);
        if matches!(input, Input::Done { .. }) {
            self.try_again(now, actions);
        }
    }

    fn wake(&mut self) -> Option<Time> {
        self.scheduler.wake()
    }

    fn complaint(&self) -> Option<String> {
        self.scheduler.complaint()
    }
}
