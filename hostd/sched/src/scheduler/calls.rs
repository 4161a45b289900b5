//! Calls: they come, are handed over or refused, and are taken back.

use std::time::Duration;

use super::Scheduler;
use super::place::Found;
use crate::admission::Part;
use crate::config::Binding;
use crate::events::{Decision, EventError, Refusal, Why};
use crate::fair::Limit;
use crate::heap::NOWHERE;
use crate::ids::{CallId, FunctionId, NodeId, Time};
use crate::queue::Waiting;
use crate::states::State;

/// The part of a call's patience that its turn must come within, by what calls take of late: they may take longer, and a
/// call that waited in vain is worse off than one that was told.
const HOPE: (u32, u32) = (3, 4);

const LEAST_RETRY: Duration = Duration::from_secs(1);
const MOST_RETRY: Duration = Duration::from_secs(60);

impl Scheduler {
    pub(super) fn arrived(
        &mut self,
        call: CallId,
        function: FunctionId,
        deadline: Time,
        fresh: bool,
        out: &mut Vec<Decision>,
    ) -> Result<(), EventError> {
        let f = function.0;
        let Some(known) = self.functions.get(function.at()) else {
            return Err(EventError::UnknownFunction(function));
        };
        self.stats.arrived += 1;
        let reason = if known.present { self.never(f) } else { Some(Refusal::Gone) };
        let reason = reason.or((deadline <= self.now).then_some(Refusal::Expired));
        if let Some(reason) = reason {
            self.refuse(f, call, reason, out);
            return Ok(());
        }
        self.note_call(f);
        self.order += 1;
        let waiting = Waiting { deadline, order: self.order, call };
        if fresh {
            self.start_fresh(f, waiting, out);
            return Ok(());
        }
        // Those that came before go first; while they wait for memory, one more look for it is of no use.
        let (behind, more, building) = {
            let function = &self.functions[f as usize];
            let coming = function.starting - function.bound;
            (!function.queue.is_empty(), function.queue.len() >= coming, function.building)
        };
        let start = more && !building;
        let limit = self.fair.limit(f);
        let found = if limit.is_some() || self.fair.waits(f) || behind && !start {
            None
        } else {
            self.find(f, start)
        };
        match found {
            Some(Found::Warm(slot)) if !behind => {
                self.hand(slot, waiting, true, out);
                return Ok(());
            }
            Some(Found::Start(n)) => {
                self.enqueue(f, waiting, out);
                self.start_for_call(f, n, out);
                return Ok(());
            }
            _ => {}
        }
        if more && let Some(reason) = self.full(f, deadline) {
            self.refuse(f, call, reason, out);
            return Ok(());
        }
        self.enqueue(f, waiting, out);
        if let Some(Found::Warm(_)) = found {
            self.released = true;
        }
        self.await_turn(f);
        Ok(())
    }

    /// Starts a sandbox for this call alone.
    fn start_fresh(&mut self, f: u32, waiting: Waiting, out: &mut Vec<Decision>) {
        let node = if self.fair.limit(f).is_some() { None } else { self.choose_node(f, false) };
        let Some(n) = node else {
            self.refuse(f, waiting.call, Refusal::NoRoom, out);
            return;
        };
        out.push(Decision::Queue { call: waiting.call });
        self.waiting += 1;
        self.fair.count(f, 1, 0);
        self.start_bound(f, n, Some(waiting), out);
    }

    /// Why a call of this function can never be served, if so.
    pub(super) fn never(&self, f: u32) -> Option<Refusal> {
        let spec = &self.functions[f as usize].spec;
        let tenant = self.fair.tenant_spec(spec.tenant.0);
        let base = spec.base.map_or(0, |base| self.images[base.at()]);
        let need = spec.private.saturating_add(spec.snapshot.unwrap_or(0)).saturating_add(base);
        if spec.limits.concurrency == 0 || tenant.max_concurrency == 0 {
            Some(Refusal::Forbidden)
        } else if need > self.largest || spec.private > tenant.max_memory {
            Some(Refusal::TooBig)
        } else {
            None
        }
    }

