//! What the steps of boot and shutdown share.

use std::sync::{Mutex, MutexGuard, PoisonError};

use mote_reset::What;
use tokio::sync::{mpsc, watch};

use crate::cmdline::Cmdline;
use crate::configuration::Configuration;
use crate::crash;
use crate::disk::system::Source;
use crate::facts::Facts;
use crate::net;
use crate::ntp;
use crate::options;
use crate::reason::Stop;
use crate::service::hostd::Hostd;
use crate::service::reap::Reaper;
use crate::watchdog;

/// The machine, as PID 1 sees it.
#[derive(Debug)]
pub struct Machine {
    /// The kernel command line.
    pub cmdline: Cmdline,
    /// What is set, by all layers found so far.
    pub configuration: Configuration,
    /// Where the system is.
    pub system: Source,
    /// What was chosen in the boot loader's menu to be wiped.
    pub wipe: Option<What>,
    /// Reaps processes.
    pub reaper: Reaper,
    /// The one service.
    pub hostd: Hostd,
    /// The network's state, written by the network task.
    pub network: watch::Sender<net::State>,
    /// How it stands with the time, written by the task that asks for it.
    pub time: watch::Sender<ntp::State>,
    /// Notes crashes.
    pub crashes: crash::Recorder,
    /// The hardware watchdog.
    pub watchdog: watchdog::Keeper,
    /// Requests to stop the machine.
    pub stops: mpsc::Sender<Stop>,
    facts: Mutex<Facts>,
}

impl Machine {
    /// A machine at the beginning of its boot.
    pub fn new(cmdline: Cmdline, stops: mpsc::Sender<Stop>) -> Self {
        let words = cmdline.options();
        let (system, mut problems) = options::booted(&words);
        let (wipe, complaint) = options::wipe(&words);
        problems.extend(complaint);
        let configuration = Configuration::new(mote_config::Source::options(words));
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let boot_id = boot_id.trim().to_owned();
        let crashes = crash::Recorder::new(boot_id.clone());
        let facts = Facts { boot_id, problems, ..Facts::default() };
        Self {
            cmdline,
            configuration,
            system,
            wipe,
            reaper: Reaper::default(),
            hostd: Hostd::default(),
            network: watch::Sender::default(),
            time: watch::Sender::default(),
            crashes,
            watchdog: watchdog::Keeper::default(),
            stops,
            facts: Mutex::new(facts),
        }
    }

    /// Reads or changes the facts. They are written by whoever wants them read.
    pub fn facts<T>(&self, with: impl FnOnce(&mut Facts) -> T) -> T {
        with(&mut self.lock())
    }

    /// Notes a problem.
    pub fn problem(&self, text: String) {
        self.lock().problems.push(text);
    }

    fn lock(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl Default for Machine {
    fn default() -> Self {
        Self::new(Cmdline::default(), mpsc::channel(1).0)
    }
}
