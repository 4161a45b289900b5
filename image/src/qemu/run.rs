//! Runs a machine in the foreground until it powers off or somebody presses Ctrl-C.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use thiserror::Error;

use super::{Machine, PROGRAM, qmp, ready};
use crate::process;
use crate::progress::{elapsed, say};

/// How long an orderly power-off may take: what init grants its steps, plus an emulated machine's slowness.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(60);
/// After this long without an answer the person is told; the machine stays.
const READY_LIMIT: Duration = Duration::from_secs(180);
/// An appliance that is still booting has no power button yet: it is pressed again until it takes effect.
const PRESS_EVERY: Duration = Duration::from_secs(2);
const PROBE_EVERY: Duration = Duration::from_millis(100);

/// Why a machine does not run.
#[derive(Debug, Error)]
pub enum RunError {
    /// The port is in use.
    #[error("Port {port} of 127.0.0.1 is taken: choose another with `make run PORT=9090` or `--port 9090`")]
    PortTaken {
        /// The port.
        port: u16,
        /// What the system says.
        source: io::Error,
    },
    /// QEMU is not installed or cannot be started.
    #[error("Cannot run {PROGRAM}: apt-get install qemu-system-x86")]
    Start(#[source] io::Error),
    /// Signals cannot be waited for.
    #[error("Cannot wait for signals")]
    Signals(#[source] nix::Error),
    /// QEMU cannot be waited for.
    #[error("Cannot wait for QEMU")]
    Wait(#[source] io::Error),
    /// QEMU ended by itself, with an error.
    #[error("QEMU ended with {0}; what it said is above")]
    Failed(ExitStatus),
    /// The appliance did not power off and was ended.
    #[error("The appliance did not power off within {0} s and was ended; look at its console")]
    NoPowerOff(u64),
}

/// What happens while a machine runs.
enum Event {
    /// Ctrl-C or a request to end.
    Stop,
    /// It answers.
    Ready,
    /// It does not answer in time.
    NotReady,
}

/// Checks that a port can be listened on.
///
/// # Errors
/// [`RunError::PortTaken`] when not.
pub fn check_port(port: u16) -> Result<(), RunError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .map(|_| ())
        .map_err(|source| RunError::PortTaken { port, source })
}

/// Runs the machine; Ctrl-C presses its power button, a second Ctrl-C ends it at once.
///
/// # Errors
/// When the machine cannot be started, fails, or does not power off.
pub fn run(machine: &Machine, socket: &Path) -> Result<(), RunError> {
    check_port(machine.port)?;
    // Before any thread and before QEMU starts: a Ctrl-C in between must not be lost.
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block().map_err(RunError::Signals)?;
    let start = Instant::now();
    let mut child = spawn(machine)?;
    let (sender, events) = mpsc::channel();
    wait_for_signals(signals, sender.clone());
    wait_until_ready(machine.port, start, sender);
    let result = attend(machine, socket, &mut child, &events, start);
    if result.is_err() {
        process::end(&mut child);
    }
    result
}

fn attend(
    machine: &Machine,
    socket: &Path,
    child: &mut Child,
    events: &Receiver<Event>,
    start: Instant,
) -> Result<(), RunError> {
    let mut stopping: Option<Instant> = None;
    let mut pressed = start;
    loop {
        match events.recv_timeout(Duration::from_millis(100)) {
            Ok(Event::Ready) if stopping.is_none() => greet(machine, start),
            Ok(Event::NotReady) => say(&format!(
                "no answer at {} for {} s; the console above says why, Ctrl-C powers off",
                machine.url(),
                READY_LIMIT.as_secs()
            )),
            Ok(Event::Stop) if stopping.is_some() => {
                say("ending the appliance at once");
                process::end(child);
                return Ok(());
            }
            Ok(Event::Stop) => {
                say("powering off …  (Ctrl-C again: at once)");
                pressed = Instant::now();
                stopping = Some(pressed);
                if let Err(error) = qmp::power_button(socket) {
                    say(&format!("the power button does not work: {error}"));
                }
            }
            Ok(Event::Ready) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        if stopping.is_some() && pressed.elapsed() > PRESS_EVERY {
            pressed = Instant::now();
            // Said at the first press; at the last ones the machine is going and does not answer.
            let _ = qmp::power_button(socket);
        }
        if let Some(status) = child.try_wait().map_err(RunError::Wait)? {
            say(&format!("the appliance is off after {}", elapsed(start.elapsed())));
            return if status.success() { Ok(()) } else { Err(RunError::Failed(status)) };
        }
        if stopping.is_some_and(|since| since.elapsed() > POWER_OFF_LIMIT) {
            return Err(RunError::NoPowerOff(POWER_OFF_LIMIT.as_secs()));
        }
    }
}

fn spawn(machine: &Machine) -> Result<Child, RunError> {
    let words = machine.command();
    let mut command = Command::new(PROGRAM);
    // A group of its own: the terminal's Ctrl-C is for us, QEMU would take it as "off, now".
    command.args(&words[1..]).stdin(Stdio::null()).process_group(0);
    // SAFETY: between fork and exec only prctl and sigprocmask are called, which are async-signal-safe and
    // touch no memory of the parent.
    unsafe {
        command.pre_exec(|| {
            // Our own mask would make QEMU deaf to the request to end.
            SigSet::empty().thread_set_mask()?;
            set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from)
        });
    }
    command.spawn().map_err(RunError::Start)
}

fn wait_for_signals(signals: SigSet, sender: Sender<Event>) {
    thread::spawn(move || {
        while signals.wait().is_ok() {
            if sender.send(Event::Stop).is_err() {
                return;
            }
        }
    });
}

fn wait_until_ready(port: u16, start: Instant, sender: Sender<Event>) {
    thread::spawn(move || {
        let mut told = false;
        loop {
            if ready::probe(port) == Some(true) {
                let _ = sender.send(Event::Ready);
                return;
            }
            if !told && start.elapsed() > READY_LIMIT {
                told = true;
                if sender.send(Event::NotReady).is_err() {
                    return;
                }
            }
            thread::sleep(PROBE_EVERY);
        }
    });
}

fn greet(machine: &Machine, start: Instant) {
    let url = machine.url();
    say("");
    say(&format!("ready after {}: {url}", elapsed(start.elapsed())));
    say(&format!("try:  curl -s {url}/healthz"));
    say("Ctrl-C powers the appliance off");
    say("");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_said_with_a_way_out() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = check_port(port).unwrap_err().to_string();
        assert!(error.contains(&port.to_string()) && error.contains("--port"), "{error}");
        drop(listener);
        check_port(port).unwrap();
    }
}