    /// Why another call may not wait until then, if so.
    fn full(&mut self, f: u32, deadline: Time) -> Option<Refusal> {
        let function = &self.functions[f as usize];
        if function.queue.len().saturating_sub(function.starting - function.bound)
            >= function.spec.limits.max_queue
        {
            Some(Refusal::FunctionQueueFull)
        } else if !self.fair.may_queue(f) {
            Some(Refusal::TenantQueueFull)
        } else if self.waiting.saturating_sub(self.starting) >= self.config.max_queue {
            Some(Refusal::QueueFull)
        } else if self.hopeless(f, deadline) {
            Some(Refusal::Hopeless)
        } else {
            None
        }
    }

    /// Whether the turn of another call would come too late, by what calls of the function take of late; or, with memory
    /// for it, what starts take that are ahead.
    fn hopeless(&mut self, f: u32, deadline: Time) -> bool {
        let patience = deadline.since(self.now) / HOPE.1 * HOPE.0;
        self.fair.in_use(f) > 0
            && self.wait(f) > patience
            && (self.fair.limit(f).is_some()
                || self.wait_for_starts(f) > patience
                || self.choose_node(f, false).is_none())
    }

    /// A call came: the function is not quiet any more.
    fn note_call(&mut self, f: u32) {
        let function = &mut self.functions[f as usize];
        function.frequency += 1;
        let Some(since) = function.quiet_since.take() else { return };
        if self.keep_alive.learns() {
            let history = function.history.get_or_insert_with(|| {
                Box::new(crate::policy::histogram::Histogram::new(&self.config.histogram))
            });
            history.record(&self.config.histogram, self.now.since(since));
        }
        self.prewarms.remove(&mut self.prewarm_positions, f);
    }

    fn enqueue(&mut self, f: u32, waiting: Waiting, out: &mut Vec<Decision>) {
        out.push(Decision::Queue { call: waiting.call });
        self.waiting += 1;
        self.fair.count(f, 1, 0);
        self.put_back(f, waiting);
    }

    /// Adds a call that counts as waiting already.
    pub(super) fn put_back(&mut self, f: u32, waiting: Waiting) {
        let function = &mut self.functions[f as usize];
        if function.queue.earliest().is_none_or(|earliest| waiting.deadline < earliest) {
            self.deadlines.set(&mut self.deadline_positions, f, waiting.deadline);
        }
        function.queue.push(waiting);
    }

    /// It waits no more.
    fn uncount(&mut self, f: u32) {
        self.waiting = self.waiting.saturating_sub(1);
        self.fair.count(f, -1, 0);
    }

    /// Starts a sandbox on a node for a call that waits. False if that cannot be.
    pub(super) fn start_for_call(&mut self, f: u32, n: u32, out: &mut Vec<Decision>) -> bool {
        let early = self.config.binding == Binding::Early;
        let waiting = if early { self.functions[f as usize].queue.pop() } else { None };
        self.start_bound(f, n, waiting, out)
    }

    /// The same, for this call if there is one, which counts as waiting and is in no queue. If that cannot be, it is
    /// in the queue.
    fn start_bound(&mut self, f: u32, n: u32, waiting: Option<Waiting>, out: &mut Vec<Decision>) -> bool {
        let Some(slot) = self.start(f, n, Why::Call, waiting, out) else {
            waiting.into_iter().for_each(|waiting| self.put_back(f, waiting));
            return false;
        };
        self.fair.charge(f, self.sandboxes[slot].booked);
        self.fair.count(f, 0, 1);
        self.starting += 1;
        self.sandboxes[slot].charged = true;
        true
    }

    /// Gives the sandbox to the first call that waits, if there is one.
    pub(super) fn hand_next(&mut self, slot: u32, out: &mut Vec<Decision>) -> bool {
        let f = self.sandboxes[slot].function;
        let Some(waiting) = self.functions[f as usize].queue.pop() else { return false };
        self.uncount(f);
        self.hand(slot, waiting, false, out);
        true
    }

    /// The call a sandbox was bound to, which waits no more, or not there.
    pub(super) fn unbind(&mut self, slot: u32) -> Option<Waiting> {
        let sandbox = &mut self.sandboxes[slot];
        let waiting = sandbox.bound.take()?;
        self.functions[sandbox.function as usize].bound -= 1;
        self.expiries.remove(&mut self.expiry_positions, slot);
        Some(waiting)
    }

    /// Hands a call the sandbox was bound to.
    pub(super) fn hand_bound(&mut self, slot: u32, waiting: Waiting, out: &mut Vec<Decision>) {
        self.uncount(self.sandboxes[slot].function);
        self.hand(slot, waiting, false, out);
    }

