//! How many connections there are, and whose.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Connections now, by address.
#[derive(Debug)]
pub(super) struct Connections {
    open: Mutex<HashMap<IpAddr, usize>>,
    all: usize,
    each: usize,
}

/// One of them, until this is dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    connections: &'a Connections,
    address: IpAddr,
}

impl Connections {
    /// Room for `all`, of which one address may have `each`.
    pub fn new(all: usize, each: usize) -> Self {
        Self { open: Mutex::default(), all, each }
    }

    /// A place for one more; none if there is no room.
    pub fn take(&self, address: IpAddr) -> Option<Place<'_>> {
        let mut open = self.lock();
        let here = open.get(&address).copied().unwrap_or(0);
        if here >= self.each || open.values().sum::<usize>() >= self.all {
            return None;
        }
        open.insert(address, here + 1);
        Some(Place { connections: self, address })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut open = self.connections.lock();
        if let Some(here) = open.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_given_back() {
        let connections = Connections::new(3, 2);
        let [a, b, c] = ["10.0.0.1", "10.0.0.2", "fd00::1"].map(|address| address.parse().unwrap());
        let first = connections.take(a).unwrap();
        let _second = connections.take(a).unwrap();
        assert!(connections.take(a).is_none(), "one address has all it may have");
        let third = connections.take(b).unwrap();
        assert!(connections.take(c).is_none(), "there are as many as may be");
        drop(third);
        drop(first);
        let _fourth = connections.take(c).unwrap();
        let _fifth = connections.take(a).unwrap();
        assert_eq!(connections.lock().len(), 2);
    }
}
