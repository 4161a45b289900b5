//! What a machine boots from: a kernel that is handed to it, or a disk that its firmware finds something on.

use std::path::{Path, PathBuf};

use super::value;

/// Debian's OVMF, from its package `ovmf`: the program, and the settings of a new machine.
const UEFI: [&str; 2] = ["/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"];

/// What runs first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS, which QEMU comes with.
    Bios,
    /// OVMF. What it writes into its settings is forgotten.
    Uefi,
}

/// How the disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// virtio-blk.
    Virtio,
    /// NVMe.
    Nvme,
    /// SATA.
    Ahci,
}

/// A disk that boots by itself, and all that is on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootDisk {
    /// The image, which is written to.
    pub image: PathBuf,
    /// What looks for a boot loader there.
    pub firmware: Firmware,
    /// How it is attached.
    pub bus: Bus,
}

impl Firmware {
    /// QEMU's arguments.
    #[must_use]
    pub fn arguments(self) -> Vec<String> {
        let flash = |unit: usize, how: &str, path: &str| {
            let path = value(Path::new(path));
            ["-drive".to_owned(), format!("if=pflash,unit={unit},format=raw,{how}=on,file={path}")]
        };
        match self {
            Self::Bios => Vec::new(),
            Self::Uefi => [flash(0, "readonly", UEFI[0]), flash(1, "snapshot", UEFI[1])].concat(),
        }
    }
}

impl Bus {
    /// The machine. It has no SATA unless it is asked for: a kernel that can use it waits for disks that are not there.
    #[must_use]
    pub fn machine(self) -> &'static str {
        match self {
            Self::Virtio | Self::Nvme => "q35,sata=off",
            Self::Ahci => "q35",
        }
    }

    /// The device for a drive.
    #[must_use]
    pub fn device(self, drive: &str) -> String {
        match self {
            Self::Virtio => format!("virtio-blk-pci,drive={drive},serial=mote,bootindex=1"),
            Self::Nvme => format!("nvme,drive={drive},serial=mote,bootindex=1"),
            Self::Ahci => format!("ide-hd,drive={drive},bus=ide.0,serial=mote,bootindex=1"),
        }
    }
}
