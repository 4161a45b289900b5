//! Calls of a function that wait, in the order of their deadlines.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::ids::{CallId, Time};

/// A call that waits. Ordered by deadline, then by arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Waiting {
    pub(crate) deadline: Time,
    /// Number of its arrival.
    pub(crate) order: u64,
    pub(crate) call: CallId,
}

#[derive(Debug, Default)]
pub(crate) struct CallQueue {
    heap: BinaryHeap<Reverse<Waiting>>,
}

impl CallQueue {
    pub(crate) fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.heap.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn push(&mut self, waiting: Waiting) {
        self.heap.push(Reverse(waiting));
    }

    pub(crate) fn pop(&mut self) -> Option<Waiting> {
        self.heap.pop().map(|Reverse(waiting)| waiting)
    }

    /// The deadline that comes first.
    pub(crate) fn earliest(&self) -> Option<Time> {
        self.heap.peek().map(|Reverse(waiting)| waiting.deadline)
    }

    /// Takes out a call whose deadline has come.
    pub(crate) fn expired(&mut self, now: Time) -> Option<Waiting> {
        if self.earliest()? <= now { self.pop() } else { None }
    }

    /// Takes out a certain call. Looks at all of them: callers seldom give up.
    pub(crate) fn remove(&mut self, call: CallId) -> bool {
        let before = self.heap.len();
        self.heap.retain(|Reverse(waiting)| waiting.call != call);
        self.heap.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(deadline: u64, order: u64) -> Waiting {
        Waiting { deadline: Time(deadline), order, call: CallId(order) }
    }

    #[test]
    fn deadlines_first_then_arrival() {
        let mut queue = CallQueue::default();
        for (deadline, order) in [(30, 0), (10, 1), (20, 2), (10, 3)] {
            queue.push(waiting(deadline, order));
        }
        assert!(queue.remove(CallId(2)) && !queue.remove(CallId(2)));
        assert_eq!(queue.expired(Time(9)), None);
        assert_eq!(queue.expired(Time(10)), Some(waiting(10, 1)));
        assert_eq!((queue.pop(), queue.len()), (Some(waiting(10, 3)), 1));
        assert_eq!((queue.pop(), queue.pop(), queue.earliest()), (Some(waiting(30, 0)), None, None));
    }
}
