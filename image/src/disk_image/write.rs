//! Writes the image: tables, boot code, and each piece at its place.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use gptman::{GPT, GPTPartitionEntry};
use mote_layout::{Layout, Partition, Role, SECTOR};

use super::DiskImageError;
use super::loader::BOOT_CODE;
use crate::files::{self, FileError, failed};

/// What is looked at at once; a chunk of zeros is not written.
const CHUNK: usize = 64 << 10;

/// What goes into a partition.
#[derive(Debug, Clone)]
pub enum Content {
    /// These bytes.
    Bytes(Vec<u8>),
    /// A part of a file.
    File {
        /// The file.
        path: PathBuf,
        /// Where the part begins, in bytes.
        start: u64,
        /// Its size in bytes.
        size: u64,
    },
}

impl Content {
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Self::File { size, .. } => *size,
        }
    }

    /// The file that it is a part of.
    fn source(&self) -> Option<&Path> {
        match self {
            Self::Bytes(_) => None,
            Self::File { path, .. } => Some(path),
        }
    }

    /// Reads it from its begin to its end.
    pub(crate) fn reader(&self) -> Result<Box<dyn Read + '_>, FileError> {
        match self {
            Self::Bytes(bytes) => Ok(Box::new(bytes.as_slice())),
            Self::File { path, start, size } => {
                let mut file = File::open(path).map_err(failed("open", path))?;
                file.seek(SeekFrom::Start(*start)).map_err(failed("read", path))?;
                Ok(Box::new(file.take(*size)))
            }
        }
    }
}

/// Content and its place.
#[derive(Debug, Clone)]
pub struct Piece {
    /// The partition.
    pub role: Role,
    /// Where in the partition it begins, in bytes.
    pub offset: u64,
    /// How large it may be, in bytes.
    pub room: u64,
    /// What.
    pub content: Content,
}

/// Writes a disk image: nothing is at `path` until it is complete.
///
/// # Errors
/// When a piece does not fit or a file cannot be read or written.
pub fn write(
    path: &Path,
    layout: &Layout,
    boot_code: Option<&[u8; BOOT_CODE]>,
    pieces: &[Piece],
) -> Result<(), DiskImageError> {
    for piece in pieces {
        check(layout.partition(piece.role)?, piece)?;
    }
    if let Some(folder) = path.parent() {
        files::create_dir(folder)?;
    }
    files::replace(path, |new| write_new(new, layout, boot_code, pieces))
}

/// Whether a piece fits into its partition.
pub(crate) fn check(partition: &Partition, piece: &Piece) -> Result<(), DiskImageError> {
    let room = piece.room.min(partition.size.saturating_sub(piece.offset));
    let size = piece.content.size();
    if piece.offset > partition.size || size > room {
        return Err(DiskImageError::TooLarge { role: piece.role, room, size });
    }
    Ok(())
}

fn write_new(
    path: &Path,
    layout: &Layout,
    boot_code: Option<&[u8; BOOT_CODE]>,
    pieces: &[Piece],
) -> Result<(), DiskImageError> {
    let mut options = File::options();
    let options = options.read(true).write(true).create(true).truncate(true);
    let mut disk = options.open(path).map_err(failed("create", path))?;
    disk.set_len(layout.image_size()).map_err(failed("grow", path))?;
    partition(&mut disk, layout)
        .map_err(|source| DiskImageError::Table { path: path.to_path_buf(), source })?;
    if let Some(code) = boot_code {
        disk.write_all_at(code, 0).map_err(failed("write", path))?;
    }
    for piece in pieces {
        let at = layout.partition(piece.role)?.start + piece.offset;
        let from = piece.content.source().unwrap_or(path);
        let copied = put(&disk, at, &mut piece.content.reader()?).map_err(failed("copy", from))?;
        if copied != piece.content.size() {
            let short = io::ErrorKind::UnexpectedEof.into();
            return Err(failed("copy all of", from)(short).into());
        }
    }
    Ok(())
}

fn partition(disk: &mut File, layout: &Layout) -> Result<(), gptman::Error> {
    GPT::write_protective_mbr_into(disk, SECTOR)?;
    let mut table = GPT::new_from(disk, SECTOR, layout.disk_guid().to_bytes_le())?;
    for partition in layout.partitions() {
        table[partition.number] = GPTPartitionEntry {
            partition_type_guid: partition.kind.to_bytes_le(),
            unique_partition_guid: partition.guid.to_bytes_le(),
            starting_lba: partition.first_sector(),
            ending_lba: partition.last_sector(),
            attribute_bits: 0,
            partition_name: partition.label.as_str().into(),
        };
    }
    table.write_into(disk).map(|_| ())
}

