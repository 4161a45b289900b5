//! GRUB, made from Debian's packages without installing it, or from a folder that has it: what `grub-install` does to
//! disks that are mounted, done to files.
//!
//! `grub-mkimage` links modules into two images. For UEFI, the result is the program `EFI/BOOT/BOOTX64.EFI`. For a BIOS
//! it is `core.img`, which is read from the BIOS-boot partition by 440 bytes in the disk's first sector (`boot.img`);
//! two numbers have to be patched for that, the rest of `grub-bios-setup` is about disks that are less simple than ours.
//!
//! Which slot is booted, [`mote_update::slots`] decides; its script is a part of GRUB's configuration.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mote_layout::{Layout, Role, SECTOR};
use mote_update::grubenv::Block;
use mote_update::slots::{GRUB_CFG, Slot, State};
use mote_update::version::Version;

use super::DiskImageError;
use crate::cache::{Cache, Key};
use crate::debian;
use crate::files::{self, failed};
use crate::process;
use crate::tools::LOADER;

const RECIPE: &str = "2";
const LIMIT: Duration = Duration::from_secs(60);

/// GRUB's code for that sector, beside the modules for a BIOS.
const BOOT: &str = "boot.img";

/// Bytes of code in a disk's first sector; behind it is the protective partition table.
pub const BOOT_CODE: usize = 440;

/// Modules for both kinds of firmware: the partition table, the file systems of our partitions, all commands of
/// `image/boot/grub.cfg`, and a few for a person at GRUB's prompt.
const MODULES: [&str; 24] = [
    "part_gpt",
    "fat",
    "loopback",
    "newc",
    "hashsum",
    "gcry_sha256",
    "normal",
    "configfile",
    "loadenv",
    "test",
    "true",
    "regexp",
    "echo",
    "sleep",
    "keystatus",
    "linux",
    "boot",
    "serial",
    "terminal",
    "reboot",
    "halt",
    "minicmd",
    "ls",
    "cat",
];

/// A kind of firmware.
struct Firmware {
    /// What GRUB calls it.
    format: &'static str,
    /// File that is made.
    file: &'static str,
    /// Modules that only it has.
    modules: &'static [&'static str],
}

const BIOS: Firmware = Firmware { format: "i386-pc", file: "core.img", modules: &["biosdisk"] };
/// The last two let Linux write to a screen.
const EFI: Firmware =
    Firmware { format: "x86_64-efi", file: "BOOTX64.EFI", modules: &["efi_gop", "efi_uga"] };

/// GRUB for one layout.
#[derive(Debug, Clone)]
pub struct Loader {
    /// Code for the disk's first sector.
    pub boot_code: [u8; BOOT_CODE],
    /// Content of the BIOS-boot partition.
    pub core: Vec<u8>,
    /// The program for UEFI.
    pub efi: Vec<u8>,
    /// The configuration of both.
    pub script: String,
}

/// GRUB's programs and modules, as files.
enum Grub<'a> {
    /// Debian's packages, unpacked: programs run with the packages' own libraries, whatever this machine has.
    Packages(&'a Path),
    /// For this machine: `bin/`, and modules in `lib/grub/`.
    Folder(&'a Path),
}

impl Grub<'_> {
    fn program(&self, name: &str) -> Command {
        let mut command = match self {
            Self::Packages(tree) => {
                let mut command = Command::new(tree.join("lib64").join(LOADER));
                command.arg("--library-path").arg(tree.join("usr/lib/x86_64-linux-gnu"));
                command.arg(tree.join("usr/bin").join(name));
                command
            }
            Self::Folder(folder) => Command::new(folder.join("bin").join(name)),
        };
        command.env_clear().env("LC_ALL", "C");
        command
    }

    fn modules(&self, firmware: &Firmware) -> PathBuf {
        let all = match self {
            Self::Packages(tree) => tree.join("usr/lib/grub"),
            Self::Folder(folder) => folder.join("lib/grub"),
        };
        all.join(firmware.format)
    }

    /// Makes both images in `out`, and puts the code for the first sector beside them.
    fn make(&self, script: &str, prefix: &str, out: &Path) -> Result<(), DiskImageError> {
        check(self, script, &out.join("grub.cfg"))?;
        for firmware in [BIOS, EFI] {
            link(self, &firmware, prefix, &out.join(firmware.file))?;
        }
        Ok(files::copy(&self.modules(&BIOS).join(BOOT), &out.join(BOOT), 0o644)?)
    }
}

/// Makes the boot loader from the packages of `list`; `script` is its configuration, see [`configuration`].
///
/// # Errors
/// When the packages cannot be had, or are not of the known form, or GRUB would not take the script.
pub fn ensure(cache: &Cache, list: &Path, layout: &Layout, script: String) -> Result<Loader, DiskImageError> {
    let packages = debian::fetch(cache, &debian::read_list(list)?)?;
    let prefix = prefix(layout)?;
    let mut key = debian::key(
        Key::new().with("recipe", RECIPE).with("prefix", &prefix).with("script", &script),
        &packages,
    );
    for module in MODULES.iter().chain(BIOS.modules).chain(EFI.modules) {
        key = key.with("module", module);
    }
    let made = cache.get_or_make("grub", &key, |out| {
        let tree = out.join("unpacked");
        debian::unpack(&packages, &tree, &["./usr/share".to_owned()])?;
        Grub::Packages(&tree).make(&script, &prefix, out)?;
        files::remove(&tree)?;
        Ok::<(), DiskImageError>(())
    })?;
    patched(&made, layout, script)
}

