//! Which interfaces there are and what their comings and goings ask for. Pure.

use std::collections::BTreeMap;

/// An interface as the kernel announces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Kernel index.
    pub index: u32,
    /// Name, such as `eth0`.
    pub name: String,
    /// Hardware address.
    pub mac: [u8; 6],
    /// Administratively up.
    pub up: bool,
    /// A cable (or its virtual likeness) is connected.
    pub carrier: bool,
}

/// What to do about an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Set it administratively up.
    Raise(Seen),
    /// Get it an address: it is up and connected, or connected again.
    Acquire(Seen),
    /// Stop asking: the cable is out. The address stays until its lease ends.
    Pause(u32),
    /// It is gone, with all its addresses.
    Forget(u32),
}

/// The interfaces we look after.
#[derive(Debug, Default)]
pub struct Book {
    links: BTreeMap<u32, Seen>,
}

impl Book {
    /// An interface was announced, for the first time or again.
    pub fn seen(&mut self, link: Seen) -> Vec<Act> {
        let mut acts = Vec::new();
        let before = self.links.insert(link.index, link.clone());
        let changed_identity =
            before.as_ref().is_some_and(|old| old.name != link.name || old.mac != link.mac);
        let had_carrier = before.as_ref().is_some_and(|old| old.up && old.carrier);
        let has_carrier = link.up && link.carrier;
        if before.is_none() && !link.up {
            acts.push(Act::Raise(link.clone()));
        }
        if had_carrier && (!has_carrier || changed_identity) {
            acts.push(Act::Pause(link.index));
        }
        if has_carrier && (!had_carrier || changed_identity) {
            acts.push(Act::Acquire(link));
        }
        acts
    }

    /// An interface was taken away.
    pub fn gone(&mut self, index: u32) -> Vec<Act> {
        self.links.remove(&index).map(|_| Act::Forget(index)).into_iter().collect()
    }

    /// Whether the interface is one of ours.
    pub fn knows(&self, index: u32) -> bool {
        self.links.contains_key(&index)
    }

    /// All of them, in the kernel's order.
    pub fn links(&self) -> Vec<Seen> {
        self.links.values().cloned().collect()
    }

    /// Number of interfaces, and how many of them are connected.
    pub fn count(&self) -> (usize, usize) {
        (self.links.len(), self.links.values().filter(|link| link.up && link.carrier).count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn link(up: bool, carrier: bool) -> Seen {
        Seen { index: 2, name: "eth0".to_owned(), mac: [2; 6], up, carrier }
    }

    #[test]
    fn a_link_is_raised_once_and_asked_for_when_connected() {
        let mut book = Book::default();
        assert_eq!(book.seen(link(false, false)), [Act::Raise(link(false, false))]);
        assert_eq!(book.seen(link(false, false)), []);
        assert_eq!(book.seen(link(true, false)), []);
        assert_eq!(book.seen(link(true, true)), [Act::Acquire(link(true, true))]);
        assert_eq!(book.seen(link(true, true)), []);
        assert_eq!(book.seen(link(true, false)), [Act::Pause(2)]);
        assert_eq!(book.seen(link(true, true)), [Act::Acquire(link(true, true))]);
        assert_eq!(book.gone(2), [Act::Forget(2)]);
        assert_eq!(book.gone(2), []);
    }

    #[test]
    fn a_new_name_or_mac_starts_over() {
        let mut book = Book::default();
        book.seen(link(true, true));
        let renamed = Seen { name: "wan".to_owned(), ..link(true, true) };
        assert_eq!(book.seen(renamed.clone()), [Act::Pause(2), Act::Acquire(renamed)]);
    }

    proptest! {
        #[test]
        fn acquire_and_pause_alternate(events in proptest::collection::vec((any::<bool>(), any::<bool>()), 0..60)) {
            let mut book = Book::default();
            let mut asking = false;
            for (up, carrier) in events {
                for act in book.seen(link(up, carrier)) {
                    match act {
                        Act::Acquire(_) => { prop_assert!(!asking); asking = true; }
                        Act::Pause(_) => { prop_assert!(asking); asking = false; }
                        Act::Raise(_) => {}
                        Act::Forget(_) => prop_assert!(false),
                    }
                }
                prop_assert_eq!(asking, up && carrier);
            }
        }
    }
}
