//! The boot loader's block, where the state of the slots is: read and written at its place in the EFI system partition,
//! by one write of one sector.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use mote_layout::{Layout, LayoutError};
use mote_update::grubenv::{self, Block, ParseError};
use mote_update::slots::{State, StateError, StoreError};

/// Why the state of the slots cannot be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// Nobody knows where the block is.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The disk fails.
    #[error("Cannot {0} the boot loader's block")]
    Io(&'static str, #[source] io::Error),
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

/// A sector where the kernel takes it from without copying.
#[repr(C, align(4096))]
struct Sectors([u8; grubenv::SIZE]);

/// Reads the state from the EFI system partition.
pub fn load(partition: &Path) -> Result<State, EnvironmentError> {
    Ok(State::load(&Block::parse(&read(&open(partition)?)?)?)?)
}

/// Writes a state, which is on the disk when this returns. Where there is no block that can be read, a new one is made.
pub fn store(partition: &Path, state: &State) -> Result<(), EnvironmentError> {
    let device = open(partition)?;
    let old = read(&device)?;
    let mut block = Block::parse(&old).unwrap_or_default();
    state.store(&mut block)?;
    let new = Sectors(block.to_bytes());
    let start = Layout::built_in()?.environment().start;
    // The first sector is what changes: all of the state is there.
    for ((at, new), old) in
        (start..).step_by(grubenv::SECTOR).zip(new.0.chunks(grubenv::SECTOR)).zip(old.chunks(grubenv::SECTOR))
    {
        if new != old {
            device.write_all_at(new, at).map_err(|error| EnvironmentError::Io("write", error))?;
        }
    }
    device.sync_data().map_err(|error| EnvironmentError::Io("write", error))
}

/// Past the page cache, whose pages are larger than a sector.
fn open(partition: &Path) -> Result<File, EnvironmentError> {
    let mut options = File::options();
    let options = options.read(true).write(true).custom_flags(libc::O_DIRECT);
    options.open(partition).map_err(|error| EnvironmentError::Io("open", error))
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
    use mote_update::slots::Slot;
    use mote_update::version::Version;

    fn partition() -> tempfile::NamedTempFile {
        // Not in memory: there, reading past the cache is refused.
        let file = tempfile::NamedTempFile::new_in(".").unwrap();
        file.as_file().set_len(4 << 20).unwrap();
        file
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
            store(file.path(), &state).unwrap();
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
        store(file.path(), &State::new(Slot::A, Version::ZERO, Version::ZERO)).unwrap();
        let mut bytes = [0; grubenv::SIZE];
        file.as_file().read_exact_at(&mut bytes, at).unwrap();
        assert_eq!(Block::parse(&bytes).unwrap().get("theirs"), Some("1"));
    }

    #[test]
    fn a_partition_that_is_too_small_or_not_there_is_an_error() {
        let file = tempfile::NamedTempFile::new_in(".").unwrap();
        assert!(matches!(load(file.path()), Err(EnvironmentError::Io("read", _))));
        assert!(matches!(load(Path::new("/nowhere")), Err(EnvironmentError::Io("open", _))));
    }
}
