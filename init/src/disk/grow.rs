//! The data partition grows to the end of its disk: the image that was written there is as small as it can be.
//!
//! Only of disks that have our layout, and never over anything: behind the last partition of a table is nobody's. The
//! backup table is written first; so whenever the power goes, one of the two tables is whole and at its place.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use gptman::{GPT, GPTPartitionEntry};
use mote_layout::{ALIGN, Layout, LayoutError, SECTOR};

use super::blank::{self, Content, MARGIN};
use super::label::Partition;

/// Why it did not grow.
#[derive(Debug, thiserror::Error)]
pub enum GrowError {
    /// The disk cannot be read or written.
    #[error("Cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The partition table is damaged.
    #[error("The partition table cannot be used")]
    Table(#[source] gptman::Error),
    /// The disk has another idea of sectors than its table.
    #[error("The disk has sectors of {0} bytes instead of {SECTOR}")]
    Sector(String),
    /// The disk is smaller than what is on it.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The kernel goes on with the old size until the next boot.
    #[error("The kernel does not take the new size of partition {number}")]
    Kernel {
        /// The partition's number.
        number: u32,
        /// Why not.
        source: io::Error,
    },
}

/// Where a partition is.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// The disk's device node.
    disk: PathBuf,
    /// Bytes of its sectors.
    sector: String,
    /// The partition's number.
    number: u32,
}

/// Grows a partition that is the last of its disk. Gives its new size, if it has one.
pub fn grow(partition: &Partition) -> Result<Option<u64>, GrowError> {
    let place = place(Path::new("/sys/class/block"), &partition.device)?;
    if place.sector != SECTOR.to_string() {
        return Err(GrowError::Sector(place.sector));
    }
    let failed = |action, path: &Path| {
        let path = path.to_path_buf();
        move |source| GrowError::Io { action, path, source }
    };
    let open = |path: &Path| File::options().read(true).write(true).open(path).map_err(failed("open", path));
    let mut disk = open(&place.disk)?;
    let Some(size) = plan(&mut disk, place.number).map_err(|error| error.at(&place.disk))? else {
        return Ok(None);
    };
    let mut device = open(&partition.device)?;
    let old = device.seek(SeekFrom::End(0)).map_err(failed("read", &partition.device))?;
    let content = blank::examine(&device, old, false).map_err(failed("read", &partition.device))?;
    if content == Content::HalfFormatted {
        // The note that says so is at the old end.
        return Ok(None);
    }
    let (start, size) = write(&mut disk, place.number, size).map_err(|error| error.at(&place.disk))?;
    tell_kernel(&disk, place.number, start, size)
        .map_err(|source| GrowError::Kernel { number: place.number, source })?;
    Ok(Some(size))
}

