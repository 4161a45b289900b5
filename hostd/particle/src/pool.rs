//! Networks ready for tenants that come: blanks, made in the background.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crate::network::{Blank, Network, NetworkError, Shape};
use crate::plan::Subnet;

/// So many [blanks](Blank) are kept ready; a thread makes another as soon as one is taken. It ends with the pool.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    filler: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// A subnet of this machine, whosever.
    any: Subnet,
    shape: Shape,
    size: usize,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Blank>,
    /// One could not be made: not to be tried again before somebody asks.
    failed: bool,
    ended: bool,
}

impl Pool {
    /// A pool of `size` blanks, for tenants on the machine whose subnet `any` is one of.
    ///
    /// # Errors
    /// When there is no thread for it.
    pub fn start(any: Subnet, shape: Shape, size: usize) -> io::Result<Self> {
        let (state, changed) = (Mutex::default(), Condvar::new());
        let shared = Arc::new(Shared { state, changed, any, shape, size });
        let own = Arc::clone(&shared);
        let filler = thread::Builder::new().name("networks".to_owned()).spawn(move || own.fill())?;
        Ok(Self { shared, filler: Some(filler) })
    }

    /// A network for a subnet: one that is ready, or a new one if there is none.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn take(&self, subnet: Subnet) -> Result<Network, NetworkError> {
        let ready = {
            let mut state = self.shared.state();
            state.failed = false;
            self.shared.changed.notify_all();
            state.ready.pop_front()
        };
        ready.map_or_else(|| Blank::create(&subnet, &self.shared.shape), Ok)?.adopt(subnet)
    }

    /// Blanks there are now.
    pub fn ready(&self) -> usize {
        self.shared.state().ready.len()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fill(&self) {
        loop {
            let enough = |state: &mut State| !state.ended && (state.failed || state.ready.len() >= self.size);
            let waited = self.changed.wait_while(self.state(), enough);
            if waited.unwrap_or_else(PoisonError::into_inner).ended {
                return;
            }
            // Without the lock: this takes some milliseconds.
            let made = Blank::create(&self.any, &self.shape);
            let mut state = self.state();
            match made {
                Ok(blank) => state.ready.push_back(blank),
                Err(_) => state.failed = true,
            }
        }
    }
}

impl Drop for Pool {
    /// Waits for the blank that is being made.
    fn drop(&mut self) {
        self.shared.state().ended = true;
        self.shared.changed.notify_all();
        if let Some(filler) = self.filler.take() {
            let _ = filler.join();
        }
    }
}