    /// Hands a call that does not count as waiting to a sandbox that is ready or idle, in the lists or not.
    fn hand(&mut self, slot: u32, waiting: Waiting, at_once: bool, out: &mut Vec<Decision>) {
        self.take_warm(slot);
        if self.turn(slot, State::Busy).is_err() {
            return;
        }
        let sandbox = &mut self.sandboxes[slot];
        let (f, n, first) = (sandbox.function, sandbox.node, !sandbox.served);
        let function = &mut self.functions[f as usize];
        function.busy += 1;
        function.starved_since = self.now;
        sandbox.served = true;
        let private = function.spec.private;
        let account = &mut self.nodes[n as usize].account;
        if sandbox.booked < private {
            account.resize(Part::Active, sandbox.booked, private);
            if sandbox.charged {
                self.fair.release(f, sandbox.booked);
                sandbox.charged = false;
            }
            sandbox.booked = private;
        }
        if !sandbox.charged {
            sandbox.charged = true;
            self.fair.charge(f, sandbox.booked);
        }
        if at_once {
            self.stats.warm += 1;
        } else {
            self.stats.waited += 1;
        }
        out.push(Decision::Hand {
            call: waiting.call,
            sandbox: self.sandboxes.id(slot),
            node: NodeId(n),
            function: FunctionId(f),
            first,
            at_once,
        });
    }

    fn refuse(&mut self, f: u32, call: CallId, reason: Refusal, out: &mut Vec<Decision>) {
        if reason == Refusal::Expired {
            self.stats.expired += 1;
        } else {
            self.stats.refused += 1;
        }
        out.push(Decision::Refuse { call, reason, retry_after: self.retry_after(f) });
    }

    /// Refuses a call that counts as waiting.
    pub(super) fn dismiss(&mut self, f: u32, waiting: Waiting, reason: Refusal, out: &mut Vec<Decision>) {
        self.uncount(f);
        self.refuse(f, waiting.call, reason, out);
    }

    pub(super) fn refuse_all(&mut self, f: u32, reason: Refusal, out: &mut Vec<Decision>) {
        while let Some(waiting) = self.functions[f as usize].queue.pop() {
            self.dismiss(f, waiting, reason, out);
        }
        if self.fair.waits(f) {
            self.withdraw(f);
        }
    }

    /// When those that wait now, and one more, will have been served, by what calls take of late.
    fn wait(&self, f: u32) -> Duration {
        let function = &self.functions[f as usize];
        let turns = u64::from(function.queue.len()) + 1;
        let at_once = u64::from(self.fair.in_use(f).max(1));
        Duration::from_micros(function.mean.saturating_mul(turns) / at_once)
    }

    /// When those that wait for starts now, and one more, will have started.
    fn wait_for_starts(&self, f: u32) -> Duration {
        let at_once: u64 = self.nodes.iter().map(|node| u64::from(node.spec.starts)).sum();
        let rounds = u64::from(self.waiting.saturating_sub(self.starting)) / at_once.max(1) + 2;
        Duration::from_micros(self.functions[f as usize].start.saturating_mul(rounds))
    }

    fn retry_after(&self, f: u32) -> Duration {
        self.wait(f).clamp(LEAST_RETRY, MOST_RETRY)
    }

    pub(super) fn cancelled(&mut self, call: CallId, function: FunctionId) -> Result<(), EventError> {
        let Some(known) = self.functions.get_mut(function.at()) else {
            return Err(EventError::UnknownFunction(function));
        };
        let f = function.0;
        let mut found = known.queue.remove(call);
        let mut slot = if found || known.bound == 0 { NOWHERE } else { known.first };
        while slot != NOWHERE {
            let sandbox = &self.sandboxes[slot];
            let next = sandbox.next;
            if sandbox.bound.is_some_and(|waiting| waiting.call == call) {
                found = self.unbind(slot).is_some();
                break;
            }
            slot = next;
        }
        if found {
            self.uncount(f);
            self.stats.cancelled += 1;
            self.check_turn(f);
        }
        Ok(())
    }

    /// Whether the function wants more sandboxes to be started than are.
    pub(super) fn wants(&self, f: u32) -> bool {
        let function = &self.functions[f as usize];
        !function.building && function.queue.len() > function.starting - function.bound
    }

    /// It may have a limit of its own: then it waits for the end of a call of its own.
    pub(super) fn at_own_limit(&self, f: u32) -> bool {
        self.fair.limit(f) == Some(Limit::Function)
    }
}
