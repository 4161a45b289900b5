//! Who may start what: sandboxes alive, memory given, snapshots known. Pure: events in, decisions out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// Identifies what a sandbox was made of: function, code and configuration. A changed function is another key.
pub type Key = Arc<str>;

/// How a caller wants to be served. `Auto` is the rule; the others are for operators who measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Warm, else restore, else cold.
    Auto,
    /// Never a warm sandbox.
    Restore,
    /// A cold boot.
    Cold,
}

/// What to do for a call.
#[derive(Debug)]
pub enum Decision<I, S> {
    /// Use this idle sandbox.
    Warm(I),
    /// Restore this snapshot; memory is booked.
    Restore {
        /// The snapshot.
        snapshot: S,
        /// Whether this call is to be recorded; then the caller must report with [`Book::recorded`].
        record: bool,
    },
    /// Boot; memory is booked. With `build` the caller makes the function's snapshot and must
    /// report with [`Book::built`] or [`Book::build_failed`].
    Cold {
        /// Whether this boot makes the snapshot.
        build: bool,
    },
    /// Put this idle sandbox away, then ask again.
    Evict(I),
    /// Nothing to be done now: ask again when something changed.
    Wait,
    /// No machine state can ever serve this: more memory than there is.
    TooBig {
        /// All that can be given, MiB.
        capacity_mb: u64,
    },
    /// The snapshot this call waited for could not be made.
    Failed(Arc<str>),
    /// The function was changed or deleted since the caller looked it up.
    Gone,
}

#[derive(Debug)]
enum Snapshot<S> {
    None,
    Building,
    Ready(S, Recording),
}

/// Whether a call on a snapshot was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recording {
    /// It is to be, and failed so often.
    Due(u32),
    /// It is now; it failed so often before.
    UnderWay(u32),
    /// It was, or never is to be.
    Over,
}

/// How often recording is tried with a snapshot.
const RECORDING_ATTEMPTS: u32 = 3;

impl Recording {
    fn new(due: bool) -> Self {
        if due { Self::Due(0) } else { Self::Over }
    }

    /// Takes the duty, if there is one to be had.
    fn claim(&mut self) -> bool {
        let Self::Due(failed) = *self else { return false };
        *self = Self::UnderWay(failed);
        true
    }
}

#[derive(Debug)]
struct Entry<I, S> {
    snapshot: Snapshot<S>,
    /// Most recently used last.
    idle: Vec<(Instant, u64, I)>,
    failure: Option<(Instant, Arc<str>)>,
}

impl<I, S> Default for Entry<I, S> {
    fn default() -> Self {
        Self { snapshot: Snapshot::None, idle: Vec::new(), failure: None }
    }
}

/// The books. `I` is an idle sandbox, `S` a snapshot.
#[derive(Debug)]
pub struct Book<I, S> {
    capacity_mb: u64,
    max_alive: usize,
    used_mb: u64,
    alive: usize,
    next_id: u64,
    entries: HashMap<Key, Entry<I, S>>,
}

impl<I, S: Clone> Book<I, S> {
    /// Books of a machine that can give `capacity_mb` MiB to at most `max_alive` sandboxes.
    pub fn new(capacity_mb: u64, max_alive: usize) -> Self {
        Self { capacity_mb, max_alive, used_mb: 0, alive: 0, next_id: 0, entries: HashMap::new() }
    }

    /// A function can be called from now on, with its snapshot if it has one.
    /// `record` says whether a call on the snapshot is still to be recorded.
    pub fn register(&mut self, key: &Key, snapshot: Option<S>, record: bool) {
        let entry = self.entries.entry(Arc::clone(key)).or_default();
        if let Some(snapshot) = snapshot {
            entry.snapshot = Snapshot::Ready(snapshot, Recording::new(record));
        }
    }

