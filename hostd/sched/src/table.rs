//! All sandboxes, in slots that are used again, and lists through them.

use crate::events::{EventError, How, Why};
use crate::heap::NOWHERE;
use crate::ids::{SandboxId, Time};
use crate::queue::Waiting;
use crate::states::{State, TransitionError};

/// A sandbox. Numbers of what it belongs to are dense; [`NOWHERE`] is none.
#[derive(Debug, Clone)]
pub(crate) struct Sandbox {
    pub(crate) generation: u32,
    pub(crate) state: State,
    pub(crate) node: u32,
    pub(crate) function: u32,
    pub(crate) place: u32,
    /// Memory of its own.
    pub(crate) booked: u64,
    /// Whether its node shares the function's snapshot with it.
    pub(crate) uses_snapshot: bool,
    /// The base that its node shares with it.
    pub(crate) base: u32,
    pub(crate) since: Time,
    /// While it is warm: when it ends.
    pub(crate) expires: Time,
    /// Counts as in use by its function.
    pub(crate) charged: bool,
    /// Has one of its node's places for starts.
    pub(crate) paced: bool,
    /// Promised memory that is not back yet: nobody was told to start it.
    pub(crate) pending: bool,
    /// Always there.
    pub(crate) pinned: bool,
    /// Ends with its call.
    pub(crate) doomed: bool,
    /// Served a call.
    pub(crate) served: bool,
    pub(crate) how: How,
    pub(crate) why: Why,
    /// The call it is started for, if no other sandbox may serve that.
    pub(crate) bound: Option<Waiting>,
    /// Neighbours among the warm ones of its function on its node.
    pub(crate) warmer: u32,
    pub(crate) colder: u32,
    /// Neighbours among all of its function.
    pub(crate) next: u32,
    pub(crate) previous: u32,
}

impl Sandbox {
    pub(crate) fn new(
        node: u32,
        function: u32,
        place: u32,
        booked: u64,
        how: How,
        why: Why,
        now: Time,
    ) -> Self {
        Self {
            generation: 0,
            state: State::Restoring,
            node,
            function,
            place,
            booked,
            uses_snapshot: false,
            base: NOWHERE,
            since: now,
            expires: Time::NEVER,
            charged: false,
            paced: false,
            pending: false,
            pinned: false,
            doomed: false,
            served: false,
            how,
            why,
            bound: None,
            warmer: NOWHERE,
            colder: NOWHERE,
            next: NOWHERE,
            previous: NOWHERE,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    slots: Vec<Sandbox>,
    free: Vec<u32>,
}

impl Table {
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// A slot for it. `None` if there are more than can be numbered.
    pub(crate) fn insert(&mut self, mut sandbox: Sandbox) -> Option<u32> {
        if let Some(slot) = self.free.pop() {
            let old = &mut self.slots[slot as usize];
            sandbox.generation = old.generation.wrapping_add(1);
            *old = sandbox;
            return Some(slot);
        }
        let slot = u32::try_from(self.slots.len()).ok().filter(|slot| *slot < NOWHERE)?;
        self.slots.push(sandbox);
        Some(slot)
    }

    /// Gives the slot of a dead one back.
    pub(crate) fn free(&mut self, slot: u32) {
        self.free.push(slot);
    }

    pub(crate) fn id(&self, slot: u32) -> SandboxId {
        SandboxId { slot, generation: self.slots[slot as usize].generation }
    }

    /// The slot of one that is alive.
    pub(crate) fn alive(&self, id: SandboxId) -> Result<u32, EventError> {
        match self.slots.get(id.at()) {
            Some(sandbox)
                if sandbox.generation == id.generation
                    && sandbox.state != State::Dead
                    && !sandbox.pending =>
            {
                Ok(id.slot)
            }
            _ => Err(EventError::UnknownSandbox(id)),
        }
    }

    pub(crate) fn turn(&mut self, slot: u32, to: State, now: Time) -> Result<(), TransitionError> {
        let id = self.id(slot);
        let sandbox = &mut self.slots[slot as usize];
        if !sandbox.state.may_become(to) {
            return Err(TransitionError { sandbox: id, from: sandbox.state, to });
        }
        sandbox.state = to;
        sandbox.since = now;
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Sandbox)> {
        (0u32..).zip(&self.slots).filter(|(_, sandbox)| sandbox.state != State::Dead)
    }
}

impl std::ops::Index<u32> for Table {
    type Output = Sandbox;

    fn index(&self, slot: u32) -> &Sandbox {
        &self.slots[slot as usize]
    }
}

impl std::ops::IndexMut<u32> for Table {
    fn index_mut(&mut self, slot: u32) -> &mut Sandbox {
        &mut self.slots[slot as usize]
    }
}
