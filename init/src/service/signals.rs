//! Signals sent to PID 1, and what they ask for.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::reason::{Action, Cause, Stop};

/// Signals that stop the machine.
const STOPS: &[(i32, Stop)] = &[
    (libc::SIGTERM, Stop { action: Action::PowerOff, cause: Cause::Signal("SIGTERM") }),
    (libc::SIGINT, Stop { action: Action::Reboot, cause: Cause::Signal("SIGINT") }),
    (libc::SIGPWR, Stop { action: Action::PowerOff, cause: Cause::PowerFailure }),
    (libc::SIGUSR1, Stop { action: Action::Halt, cause: Cause::Signal("SIGUSR1") }),
];

/// The kernel does not deliver a signal without a handler to PID 1, so these must be set up before
/// anything that could send one is started.
#[derive(Debug)]
pub struct Signals {
    stops: Vec<(Signal, Stop)>,
    /// A child ended.
    pub child: Signal,
}

/// No handler could be installed.
#[derive(Debug, thiserror::Error)]
#[error("Cannot handle signal {number}")]
pub struct SignalError {
    number: i32,
    source: std::io::Error,
}

impl Signals {
    /// Installs the handlers.
    pub fn install() -> Result<Self, SignalError> {
        let handle = |number: i32| {
            signal(SignalKind::from_raw(number)).map_err(|source| SignalError { number, source })
        };
        let stops = STOPS
            .iter()
            .map(|(number, stop)| Ok((handle(*number)?, *stop)))
            .collect::<Result<_, SignalError>>()?;
        Ok(Self { stops, child: handle(libc::SIGCHLD)? })
    }

    /// Passes stop signals on to `sink`, for ever; returns the signal of ended children.
    pub fn forward(self, sink: &mpsc::Sender<Stop>) -> Signal {
        for (mut signal, stop) in self.stops {
            let sink = sink.clone();
            tokio::spawn(async move {
                while signal.recv().await.is_some() {
                    // Full: a stop is under way already.
                    let _ = sink.try_send(stop);
                }
            });
        }
        self.child
    }
}
