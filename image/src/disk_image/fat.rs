//! FAT volumes with fixed times and identities, made in memory.

use std::io::{self, Cursor, Write};

use fatfs::{Date, DateTime, FatType, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider};

use super::DiskImageError;

/// A volume to be made.
#[derive(Debug, Clone, Copy)]
pub struct Volume<'a> {
    /// Its label: up to 11 characters, upper case by custom.
    pub label: &'a str,
    /// Its serial number.
    pub id: u32,
    /// Its size in bytes.
    pub size: u64,
    /// Whether it is FAT32, else FAT16.
    pub is_fat32: bool,
}

/// A file of a volume: its path with `/`, and its content.
pub type FatFile = (String, Vec<u8>);

/// The clock of every volume stands at [`crate::erofs::TIMESTAMP`], 2026-01-01.
#[derive(Debug)]
struct Clock;

static CLOCK: Clock = Clock;

impl TimeProvider for Clock {
    fn get_current_date(&self) -> Date {
        Date { year: 2026, month: 1, day: 1 }
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime { date: self.get_current_date(), time: Time { hour: 0, min: 0, sec: 0, millis: 0 } }
    }
}

/// Gives the bytes of a volume with `files`, written in this order.
///
/// # Errors
/// When the files do not fit, or a name or size is none that FAT can have.
pub fn make(volume: Volume<'_>, files: &[FatFile]) -> Result<Vec<u8>, DiskImageError> {
    build(volume, files).map_err(|source| DiskImageError::Fat { label: volume.label.to_owned(), source })
}

fn build(volume: Volume<'_>, files: &[FatFile]) -> io::Result<Vec<u8>> {
    let mut disk = Cursor::new(vec![0; usize::try_from(volume.size).map_err(io::Error::other)?]);
    let label = label(volume.label)?;
    let kind = if volume.is_fat32 { FatType::Fat32 } else { FatType::Fat16 };
    let options = FormatVolumeOptions::new().fat_type(kind).volume_id(volume.id).volume_label(label);
    fatfs::format_volume(&mut disk, options)?;
    let system = FileSystem::new(&mut disk, FsOptions::new().time_provider(&CLOCK))?;
    {
        let root = system.root_dir();
        for (path, content) in files {
            for (at, _) in path.match_indices('/') {
                root.create_dir(&path[..at])?;
            }
            let mut file = root.create_file(path)?;
            file.truncate()?;
            file.write_all(content)?;
            file.flush()?;
        }
    }
    system.unmount()?;
    let mut bytes = disk.into_inner();
    // Where FAT32 says its root is; FAT16 has it in a place of its own, as cluster 0.
    let root = if volume.is_fat32 { [bytes[44], bytes[45], bytes[46], bytes[47]] } else { [0; 4] };
    bytes.chunks_exact_mut(512).for_each(|sector| mend_dots(sector, root));
    Ok(bytes)
}

/// `fatfs` puts a long name in front of a folder's `.` and `..`, which have to be the first two entries; and to `..` it
/// gives the cluster of the root, where 0 has to be.
fn mend_dots(sector: &mut [u8], root: [u8; 4]) {
    const ENTRY: usize = 32;
    /// The halves of an entry's cluster number.
    const HIGH: usize = 20;
    const LOW: usize = 26;
    let is = |at: usize, name: &[u8; 11]| sector[at..at + 11] == name[..] && sector[at + 11] == 0x10;
    let long = |at: usize| sector[at + 11] == 0x0f;
    if !(long(0) && is(ENTRY, b".          ") && long(2 * ENTRY) && is(3 * ENTRY, b"..         ")) {
        return;
    }
    sector.copy_within(ENTRY..2 * ENTRY, 0);
    sector.copy_within(3 * ENTRY..4 * ENTRY, ENTRY);
    for unused in [2 * ENTRY, 3 * ENTRY] {
        sector[unused..unused + ENTRY].fill(0);
        sector[unused] = 0xe5;
    }
    let [high, low] = [ENTRY + HIGH, ENTRY + LOW];
    if sector[low..low + 2] == root[..2] && sector[high..high + 2] == root[2..] {
        sector[low..low + 2].fill(0);
        sector[high..high + 2].fill(0);
    }
}

fn label(text: &str) -> io::Result<[u8; 11]> {
    let mut label = [b' '; 11];
    let fits = !text.is_empty() && text.len() <= label.len() && text.is_ascii();
    if !fits {
        return Err(io::Error::other(format!("{text:?} is no label of up to 11 characters")));
    }
    label[..text.len()].copy_from_slice(text.as_bytes());
    Ok(label)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const ESP: Volume<'_> = Volume { label: "MOTE ESP", id: 0x1234_5678, size: 64 << 20, is_fat32: true };
    const CONFIG: Volume<'_> = Volume { label: "MOTE", id: 7, size: 16 << 20, is_fat32: false };

    fn files() -> Vec<FatFile> {
        vec![
            ("EFI/BOOT/BOOTX64.EFI".to_owned(), vec![7; 700_000]),
            ("grub/grub.cfg".to_owned(), b"echo\n".to_vec()),
            ("EFI/a rather long name.text".to_owned(), Vec::new()),
        ]
    }

    #[test]
    fn files_read_back_and_the_volume_is_what_was_asked_for() {
        for (volume, kind) in [(ESP, FatType::Fat32), (CONFIG, FatType::Fat16)] {
            let bytes = make(volume, &files()).unwrap();
            assert_eq!(bytes.len() as u64, volume.size);
            let system = FileSystem::new(Cursor::new(bytes), FsOptions::new()).unwrap();
            assert_eq!((system.fat_type(), system.volume_id()), (kind, volume.id));
            assert_eq!(system.volume_label_as_bytes(), volume.label.as_bytes());
            assert!(!system.read_status_flags().unwrap().dirty());
            for (path, content) in files() {
                let mut found = Vec::new();
                system.root_dir().open_file(&path).unwrap().read_to_end(&mut found).unwrap();
                assert!(found == content, "{path}");
            }
        }
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let once = make(ESP, &files()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(1100));
        assert!(once == make(ESP, &files()).unwrap());
        assert!(once != make(Volume { id: 8, ..ESP }, &files()).unwrap());
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let said = |volume, files: &[FatFile]| make(volume, files).unwrap_err().to_string();
        let large = [("large".to_owned(), vec![1; 17 << 20])];
        assert!(said(CONFIG, &large).contains("MOTE"));
        assert!(make(Volume { label: "TWELVE CHARS", ..CONFIG }, &[]).is_err());
        assert!(make(Volume { label: "", ..CONFIG }, &[]).is_err());
        assert!(make(CONFIG, &[("a<b".to_owned(), Vec::new())]).is_err());
    }
}
