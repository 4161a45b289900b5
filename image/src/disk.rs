//! Raw GPT disk images with one named partition, made without root: the appliance finds its disks by the
//! names of their partitions.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use gptman::{GPT, GPTPartitionEntry};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::files::FileError;

/// Partition name of the read-only system.
pub const SYSTEM: &str = "mote-system";
/// Partition name of the data disk.
pub const DATA: &str = "mote-data";

/// Smallest data disk, in bytes: below, ext4 with its journal leaves no room worth having.
pub const SMALLEST_DATA: u64 = 64 << 20;

const SECTOR: u64 = 512;
/// Partitions begin and end at multiples of this: no flash or RAID has larger blocks worth caring about.
const ALIGN: u64 = 1 << 20;
/// "Linux filesystem data", as stored on disk.
const LINUX_DATA: [u8; 16] =
    [0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4];

/// Why a disk image cannot be made.
#[derive(Debug, Error)]
pub enum DiskError {
    /// Reading or writing failed.
    #[error("Cannot write disk image {path}")]
    Io {
        /// The image.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The partition table was refused.
    #[error("Cannot partition disk image {path}")]
    Table {
        /// The image.
        path: PathBuf,
        /// Why.
        source: gptman::Error,
    },
    /// Asked for less than [`SMALLEST_DATA`].
    #[error("A data disk of {0} bytes is too small: the least is {SMALLEST_DATA}")]
    TooSmall(u64),
    /// It cannot take its place.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Writes a disk whose one partition `name` holds the content of `file_system`. The identifiers come from
/// `seed`: the same seed gives the same disk.
///
/// # Errors
/// When a file cannot be read or written.
pub fn with_content(path: &Path, name: &str, file_system: &Path, seed: &str) -> Result<(), DiskError> {
    let io = |source| DiskError::Io { path: path.to_path_buf(), source };
    let content = File::open(file_system).map_err(io)?;
    let size = content.metadata().map_err(io)?.len();
    let mut disk = create(path, size.next_multiple_of(ALIGN) + 2 * ALIGN, name, seed)?;
    disk.seek(SeekFrom::Start(ALIGN)).map_err(io)?;
    io::copy(&mut content.take(size), &mut disk).map_err(io)?;
    disk.flush().map_err(io)
}

/// Writes a sparse disk of `size` bytes with one blank partition for data.
///
/// # Errors
/// When the size is too small or the file cannot be written.
pub fn blank_data(path: &Path, size: u64, seed: &str) -> Result<(), DiskError> {
    if size < SMALLEST_DATA {
        return Err(DiskError::TooSmall(size));
    }
    create(path, size / ALIGN * ALIGN, DATA, seed).map(|_| ())
}

fn create(path: &Path, size: u64, name: &str, seed: &str) -> Result<File, DiskError> {
    let io = |source| DiskError::Io { path: path.to_path_buf(), source };
    let table = |source| DiskError::Table { path: path.to_path_buf(), source };
    let mut disk =
        File::options().read(true).write(true).create(true).truncate(true).open(path).map_err(io)?;
    disk.set_len(size).map_err(io)?;
    GPT::write_protective_mbr_into(&mut disk, SECTOR).map_err(table)?;
    let mut gpt = GPT::new_from(&mut disk, SECTOR, guid(seed, "disk")).map_err(table)?;
    gpt[1] = GPTPartitionEntry {
        partition_type_guid: LINUX_DATA,
        unique_partition_guid: guid(seed, name),
        starting_lba: ALIGN / SECTOR,
        ending_lba: (size - ALIGN) / SECTOR - 1,
        attribute_bits: 0,
        partition_name: name.into(),
    };
    gpt.write_into(&mut disk).map_err(table)?;
    Ok(disk)
}

/// A GUID from a seed, marked as one made from a hash (version 8).
fn guid(seed: &str, what: &str) -> [u8; 16] {
    let mut guid = [0; 16];
    guid.copy_from_slice(&Sha256::digest(format!("{what}\0{seed}"))[..16]);
    guid[7] = guid[7] & 0x0f | 0x80;
    guid[8] = guid[8] & 0x3f | 0x80;
    guid
}

/// Reads a size such as `512M`, `2G` or `1000000`, in bytes.
///
/// # Errors
/// A text that says what is wanted.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.chars().last().map(|unit| unit.to_ascii_uppercase()) {
        Some('K') => (&text[..text.len() - 1], 10),
        Some('M') => (&text[..text.len() - 1], 20),
        Some('G') => (&text[..text.len() - 1], 30),
        Some('T') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| format!("{text:?} is not a size: want a number with K, M, G or T, such as 2G"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn content_is_found_through_the_table() {
        let dir = tempfile::tempdir().unwrap();
        let (fs, disk) = (dir.path().join("fs"), dir.path().join("disk"));
        let content: Vec<u8> = (0u32..700_000).flat_map(u32::to_le_bytes).collect();
        std::fs::write(&fs, &content).unwrap();
        with_content(&disk, SYSTEM, &fs, "seed").unwrap();

        let mut file = File::open(&disk).unwrap();
        let gpt = GPT::find_from(&mut file).unwrap();
        let (_, partition) = gpt.iter().find(|(_, p)| p.partition_name.as_str() == SYSTEM).unwrap();
        assert_eq!(gpt.iter().filter(|(_, p)| p.is_used()).count(), 1);
        assert_eq!(partition.starting_lba * SECTOR % ALIGN, 0);
        let mut found = vec![0; content.len()];
        file.seek(SeekFrom::Start(partition.starting_lba * SECTOR)).unwrap();
        file.read_exact(&mut found).unwrap();
        assert!(found == content);
        assert!(partition.size().unwrap() * SECTOR >= u64::try_from(content.len()).unwrap());

        let again = dir.path().join("again");
        with_content(&again, SYSTEM, &fs, "seed").unwrap();
        assert!(std::fs::read(&disk).unwrap() == std::fs::read(&again).unwrap(), "not deterministic");
    }

    #[test]
    fn a_data_disk_is_sparse_and_has_a_backup_table() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        blank_data(&path, 4 << 30, "a").unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), 4 << 30);
        assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());

        // The primary table gone: the one at the end serves.
        let mut file = File::options().read(true).write(true).open(&path).unwrap();
        file.seek(SeekFrom::Start(SECTOR)).unwrap();
        file.write_all(&[0; 512]).unwrap();
        let gpt = GPT::find_from(&mut file).unwrap();
        assert_eq!(gpt[1].partition_name.as_str(), DATA);
    }

    #[test]
    fn a_tiny_data_disk_is_refused() {
        let error = blank_data(Path::new("/nowhere"), 1 << 20, "a").unwrap_err();
        assert!(matches!(error, DiskError::TooSmall(1_048_576)));
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("2G"), Ok(2 << 30));
        assert_eq!(parse_size("512m"), Ok(512 << 20));
        assert_eq!(parse_size("77"), Ok(77));
        for bad in ["", "G", "-1G", "1.5G", "99999999999T", "2Gi"] {
            assert!(parse_size(bad).unwrap_err().contains("not a size"), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_size_or_an_error(text: String) {
            let _ = parse_size(&text);
        }
    }
}
