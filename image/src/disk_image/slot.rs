//! What the boot loader reads of a system slot: kernel, initramfs and command line with their checksums, as a newc
//! archive at the slot's end.
//!
//! The slot's begin is erofs, which Debian's GRUB cannot read; an archive it can, through a loop device over the
//! slot's last sectors. So a slot is one piece: whoever writes it, writes all that belongs together.

use std::io::{self, Write};

use cpio::newc::{Builder, ModeFileType, trailer};
use mote_update::digest::Digest;

use super::DiskImageError;
use crate::erofs::TIMESTAMP;

/// Name of the kernel in the archive.
pub const KERNEL: &str = "linux";
/// Name of the initramfs.
pub const INITRAMFS: &str = "initrd";
/// Name of GRUB's script that sets `cmdline`.
pub const SCRIPT: &str = "slot.cfg";

/// Name of the list of SHA-256 sums that GRUB checks the others against.
pub const SUMS: &str = "sums";

/// Gives the archive.
///
/// # Errors
/// When the command line has what GRUB would not take as it is.
pub fn archive(kernel: &[u8], initramfs: &[u8], cmdline: &str) -> Result<Vec<u8>, DiskImageError> {
    let script = script(cmdline)?;
    // Writing to memory fails only for a file of 4 GiB and more.
    let room = u64::from(u32::MAX);
    let failed = |_: io::Error| DiskImageError::TooLarge {
        role: mote_layout::Role::SystemA,
        room,
        size: [kernel.len(), initramfs.len()].iter().filter_map(|size| u64::try_from(*size).ok()).sum(),
    };
    let parts = [(SCRIPT, script.as_bytes()), (KERNEL, kernel), (INITRAMFS, initramfs)];
    let sums: String =
        parts.iter().map(|(name, content)| format!("{}  {name}\n", Digest::of(content))).collect();
    // What is small first: the boot loader looks for every file from the begin on.
    build(&[&[(SUMS, sums.as_bytes())], parts.as_slice()].concat()).map_err(failed)
}

fn build(parts: &[(&str, &[u8])]) -> io::Result<Vec<u8>> {
    let mut archive = Vec::new();
    for (inode, (name, content)) in (1..).zip(parts) {
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        let entry = Builder::new(name).ino(inode).mtime(TIMESTAMP).mode(0o644);
        let mut writer = entry.set_mode_file_type(ModeFileType::Regular).write(archive, size);
        writer.write_all(content)?;
        archive = writer.finish()?;
    }
    trailer(archive)
}

/// GRUB's script with the command line. GRUB splits it at blanks and hands each word on; quotes, backslashes and
/// patterns would not come out as they went in.
fn script(cmdline: &str) -> Result<String, DiskImageError> {
    let cmdline = cmdline.trim();
    let odd = |char: char| "'\"\\*?".contains(char) || !(char == ' ' || char.is_ascii_graphic());
    match cmdline.chars().find(|char| odd(*char)) {
        Some(char) => Err(DiskImageError::Cmdline(char)),
        None => Ok(format!("set cmdline='{cmdline}'\n")),
    }
}

#[cfg(test)]
mod tests {
    use cpio::newc::Reader;
    use proptest::prelude::*;

    use super::*;

    fn read(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
        use std::io::Read;
        let mut rest = archive;
        let mut found = Vec::new();
        loop {
            let mut reader = Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                return found;
            }
            let name = reader.entry().name().to_owned();
            let mut content = Vec::new();
            reader.read_to_end(&mut content).unwrap();
            found.push((name, content));
            rest = reader.finish().unwrap();
        }
    }

    #[test]
    fn all_three_are_in_the_archive() {
        let archive = archive(b"kernel", &[1; 1001], "quiet a=b,c $x\n").unwrap();
        let found = read(&archive);
        assert_eq!(found[1], ("slot.cfg".to_owned(), b"set cmdline='quiet a=b,c $x'\n".to_vec()));
        assert_eq!(found[2], ("linux".to_owned(), b"kernel".to_vec()));
        assert_eq!(found[3], ("initrd".to_owned(), vec![1; 1001]));
        assert_eq!(found.len(), 4);
        let sums = String::from_utf8(found[0].1.clone()).unwrap();
        let line = format!("{}  linux", Digest::of(b"kernel"));
        assert_eq!((found[0].0.as_str(), sums.lines().nth(1)), ("sums", Some(line.as_str())));
        assert_eq!(sums.lines().count(), 3);
    }

    #[test]
    fn what_grub_would_change_is_refused() {
        for bad in ["a='b'", "a=\"b c\"", "a\\b", "*", "a?", "a\nb", "\u{e4}"] {
            assert!(matches!(script(bad), Err(DiskImageError::Cmdline(_))), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_command_line_is_one_word_to_grub_or_refused(cmdline: String) {
            match script(&cmdline) {
                Ok(script) => {
                    prop_assert_eq!(script.matches('\'').count(), 2);
                    prop_assert_eq!(script.lines().count(), 1);
                }
                Err(error) => prop_assert!(matches!(error, DiskImageError::Cmdline(_))),
            }
        }
    }
}
