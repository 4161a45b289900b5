//! Network namespaces, held by descriptors.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// Whether there was an async runtime yet.
static RUNTIME: OnceLock<()> = OnceLock::new();

/// The calling thread's namespace. Of the thread, not of the process: they may differ.
const OWN: &str = "/proc/thread-self/ns/net";

/// Why there is no namespace, or no way into it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetnsError {
    /// No thread to work in.
    #[error("Cannot start a thread for a network namespace")]
    Thread(#[source] io::Error),
    /// It cannot be made: no privilege, or no memory.
    #[error("Cannot make a network namespace")]
    Create(#[source] io::Error),
    /// It cannot be entered.
    #[error("Cannot enter a network namespace")]
    Enter(#[source] io::Error),
    /// `/proc` is not there.
    #[error("Cannot open {OWN}")]
    Open(#[source] io::Error),
    /// What was done in it panicked.
    #[error("Work in a network namespace ended in a panic")]
    Panicked,
}

/// A network namespace. It has no name; it ends with its last descriptor, device and process.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
}

impl Netns {
    /// A new one, empty but for a loopback device that is down.
    ///
    /// # Errors
    /// Without CAP_SYS_ADMIN, above all.
    pub fn create() -> Result<Self, NetnsError> {
        in_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| NetnsError::Create(errno.into()))?;
            Self::current()
        })?
    }

    /// The calling thread's.
    ///
    /// # Errors
    /// Without `/proc`.
    pub fn current() -> Result<Self, NetnsError> {
        Ok(Self { fd: File::open(OWN).map_err(NetnsError::Open)?.into() })
    }

    /// Does something in the namespace, on a thread of its own. Sockets and devices made there stay there, wherever
    /// they are used.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        in_thread(|| {
            setns(&self.fd, CloneFlags::CLONE_NEWNET).map_err(|errno| NetnsError::Enter(errno.into()))?;
            Ok(work())
        })?
    }

    /// A number by which namespaces are told apart while they live.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(File::from(self.fd.try_clone()?).metadata()?.ino())
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A thread that changed its namespace must not be used for anything else.
fn in_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    // The async runtime keeps a pair of sockets for the whole process, made with the first runtime. Made inside a
    // namespace, they would keep it for ever.
    RUNTIME.get_or_init(|| drop(tokio::runtime::Builder::new_current_thread().enable_io().build()));
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, work);
        thread.map_err(NetnsError::Thread)?.join().map_err(|_| NetnsError::Panicked)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns::tests_support::root;

    #[test]
    fn work_is_done_inside_and_nothing_stays() {
        if !root() {
            return;
        }
        let own = Netns::current().unwrap().inode().unwrap();
        let made = Netns::create().unwrap();
        assert_ne!(made.inode().unwrap(), own);
        let inside = made.run(|| Netns::current().unwrap().inode().unwrap()).unwrap();
        assert_eq!(inside, made.inode().unwrap());
        assert_eq!(Netns::current().unwrap().inode().unwrap(), own);
        let devices = made.run(|| std::fs::read_to_string("/proc/thread-self/net/dev").unwrap()).unwrap();
        assert_eq!(devices.lines().count(), 3, "{devices}");
        assert!(matches!(made.run(|| panic!("inside")), Err(NetnsError::Panicked)));
    }
}

#[cfg(test)]
pub(crate) mod tests_support {
    /// Whether this runs as root; says so if not.
    pub(crate) fn root() -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root {
            println!("skipped: needs root, for network namespaces");
        }
        root
    }
}
