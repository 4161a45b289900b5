//! Why the machine stops, and how.

use std::fmt;

use rustix::system::RebootCommand;

/// How it stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Power is cut.
    PowerOff,
    /// It starts again.
    Reboot,
    /// It stands still with power on.
    Halt,
}

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The power button, a BMC or the hypervisor.
    Button,
    /// A signal, hostd's or an operator's.
    Signal(&'static str),
    /// The power supply is about to fail.
    PowerFailure,
    /// The system of this slot is not good: another is to be started.
    Slot(&'static str),
}

/// A request to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stop {
    /// How.
    pub action: Action,
    /// Who asked.
    pub cause: Cause,
}

impl Action {
    /// The kernel's name for it.
    pub fn command(self) -> RebootCommand {
        match self {
            Self::PowerOff => RebootCommand::PowerOff,
            Self::Reboot => RebootCommand::Restart,
            Self::Halt => RebootCommand::Halt,
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PowerOff => "power off",
            Self::Reboot => "reboot",
            Self::Halt => "halt",
        })
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause {
            Cause::Button => write!(f, "{}: power button", self.action),
            Cause::Signal(name) => write!(f, "{}: {name}", self.action),
            Cause::Slot(name) => write!(f, "{}: slot {name} is not good", self.action),
            Cause::PowerFailure => write!(f, "{}: power failure", self.action),
        }
    }
}
