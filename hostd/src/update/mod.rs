//! Updates of the system: a signed file is written to the slot that does not run, and tried at the next start.
//!
//! What may be done when is decided by `mote-update`; [`mote_environment`] keeps it on the disk, under a lock that init
//! takes as well. Here is who asks: [`install`] streams a file through the verifier to the partition, [`place`] says where
//! that is, [`told`] what is said of it, [`error`] why not.

mod error;
mod install;
mod place;
mod told;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use mote_api::ApiError;
use mote_environment::{Environment, load};
use mote_update::keys::{Keys, PublicKey};
use mote_update::slots::{self, ChangeError, Force, Slot, State};
use mote_update::version::Version;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::service::blocking;

pub use error::UpdateError;
pub use place::Place;

use install::Job;
use told::Progress;

/// Updates of this machine.
#[derive(Debug)]
pub struct Updates {
    place: Result<Place, String>,
    keys: Result<Keys, String>,
    /// The version that the running system's own file says.
    version: Version,
    /// One update or change at a time.
    turn: Arc<Semaphore>,
    shared: Arc<Shared>,
}

/// What the one who writes an update tells, and is told.
#[derive(Debug, Default)]
struct Shared {
    progress: Mutex<Progress>,
    called_off: AtomicBool,
}

/// What is to be tried at the next start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tried {
    /// Where it is.
    pub slot: Slot,
    /// Its version.
    pub version: Version,
}

/// What was called off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CalledOff {
    /// An update that is being written: it ends soon, and leaves its slot empty.
    Writing,
    /// A trial that was to come.
    Trial,
}

impl Shared {
    fn progress<T>(&self, with: impl FnOnce(&mut Progress) -> T) -> T {
        with(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Updates {
    /// Of a machine whose slots are at `place`; `keys` are those an update may be signed with, in hexadecimal digits, and
    /// `version` is what the running system says of itself.
    pub fn new(place: Result<Place, String>, keys: &[String], version: &str) -> Self {
        Self {
            place,
            keys: trusted(keys),
            version: version.parse().unwrap_or(Version::ZERO),
            turn: Arc::new(Semaphore::new(1)),
            shared: Arc::default(),
        }
    }

    /// Takes an update file that comes in pieces. Goes on by itself when nobody waits for it any more; that is the end of
    /// the file then, wherever it is.
    pub async fn install(
        &self,
        force: Force,
        mut pieces: mpsc::Receiver<Result<Bytes, ApiError>>,
    ) -> Result<Tried, UpdateError> {
        let place = self.place()?.clone();
        let keys = self.keys.clone().map_err(UpdateError::Keys)?;
        let turn = self.turn()?;
        self.shared.called_off.store(false, Ordering::Release);
        let (shared, version) = (Arc::clone(&self.shared), self.version);
        blocking(move || {
            let _turn = turn;
            let job = Job { place: &place, keys, version, force, shared: &shared };
            let done = job.run(std::iter::from_fn(|| pieces.blocking_recv()));
            shared.progress(|progress| progress.end(done.as_ref().err()));
            if let Err(error) = &done {
                tracing::warn!(error = %crate::text::chain(error), "Update not taken");
            }
            done
        })
        .await
    }

    /// Has the version that ran before tried again.
    pub async fn roll_back(&self) -> Result<Tried, UpdateError> {
        self.change(|state, running| {
            let slot = state.slot().other();
            let state = slots::roll_back(state, running)?;
            let version = state.content(slot).version().ok_or(ChangeError::NotGood(slot))?;
            Ok((state, Tried { slot, version }))
        })
        .await
    }

    /// Stops what is being written or is to be tried.
    pub async fn call_off(&self) -> Result<CalledOff, UpdateError> {
        let done =
            self.change(|state, running| Ok((slots::call_off(state, running)?, CalledOff::Trial))).await;
        match done {
            Err(UpdateError::Busy) => {
                self.shared.called_off.store(true, Ordering::Release);
                Ok(CalledOff::Writing)
            }
            done => done,
        }
    }

    /// What is in the slots, and how far an update is.
    pub async fn told(&self) -> Result<Value, UpdateError> {
        let progress = self.shared.progress(|progress| progress.clone());
        let place = match &self.place {
            Ok(place) => place.clone(),
            Err(why) => return Ok(told::without_slots(why, self.version)),
        };
        let esp = place.environment.clone();
        let state = blocking(move || load(&esp)).await?;
        Ok(told::told(&state, place.running, self.version, self.keys.as_ref().err(), &progress))
    }

    async fn change<T: Send + 'static>(
        &self,
        with: impl FnOnce(&State, Slot) -> Result<(State, T), ChangeError> + Send + 'static,
    ) -> Result<T, UpdateError> {
        let place = self.place()?.clone();
        let turn = self.turn()?;
        blocking(move || {
            let _turn = turn;
            change(&place, with)
        })
        .await
    }

    fn place(&self) -> Result<&Place, UpdateError> {
        self.place.as_ref().map_err(|why| UpdateError::NoSlots(why.clone()))
    }

    fn turn(&self) -> Result<OwnedSemaphorePermit, UpdateError> {
        Arc::clone(&self.turn).try_acquire_owned().map_err(|_| UpdateError::Busy)
    }
}

/// Reads the state, changes it and writes it: what is returned is on the disk.
fn change<T>(
    place: &Place,
    with: impl FnOnce(&State, Slot) -> Result<(State, T), ChangeError>,
) -> Result<T, UpdateError> {
    let environment = Environment::lock(&place.environment)?;
    let (state, value) = with(&environment.state()?, place.running)?;
    environment.store(&state)?;
    Ok(value)
}

fn trusted(keys: &[String]) -> Result<Keys, String> {
    if keys.is_empty() {
        return Err("none is in update.keys".to_owned());
    }
    let read = |key: &String| key.parse::<PublicKey>().map_err(|error| format!("{key}: {error}"));
    let keys = keys.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    Keys::new(keys).map_err(|error| error.to_string())
}

/// The version in a slot: of what was installed there, whatever its files say.
fn version_of(state: &State, slot: Slot, otherwise: Version) -> Version {
    state.content(slot).version().unwrap_or(otherwise)
}

#[cfg(test)]
mod tests;
