//! A node, and the sandboxes of a function on it.

use std::collections::VecDeque;

use super::Scheduler;
use crate::admission::{Account, Image};
use crate::config::NodeSpec;
use crate::heap::{Heap, NOWHERE};
use crate::ids::Time;

#[derive(Debug)]
pub(super) struct Node {
    pub(super) spec: NodeSpec,
    pub(super) account: Account,
    /// Memory only tenants within their share get.
    pub(super) headroom: u64,
    /// Idle sandboxes, the one to be evicted first; their own number puts equals in order.
    pub(super) evictable: Heap<(f64, u32)>,
    /// Key of the one that was evicted last.
    pub(super) inflation: f64,
    /// Sandboxes that begin when memory is back, in this order.
    pub(super) pending: VecDeque<u32>,
    /// Bases in the page cache.
    pub(super) bases: Vec<Image>,
    pub(super) blanks: Vec<u32>,
    pub(super) blanks_starting: u32,
    /// Sandboxes of functions on their way up, also those that wait for memory.
    pub(super) starting: u32,
    /// Of these, those that count against the bound.
    pub(super) paced: u32,
    /// A blank did not come up: none is tried until then.
    pub(super) blanks_after: Time,
    /// A function that waited long and is the next to start here.
    pub(super) claim: u32,
}

impl Node {
    pub(super) fn new(spec: NodeSpec, headroom: f64) -> Self {
        // A part of it: never more, never less than nothing.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let headroom = (spec.memory as f64 * headroom) as u64;
        Self {
            spec,
            account: Account::new(spec.memory, spec.max_sandboxes),
            headroom,
            evictable: Heap::default(),
            inflation: 0.0,
            pending: VecDeque::new(),
            bases: Vec::new(),
            blanks: Vec::new(),
            blanks_starting: 0,
            starting: 0,
            paced: 0,
            blanks_after: Time::default(),
            claim: NOWHERE,
        }
    }
}

/// Sandboxes of a function on a node.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) node: u32,
    pub(super) alive: u32,
    /// Those that are warm, last used first.
    pub(super) warmest: u32,
    pub(super) warm: u32,
    /// Where it is in the function's lists.
    pub(super) at: u32,
    pub(super) warm_at: u32,
    /// The function's snapshot in the page cache.
    pub(super) snapshot: Image,
}

impl Scheduler {
    /// Where the function's sandboxes on this node are, if there are any.
    pub(super) fn find_place(&self, f: u32, n: u32) -> Option<u32> {
        let function = &self.functions[f as usize];
        function.places.iter().find(|(node, _)| *node == n).map(|(_, place)| *place)
    }

    pub(super) fn place(&mut self, f: u32, n: u32) -> u32 {
        if let Some(place) = self.find_place(f, n) {
            return place;
        }
        let places = &mut self.functions[f as usize].places;
        let new = Place {
            node: n,
            alive: 0,
            warmest: NOWHERE,
            warm: 0,
            at: super::number(places.len()),
            warm_at: NOWHERE,
            snapshot: Image::default(),
        };
        let place = match self.free_places.pop() {
            Some(place) => {
                self.places[place as usize] = new;
                place
            }
            None => {
                self.places.push(new);
                super::number(self.places.len() - 1)
            }
        };
        places.push((n, place));
        place
    }

    /// Forgets a place without sandboxes.
    pub(super) fn drop_place(&mut self, f: u32, place: u32) {
        let at = self.places[place as usize].at as usize;
        let places = &mut self.functions[f as usize].places;
        places.swap_remove(at);
        if let Some((_, moved)) = places.get(at) {
            self.places[*moved as usize].at = super::number(at);
        }
        self.free_places.push(place);
    }

    /// Puts a sandbox on top of the warm ones of its place.
    pub(super) fn link_warm(&mut self, slot: u32) {
        let (f, p) = (self.sandboxes[slot].function, self.sandboxes[slot].place);
        let place = &mut self.places[p as usize];
        let top = place.warmest;
        place.warmest = slot;
        place.warm += 1;
        let function = &mut self.functions[f as usize];
        function.warm += 1;
        if place.warm == 1 {
            place.warm_at = super::number(function.warm_places.len());
            function.warm_places.push(p);
        }
        if top != NOWHERE {
            self.sandboxes[top].warmer = slot;
        }
        self.sandboxes[slot].warmer = NOWHERE;
        self.sandboxes[slot].colder = top;
    }

    /// Takes it out of there.
    pub(super) fn unlink_warm(&mut self, slot: u32) {
        let sandbox = &self.sandboxes[slot];
        let (f, p, warmer, colder) = (sandbox.function, sandbox.place, sandbox.warmer, sandbox.colder);
        let place = &mut self.places[p as usize];
        if warmer == NOWHERE {
            place.warmest = colder;
        } else {
            self.sandboxes[warmer].colder = colder;
        }
        if colder != NOWHERE {
            self.sandboxes[colder].warmer = warmer;
        }
        self.sandboxes[slot].warmer = NOWHERE;
        self.sandboxes[slot].colder = NOWHERE;
        place.warm -= 1;
        let function = &mut self.functions[f as usize];
        function.warm -= 1;
        if place.warm == 0 {
            let at = place.warm_at as usize;
            function.warm_places.swap_remove(at);
            if let Some(moved) = function.warm_places.get(at) {
                self.places[*moved as usize].warm_at = super::number(at);
            }
        }
    }

    /// Adds a sandbox to its function's list.
    pub(super) fn link(&mut self, slot: u32) {
        let (f, p) = (self.sandboxes[slot].function, self.sandboxes[slot].place);
        let function = &mut self.functions[f as usize];
        let first = function.first;
        function.first = slot;
        function.alive += 1;
        self.places[p as usize].alive += 1;
        self.sandboxes[slot].previous = NOWHERE;
        self.sandboxes[slot].next = first;
        if first != NOWHERE {
            self.sandboxes[first].previous = slot;
        }
    }

    /// Takes it out of there; a place where it was the last is forgotten.
    pub(super) fn unlink(&mut self, slot: u32) {
        let sandbox = &self.sandboxes[slot];
        let (f, p, next, previous) = (sandbox.function, sandbox.place, sandbox.next, sandbox.previous);
        let function = &mut self.functions[f as usize];
        function.alive -= 1;
        if function.alive == 0 {
            function.frequency = 0;
            if !function.present {
                self.vacant.push(f);
            }
        }
        let function = &mut self.functions[f as usize];
        if previous == NOWHERE {
            function.first = next;
        } else {
            self.sandboxes[previous].next = next;
        }
        if next != NOWHERE {
            self.sandboxes[next].previous = previous;
        }
        let place = &mut self.places[p as usize];
        place.alive -= 1;
        if place.alive == 0 {
            self.drop_place(f, p);
        }
    }
}