/// What goes wrong with a disk, whichever it is.
#[derive(Debug)]
enum Problem {
    Io(&'static str, io::Error),
    Table(gptman::Error),
    Layout(LayoutError),
}

impl Problem {
    fn at(self, path: &Path) -> GrowError {
        match self {
            Self::Io(action, source) => GrowError::Io { action, path: path.to_path_buf(), source },
            Self::Table(source) => GrowError::Table(source),
            Self::Layout(error) => error.into(),
        }
    }
}

/// Where the partition could end, as a sector; none if it does already, or if others are behind it.
fn plan(disk: &mut File, number: u32) -> Result<Option<u64>, Problem> {
    let size = disk.seek(SeekFrom::End(0)).map_err(|error| Problem::Io("read", error))?;
    if !is_ours(disk).map_err(|error| Problem::Io("read", error))? {
        return Ok(None);
    }
    let gpt = GPT::read_from(disk, SECTOR).map_err(Problem::Table)?;
    let Some((_, entry)) = gpt.iter().find(|(other, entry)| *other == number && entry.is_used()) else {
        return Ok(None);
    };
    let last = gpt
        .iter()
        .filter(|(_, entry)| entry.is_used())
        .all(|(_, other)| other.ending_lba <= entry.ending_lba);
    let end =
        Layout::built_in().and_then(|layout| layout.grown_end(size)).map_err(Problem::Layout)? / SECTOR - 1;
    let worthwhile = end.saturating_sub(entry.ending_lba) >= ALIGN.max(MARGIN) / SECTOR;
    Ok((gpt.is_primary() && last && worthwhile).then_some(end))
}

/// Whether the first table is of our image, of the form that is written there.
fn is_ours(disk: &File) -> io::Result<bool> {
    const FORM: [(usize, u32); 3] = [(12, 92), (80, 128), (84, 128)];
    let mut header = [0; 92];
    disk.read_exact_at(&mut header, SECTOR)?;
    let guid = Layout::built_in().map(|layout| layout.disk_guid().to_bytes_le());
    let is = |at: usize, bytes: &[u8]| header.get(at..at + bytes.len()) == Some(bytes);
    let is_known = FORM.iter().all(|(at, number)| is(*at, &number.to_le_bytes()));
    Ok(is(0, b"EFI PART") && is_known && guid.is_ok_and(|guid| is(56, &guid)))
}

/// Writes both tables with the partition ending in sector `end`, at least [`MARGIN`] behind where it ended, after its new end
/// was made blank. Gives the partition's begin and size in bytes.
fn write(disk: &mut File, number: u32, end: u64) -> Result<(u64, u64), Problem> {
    let io = |error| Problem::Io("write", error);
    // What an earlier owner of the disk left there would look like something to keep, or like an order to wipe it.
    let zeros = vec![0; usize::try_from(MARGIN).unwrap_or_default()];
    disk.write_all_at(&zeros, (end + 1) * SECTOR - MARGIN).map_err(io)?;
    disk.sync_data().map_err(io)?;
    let mut gpt = GPT::read_from(disk, SECTOR).map_err(Problem::Table)?;
    gpt.header.update_from(disk, SECTOR).map_err(Problem::Table)?;
    gpt[number].ending_lba = end;
    let entry = gpt[number].clone();
    let entries: Vec<GPTPartitionEntry> = gpt.iter().map(|(_, entry)| entry.clone()).collect();

    let mut backup = gpt.header.clone();
    (backup.primary_lba, backup.backup_lba) = (gpt.header.backup_lba, gpt.header.primary_lba);
    backup.partition_entry_lba = gpt.header.last_usable_lba + 1;
    for header in [&mut backup, &mut gpt.header] {
        header.write_into(disk, SECTOR, &entries).map_err(Problem::Table)?;
        disk.sync_data().map_err(io)?;
    }
    Ok((entry.starting_lba * SECTOR, (end + 1 - entry.starting_lba) * SECTOR))
}

/// The partition's disk, from a block device's folder below `sys`.
fn place(sys: &Path, device: &Path) -> Result<Place, GrowError> {
    let failed = |action, path: &Path| {
        let path = path.to_path_buf();
        move |source| GrowError::Io { action, path, source }
    };
    let name = device.file_name().unwrap_or_default();
    let folder = fs::canonicalize(sys.join(name)).map_err(failed("find", &sys.join(name)))?;
    let read = |path: PathBuf| {
        fs::read_to_string(&path).map(|text| text.trim().to_owned()).map_err(failed("read", &path))
    };
    let number = read(folder.join("partition"))?;
    let number = number.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData));
    let number = number.map_err(failed("understand", &folder.join("partition")))?;
    let parent = folder.parent().unwrap_or(Path::new("/"));
    let disk = Path::new("/dev").join(parent.file_name().unwrap_or_default());
    Ok(Place { disk, sector: read(parent.join("queue/logical_block_size"))?, number })
}

/// The kernel's `struct blkpg_partition`.
#[repr(C)]
struct NewSize {
    start: i64,
    length: i64,
    number: libc::c_int,
    names: [u8; 128],
}

/// Its `struct blkpg_ioctl_arg`.
#[repr(C)]
struct Request {
    operation: libc::c_int,
    flags: libc::c_int,
    length: libc::c_int,
    data: *mut NewSize,
}

