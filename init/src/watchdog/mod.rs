//! Feeds the hardware watchdog while the machine is healthy, and only then.
//!
//! A task of the one thread everything in init runs on: if that hangs, nobody feeds.

pub mod vigil;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mote_crash::Kind;
use vigil::Vigil;

use crate::clock::since_boot;
use crate::log;
use crate::machine::Machine;
use crate::service::hostd::Status;
use crate::sys::watchdog::{Watchdog, WatchdogError};

/// How often it is fed. The shortest time a watchdog is believed to count to is several times this.
const MEAL: Duration = Duration::from_secs(2);

/// After so many refused meals in a row it is said, and noted, that it is not fed: a virtual machine that stood still
/// hears of hostd before.
const SAID_AT: u32 = 6;

/// The watchdog of the machine, if it has one.
#[derive(Debug, Default)]
pub struct Keeper {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    vigil: Vigil,
    device: Option<Watchdog>,
    /// Meals in a row that were refused.
    refused: u32,
    /// What it says it is, if it restarted the machine before this boot and nobody was told yet.
    fired: Option<String>,
}

impl Keeper {
    /// Opens the watchdog there is; what it is and its timeout.
    pub fn open(&self) -> Result<Option<(String, Duration)>, WatchdogError> {
        let device = Watchdog::open()?;
        let about = device.as_ref().map(|device| (device.identity.clone(), device.timeout));
        let mut state = self.lock();
        state.fired = device.as_ref().filter(|device| device.fired).map(|device| device.identity.clone());
        state.device = device;
        Ok(about)
    }

    /// What it says it is, if it restarted the machine before this boot; told once.
    pub fn fired(&self) -> Option<String> {
        self.lock().fired.take()
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

    /// Feeds it if it may be fed; why not, once.
    fn feed(&self, now: Duration) -> Option<String> {
        let mut state = self.lock();
        let may = state.vigil.may_feed(now);
        let device = state.device.as_mut()?;
        let timeout = device.timeout;
        let Err(why) = may else {
            if let Err(error) = device.feed() {
                log::line(&format!("watchdog: Cannot feed it: {error}"));
            }
            state.refused = 0;
            return None;
        };
        state.refused = state.refused.saturating_add(1);
        let left = timeout.saturating_sub(MEAL * SAID_AT).as_secs();
        (state.refused == SAID_AT)
            .then(|| format!("{why}: the watchdog is not fed and restarts the machine in {left} s"))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Feeds for ever, by what hostd says of itself. Started before the watchdog is opened: that may take any time, and
/// then it is hungry at once.
pub async fn run(machine: Arc<Machine>) {
    let mut status = machine.hostd.status();
    let mut health = machine.hostd.health();
    let mut meal = tokio::time::interval(MEAL);
    loop {
        tokio::select! {
            _ = meal.tick() => {
                if let Some(said) = machine.watchdog.feed(since_boot()) {
                    log::line(&format!("watchdog: {said}"));
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

#[cfg(test)]
mod tests {
    use super::*;
    use vigil::BOOT;

    #[test]
    fn without_a_watchdog_nothing_is_said() {
        let keeper = Keeper::default();
        assert_eq!(keeper.feed(BOOT * 2), None);
        keeper.close();
    }

    #[test]
    fn it_is_fed_or_said_once_why_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let keeper = Keeper::default();
        keeper.lock().device = Some(Watchdog::open_device(file.path(), "test".to_owned()).unwrap());
        let fed = || std::fs::read(file.path()).unwrap().len();
        assert_eq!(keeper.feed(BOOT), None);
        assert_eq!(fed(), 1);
        let said: Vec<String> = (0..20).filter_map(|_| keeper.feed(BOOT * 2)).collect();
        assert_eq!((said.len(), fed()), (1, 1));
        assert!(said[0].contains("restarts the machine in 18 s"), "{said:?}");
        keeper.lock().vigil.answered(BOOT * 2);
        assert_eq!(keeper.feed(BOOT * 2), None);
        assert_eq!(fed(), 2);
        keeper.close();
        assert_eq!(std::fs::read(file.path()).unwrap().last(), Some(&b'V'));
    }
}
