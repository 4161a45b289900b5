//! What only PID 1 of a microVM does.

mod identity;
mod kernel_log;
pub mod link;
mod mounts;
mod network;
mod power;

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mote_protocol::{FunctionSpec, Identity, NetworkSpec};
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Pid, Resource, Rlimit, setrlimit};

use crate::machine::Machine;
use crate::scrub::{self, Scrubbed};
use crate::words::chain;
pub use identity::IdentityError;
pub use mounts::MountError;
pub use network::NetworkError;
pub use power::restart;

/// Limits of a function as on Lambda: processes and threads, open files; and no core files.
const LIMITS: &[(Resource, u64)] = &[(Resource::Nproc, 1024), (Resource::Nofile, 1024), (Resource::Core, 0)];

/// The flags file of the loopback device and `IFF_UP | IFF_LOOPBACK`: up, it gets 127.0.0.1 from the kernel.
const LOOPBACK: (&str, &str) = ("/sys/class/net/lo/flags", "0x9");

/// The agent's own: the kernel kills everything else first.
const OOM_SCORE: (&str, &str) = ("/proc/self/oom_score_adj", "-1000");

/// A microVM from inside.
#[derive(Debug, Default)]
pub struct Guest {
    /// The network it is in now.
    network: Option<NetworkSpec>,
}

/// Why the microVM could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// Clock, randomness or name.
    #[error("The identity could not be taken")]
    Identity(#[source] IdentityError),
    /// A file system.
    #[error("A file system could not be mounted")]
    Mount(#[source] MountError),
    /// Addresses and routes.
    #[error("The network could not be joined")]
    Network(#[source] NetworkError),
    /// A file of the kernel.
    #[error("Cannot write {0}")]
    Write(PathBuf, #[source] std::io::Error),
    /// A limit, or the promise never to gain privileges.
    #[error("The function could not be limited")]
    Limit(#[source] rustix::io::Errno),
}

fn write((path, text): (&str, &str)) -> Result<(), GuestError> {
    std::fs::write(path, text).map_err(|e| GuestError::Write(path.into(), e))
}

impl Machine for Guest {
    type Error = GuestError;

    fn identify(&mut self, identity: &Identity) -> Result<(), GuestError> {
        identity::apply(identity).map_err(GuestError::Identity)?;
        let Some(network) = &identity.network else { return Ok(()) };
        network::join(network, self.network.as_ref()).map_err(GuestError::Network)?;
        self.network = Some(network.clone());
        Ok(())
    }

    fn prepare(&mut self) -> Result<(), GuestError> {
        mounts::make().map_err(GuestError::Mount)?;
        write(LOOPBACK)?;
        network::prepare()?;
        for (resource, limit) in LIMITS {
            // Set on the agent, which is root and needs few files, and inherited by the function.
            let limit = Rlimit { current: Some(*limit), maximum: Some(*limit) };
            setrlimit(*resource, limit).map_err(GuestError::Limit)?;
        }
        // When memory runs out the kernel drops program pages; this program has to see that and end the function. Not
        // inherited by the function; what is never touched costs nothing.
        let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
        mlockall(flags).map_err(GuestError::Limit)?;
        rustix::thread::set_no_new_privs(true).map_err(GuestError::Limit)
    }

    fn admit(&mut self, function: &FunctionSpec) -> Result<(), GuestError> {
        mounts::admit(function.storage_mb, function.memory_mb).map_err(GuestError::Mount)
    }

    fn started(&mut self) -> Result<(), GuestError> {
        // After the runtime was started: it would inherit it.
        write(OOM_SCORE)
    }

    fn settle(&mut self, scrub: Option<Duration>) {
        if let Some(network) = self.network.take()
            && let Err(error) = network::leave(&network)
        {
            // It is given new ones in place of these.
            self.say(&chain(&error));
            self.network = Some(network);
        }
        // Nothing written outlives this machine, so there is nothing to sync; the page cache stays, since a
        // restored function reads the very files again.
        if let Some(within) = scrub {
            let begun = Instant::now();
            let Scrubbed { bytes, whole } = scrub::free_memory(within);
            let (kib, ms) = (bytes / 1024, begun.elapsed().as_millis());
            let what = if whole { "all there was" } else { "all there was time for" };
            self.say(&format!("Cleared {kib} KiB of free memory in {ms} ms, {what}"));
        }
    }

    fn starved(&mut self, process: Pid) -> bool {
        kernel_log::open().is_ok_and(|log| kernel_log::killed_for_memory(log, process))
    }

    fn say(&mut self, words: &str) {
        // A console that is gone is no reason to stop.
        let _ = writeln!(std::io::stderr(), "mote-agent: {words}");
    }
}
