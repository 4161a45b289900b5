//! PID 1 of the appliance.
//!
//! The boot and the shutdown are tables of steps ([`boot::SEQUENCE`], [`stop::SEQUENCE`]) run by
//! [`sequence`]. What a step does is in one file per concern; what can be decided without system calls
//! is decided in pure functions, tested beside them.
//!
//! Invariants: signal handlers are there before the first process; every process that ends is reaped;
//! nothing that is said can block; every wait has a bound; nothing unknown is ever formatted; a failing
//! step leaves a machine that still starts its service and says what is wrong.

pub mod backoff;
pub mod boot;
pub mod clock;
pub mod cmdline;
pub mod configuration;
pub mod crash;
pub mod disk;
pub mod facts;
pub mod log;
pub mod machine;
pub mod net;
pub mod ntp;
pub mod options;
pub mod panic;
pub mod reason;
pub mod screen;
pub mod sequence;
pub mod service;
pub mod stop;
pub mod sys;
pub mod text;
pub mod watchdog;

use std::sync::Arc;

use tokio::sync::mpsc;

use cmdline::Cmdline;
use machine::Machine;
use reason::Action;
use service::signals::Signals;
use sys::mounts;

/// Stop requests waiting; one is enough, more mean the same.
const STOPS: usize = 4;

/// Runs the machine from kernel to power-off.
pub fn run() -> ! {
    panic::install();
    // Before anything else: without /proc, /sys and /dev nothing works, not even saying so.
    let root = mounts::change_root();
    let table = mounts::mount_table();
    let cmdline = Cmdline::parse(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default());
    let consoles = log::open(cmdline.flag("quiet"));
    log::step(&format!("init {} on consoles: {}", env!("CARGO_PKG_VERSION"), consoles.join(" ")), false);
    let missing = table.as_ref().map(|missing| missing.iter().collect::<Vec<_>>()).unwrap_or_default();
    for error in root.as_ref().err().into_iter().chain(missing).chain(table.as_ref().err()) {
        log::line(&format!("mounts: {}", text::chain(error)));
    }
    // Ctrl-Alt-Del becomes a signal to us instead of a cold reset.
    let _ = rustix::system::reboot(rustix::system::RebootCommand::CadOff);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(live(cmdline)),
        Err(error) => {
            log::line(&format!("Cannot start: {error}"));
            log::drain(std::time::Duration::from_secs(2));
            stop::now(Action::Reboot)
        }
    }
}

async fn live(cmdline: Cmdline) -> ! {
    let (sink, mut stops) = mpsc::channel(STOPS);
    let machine = Arc::new(Machine::new(cmdline, sink));
    for problem in machine.configuration.resolved().problems() {
        log::line(&problem);
    }
    match Signals::install() {
        Ok(signals) => {
            let child = signals.forward(&machine.stops);
            tokio::spawn(machine.reaper.clone().run(child));
        }
        Err(error) => log::line(&text::chain(&error)),
    }
    tokio::spawn(screen::run(Arc::clone(&machine)));
    let boot = tokio::spawn(boot::run(Arc::clone(&machine)));
    // The machine holds a sender, so the channel never closes.
    let stop = match stops.recv().await {
        Some(stop) => stop,
        None => std::future::pending().await,
    };
    // A stop during the boot ends the boot.
    boot.abort();
    stop::run(machine, stop).await
}
