//! Duties somebody has taken, given up when dropped: to make a function's snapshot, to record a call on it.

use std::sync::Arc;

use super::{Key, Pool, Snapshot};

/// The duty to make a function's snapshot.
#[derive(Debug)]
pub struct Build {
    pool: Arc<Pool>,
    key: Key,
    open: bool,
}

impl Build {
    pub(super) fn new(pool: &Arc<Pool>, key: &Key) -> Self {
        Self { pool: Arc::clone(pool), key: Arc::clone(key), open: true }
    }

    fn built(&mut self, snapshot: Snapshot, recording: bool, reserved: bool) -> bool {
        self.open = false;
        let (key, snapshot) = (&self.key, Arc::new(snapshot));
        self.pool.change(|ledger| ledger.built(key, snapshot, recording, reserved))
    }

    /// The snapshot is there. False when the function is gone meanwhile. `recording`: a call on it is to be recorded.
    pub fn done(mut self, snapshot: Snapshot, recording: bool) -> bool {
        self.built(snapshot, recording, false)
    }

    /// The snapshot is there, and one certain call on it is to be recorded. `None` when the function is gone.
    pub fn done_to_record(mut self, snapshot: Snapshot) -> Option<Reservation> {
        self.built(snapshot, true, true)
            .then(|| Reservation { pool: Arc::clone(&self.pool), key: Arc::clone(&self.key) })
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        if self.open {
            self.pool.change(|ledger| ledger.not_built(&self.key));
        }
    }
}

/// Recording is kept for one certain call, until dropped.
#[derive(Debug)]
pub struct Reservation {
    pool: Arc<Pool>,
    key: Key,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(entry) = self.pool.ledger().entry_mut(&self.key) {
            entry.unreserve();
        }
    }
}

/// The duty to record a call.
#[derive(Debug)]
pub struct Recording {
    pool: Arc<Pool>,
    key: Key,
    open: bool,
}

impl Recording {
    pub(super) fn new(pool: &Arc<Pool>, key: &Key) -> Self {
        Self { pool: Arc::clone(pool), key: Arc::clone(key), open: true }
    }

    /// The recorded snapshot is there. False when the function is gone meanwhile.
    pub fn done(mut self, snapshot: Snapshot) -> bool {
        self.open = false;
        let (key, snapshot) = (&self.key, Arc::new(snapshot));
        self.pool.change(|ledger| ledger.built(key, snapshot, false, false))
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if self.open
            && let Some(entry) = self.pool.ledger().entry_mut(&self.key)
        {
            entry.not_recorded();
        }
    }
}
