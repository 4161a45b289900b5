//! The end of the machine.

use rustix::system::{RebootCommand, reboot};

/// Resets the machine, which ends its monitor. If the kernel refuses, PID 1 ends and the kernel panics, with the
/// same effect.
pub fn restart() {
    rustix::fs::sync();
    let _ = reboot(RebootCommand::Restart);
}
