//! Makes update files: what the disk image has in its first slot, signed.
//!
//! The payload is the slot from its begin to its end, without the gap between file system and boot area, in which there is
//! nothing. The same parts and the same key give the same file.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use mote_layout::{LayoutError, Role};
use mote_update::keys::SecretKey;
use mote_update::manifest::{Gap, MIN_CHUNK, Manifest};
use mote_update::version::Version;
use mote_update::write::{CHUNK_SIZE, Release, WriteError};
use thiserror::Error;

use crate::disk_image::parts::{self, Parts};
use crate::disk_image::{DiskImageError, Piece, check};
use crate::files::{self, FileError, failed};

/// Why there is no update file.
#[derive(Debug, Error)]
pub enum UpdateError {
    /// The slot cannot be made.
    #[error(transparent)]
    Slot(#[from] DiskImageError),
    /// The table of partitions is wrong.
    #[error("config/layout.toml cannot be used")]
    Layout(#[from] LayoutError),
    /// The slot has more than one gap, or overlaps.
    #[error("The slot's part at byte {0} is not behind the others, or not behind one gap")]
    Order(u64),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The update cannot be written.
    #[error("Cannot make the update file {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: WriteError,
    },
}

/// What is to be said of an update.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// The version it brings.
    pub version: Version,
    /// Oldest version it can replace.
    pub replaces: Version,
    /// When it was made, in seconds since 1970.
    pub built: u64,
}

/// Writes the update file of an image: nothing is at `out` until it is complete.
///
/// # Errors
/// When a part cannot be read or made, or the file cannot be written.
pub fn make(out: &Path, parts: &Parts<'_>, wish: &Wish, key: &SecretKey) -> Result<Manifest, UpdateError> {
    let (verity, pieces) = parts::system(parts)?;
    let slot = parts.layout.partition(Role::SystemA)?;
    for piece in &pieces {
        check(slot, piece)?;
    }
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    files::create_dir(folder)?;
    let mut payload = tempfile::tempfile_in(folder).map_err(failed("create a file in", folder))?;
    let gap = collect(&pieces, &mut payload, folder)?;

    let release = Release {
        version: wish.version,
        built: wish.built,
        replaces: wish.replaces,
        chunk_size: CHUNK_SIZE,
        verity_root: Some(verity.root),
        gap,
    };
    files::replace(out, |new| write(new, &mut payload, &release, key))
}

fn write(
    path: &Path,
    payload: &mut File,
    release: &Release,
    key: &SecretKey,
) -> Result<Manifest, UpdateError> {
    let file = File::create(path).map_err(failed("create", path))?;
    mote_update::write::write(payload, release, key, &mut BufWriter::new(file))
        .map_err(|source| UpdateError::Write { path: path.to_path_buf(), source })
}

/// Writes the pieces one behind the other, filled up to whole blocks, and says where there was a gap between them.
fn collect(pieces: &[Piece], payload: &mut File, folder: &Path) -> Result<Option<Gap>, UpdateError> {
    let block = u64::from(MIN_CHUNK);
    // Where the slot and the payload are filled up to.
    let (mut slot, mut sent, mut gap) = (0, 0, None);
    for piece in pieces {
        match piece.offset.checked_sub(slot) {
            Some(0) => {}
            Some(size) if gap.is_none() && sent > 0 => gap = Some(Gap { at: sent, size }),
            _ => return Err(UpdateError::Order(piece.offset)),
        }
        let size = piece.content.size();
        let mut reader = piece.content.reader()?;
        let copied = io::copy(&mut reader, payload).map_err(failed("write a file in", folder))?;
        if copied != size {
            let short = io::ErrorKind::UnexpectedEof.into();
            return Err(failed("copy all of a part to a file in", folder)(short).into());
        }
        let whole = size.next_multiple_of(block);
        slot = piece.offset + whole;
        sent += whole;
        payload
            .set_len(sent)
            .and_then(|()| payload.seek(SeekFrom::Start(sent)))
            .map_err(failed("grow a file in", folder))?;
    }
    payload.flush().map_err(failed("write a file in", folder))?;
    Ok(gap)
}
