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
    /// Calls and whose they are.
    waiting: VecDeque<(u32, u32)>,
    /// So many try again at a time.
    tries: usize,
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
        while let Some(&(call, function)) = self.waiting.get(at).filter(|_| at < self.tries) {
            let memory = self.memory(function);
            if memory < too_much && self.tries(now, call, function, actions) {
                self.waiting.remove(at);
            } else {
                too_much = too_much.min(memory);
                at += 1;
            }
        }
    }
}

impl Scheduler for Clients {
    fn step(&mut self, now: Time, input: Input, actions: &mut Vec<Action>) {
        if let Input::Call { call, function } = input {
            if !self.tries(now, call, function, actions) {
                self.waiting.push_back((call, function));
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
