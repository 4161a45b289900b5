//! What is due.

use std::time::Duration;

use super::Scheduler;
use crate::events::{Decision, Refusal, Retirement, Why};
use crate::policy::keepalive::Window;

impl Scheduler {
    pub(super) fn timers(&mut self, out: &mut Vec<Decision>) {
        let now = self.now;
        self.free_slow();
        while let Some((time, f)) = self.deadlines.peek()
            && time <= now
        {
            self.expire_calls(f, out);
        }
        while let Some((time, slot)) = self.expiries.peek()
            && time <= now
        {
            self.expire_sandbox(slot, out);
        }
        while let Some((time, f)) = self.prewarms.peek()
            && time <= now
        {
            self.prewarms.remove(&mut self.prewarm_positions, f);
            self.prewarm(f, out);
        }
        while let Some((time, f)) = self.retries.peek()
            && time <= now
        {
            self.retries.remove(&mut self.retry_positions, f);
            self.want_provisioned(f);
            self.look(f, out);
            self.released = true;
        }
    }

    fn expire_calls(&mut self, f: u32, out: &mut Vec<Decision>) {
        while let Some(waiting) = self.functions[f as usize].queue.expired(self.now) {
            self.dismiss(f, waiting, Refusal::Expired, out);
        }
        match self.functions[f as usize].queue.earliest() {
            Some(earliest) => self.deadlines.set(&mut self.deadline_positions, f, earliest),
            None => {
                self.deadlines.remove(&mut self.deadline_positions, f);
            }
        }
        self.check_turn(f);
    }

    fn expire_sandbox(&mut self, slot: u32, out: &mut Vec<Decision>) {
        if let Some(waiting) = self.unbind(slot) {
            let f = self.sandboxes[slot].function;
            self.dismiss(f, waiting, Refusal::Expired, out);
            self.check_turn(f);
            return;
        }
        let sandbox = &self.sandboxes[slot];
        // Serving or pinned: told again when it is idle.
        if !sandbox.state.is_warm() || sandbox.pinned {
            self.expiries.remove(&mut self.expiry_positions, slot);
        } else if sandbox.expires > self.now {
            let expires = sandbox.expires;
            self.expiries.set(&mut self.expiry_positions, slot, expires);
        } else {
            self.expiries.remove(&mut self.expiry_positions, slot);
            self.retire(slot, Retirement::Expired, out);
        }
    }

    /// A warm sandbox ends after so long, unless a call comes.
    pub(super) fn expire(&mut self, slot: u32, keep: Duration) {
        let expires = self.now.after(keep);
        self.sandboxes[slot].expires = expires;
        // An earlier entry comes by and is set right then: no work with every call.
        if self.expiries.key(&self.expiry_positions, slot).is_none_or(|key| key > expires) {
            self.expiries.set(&mut self.expiry_positions, slot, expires);
        }
    }

    /// How long the function's sandboxes stay. Computed anew when there is that much more history.
    pub(super) fn window(&mut self, f: u32) -> Window {
        let function = &mut self.functions[f as usize];
        let known = function.history.as_ref().map_or(0, |history| history.total());
        // A history that was halved is shorter than it was.
        if known >= function.window_due || known + known / 8 + 2 < function.window_due {
            function.window = self.keep_alive.window(function.history.as_deref());
            function.window_due = known + known / 16 + 1;
        }
        function.window
    }

    /// Starts a sandbox for a call that is foreseen, if there is room without evictions.
    fn prewarm(&mut self, f: u32, out: &mut Vec<Decision>) {
        let function = &self.functions[f as usize];
        if function.present
            && !function.building
            && function.starting + function.warm + function.busy == 0
            && let Some(n) = self.choose_node(f, true)
            && self.nodes[n as usize].account.will_fit(self.need(f, n))
        {
            self.start(f, n, Why::Prewarm, None, out);
            self.check_turn(f);
        }
    }
}
