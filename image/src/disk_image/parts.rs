//! What goes where: from a finished image in `dist/` to the pieces of a disk.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use gptman::GPT;
use mote_layout::{Layout, Partition, Role, SECTOR};
use mote_update::verity::{self, Verity};

use super::loader::Loader;
use super::{Content, DiskImageError, Piece, fat, loader, slot};
use crate::disk;
use crate::files::failed;
use crate::project::{Manifest, Project};

/// What a person finds on the configuration partition.
const README: &str = "Configuration of this Mote machine.\r\n\r\n\
                      A file mote.toml beside this one changes what the built-in configuration says.\r\n";

/// What a kernel has to know that boots from a disk of whatever machine: to talk to screens as well as to a serial line,
/// and that network disks may take their time (the NVMe ones of EC2 do; a disk that gives up breaks file systems).
const MEDIUM: &str = "console=tty0 nvme_core.io_timeout=4294967295";

/// Everything but GRUB itself.
#[derive(Debug)]
pub struct Parts<'a> {
    /// Where the partitions are.
    pub layout: &'a Layout,
    /// The checkout, with a finished image.
    pub project: &'a Project,
    /// Of that image.
    pub manifest: &'a Manifest,
    /// For the configuration partition's mote.toml.
    pub config: Option<&'a Path>,
    /// Words at the end of the kernel command line.
    pub append: &'a [String],
}

/// Gives the pieces of the disk; without a loader, one that holds everything but does not boot by itself.
///
/// # Errors
/// When a part cannot be read or made.
pub fn pieces(parts: &Parts<'_>, loader: Option<&Loader>) -> Result<Vec<Piece>, DiskImageError> {
    let layout = parts.layout;
    let (_, mut pieces) = system(parts)?;
    let volume = |role, label, is_fat32, files: &[fat::FatFile]| {
        let partition = layout.partition(role)?;
        let volume = fat::Volume { label, id: serial(partition), size: partition.size, is_fat32 };
        Ok::<Piece, DiskImageError>(whole(partition, fat::make(volume, files)?))
    };

    let mut config = vec![("README.txt".to_owned(), README.as_bytes().to_vec())];
    if let Some(path) = parts.config {
        config.push(("mote.toml".to_owned(), fs::read(path).map_err(failed("read", path))?));
    }
    pieces.push(volume(Role::Config, "MOTE", false, &config)?);

    // First, and so at the place that the layout says.
    let environment = loader::environment(&parts.manifest.version)?;
    let mut esp = vec![("grub/grubenv".to_owned(), environment.clone())];
    if let Some(loader) = loader {
        esp.push(("EFI/BOOT/BOOTX64.EFI".to_owned(), loader.efi.clone()));
        esp.push(("grub/grub.cfg".to_owned(), loader.script.clone().into_bytes()));
        pieces.push(whole(layout.partition(Role::BiosBoot)?, loader.core.clone()));
    }
    let esp = volume(Role::Esp, "MOTE ESP", true, &esp)?;
    if !holds(&esp.content, layout.environment(), &environment) {
        return Err(DiskImageError::Loader("environment block"));
    }
    pieces.push(esp);
    Ok(pieces)
}

/// The first slot: the file system of the system disk with the tree of its hashes, and the boot area with kernel and
/// initramfs, in this order. The second stays blank until an update writes it, which has the same pieces. And what the file
/// system is verified by.
///
/// # Errors
/// When a part cannot be read or made.
pub fn system(parts: &Parts<'_>) -> Result<(Verity, Vec<Piece>), DiskImageError> {
    let Parts { layout, project, manifest, .. } = parts;
    let read = |path: PathBuf| fs::read(&path).map_err(failed("read", &path));
    let (system, boot) = (layout.system_area()?, layout.boot_area()?);
    let (path, range) = file_system(&project.system_disk())?;
    let mut file = File::open(&path).map_err(failed("open", &path))?;
    file.seek(SeekFrom::Start(range.start)).map_err(failed("read", &path))?;
    let size = range.end - range.start;
    let (verity, tree) = verity::tree(&mut file.take(size)).map_err(failed("read", &path))?;
    let cmdline =
        [MEDIUM, &manifest.cmdline, &format!("mote.verity={verity}"), &parts.append.join(" ")].join(" ");
    let archive = slot::archive(&read(project.kernel())?, &read(project.initramfs())?, &cmdline)?;
    let behind = verity.sectors() * SECTOR;
    let piece = |offset, end: u64, content| {
        let room = end.saturating_sub(offset);
        Piece { role: Role::SystemA, offset, room, content }
    };
    let pieces = vec![
        piece(system.start, system.end, Content::File { path, start: range.start, size }),
        piece(behind, system.end, Content::Bytes(tree)),
        piece(boot.start, boot.end, Content::Bytes(archive)),
    ];
    Ok((verity, pieces))
}

/// The partition with the system, of the system disk that QEMU is given.
fn file_system(path: &Path) -> Result<(PathBuf, Range<u64>), DiskImageError> {
    let mut file = File::open(path).map_err(failed("open", path))?;
    let table = |source| DiskImageError::Table { path: path.to_path_buf(), source };
    let table = GPT::find_from(&mut file).map_err(table)?;
    let found = table.iter().find(|(_, entry)| entry.partition_name.as_str() == disk::SYSTEM);
    let missing = || DiskImageError::NoSystem(path.to_path_buf());
    let (_, entry) = found.ok_or_else(missing)?;
    let size = entry.size().map_err(|_| missing())?.checked_mul(SECTOR).ok_or_else(missing)?;
    let start = entry.starting_lba.checked_mul(SECTOR).ok_or_else(missing)?;
    Ok((path.to_path_buf(), start..start + size))
}

