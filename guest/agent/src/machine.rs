//! What the agent needs to know of the machine it is in.

use std::time::Duration;

use mote_protocol::{FunctionSpec, Identity};
use rustix::process::Pid;

/// What the agent needs of the machine it is in.
pub trait Machine {
    /// Why it could not.
    type Error: std::error::Error + 'static;

    /// Takes a new identity: clock, randomness, name. At each start and each restore.
    ///
    /// # Errors
    /// When the system refuses: a sandbox that kept its twin's randomness must not serve.
    fn identify(&mut self, identity: &Identity) -> Result<(), Self::Error>;

    /// Makes what every function needs: file systems, the loopback device, limits; once, before anything else.
    ///
    /// # Errors
    /// When one of them cannot be had.
    fn prepare(&mut self) -> Result<(), Self::Error>;

    /// Makes what this function needs: its code, its bound on what it writes; once, before it is started.
    ///
    /// # Errors
    /// When one of them cannot be had.
    fn admit(&mut self, function: &FunctionSpec) -> Result<(), Self::Error>;

    /// The runtime runs: from here on it is to die before the agent does.
    ///
    /// # Errors
    /// When the system refuses.
    fn started(&mut self) -> Result<(), Self::Error>;

    /// A snapshot is about to be taken; free memory is to be cleared first, if a time is given, within that.
    fn settle(&mut self, scrub: Option<Duration>);

    /// Whether the kernel killed this process for want of memory.
    fn starved(&mut self, process: Pid) -> bool;

    /// Says something on the machine's console.
    fn say(&mut self, words: &str);
}