    /// Decides for a call to `key` that arrived at `arrived` and needs `memory_mb` if it starts a sandbox.
    pub fn decide(&mut self, key: &Key, memory_mb: u64, want: Want, arrived: Instant) -> Decision<I, S> {
        if memory_mb > self.capacity_mb {
            return Decision::TooBig { capacity_mb: self.capacity_mb };
        }
        let Some(entry) = self.entries.get_mut(key) else { return Decision::Gone };
        if want == Want::Auto
            && let Some((_, _, idle)) = entry.idle.pop()
        {
            return Decision::Warm(idle);
        }
        if let Some((at, reason)) = &entry.failure
            && *at > arrived
        {
            return Decision::Failed(Arc::clone(reason));
        }
        if matches!(entry.snapshot, Snapshot::Building) && want != Want::Cold {
            return Decision::Wait;
        }
        if self.used_mb + memory_mb > self.capacity_mb || self.alive >= self.max_alive {
            return self.least_recently_used(|_| true).map_or(Decision::Wait, Decision::Evict);
        }
        let Some(entry) = self.entries.get_mut(key) else { return Decision::Gone };
        self.used_mb += memory_mb;
        self.alive += 1;
        match (&mut entry.snapshot, want) {
            (Snapshot::Ready(snapshot, recording), Want::Auto | Want::Restore) => {
                Decision::Restore { snapshot: snapshot.clone(), record: recording.claim() }
            }
            (Snapshot::None, _) => {
                entry.snapshot = Snapshot::Building;
                entry.failure = None;
                Decision::Cold { build: true }
            }
            _ => Decision::Cold { build: false },
        }
    }

    /// Takes back the idle sandbox that has been one for longest, of those that are `fit`.
    pub fn least_recently_used(&mut self, fit: impl Fn(&I) -> bool) -> Option<I> {
        let (_, id, key) = self
            .entries
            .iter()
            .flat_map(|(key, entry)| entry.idle.iter().map(move |(since, id, idle)| (since, id, idle, key)))
            .filter(|(_, _, idle, _)| fit(idle))
            .map(|(since, id, _, key)| (*since, *id, Arc::clone(key)))
            .min_by_key(|(since, ..)| *since)?;
        self.unpark(&key, id)
    }

    /// A sandbox has nothing to do. The number is for [`Book::unpark`]; when the function is gone there is no
    /// place for the sandbox and the caller puts it away.
    pub fn park(&mut self, key: &Key, now: Instant, idle: I) -> Option<u64> {
        let entry = self.entries.get_mut(key)?;
        self.next_id += 1;
        entry.idle.push((now, self.next_id, idle));
        Some(self.next_id)
    }

    /// Takes back one certain idle sandbox, unless a call has it already.
    pub fn unpark(&mut self, key: &Key, id: u64) -> Option<I> {
        let entry = self.entries.get_mut(key)?;
        let at = entry.idle.iter().position(|(_, other, _)| *other == id)?;
        Some(entry.idle.remove(at).2)
    }

    /// Takes back all idle sandboxes, of one function or of all.
    pub fn unpark_all(&mut self, key: Option<&Key>) -> Vec<I> {
        let mut all = Vec::new();
        for (other, entry) in &mut self.entries {
            if key.is_none_or(|key| key == other) {
                all.extend(entry.idle.drain(..).map(|(_, _, idle)| idle));
            }
        }
        all
    }

    /// A sandbox is gone: its memory is free again.
    pub fn released(&mut self, memory_mb: u64) {
        self.used_mb = self.used_mb.saturating_sub(memory_mb);
        self.alive = self.alive.saturating_sub(1);
    }

