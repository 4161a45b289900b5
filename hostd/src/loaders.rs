//! Loaders under way: at most one per snapshot, however many calls come at once (FaaSnap, sections 5.3.2 and 5.5.6).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use mote_snapshot::{Loader, Plan};

use crate::text::chain;

/// The snapshots that are being loaded.
#[derive(Debug, Default)]
pub struct Loaders {
    running: Mutex<BTreeSet<PathBuf>>,
    stop: AtomicBool,
}

impl Loaders {
    /// Starts reading the loading set of the snapshot in `dir` into the page cache, unless that is under way or it is
    /// there. Returns at once.
    pub fn start(self: &Arc<Self>, dir: &Path) {
        if !self.running().insert(dir.to_owned()) {
            return;
        }
        let (loaders, dir) = (Arc::clone(self), dir.to_owned());
        tokio::task::spawn_blocking(move || {
            loaders.load(&dir);
            loaders.running().remove(&dir);
        });
    }

    /// Ends all of them, and lets none begin.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeSet<PathBuf>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load(&self, dir: &Path) {
        let loader = Loader::open(dir, Plan::LoadingSet);
        if loader.as_ref().is_ok_and(Loader::is_loaded) {
            return;
        }
        match loader.and_then(|loader| loader.run(&self.stop)) {
            Ok(loaded) => tracing::debug!(dir = %dir.display(), ?loaded, "Loading set loaded"),
            // The guest reads what it needs itself, and meets the same error if it is one of the disk.
            Err(error) => tracing::warn!(error = %chain(&error), "Loading set not loaded"),
        }
    }
}