/// Makes the boot loader from a folder with GRUB: `bin/grub-mkimage` and `bin/grub-script-check`, which run on this
/// machine, and the modules of both kinds of firmware, in `lib/grub/i386-pc` and `lib/grub/x86_64-efi`.
///
/// # Errors
/// When it has not all of that, or not in the known form, or GRUB would not take the script.
pub fn from_folder(folder: &Path, layout: &Layout, script: String) -> Result<Loader, DiskImageError> {
    let out = tempfile::tempdir().map_err(failed("create a folder in", &std::env::temp_dir()))?;
    Grub::Folder(folder).make(&script, &prefix(layout)?, out.path())?;
    patched(out.path(), layout, script)
}

/// Where GRUB looks for its configuration.
fn prefix(layout: &Layout) -> Result<String, DiskImageError> {
    Ok(format!("(,gpt{})/grub", layout.partition(Role::Esp)?.number))
}

/// What [`Grub::make`] left in `made`, told where it is on the disk.
fn patched(made: &Path, layout: &Layout, script: String) -> Result<Loader, DiskImageError> {
    let read = |name: &str| {
        let path = made.join(name);
        fs::read(&path).map_err(failed("read", &path))
    };
    let start = layout.partition(Role::BiosBoot)?.first_sector();
    Ok(Loader {
        boot_code: boot_code(&read(BOOT)?, start)?,
        core: core(read(BIOS.file)?, start)?,
        efi: read(EFI.file)?,
        script,
    })
}

/// Whether GRUB can read the script: better found here than by a machine that does not boot.
fn check(grub: &Grub<'_>, script: &str, path: &Path) -> Result<(), DiskImageError> {
    files::write(path, script)?;
    process::run(grub.program("grub-script-check").arg(path), LIMIT)?;
    Ok(())
}

fn link(grub: &Grub<'_>, firmware: &Firmware, prefix: &str, out: &Path) -> Result<(), DiskImageError> {
    let mut command = grub.program("grub-mkimage");
    command.arg("--directory").arg(grub.modules(firmware));
    command.args(["--format", firmware.format, "--prefix", prefix]).arg("--output").arg(out);
    command.args(MODULES).args(firmware.modules);
    process::run(&mut command, LIMIT)?;
    Ok(())
}

/// The code for the first sector: told where `core.img` begins, and to trust the BIOS about the disk it came from.
fn boot_code(boot: &[u8], core_sector: u64) -> Result<[u8; BOOT_CODE], DiskImageError> {
    const WRONG: DiskImageError = DiskImageError::Loader("boot.img");
    /// Where the sector number is, what it is as delivered.
    const SECTOR_AT: usize = 0x5c;
    const SECTOR_WAS: [u8; 8] = [1, 0, 0, 0, 0, 0, 0, 0];
    /// A drive of 0xff means: the one that the BIOS says.
    const DRIVE_AT: usize = 0x64;
    /// A jump over the distrust of a BIOS that says a floppy; hard disks want it gone.
    const CHECK_AT: usize = 0x66;
    const CHECK_WAS: [u8; 2] = [0xeb, 0x05];
    const NOTHING: [u8; 2] = [0x90, 0x90];

    let mut code = [0; BOOT_CODE];
    code.copy_from_slice(boot.get(..BOOT_CODE).ok_or(WRONG)?);
    let known = boot.len() == 512
        && code[SECTOR_AT..SECTOR_AT + 8] == SECTOR_WAS
        && code[DRIVE_AT] == 0xff
        && code[CHECK_AT..CHECK_AT + 2] == CHECK_WAS;
    if !known {
        return Err(WRONG);
    }
    code[SECTOR_AT..SECTOR_AT + 8].copy_from_slice(&core_sector.to_le_bytes());
    code[CHECK_AT..CHECK_AT + 2].copy_from_slice(&NOTHING);
    Ok(code)
}

/// `core.img`, its first sector told where the others are: behind it.
fn core(mut core: Vec<u8>, sector: u64) -> Result<Vec<u8>, DiskImageError> {
    const WRONG: DiskImageError = DiskImageError::Loader("core.img");
    /// The last entry of the first sector's list: first sector (8 bytes), sectors (2), segment (2).
    const LIST_AT: usize = 500;
    const SEGMENT: [u8; 2] = [0x20, 0x08];

    let rest = core.len().checked_sub(512).ok_or(WRONG)?.div_ceil(512);
    let sectors = u16::try_from(rest).map_err(|_| WRONG)?;
    let known = core[LIST_AT..LIST_AT + 8] == 2_u64.to_le_bytes()
        && core[LIST_AT + 8..LIST_AT + 10] == sectors.to_le_bytes()
        && core[LIST_AT + 10..LIST_AT + 12] == SEGMENT;
    if !known {
        return Err(WRONG);
    }
    core[LIST_AT..LIST_AT + 8].copy_from_slice(&(sector + 1).to_le_bytes());
    Ok(core)
}