    /// A snapshot can be restored from now on; `record` as for [`Book::register`]. False when the function is gone:
    /// the snapshot is of no use.
    #[must_use]
    pub fn built(&mut self, key: &Key, snapshot: S, record: bool) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        entry.snapshot = Snapshot::Ready(snapshot, Recording::new(record));
        true
    }

    /// Takes the duty to record a call before any call can get it. False when there is none.
    #[must_use]
    pub fn claim_recording(&mut self, key: &Key) -> bool {
        match self.entries.get_mut(key).map(|entry| &mut entry.snapshot) {
            Some(Snapshot::Ready(_, recording)) => recording.claim(),
            _ => false,
        }
    }

    /// A recording ended without a new snapshot: another call is tried, a few times.
    pub fn recording_failed(&mut self, key: &Key) {
        if let Some(entry) = self.entries.get_mut(key)
            && let Snapshot::Ready(_, recording) = &mut entry.snapshot
            && let Recording::UnderWay(failed) = *recording
        {
            let failed = failed + 1;
            *recording = if failed < RECORDING_ATTEMPTS { Recording::Due(failed) } else { Recording::Over };
        }
    }

    /// A snapshot could not be made; with a reason, the calls that waited for it fail with it.
    pub fn build_failed(&mut self, key: &Key, now: Instant, reason: Option<Arc<str>>) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.snapshot = Snapshot::None;
        entry.failure = reason.map(|reason| (now, reason));
    }

    /// A snapshot is of no use any more: the next call makes another. One that has taken its place meanwhile, which
    /// `is_it` tells, stays.
    pub fn forget_snapshot(&mut self, key: &Key, is_it: impl FnOnce(&S) -> bool) {
        if let Some(entry) = self.entries.get_mut(key)
            && let Snapshot::Ready(snapshot, _) = &entry.snapshot
            && is_it(snapshot)
        {
            entry.snapshot = Snapshot::None;
        }
    }

    /// The snapshot, if there is one.
    pub fn snapshot(&self, key: &Key) -> Option<S> {
        match &self.entries.get(key)?.snapshot {
            Snapshot::Ready(snapshot, _) => Some(snapshot.clone()),
            Snapshot::None | Snapshot::Building => None,
        }
    }

    /// The function is gone or changed: forgets all of it and returns its idle sandboxes.
    pub fn forget(&mut self, key: &Key) -> Vec<I> {
        self.entries
            .remove(key)
            .map(|entry| entry.idle.into_iter().map(|(_, _, idle)| idle).collect())
            .unwrap_or_default()
    }

    /// (sandboxes alive, of them idle, memory given in MiB, memory that can be given in MiB)
    pub fn usage(&self) -> (usize, usize, u64, u64) {
        let idle = self.entries.values().map(|entry| entry.idle.len()).sum();
        (self.alive, idle, self.used_mb, self.capacity_mb)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Books = Book<u32, &'static str>;

    fn key(name: &str) -> Key {
        Arc::from(name)
    }

    fn books(capacity_mb: u64, max_alive: usize, functions: &[&str]) -> Books {
        let mut book = Books::new(capacity_mb, max_alive);
        functions.iter().for_each(|name| book.register(&key(name), None, false));
        book
    }

    #[test]
    fn warm_then_restore_then_cold() {
        let mut book = books(300, 9, &["f", "g"]);
        let (f, now) = (key("f"), Instant::now());
        assert!(matches!(book.decide(&f, 100, Want::Auto, now), Decision::Cold { build: true }));
        assert!(matches!(book.decide(&f, 100, Want::Auto, now), Decision::Wait));
        assert!(matches!(book.decide(&f, 100, Want::Cold, now), Decision::Cold { build: false }));
        assert!(book.built(&f, "snapshot", false));
        assert!(matches!(
            book.decide(&f, 100, Want::Auto, now),
            Decision::Restore { snapshot: "snapshot", record: false }
        ));
        book.park(&f, now, 7);
        assert!(matches!(book.decide(&key("g"), 100, Want::Auto, now), Decision::Evict(7)));
        book.released(100);
        book.park(&f, now, 8);
        assert!(matches!(book.decide(&f, 100, Want::Auto, now), Decision::Warm(8)));
        assert!(matches!(book.decide(&f, 301, Want::Auto, now), Decision::TooBig { capacity_mb: 300 }));
    }

    #[test]
    fn one_call_at_a_time_is_recorded_and_not_for_ever() {
        let mut book = books(10_000, 99, &["f"]);
        let (f, now) = (key("f"), Instant::now());
        assert!(matches!(book.decide(&f, 100, Want::Auto, now), Decision::Cold { build: true }));
        assert!(book.built(&f, "clean", true));
        let recorded = |book: &mut Books| match book.decide(&f, 100, Want::Restore, now) {
            Decision::Restore { record, .. } => record,
            other => panic!("{other:?}"),
        };
        for attempt in 0..RECORDING_ATTEMPTS {
            if attempt == 1 {
                assert!(book.claim_recording(&f), "by who made the snapshot");
            } else {
                assert!(recorded(&mut book));
            }
            assert!(!book.claim_recording(&f));
            assert!(!recorded(&mut book), "two at once");
            book.recording_failed(&f);
        }
        assert!(!recorded(&mut book), "once more than there are attempts");
        assert!(book.built(&f, "warm", false));
        book.recording_failed(&f);
        assert!(!recorded(&mut book));
        book.forget_snapshot(&f, |snapshot| *snapshot == "clean");
        assert_eq!(book.snapshot(&f), Some("warm"));
        book.forget_snapshot(&f, |snapshot| *snapshot == "warm");
        assert_eq!(book.snapshot(&f), None);
    }

    #[test]
    fn those_who_waited_share_the_failure_and_later_calls_try_again() {
        let mut book = books(300, 9, &["f"]);
        let f = key("f");
        let early = Instant::now();
        assert!(matches!(book.decide(&f, 100, Want::Auto, early), Decision::Cold { build: true }));
        let failed = early + std::time::Duration::from_secs(1);
        book.released(100);
        book.build_failed(&f, failed, Some(Arc::from("import error")));
        assert!(matches!(book.decide(&f, 100, Want::Auto, early), Decision::Failed(_)));
        let late = failed + std::time::Duration::from_secs(1);
        assert!(matches!(book.decide(&f, 100, Want::Auto, late), Decision::Cold { build: true }));
    }

    #[test]
    fn a_forgotten_function_takes_nothing_back() {
        let mut book = books(300, 9, &["f"]);
        let (f, now) = (key("f"), Instant::now());
        assert!(matches!(book.decide(&f, 100, Want::Auto, now), Decision::Cold { build: true }));
        book.park(&f, now, 1);
        assert_eq!(book.forget(&f), [1]);
        assert!(!book.built(&f, "late", false));
        assert_eq!(book.park(&f, now, 2), None);
        assert!(matches!(book.decide(&f, 100, Want::Auto, now), Decision::Gone));
    }

    #[test]
    fn the_least_recently_used_goes_first_and_a_parked_one_goes_once() {
        let mut book = books(200, 9, &["a", "b", "c"]);
        let now = Instant::now();
        for (name, after) in [("a", 2), ("b", 1)] {
            assert!(matches!(book.decide(&key(name), 100, Want::Auto, now), Decision::Cold { .. }));
            assert!(book.built(&key(name), "s", false));
            book.park(&key(name), now + std::time::Duration::from_secs(after), u32::try_from(after).unwrap());
        }
        assert_eq!(book.least_recently_used(|idle| *idle == 7), None);
        assert!(matches!(book.decide(&key("c"), 100, Want::Auto, now), Decision::Evict(1)));
        assert_eq!(book.least_recently_used(|idle| *idle == 2), Some(2));
        let id = book.park(&key("a"), now, 5).unwrap();
        assert_eq!(book.unpark(&key("a"), id), Some(5));
        assert_eq!(book.unpark(&key("a"), id), None);
    }

    proptest! {
        // Random orders of calls and ends: the books never give more than there is, and add up.
        #[test]
        fn never_more_than_there_is(steps in prop::collection::vec((0u8..4, 0usize..3, 50u64..200), 1..200)) {
            let mut book = books(500, 4, &["0", "1", "2"]);
            let now = Instant::now();
            let sizes = [100, 150, 200];
            let mut busy: Vec<(usize, u64)> = Vec::new();
            let mut idle: HashMap<u32, (usize, u64)> = HashMap::new();
            let mut serial = 0;
            for (op, function, _) in steps {
                let f = key(&function.to_string());
                match op {
                    0 | 1 => match book.decide(&f, sizes[function], Want::Auto, now) {
                        Decision::Warm(id) => busy.push(idle.remove(&id).unwrap()),
                        Decision::Restore { .. } | Decision::Cold { build: false } => busy.push((function, sizes[function])),
                        Decision::Cold { build: true } => {
                            prop_assert!(book.built(&f, "s", false));
                            busy.push((function, sizes[function]));
                        }
                        Decision::Evict(id) => book.released(idle.remove(&id).unwrap().1),
                        Decision::Wait => prop_assert!(idle.is_empty()),
                        other => prop_assert!(false, "{other:?}"),
                    },
                    2 => if let Some(done) = busy.pop() {
                        serial += 1;
                        idle.insert(serial, done);
                        book.park(&key(&done.0.to_string()), now, serial);
                    },
                    _ => if let Some((_, mb)) = busy.pop() { book.released(mb) },
                }
                let used: u64 = busy.iter().map(|(_, mb)| mb).chain(idle.values().map(|(_, mb)| mb)).sum();
                prop_assert_eq!(book.usage(), (busy.len() + idle.len(), idle.len(), used, 500));
                prop_assert!(used <= 500 && busy.len() + idle.len() <= 4);
            }
        }
    }
}
