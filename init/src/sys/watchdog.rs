//! The hardware watchdog: a timer that resets the machine unless it is written to.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the kernel lists them.
const LIST: &str = "/sys/class/watchdog";

/// The kernel's own, a timer that hangs with the kernel: better than none, worse than any other.
const SOFTWARE: &str = "Software Watchdog";

/// Time after which a machine that does not write is reset, if the hardware can count that far.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Times the hardware may be said to count to; what it says beyond is not believed.
const SOUND: std::ops::RangeInclusive<i32> = 10..=3600;

/// Of what it says of the time before this boot: that it has reset the machine.
const CARD_RESET: i32 = 0x20;

/// Written last, it tells the kernel that the timer is closed on purpose.
const FAREWELL: &[u8] = b"V";

mod request {
    #![allow(missing_docs, reason = "the macro makes public functions without any")]
    nix::ioctl_read!(get_boot_status, b'W', 2, i32);
    nix::ioctl_readwrite!(set_timeout, b'W', 6, i32);
    nix::ioctl_read!(get_timeout, b'W', 7, i32);
}

/// A watchdog that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("Cannot use watchdog {path}")]
pub struct WatchdogError {
    path: PathBuf,
    source: io::Error,
}

/// An open watchdog: from now on it wants to be written to. Dropped without [`Watchdog::close`], it goes on counting.
#[derive(Debug)]
pub struct Watchdog {
    device: File,
    /// What it says it is.
    pub identity: String,
    /// After so long without a write it resets the machine.
    pub timeout: Duration,
    /// It did so before this boot. Some do not tell.
    pub fired: bool,
}

impl Watchdog {
    /// Opens the best there is; `None` when there is none.
    pub fn open() -> Result<Option<Self>, WatchdogError> {
        let Some((name, identity)) = choose(list(Path::new(LIST))) else { return Ok(None) };
        Self::open_device(&Path::new("/dev").join(name), identity).map(Some)
    }

    /// Opens this one.
    pub(crate) fn open_device(path: &Path, identity: String) -> Result<Self, WatchdogError> {
        let failed = |source| WatchdogError { path: path.to_owned(), source };
        let device = File::options().write(true).open(path).map_err(failed)?;
        let mut seconds = i32::try_from(TIMEOUT.as_secs()).unwrap_or(i32::MAX);
        let fd = device.as_raw_fd();
        // SAFETY: the descriptor is open for the call, and the kernel reads and writes an integer of ours.
        // Some count one fixed time only: then that is what they say.
        let _ = unsafe { request::set_timeout(fd, &raw mut seconds) };
        // SAFETY: as above; the kernel only writes.
        let told = unsafe { request::get_timeout(fd, &raw mut seconds) };
        let seconds = told.ok().map(|_| seconds).filter(|seconds| SOUND.contains(seconds));
        let timeout =
            seconds.and_then(|seconds| u64::try_from(seconds).ok()).map_or(TIMEOUT, Duration::from_secs);
        let mut status = 0;
        // SAFETY: as above.
        let told = unsafe { request::get_boot_status(fd, &raw mut status) };
        let fired = told.is_ok() && status & CARD_RESET != 0;
        Ok(Self { device, identity, timeout, fired })
    }

    /// Writes to it: the time begins anew.
    pub fn feed(&mut self) -> io::Result<()> {
        // Anything but the farewell.
        self.device.write_all(b".")
    }

    /// Closes it on purpose: it counts no more.
    pub fn close(mut self) -> io::Result<()> {
        self.device.write_all(FAREWELL)
    }
}

/// Names of all watchdogs and what they say they are.
fn list(folder: &Path) -> Vec<(String, String)> {
    let Ok(items) = std::fs::read_dir(folder) else { return Vec::new() };
    let name = |item: io::Result<std::fs::DirEntry>| item.ok()?.file_name().into_string().ok();
    let mut names: Vec<String> = items.filter_map(name).collect();
    names.sort();
    let identity = |name: &String| {
        let text = std::fs::read_to_string(folder.join(name).join("identity")).unwrap_or_default();
        crate::text::printable(text.trim())
    };
    names.iter().map(|name| (name.clone(), identity(name))).collect()
}

/// The first that is hardware, else the first.
fn choose(mut all: Vec<(String, String)>) -> Option<(String, String)> {
    let at = all.iter().position(|(_, identity)| identity != SOFTWARE).unwrap_or(0);
    (at < all.len()).then(|| all.swap_remove(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_is_preferred() {
        let folder = tempfile::tempdir().unwrap();
        let add = |name: &str, identity: &str| {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("identity"), format!("{identity}\n")).unwrap();
        };
        let chosen = || choose(list(folder.path())).map(|(name, _)| name);
        assert_eq!(chosen(), None);
        add("watchdog0", SOFTWARE);
        assert_eq!(chosen().as_deref(), Some("watchdog0"));
        add("watchdog1", "i6300ESB timer");
        assert_eq!(chosen().as_deref(), Some("watchdog1"));
        assert!(list(Path::new("/nowhere")).is_empty());
    }

    #[test]
    fn the_farewell_is_written_only_when_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("watchdog");
        let open = || {
            File::create(&path).unwrap();
            // A file takes no requests: the time asked for is assumed.
            Watchdog::open_device(&path, "test".to_owned()).unwrap()
        };
        let mut watchdog = open();
        assert!(watchdog.timeout == TIMEOUT && !watchdog.fired);
        watchdog.feed().unwrap();
        watchdog.feed().unwrap();
        drop(watchdog);
        assert_eq!(std::fs::read(&path).unwrap(), b"..");
        let mut watchdog = open();
        watchdog.feed().unwrap();
        watchdog.close().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b".V");
    }
}
