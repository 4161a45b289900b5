//! Which functions of a tenant are at which addresses.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::index;

use super::zone::{LABEL_LIMIT, SELF};
use crate::plan::Addresses;

/// A function's instance that gets no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InsertError {
    /// No label of DNS.
    #[error("A function with a name of {length} bytes has no DNS name, 1 to {LABEL_LIMIT} have")]
    Length {
        /// Length of the function's name.
        length: usize,
    },
    /// Everybody's own name.
    #[error("A function called '{SELF}' has no DNS name: it is the asker's own")]
    Reserved,
    /// No room.
    #[error("The directory of names is full: {limit} instances")]
    Full {
        /// Instances there is room for.
        limit: usize,
    },
}

/// Where the live instances of one tenant's functions are. A handle: clones are the same directory.
///
/// Every address belongs to one instance. Whoever is put in later has it, so that a late farewell of the address' last
/// owner takes nothing from the next.
#[derive(Clone, Debug)]
pub struct Directory {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    book: RwLock<Book>,
    limit: usize,
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, Book> {
        self.book.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Book> {
        self.book.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An instance's place in the directory, until this is dropped.
#[derive(Debug)]
#[must_use = "the instance is taken out when this is dropped"]
pub struct Listed {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.shared.write().remove(self.number);
    }
}

impl Directory {
    /// An empty directory with room for `limit` instances.
    pub fn new(limit: usize) -> Self {
        Self { shared: Arc::new(Shared { book: RwLock::default(), limit }) }
    }

    /// Puts in an instance of a function, in place of whoever has one of the addresses now.
    ///
    /// # Errors
    /// When the function has no DNS name, or there is no room.
    pub fn insert(&self, function: &str, addresses: Addresses) -> Result<Listed, InsertError> {
        if function.is_empty() || function.len() > LABEL_LIMIT {
            return Err(InsertError::Length { length: function.len() });
        }
        if function.eq_ignore_ascii_case(SELF) {
            return Err(InsertError::Reserved);
        }
        let number = self.shared.write().insert(function, addresses, self.shared.limit)?;
        Ok(Listed { shared: Arc::clone(&self.shared), number })
    }

    /// Instances there are.
    pub fn len(&self) -> usize {
        self.shared.read().entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// At most `most` instances of a function whose name is this but for the case of ASCII letters, in an order and a
    /// choice that come of the seed.
    pub fn instances(&self, function: &[u8], most: usize, seed: u64) -> Vec<Addresses> {
        let key = function.to_ascii_lowercase();
        let mut random = StdRng::seed_from_u64(seed);
        let book = self.shared.read();
        let Some(all) = book.functions.get(key.as_slice()) else { return Vec::new() };
        index::sample(&mut random, all.len(), most.min(all.len()))
            .into_iter()
            .filter_map(|at| Some(all.get(at)?.addresses))
            .collect()
    }

    /// The function, as it was written, and both addresses of the instance that has this one.
    pub fn owner(&self, address: IpAddr) -> Option<(Arc<str>, Addresses)> {
        let book = self.shared.read();
        let entry = book.entries.get(&book.number(address)?)?;
        Some((Arc::clone(&entry.name), entry.addresses))
    }
}

#[derive(Debug, Default)]
struct Book {
    entries: HashMap<u64, Entry>,
    /// By name in lower case; none is empty.
    functions: HashMap<Arc<[u8]>, Vec<Instance>>,
    v4: HashMap<Ipv4Addr, u64>,
    v6: HashMap<Ipv6Addr, u64>,
    next: u64,
}

#[derive(Debug)]
struct Entry {
    name: Arc<str>,
    key: Arc<[u8]>,
    addresses: Addresses,
    /// Where it stands among the function's instances.
    place: usize,
}

#[derive(Debug)]
struct Instance {
    number: u64,
    addresses: Addresses,
}

impl Book {
    fn number(&self, address: IpAddr) -> Option<u64> {
        match address {
            IpAddr::V4(address) => self.v4.get(&address),
            IpAddr::V6(address) => self.v6.get(&address),
        }
        .copied()
    }

    fn insert(&mut self, function: &str, addresses: Addresses, limit: usize) -> Result<u64, InsertError> {
        for address in [IpAddr::V4(addresses.v4), IpAddr::V6(addresses.v6)] {
            if let Some(number) = self.number(address) {
                self.remove(number);
            }
        }
        if self.entries.len() >= limit {
            return Err(InsertError::Full { limit });
        }
        let number = self.next;
        self.next += 1;
        let lower = function.to_ascii_lowercase();
        let key = match self.functions.get_key_value(lower.as_bytes()) {
            Some((key, _)) => Arc::clone(key),
            None => Arc::from(lower.into_bytes()),
        };
        let instances = self.functions.entry(Arc::clone(&key)).or_default();
        let place = instances.len();
        instances.push(Instance { number, addresses });
        self.v4.insert(addresses.v4, number);
        self.v6.insert(addresses.v6, number);
        self.entries.insert(number, Entry { name: Arc::from(function), key, addresses, place });
        Ok(number)
    }

    /// Takes out an entry, if it is still in.
    fn remove(&mut self, number: u64) {
        let Some(entry) = self.entries.remove(&number) else { return };
        self.v4.remove(&entry.addresses.v4);
        self.v6.remove(&entry.addresses.v6);
        let Some(instances) = self.functions.get_mut(&entry.key) else { return };
        if entry.place < instances.len() {
            instances.swap_remove(entry.place);
        }
        if let Some(moved) = instances.get(entry.place)
            && let Some(moved) = self.entries.get_mut(&moved.number)
        {
            moved.place = entry.place;
        }
        if instances.is_empty() {
            self.functions.remove(&entry.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn addresses(v4: u8, v6: u8) -> Addresses {
        Addresses { v4: [10, 64, 0, v4].into(), v6: [0xfd00, 0, 0, 0, 0, 0, 0, v6.into()].into() }
    }

    #[test]
    fn names_that_are_none_are_refused() {
        let directory = Directory::new(1);
        let insert = |name: &str, k| directory.insert(name, addresses(k, k));
        assert_eq!(insert("", 1).unwrap_err(), InsertError::Length { length: 0 });
        assert_eq!(insert(&"a".repeat(64), 1).unwrap_err(), InsertError::Length { length: 64 });
        assert_eq!(insert("Self", 1).unwrap_err(), InsertError::Reserved);
        let longest = insert(&"a".repeat(63), 1).unwrap();
        assert_eq!(insert("b", 2).unwrap_err(), InsertError::Full { limit: 1 });
        // The same address needs no more room, and the old owner's farewell is none of the new one's.
        let next = insert("b", 1).unwrap();
        drop(longest);
        assert_eq!(directory.instances(b"B", 9, 0), [addresses(1, 1)]);
        drop(next);
        assert!(directory.is_empty());
    }

    #[test]
    fn every_instance_has_its_turn() {
        let directory = Directory::new(300);
        let _all: Vec<_> = (0..200).map(|k| directory.insert("f", addresses(k, k)).unwrap()).collect();
        let mut first = HashSet::new();
        for seed in 0..4000 {
            let some = directory.instances(b"f", 64, seed);
            assert_eq!(some.iter().collect::<HashSet<_>>().len(), 64);
            first.insert(some[0]);
        }
        assert_eq!(first.len(), 200);
        assert_eq!(directory.instances(b"f", 64, 7), directory.instances(b"F", 64, 7));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(&'static str, u8, u8),
        Drop(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let name = prop::sample::select(vec!["hello", "HELLO", "Hello", "other", "_x-Y"]);
        let step = prop_oneof![
            3 => (name, 0u8..12, 0u8..12, any::<bool>())
                .prop_map(|(name, v4, v6, same)| Step::Insert(name, v4, if same { v4 } else { v6 })),
            2 => any::<prop::sample::Index>().prop_map(|index| Step::Drop(index.index(1 << 16))),
        ];
        prop::collection::vec(step, 0..80)
    }

    proptest! {
        #[test]
        fn it_is_a_list_of_who_came_last(steps in steps(), seed: u64) {
            const LIMIT: usize = 8;
            let directory = Directory::new(LIMIT);
            let mut model: Vec<(u64, &str, Addresses)> = Vec::new();
            let mut guards: Vec<Listed> = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(name, v4, v6) => {
                        let new = addresses(v4, v6);
                        model.retain(|(_, _, old)| old.v4 != new.v4 && old.v6 != new.v6);
                        match directory.insert(name, new) {
                            Ok(guard) => {
                                model.push((guard.number, name, new));
                                guards.push(guard);
                            }
                            Err(error) => {
                                prop_assert_eq!(error, InsertError::Full { limit: LIMIT });
                                prop_assert_eq!(model.len(), LIMIT);
                            }
                        }
                    }
                    Step::Drop(at) if !guards.is_empty() => {
                        let guard = guards.swap_remove(at % guards.len());
                        model.retain(|(number, ..)| *number != guard.number);
                    }
                    Step::Drop(_) => {}
                }
                prop_assert_eq!(directory.len(), model.len());
                for name in ["hello", "OTHER", "_X-y", "nobody"] {
                    let expected: HashSet<_> = model.iter()
                        .filter(|(_, other, _)| other.eq_ignore_ascii_case(name))
                        .map(|(_, _, addresses)| *addresses)
                        .collect();
                    let all = directory.instances(name.as_bytes(), 100, seed);
                    prop_assert_eq!(all.len(), expected.len());
                    prop_assert_eq!(all.into_iter().collect::<HashSet<_>>(), expected.clone());
                    prop_assert_eq!(directory.instances(name.as_bytes(), 2, seed).len(), expected.len().min(2));
                }
                for k in 0..12 {
                    for address in [IpAddr::V4(addresses(k, k).v4), IpAddr::V6(addresses(k, k).v6)] {
                        let expected = model.iter()
                            .find(|(_, _, has)| IpAddr::V4(has.v4) == address || IpAddr::V6(has.v6) == address)
                            .map(|(_, name, has)| ((*name).to_owned(), *has));
                        let owner = directory.owner(address).map(|(name, has)| (name.to_string(), has));
                        prop_assert_eq!(owner, expected);
                    }
                }
            }
            drop(guards);
            let book = directory.shared.read();
            prop_assert!(book.entries.is_empty() && book.functions.is_empty());
            prop_assert!(book.v4.is_empty() && book.v6.is_empty());
        }
    }
}
