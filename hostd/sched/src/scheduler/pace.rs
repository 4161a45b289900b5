//! How many sandboxes a node starts at once. More than it can make only hold memory and wait for each other: their calls
//! are better off in the queue, where whatever is free first serves them.
//!
//! A start that takes long waits for something else than the machine: its place goes to another, so that no function
//! that hangs while it comes up keeps others from starting.

use super::Scheduler;
use crate::heap::NOWHERE;
use crate::ids::{SandboxId, Time};
use crate::states::State;

/// A start that has a place, and when it gives it up.
pub(super) type Paced = (Time, SandboxId);

impl Scheduler {
    /// Whether a place is free on a node.
    pub(super) fn may_start(&self, n: u32) -> bool {
        let node = &self.nodes[n as usize];
        node.paced < node.spec.starts
    }

    /// It is started: it has a place, even beyond the bound if it was not asked for.
    pub(super) fn take_pace(&mut self, slot: u32) {
        let sandbox = &mut self.sandboxes[slot];
        sandbox.paced = true;
        self.nodes[sandbox.node as usize].paced += 1;
        self.paced.push_back((self.now.after(self.config.slow_start()), self.sandboxes.id(slot)));
    }

    /// It is up, gone or slow.
    pub(super) fn leave_pace(&mut self, slot: u32) {
        let sandbox = &mut self.sandboxes[slot];
        if std::mem::take(&mut sandbox.paced) {
            let node = &mut self.nodes[sandbox.node as usize];
            // Others may have waited for just that.
            self.released |= node.paced >= node.spec.starts;
            node.paced -= 1;
        }
        // Whoever is not on its way any more is not waited for.
        while let Some((_, id)) = self.paced.front()
            && !self.holds_pace(*id)
        {
            self.paced.pop_front();
        }
    }

    /// Places of those that are slow are free again.
    pub(super) fn free_slow(&mut self) {
        while let Some((due, id)) = self.paced.front().copied()
            && due <= self.now
        {
            self.paced.pop_front();
            if self.holds_pace(id) {
                self.leave_pace(id.slot);
            }
        }
    }

    /// When the next place is free because a start is slow.
    pub(super) fn slow_due(&self) -> Option<Time> {
        self.paced.front().map(|(due, _)| *due)
    }

    fn holds_pace(&self, id: SandboxId) -> bool {
        let sandbox = &self.sandboxes[id.slot];
        debug_assert!(!sandbox.paced || sandbox.state == State::Restoring && sandbox.function != NOWHERE);
        sandbox.generation == id.generation && sandbox.paced
    }
}