/// Copies all of `from` to `at`, leaving out what is zero there already, and says how much it was.
fn put(disk: &File, mut at: u64, from: &mut dyn Read) -> io::Result<u64> {
    let start = at;
    let mut chunk = vec![0; CHUNK];
    loop {
        let mut filled = 0;
        while filled < CHUNK {
            match from.read(&mut chunk[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if chunk[..filled].iter().any(|byte| *byte != 0) {
            disk.write_all_at(&chunk[..filled], at)?;
        }
        at += u64::try_from(filled).map_err(io::Error::other)?;
        if filled < CHUNK {
            return Ok(at - start);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// The built-in table, made small: hashing a GiB takes long.
    fn layout() -> Layout {
        let entry = |role: Role| {
            let mib = if role == Role::BiosBoot { 1 } else { 3 };
            format!(
                "[[partition]]\nrole = \"{role}\"\nlabel = \"x-{role}\"\nsize_mib = {mib}\n\
                 type = \"0FC63DAF-8483-4772-8E79-3D69D8477DE4\"\n"
            )
        };
        let entries: String = Role::ALL.into_iter().map(entry).collect();
        Layout::parse(&format!("smallest_disk_mib = 20\nboot_area_mib = 1\n{entries}")).unwrap()
    }

    fn piece(role: Role, offset: u64, bytes: &[u8]) -> Piece {
        Piece { role, offset, room: u64::MAX, content: Content::Bytes(bytes.to_vec()) }
    }

    fn pieces(folder: &Path) -> Vec<Piece> {
        let path = folder.join("system");
        let content: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        std::fs::write(&path, content).unwrap();
        let content = Content::File { path, start: 4, size: 700_001 };
        vec![
            piece(Role::BiosBoot, 0, &[1; 1 << 20]),
            piece(Role::Esp, 5, b"esp"),
            Piece { role: Role::SystemA, offset: 0, room: 1 << 20, content },
        ]
    }

    #[test]
    fn pieces_and_partitions_are_where_the_layout_says() {
        let dir = tempfile::tempdir().unwrap();
        let (path, layout) = (dir.path().join("disk.img"), layout());
        write(&path, &layout, Some(&[0x90; BOOT_CODE]), &pieces(dir.path())).unwrap();

        let mut file = File::open(&path).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), layout.image_size());
        assert!(metadata.blocks() * 512 < 4 << 20, "{} blocks: not sparse", metadata.blocks());
        let table = GPT::find_from(&mut file).unwrap();
        assert_eq!(table.iter().filter(|(_, entry)| entry.is_used()).count(), 6);
        for partition in layout.partitions() {
            let entry = &table[partition.number];
            assert_eq!(entry.partition_name.as_str(), partition.label);
            assert_eq!(entry.starting_lba * SECTOR, partition.start);
            assert_eq!((entry.ending_lba + 1) * SECTOR, partition.end());
        }
        let read = |role, offset, size: usize| {
            let mut bytes = vec![0; size];
            file.read_exact_at(&mut bytes, layout.partition(role).unwrap().start + offset).unwrap();
            bytes
        };
        assert_eq!(read(Role::Esp, 4, 5), b"\0esp\0");
        assert_eq!(read(Role::SystemA, 0, 8), [1, 0, 0, 0, 2, 0, 0, 0]);
        // The last byte asked for, and not the one behind it.
        assert_eq!(read(Role::SystemA, 700_000, 2), [0x99, 0]);
        assert_eq!(read(Role::BiosBoot, (1 << 20) - 1, 2), [1, 0]);
        let mut sector = [0; 512];
        file.read_exact_at(&mut sector, 0).unwrap();
        assert!(sector[..BOOT_CODE].iter().all(|byte| *byte == 0x90));
        // One protective partition over the whole disk, not active: some UEFI firmware takes offence.
        assert_eq!((sector[446], sector[450], &sector[510..]), (0, 0xee, &[0x55, 0xaa][..]));
        assert!(
            !dir.path()
                .read_dir()
                .unwrap()
                .any(|e| { e.unwrap().path().extension().is_some_and(|extension| extension == "new") })
        );
    }

    #[test]
    fn the_same_pieces_give_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout();
        let images = ["a", "b"].map(|name| {
            let path = dir.path().join(name);
            write(&path, &layout, None, &pieces(dir.path())).unwrap();
            files::sha256(&path).unwrap()
        });
        assert_eq!(images[0], images[1]);
    }

    #[test]
    fn what_does_not_fit_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let (path, layout) = (dir.path().join("disk.img"), layout());
        let over = piece(Role::BiosBoot, 1, &[1; 1 << 20]);
        let error = write(&path, &layout, None, &[over]).unwrap_err();
        assert!(matches!(error, DiskImageError::TooLarge { role: Role::BiosBoot, room: 1_048_575, .. }));
        let bounded = Piece { room: 2, ..piece(Role::Esp, 0, b"esp") };
        assert!(write(&path, &layout, None, &[bounded]).is_err());
        let outside = piece(Role::Esp, u64::MAX, b"esp");
        assert!(write(&path, &layout, None, &[outside]).is_err());

        let short = dir.path().join("short");
        std::fs::write(&short, "1").unwrap();
        let content = Content::File { path: short.clone(), start: 0, size: 2 };
        let piece = Piece { role: Role::Esp, offset: 0, room: 9, content };
        assert!(write(&path, &layout, None, &[piece]).is_err());
        std::fs::remove_file(short).unwrap();
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    }
}
