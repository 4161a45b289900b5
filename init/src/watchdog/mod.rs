//! Feeds the hardware watchdog while the machine is healthy, and only then.
//!
//! A task of the one thread everything in init runs on: if that hangs, nobody feeds.

pub mod vigil;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mote_crash::Kind;
use vigil::{Vigil, Why};

use crate::clock::since_boot;
use crate::log;
use crate::machine::Machine;
use crate::service::hostd::Status;
use crate::sys::watchdog::{Watchdog, WatchdogError};

/// It is fed this many times in its timeout.
const MEALS: u32 = 5;

/// The watchdog of the machine, if it has one.
#[derive(Debug, Default)]
pub struct Keeper {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    vigil: Vigil,
    device: Option<Watchdog>,
    /// Why it is not fed, once that was said.
    refused: Option<Why>,
}

impl Keeper {
    /// Opens the watchdog there is; what it is and its timeout.
    pub fn open(&self) -> Result<Option<(String, Duration)>, WatchdogError> {
        let device = Watchdog::open()?;
        let about = device.as_ref().map(|device| (device.identity.clone(), device.timeout));
        self.lock().device = device;
        Ok(about)
    }

    /// The machine is being stopped in order, which hostd's health has no part in.
    pub fn stopping(&self) {
        self.lock().vigil.stopping(since_boot());
    }

    /// Closes it on purpose: the last thing before the power goes off in order.
    pub fn close(&self) {
        let device = self.lock().device.take();
        if let Some(Err(error)) = device.map(Watchdog::close) {
            log::line(&format!("watchdog: Cannot close it: {error}"));
        }
    }

    /// Feeds it if it may be fed; what has to be said.
    fn feed(&self, now: Duration) -> Option<String> {
        let mut state = self.lock();
        let may = state.vigil.may_feed(now);
        let device = state.device.as_mut()?;
        let timeout = device.timeout;
        let said = match may {
            Ok(()) => device.feed().err().map(|error| format!("watchdog: Cannot feed it: {error}")),
            Err(why) if state.refused == Some(why) => None,
            Err(why) => Some(format!(
                "watchdog: {why}; not fed any more, it restarts the machine in {} s",
                timeout.as_secs()
            )),
        };
        state.refused = may.err();
        said
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Feeds for ever, by what hostd says of itself.
pub async fn run(machine: Arc<Machine>, timeout: Duration) {
    let mut status = machine.hostd.status();
    let mut health = machine.hostd.health();
    let mut meal = tokio::time::interval(timeout / MEALS);
    loop {
        tokio::select! {
            _ = meal.tick() => {
                if let Some(said) = machine.watchdog.feed(since_boot()) {
                    log::line(&said);
                    let noting = Arc::clone(&machine);
                    // At the side: it may be fed again before a slow disk has taken it.
                    tokio::spawn(async move {
                        noting.crashes.note(Kind::Watchdog, &said, &noting.hostd.last_words()).await;
                    });
                }
            }
            // The machine holds both senders.
            Ok(()) = status.changed() => {
                if matches!(*status.borrow_and_update(), Status::Running(_)) {
                    machine.watchdog.lock().vigil.started(since_boot());
                }
            }
            Ok(()) = health.changed() => {
                let heard = health.borrow_and_update();
                if heard.good {
                    machine.watchdog.lock().vigil.answered(heard.at);
                }
            }
        }
    }
}
