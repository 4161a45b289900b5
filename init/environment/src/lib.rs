//! The boot loader's block, where the state of the slots is: read and written at its place in the EFI system partition,
//! by one write of one sector; and the partitions of the disk, by their labels ([`partition`]).
//!
//! init and hostd both change the state: init says what became of a slot, hostd installs another. Each reads, decides and
//! writes, so each holds the [`Environment`] meanwhile, which is a lock (`flock`) on the partition's device: nobody writes
//! over what he has not read, and whoever dies gives it back. What is decided is the crate `mote-update`'s.

pub mod partition;

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use mote_layout::{Layout, LayoutError};
use mote_update::grubenv::{self, Block, ParseError};
use mote_update::slots::{State, StateError, StoreError};

/// How long to wait for one who changes the state: that is a read and a write of a sector, on a disk that may be busy.
const LOCKED_AT_MOST: Duration = Duration::from_secs(20);

/// Time between two attempts.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// Why the state of the slots cannot be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// Nobody knows where the block is.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The disk fails.
    #[error("Cannot {0} the boot loader's block")]
    Io(&'static str, #[source] io::Error),
    /// Somebody does not end.
    #[error("The boot loader's block is being changed by somebody else for {} s", LOCKED_AT_MOST.as_secs())]
    Locked,
    /// There is no block at its place.
    #[error(transparent)]
    Block(#[from] ParseError),
    /// There is no state in it.
    #[error(transparent)]
    State(#[from] StateError),
    /// The new state does not fit.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The block, which nobody else changes as long as this is there.
#[derive(Debug)]
pub struct Environment {
    device: File,
}

/// A block where the kernel takes it from without copying.
#[repr(C, align(4096))]
struct Sectors([u8; grubenv::SIZE]);

/// Reads the state without keeping others from changing it: what is read at once is of one change.
///
/// # Errors
/// When it cannot be read, or is none.
pub fn load(partition: &Path) -> Result<State, EnvironmentError> {
    let mut options = File::options();
    state(&open(options.read(true), partition)?)
}

impl Environment {
    /// Of an EFI system partition. Blocks while somebody else has it, for a bounded time.
    ///
    /// # Errors
    /// When the partition cannot be opened, or somebody else does not let go of it.
    pub fn lock(partition: &Path) -> Result<Self, EnvironmentError> {
        let mut options = File::options();
        let device = open(options.read(true).write(true), partition)?;
        let end = Instant::now() + LOCKED_AT_MOST;
        loop {
            match device.try_lock() {
                Ok(()) => return Ok(Self { device }),
                Err(TryLockError::WouldBlock) if Instant::now() < end => std::thread::sleep(ASK_EVERY),
                Err(TryLockError::WouldBlock) => return Err(EnvironmentError::Locked),
                Err(TryLockError::Error(error)) => return Err(EnvironmentError::Io("lock", error)),
            }
        }
    }

    /// Reads the state.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub fn state(&self) -> Result<State, EnvironmentError> {
        state(&self.device)
    }

    /// Writes a state, which is on the disk when this returns. Where there is no block that can be read, a new one is
    /// made.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn store(&self, state: &State) -> Result<(), EnvironmentError> {
        let old = read(&self.device)?;
        let mut block = Block::parse(&old).unwrap_or_default();
        state.store(&mut block)?;
        let new = Sectors(block.to_bytes());
        let start = Layout::built_in()?.environment().start;
        // The first sector is what changes: all of the state is there.
        for ((at, new), old) in (start..)
            .step_by(grubenv::SECTOR)
            .zip(new.0.chunks(grubenv::SECTOR))
            .zip(old.chunks(grubenv::SECTOR))
        {
            if new != old {
                self.device.write_all_at(new, at).map_err(|error| EnvironmentError::Io("write", error))?;
            }
        }
        self.device.sync_data().map_err(|error| EnvironmentError::Io("write", error))
    }
}

/// Past the page cache, whose pages are larger than a sector.
fn open(options: &mut std::fs::OpenOptions, partition: &Path) -> Result<File, EnvironmentError> {
    let opened = options.custom_flags(libc::O_DIRECT).open(partition);
    opened.map_err(|error| EnvironmentError::Io("open", error))
}

fn state(device: &File) -> Result<State, EnvironmentError> {
    Ok(State::load(&Block::parse(&read(device)?)?)?)
}

fn read(device: &File) -> Result<[u8; grubenv::SIZE], EnvironmentError> {
    let mut sectors = Sectors([0; grubenv::SIZE]);
    let at = Layout::built_in()?.environment().start;
    device.read_exact_at(&mut sectors.0, at).map_err(|error| EnvironmentError::Io("read", error))?;
    Ok(sectors.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mote_update::slots::{self, Force, Slot};
    use mote_update::version::Version;

    fn partition() -> tempfile::NamedTempFile {
        // Not in memory: there, reading past the cache is refused.
        let file = tempfile::NamedTempFile::new_in(".").unwrap();
        file.as_file().set_len(4 << 20).unwrap();
        file
    }

    fn store(partition: &Path, state: &State) {
        Environment::lock(partition).unwrap().store(state).unwrap();
    }

    #[test]
    fn what_is_stored_is_loaded_and_all_around_it_stays() {
        let file = partition();
        let range = Layout::built_in().unwrap().environment();
        file.as_file().write_all_at(&[7; 512], range.start - 512).unwrap();
        file.as_file().write_all_at(&[7; 512], range.end).unwrap();
        assert!(matches!(load(file.path()), Err(EnvironmentError::Block(ParseError::Signature))));
        for slot in [Slot::A, Slot::B] {
            let state = State::new(slot, Version::new(1, 2, 3), Version::ZERO);
            store(file.path(), &state);
            assert_eq!(load(file.path()).unwrap(), state);
        }
        let mut around = [0; 512];
        for at in [range.start - 512, range.end] {
            file.as_file().read_exact_at(&mut around, at).unwrap();
            assert_eq!(around, [7; 512]);
        }
    }

    #[test]
    fn variables_of_others_stay() {
        let file = partition();
        let at = Layout::built_in().unwrap().environment().start;
        let mut block = Block::default();
        block.set("theirs", "1").unwrap();
        file.as_file().write_all_at(&block.to_bytes(), at).unwrap();
        assert!(matches!(load(file.path()), Err(EnvironmentError::State(_))));
        store(file.path(), &State::new(Slot::A, Version::ZERO, Version::ZERO));
        let mut bytes = [0; grubenv::SIZE];
        file.as_file().read_exact_at(&mut bytes, at).unwrap();
        assert_eq!(Block::parse(&bytes).unwrap().get("theirs"), Some("1"));
    }

    #[test]
    fn a_partition_that_is_too_small_or_not_there_is_an_error() {
        let file = tempfile::NamedTempFile::new_in(".").unwrap();
        assert!(matches!(load(file.path()), Err(EnvironmentError::Io("read", _))));
        assert!(matches!(load(Path::new("/nowhere")), Err(EnvironmentError::Io("open", _))));
        assert!(matches!(Environment::lock(Path::new("/nowhere")), Err(EnvironmentError::Io("open", _))));
    }

    /// Two who change the state at once: every change is made to what the one before left.
    #[test]
    fn no_change_is_lost() {
        const EACH: u32 = 20;
        let file = partition();
        let path = file.path();
        store(path, &State::new(Slot::A, Version::ZERO, Version::ZERO));
        // A trial of B that fails each time: every version has to be in what the block says at the end.
        let install = |version: Version| {
            let environment = Environment::lock(path).unwrap();
            let state = environment.state().unwrap();
            let (state, install) = slots::begin(&state, Slot::A, version, Force::Yes).unwrap();
            let state = slots::finish(&state, Slot::A, install).unwrap();
            let (_, state) = slots::boot(&state);
            environment.store(&slots::give_up(&state, Slot::B).unwrap()).unwrap();
        };
        std::thread::scope(|threads| {
            for major in 1..3 {
                threads.spawn(move || (0..EACH).for_each(|patch| install(Version::new(major, 0, patch))));
            }
        });
        let state = load(path).unwrap();
        for version in (1..3).flat_map(|major| (0..EACH).map(move |patch| Version::new(major, 0, patch))) {
            assert!(state.failed().contains(version), "{version}");
        }
    }

    #[test]
    fn whoever_lets_go_lets_the_next_one_in() {
        let file = partition();
        let held = Environment::lock(file.path()).unwrap();
        let path = file.path().to_owned();
        let other = std::thread::spawn(move || Environment::lock(&path).map(drop));
        std::thread::sleep(10 * ASK_EVERY);
        assert!(!other.is_finished());
        drop(held);
        other.join().unwrap().unwrap();
    }
}