/// GRUB's configuration: where things are in this layout, which slot is booted, and `menu`.
///
/// # Errors
/// Never with a layout that was parsed.
pub fn configuration(layout: &Layout, menu: &str) -> Result<String, DiskImageError> {
    let part = |role| Ok::<_, DiskImageError>(format!("gpt{}", layout.partition(role)?.number));
    let blocks = |area: Range<u64>| format!("{}+{}", area.start / SECTOR, (area.end - area.start) / SECTOR);
    let [a, b] = [part(Role::SystemA)?, part(Role::SystemB)?];
    let boot = blocks(layout.boot_area()?);
    Ok(format!(
        "# The disk that GRUB came from, and what is where on it.\n\
         regexp --set=1:mote_disk '^\\(?([^,()]+),' \"$root\"\n\
         set mote_env=\"$prefix/grubenv\"\n\
         set mote_boot_a=\"($mote_disk,{a}){boot}\"\n\
         set mote_boot_b=\"($mote_disk,{b}){boot}\"\n\n{GRUB_CFG}\n{menu}"
    ))
}

/// GRUB's environment block of a new machine: `version` in the first slot, nothing in the second.
///
/// # Errors
/// When it is no version.
pub fn environment(version: &str) -> Result<Vec<u8>, DiskImageError> {
    let version = version.parse().map_err(DiskImageError::Version)?;
    let mut block = Block::default();
    State::new(Slot::A, version, Version::ZERO).store(&mut block).map_err(DiskImageError::State)?;
    Ok(block.to_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As the packages have them, as far as it matters.
    fn originals() -> (Vec<u8>, Vec<u8>) {
        let mut boot = vec![0xaa; 512];
        boot[0x5c..0x64].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
        boot[0x64..0x68].copy_from_slice(&[0xff, 0xfa, 0xeb, 0x05]);
        let mut core = vec![0xbb; 512 * 3 + 1];
        core[500..512].copy_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0x20, 0x08]);
        (boot, core)
    }

    #[test]
    fn the_first_sectors_point_at_what_is_behind_them() {
        let (boot, original) = originals();
        let code = boot_code(&boot, 2048).unwrap();
        assert_eq!(code[0x5c..0x68], [0, 8, 0, 0, 0, 0, 0, 0, 0xff, 0xfa, 0x90, 0x90]);
        assert!(code[..0x5c].iter().chain(&code[0x68..]).all(|byte| *byte == 0xaa));
        let patched = core(original.clone(), 2048).unwrap();
        assert_eq!(patched[500..512], [1, 8, 0, 0, 0, 0, 0, 0, 3, 0, 0x20, 0x08]);
        assert!(patched[..500] == original[..500] && patched[512..] == original[512..]);
    }

    #[test]
    fn another_form_is_refused() {
        let (boot, original) = originals();
        for at in [0x5c, 0x64, 0x66] {
            let mut other = boot.clone();
            other[at] ^= 1;
            assert!(matches!(boot_code(&other, 1), Err(DiskImageError::Loader("boot.img"))), "{at:#x}");
        }
        assert!(boot_code(&boot[..511], 1).is_err());
        for at in [500, 508, 510] {
            let mut other = original.clone();
            other[at] ^= 1;
            assert!(matches!(core(other, 1), Err(DiskImageError::Loader("core.img"))), "{at}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..1100)) {
            let _ = boot_code(&bytes, 2048);
            let _ = core(bytes, 2048);
        }
    }

    #[test]
    fn a_folder_without_grub_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::built_in().unwrap();
        let error = from_folder(dir.path(), &layout, String::new()).unwrap_err();
        let DiskImageError::Run(cause) = error else { panic!("{error:?}") };
        assert!(cause.to_string().contains("grub-script-check"), "{cause}");
    }

    #[test]
    fn the_script_is_told_where_things_are() {
        let text = configuration(&Layout::built_in().unwrap(), "echo\n").unwrap();
        for line in [
            r#"regexp --set=1:mote_disk '^\(?([^,()]+),' "$root""#,
            r#"set mote_env="$prefix/grubenv""#,
            r#"set mote_boot_a="($mote_disk,gpt4)950272+98304""#,
            r#"set mote_boot_b="($mote_disk,gpt5)950272+98304""#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert!(text.ends_with("\necho\n"));
        let decision = text.find(GRUB_CFG).unwrap();
        assert!(text.find("set mote_env").unwrap() < decision);
    }

    #[test]
    fn a_new_machine_has_one_good_slot() {
        let block = environment("1.2.3").unwrap();
        assert_eq!(block.len() as u64, mote_layout::ENVIRONMENT);
        let state = State::load(&Block::parse(&block).unwrap()).unwrap();
        assert_eq!(state, State::new(Slot::A, Version::new(1, 2, 3), Version::ZERO));
        assert!(matches!(environment("1.2"), Err(DiskImageError::Version(_))));
    }
}
