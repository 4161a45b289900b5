//! The initramfs: PID 1, mount points and a console, as an uncompressed newc archive.

use std::fs;
use std::io::Write;
use std::path::Path;

use cpio::newc::{Builder, ModeFileType, trailer};

use crate::erofs::TIMESTAMP;
use crate::files::{FileError, failed};

/// Folders that exist before init mounts something there.
const FOLDERS: [(&str, u32); 8] = [
    ("dev", 0o755),
    ("proc", 0o555),
    ("sys", 0o555),
    ("run", 0o755),
    ("tmp", 0o1777),
    ("system", 0o755),
    ("data", 0o755),
    ("etc", 0o755),
];

/// Writes the archive with `init` as `/init`.
///
/// # Errors
/// When a file cannot be read or written.
pub fn make(init: &Path, archive: &Path) -> Result<(), FileError> {
    let program = fs::read(init).map_err(failed("read", init))?;
    let bytes = build(&program).map_err(failed("make", archive))?;
    fs::write(archive, bytes).map_err(failed("write", archive))
}

fn build(program: &[u8]) -> std::io::Result<Vec<u8>> {
    let size = u32::try_from(program.len()).map_err(std::io::Error::other)?;
    let mut inode = 0;
    let mut entry = |name: &str, kind: ModeFileType, mode: u32| {
        inode += 1;
        Builder::new(name).ino(inode).mtime(TIMESTAMP).mode(mode).set_mode_file_type(kind)
    };
    let mut archive = Vec::with_capacity(program.len() + 4096);
    for (name, mode) in FOLDERS {
        archive = entry(name, ModeFileType::Directory, mode).nlink(2).write(archive, 0).finish()?;
    }
    // The kernel opens this for init's standard streams before devtmpfs is there.
    let console = entry("dev/console", ModeFileType::Char, 0o600).rdev_major(5).rdev_minor(1);
    archive = console.write(archive, 0).finish()?;
    let mut init = entry("init", ModeFileType::Regular, 0o755).write(archive, size);
    init.write_all(program)?;
    trailer(init.finish()?)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use cpio::newc::Reader;

    use super::*;

    #[test]
    fn the_archive_reads_back() {
        let archive = build(b"\x7fELF program").unwrap();
        let mut rest = archive.as_slice();
        let mut seen = Vec::new();
        loop {
            let mut reader = Reader::new(rest).unwrap();
            let entry = reader.entry();
            if entry.is_trailer() {
                break;
            }
            seen.push((entry.name().to_owned(), entry.mode(), (entry.rdev_major(), entry.rdev_minor())));
            if seen.last().unwrap().0 == "init" {
                let mut content = Vec::new();
                reader.read_to_end(&mut content).unwrap();
                assert_eq!(content, b"\x7fELF program");
            }
            rest = reader.finish().unwrap();
        }
        assert!(seen.contains(&("dev/console".into(), 0o020_600, (5, 1))));
        assert!(seen.contains(&("init".into(), 0o100_755, (0, 0))));
        assert!(seen.contains(&("tmp".into(), 0o041_777, (0, 0))));
        let folder_first = seen.iter().position(|(name, ..)| name == "dev").unwrap();
        assert!(folder_first < seen.iter().position(|(name, ..)| name == "dev/console").unwrap());
    }
}