/// A partition in use cannot be read anew from the table; its size can be changed.
fn tell_kernel(disk: &File, number: u32, start: u64, size: u64) -> io::Result<()> {
    const BLKPG: libc::c_ulong = 0x1269;
    const RESIZE: libc::c_int = 3;
    let mut partition = NewSize {
        start: i64::try_from(start).map_err(io::Error::other)?,
        length: i64::try_from(size).map_err(io::Error::other)?,
        number: libc::c_int::try_from(number).map_err(io::Error::other)?,
        names: [0; 128],
    };
    let length = libc::c_int::try_from(size_of::<NewSize>()).map_err(io::Error::other)?;
    let request = Request { operation: RESIZE, flags: 0, length, data: &raw mut partition };
    // SAFETY: the descriptor is open; both structures are the kernel's own in layout and live until the call returns, and
    // the kernel keeps no pointer to them.
    let done = unsafe { libc::ioctl(disk.as_raw_fd(), BLKPG, &raw const request) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const DATA: u32 = 6;

    /// The image's table on a disk of `size` bytes full of what others left.
    fn disk(size: u64) -> File {
        let layout = Layout::built_in().unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(layout.image_size()).unwrap();
        let mut gpt = GPT::new_from(&mut file, SECTOR, layout.disk_guid().to_bytes_le()).unwrap();
        for partition in layout.partitions() {
            gpt[partition.number] = GPTPartitionEntry {
                partition_type_guid: partition.kind.to_bytes_le(),
                unique_partition_guid: partition.guid.to_bytes_le(),
                starting_lba: partition.first_sector(),
                ending_lba: partition.last_sector(),
                attribute_bits: 0,
                partition_name: partition.label.as_str().into(),
            };
        }
        gpt.write_into(&mut file).unwrap();
        file.set_len(size).unwrap();
        let end = (size / ALIGN - 1) * ALIGN;
        file.write_all_at(&vec![0xaa; 1 << 20], end - MARGIN).unwrap();
        file
    }

    #[test]
    fn it_grows_once_and_both_tables_say_so() {
        for extra in [0, 12_345] {
            let size = (4 << 30) + extra;
            let mut file = disk(size);
            let end = plan(&mut file, DATA).unwrap().unwrap();
            let (start, grown) = write(&mut file, DATA, end).unwrap();
            assert_eq!(start, Layout::built_in().unwrap().partitions()[5].start);
            assert_eq!(start + grown, (4 << 30) - ALIGN);
            assert_eq!(plan(&mut file, DATA).unwrap(), None);
            let mut tail = vec![0; 1 << 20];
            file.read_exact_at(&mut tail, start + grown - MARGIN).unwrap();
            assert!(tail.iter().all(|byte| *byte == 0), "what an earlier owner left");

            let whole = GPT::read_from(&mut file, SECTOR).unwrap();
            assert!(whole.is_primary() && whole[DATA].ending_lba == end);
            // The first one gone, the one at the end serves; and where it is, others look for it.
            file.write_all_at(&[0; 512], SECTOR).unwrap();
            let backup = GPT::read_from(&mut file, SECTOR).unwrap();
            assert!(backup.is_backup() && backup[DATA].ending_lba == end);
            assert_eq!(backup.header.primary_lba, size / SECTOR - 1);
            assert_eq!(backup.iter().filter(|(_, entry)| entry.is_used()).count(), 6);
        }
    }

    #[test]
    fn what_is_not_last_or_cannot_grow_stays() {
        let image = Layout::built_in().unwrap().image_size();
        assert_eq!(plan(&mut disk(4 << 30), 5).unwrap(), None);
        assert_eq!(plan(&mut disk(4 << 30), 7).unwrap(), None);
        assert_eq!(plan(&mut disk(image), DATA).unwrap(), None);
        let blank = tempfile::tempfile().unwrap();
        blank.set_len(4 << 30).unwrap();
        assert_eq!(plan(&mut { blank }, DATA).unwrap(), None);
        let mut other = disk(4 << 30);
        other.write_all_at(&[0; 16], SECTOR + 56).unwrap();
        assert_eq!(plan(&mut other, DATA).unwrap(), None);
        let mut damaged = disk(4 << 30);
        damaged.write_all_at(&[1], SECTOR + 90).unwrap();
        damaged.write_all_at(&[1], SECTOR + 20).unwrap();
        assert!(!matches!(plan(&mut damaged, DATA), Ok(Some(_))));
    }

    #[test]
    fn a_partition_knows_its_disk() {
        let sys = tempfile::tempdir().unwrap();
        let folder = sys.path().join("devices/nvme0n1/nvme0n1p6");
        fs::create_dir_all(&folder).unwrap();
        fs::create_dir_all(folder.join("../queue")).unwrap();
        fs::write(folder.join("partition"), "6\n").unwrap();
        fs::write(folder.join("../queue/logical_block_size"), "512\n").unwrap();
        symlink(&folder, sys.path().join("nvme0n1p6")).unwrap();
        let found = place(sys.path(), Path::new("/dev/nvme0n1p6")).unwrap();
        assert_eq!(found, Place { disk: "/dev/nvme0n1".into(), sector: "512".into(), number: 6 });
        assert!(place(sys.path(), Path::new("/dev/sda1")).is_err());
        fs::write(folder.join("partition"), "six").unwrap();
        assert!(place(sys.path(), Path::new("/dev/nvme0n1p6")).is_err());
    }
}