/// A FAT volume's serial number, the same in every image.
fn serial(partition: &Partition) -> u32 {
    let [a, b, c, d, ..] = *partition.guid.as_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// Whether bytes have `part` at `range`.
fn holds(content: &Content, range: Range<u64>, part: &[u8]) -> bool {
    let bound = |at| usize::try_from(at).unwrap_or(usize::MAX);
    match content {
        Content::Bytes(bytes) => bytes.get(bound(range.start)..bound(range.end)) == Some(part),
        Content::File { .. } => false,
    }
}

fn whole(partition: &Partition, bytes: Vec<u8>) -> Piece {
    Piece { role: partition.role, offset: 0, room: partition.size, content: Content::Bytes(bytes) }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use fatfs::{FileSystem, FsOptions};

    use super::*;
    use crate::files;

    fn with_image(folder: &Path) -> (Project, Manifest) {
        fs::create_dir_all(folder.join("config/kernel")).unwrap();
        fs::write(folder.join("Cargo.toml"), "").unwrap();
        let project = Project::find(folder).unwrap();
        files::write(&project.kernel(), "kernel").unwrap();
        files::write(&project.initramfs(), "initramfs").unwrap();
        let erofs = folder.join("erofs");
        fs::write(&erofs, "file system").unwrap();
        disk::with_content(&project.system_disk(), disk::SYSTEM, &erofs, "seed").unwrap();
        let [version, build, inputs] = ["1.2.3", "b", "i"].map(str::to_owned);
        (project, Manifest { version, build, cmdline: "quiet".to_owned(), inputs })
    }

    fn bytes(pieces: &[Piece], role: Role, index: usize) -> Vec<u8> {
        match &pieces.iter().filter(|piece| piece.role == role).nth(index).unwrap().content {
            Content::Bytes(bytes) => bytes.clone(),
            Content::File { path, start, size } => {
                let mut file = File::open(path).unwrap();
                file.seek(SeekFrom::Start(*start)).unwrap();
                let mut bytes = Vec::new();
                file.take(*size).read_to_end(&mut bytes).unwrap();
                bytes
            }
        }
    }

    fn fat_file(volume: Vec<u8>, path: &str) -> String {
        let system = FileSystem::new(Cursor::new(volume), FsOptions::new()).unwrap();
        let mut text = String::new();
        system.root_dir().open_file(path).unwrap().read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn every_part_has_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let (project, manifest) = with_image(dir.path());
        let layout = Layout::built_in().unwrap();
        let config = dir.path().join("mine.toml");
        fs::write(&config, "a = 1\n").unwrap();
        let parts = Parts {
            layout: &layout,
            project: &project,
            manifest: &manifest,
            config: Some(&config),
            append: &["x=y".to_owned()],
        };
        let loader = Loader {
            boot_code: [0; 440],
            core: vec![1; 9],
            efi: b"efi".to_vec(),
            script: "echo\n".to_owned(),
        };
        let pieces = pieces(&parts, Some(&loader)).unwrap();

        assert!(bytes(&pieces, Role::SystemA, 0).starts_with(b"file system\0"));
        let (verity, tree) = verity::tree(&mut bytes(&pieces, Role::SystemA, 0).as_slice()).unwrap();
        assert!(bytes(&pieces, Role::SystemA, 1) == tree);
        let archive = bytes(&pieces, Role::SystemA, 2);
        let archive = String::from_utf8_lossy(&archive);
        assert!(archive.contains("initramfs"));
        assert!(archive.contains(&format!("{MEDIUM} quiet mote.verity={verity} x=y'")), "{archive}");
        assert!(
            pieces.iter().filter(|piece| piece.role == Role::SystemA).all(|piece| piece.room < 512 << 20)
        );
        assert_eq!(bytes(&pieces, Role::BiosBoot, 0), [1; 9]);
        assert_eq!(fat_file(bytes(&pieces, Role::Config, 0), "mote.toml"), "a = 1\n");
        let esp = bytes(&pieces, Role::Esp, 0);
        assert_eq!(fat_file(esp.clone(), "EFI/BOOT/BOOTX64.EFI"), "efi");
        assert_eq!(fat_file(esp.clone(), "grub/grub.cfg"), "echo\n");
        assert!(fat_file(esp, "grub/grubenv").starts_with("# GRUB Environment Block\nmote_slot=a\n"));
        assert!(pieces.iter().all(|piece| piece.role != Role::SystemB && piece.role != Role::Data));
    }

    #[test]
    fn without_a_loader_there_is_nothing_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let (project, manifest) = with_image(dir.path());
        let layout = Layout::built_in().unwrap();
        let parts =
            Parts { layout: &layout, project: &project, manifest: &manifest, config: None, append: &[] };
        let pieces = pieces(&parts, None).unwrap();
        assert!(pieces.iter().all(|piece| piece.role != Role::BiosBoot));
        let config = bytes(&pieces, Role::Config, 0);
        assert!(fat_file(config.clone(), "README.txt").contains("mote.toml"));
        let system = FileSystem::new(Cursor::new(config), FsOptions::new()).unwrap();
        assert!(system.root_dir().open_file("mote.toml").is_err());
    }

    #[test]
    fn a_disk_without_a_system_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.img");
        disk::blank_data(&path, 64 << 20, "seed").unwrap();
        let error = file_system(&path).unwrap_err().to_string();
        assert!(error.contains("data.img") && error.contains("make image"), "{error}");
    }
}
