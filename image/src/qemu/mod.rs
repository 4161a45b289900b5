//! Boots an image in QEMU.

pub mod accel;
pub mod medium;
pub mod qmp;
pub mod ready;
pub mod run;
pub mod throttle;

use std::path::{Path, PathBuf};

use accel::Accelerator;
use medium::{BootDisk, Bus};
use throttle::Throttle;

/// The emulator, from Debian's package `qemu-system-x86`.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// What QEMU calls the data disk.
pub const DATA_DISK: &str = "data";

/// Port of the front door inside the appliance.
const GUEST_PORT: u16 = 8080;

/// Where the appliance's console goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Serial {
    /// Into a file.
    File(PathBuf),
    /// To QEMU's standard output, and into a file as well.
    Stdio(PathBuf),
}

/// A machine to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// How its processors are run.
    pub accelerator: Accelerator,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Processors it works with.
    pub cpus: u32,
    /// Kernel, a bzImage.
    pub kernel: PathBuf,
    /// Initramfs.
    pub initramfs: PathBuf,
    /// The image's kernel command line; what the kernel has to know of its processors follows it.
    pub cmdline: String,
    /// Words at the end of the kernel command line, where they override.
    pub append: Vec<String>,
    /// Read-only system disk.
    pub system: PathBuf,
    /// Data disk; without one the appliance says that it has none.
    pub data: Option<PathBuf>,
    /// The one disk it boots from and has; then kernel, initramfs, command line, system and data disk are not used.
    pub boot_disk: Option<BootDisk>,
    /// How slow reading the data disk is.
    pub data_throttle: Option<Throttle>,
    /// Port of 127.0.0.1 that leads to the front door.
    pub port: u16,
    /// Console.
    pub serial: Serial,
    /// Socket for QEMU's control protocol.
    pub qmp: Option<PathBuf>,
    /// End QEMU when the appliance reboots, instead of booting again.
    pub no_reboot: bool,
}

impl Machine {
    /// The whole command, program first.
    #[must_use]
    pub fn command(&self) -> Vec<String> {
        let mut command =
            words(&[PROGRAM, "-name", "mote", "-nodefaults", "-no-user-config", "-display", "none"]);
        let bus = self.boot_disk.as_ref().map_or(Bus::Virtio, |disk| disk.bus);
        command.extend(words(&["-machine", bus.machine()]));
        command.extend(words(self.accelerator.arguments()));
        let processors = self.accelerator.processors(self.cpus).to_string();
        command.extend(words(&["-m", &self.memory_mib.to_string(), "-smp", &processors]));
        command.extend(match &self.boot_disk {
            Some(disk) => Self::one_disk(disk),
            None => self.kernel_and_disks(),
        });
        let mut add = |more: &[&str]| command.extend(words(more));
        let net = format!("user,id=net0,hostfwd=tcp:127.0.0.1:{}-:{GUEST_PORT}", self.port);
        add(&["-netdev", &net, "-device", "virtio-net-pci,netdev=net0,romfile="]);
        add(&["-object", "rng-builtin,id=rng0", "-device", "virtio-rng-pci,rng=rng0"]);
        let serial = match &self.serial {
            Serial::File(path) => format!("file,id=serial0,path={}", value(path)),
            Serial::Stdio(log) => format!("stdio,id=serial0,signal=off,logfile={}", value(log)),
        };
        add(&["-chardev", &serial, "-serial", "chardev:serial0"]);
        if let Some(socket) = &self.qmp {
            add(&["-qmp", &format!("unix:{},server=on,wait=off", value(socket))]);
        }
        if self.no_reboot {
            add(&["-no-reboot"]);
        }
        command
    }

    fn one_disk(disk: &BootDisk) -> Vec<String> {
        let drive =
            format!("if=none,id=mote,format=raw,cache=writeback,discard=unmap,file={}", value(&disk.image));
        let mut command = disk.firmware.arguments();
        command.extend(words(&["-drive", &drive, "-device", &disk.bus.device("mote")]));
        command
    }

    fn kernel_and_disks(&self) -> Vec<String> {
        let mut command = words(&["-kernel", &text(&self.kernel), "-initrd", &text(&self.initramfs)]);
        let mut add = |more: &[&str]| command.extend(words(more));
        let mut cmdline = vec![self.cmdline.clone()];
        cmdline.extend(self.accelerator.kernel_options(self.cpus));
        cmdline.extend(self.append.iter().cloned());
        add(&["-append", &cmdline.join(" ")]);

        let system = format!("if=none,id=system,format=raw,readonly=on,file={}", value(&self.system));
        add(&["-drive", &system, "-device", "virtio-blk-pci,drive=system,serial=mote-system"]);
        if let Some(data) = &self.data {
            // The appliance's flushes reach the file, all else may be lost with the process: a power cut.
            let mut data = format!(
                "if=none,id={DATA_DISK},format=raw,cache=writeback,discard=unmap,file={}",
                value(data)
            );
            if let Some(throttle) = self.data_throttle {
                data = format!("{data},{throttle}");
            }
            add(&["-drive", &data, "-device", "virtio-blk-pci,drive=data,serial=mote-data"]);
        }
        command
    }

    /// Address of the front door.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// In QEMU's option lists a comma in a value is written twice.
fn value(path: &Path) -> String {
    text(path).replace(',', ",,")
}

/// The command as one would type it into a shell.
#[must_use]
pub fn quoted(command: &[String]) -> String {
    let plain = |word: &String| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./=,:+".contains(c))
    };
    let words: Vec<String> = command
        .iter()
        .map(|word| if plain(word) { word.clone() } else { format!("'{}'", word.replace('\'', "'\\''")) })
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::medium::Firmware;
    use super::*;

    fn machine() -> Machine {
        Machine {
            accelerator: Accelerator::Kvm,
            memory_mib: 1024,
            cpus: 2,
            kernel: "/d/bzImage".into(),
            initramfs: "/d/initramfs.cpio".into(),
            cmdline: "console=ttyS0 quiet".into(),
            append: Vec::new(),
            system: "/d/sys,tem.img".into(),
            data: Some("/d/data.img".into()),
            boot_disk: None,
            data_throttle: None,
            port: 9090,
            serial: Serial::File("/d/console.log".into()),
            qmp: Some("/r/qmp".into()),
            no_reboot: false,
        }
    }

    fn after<'a>(command: &'a [String], word: &str) -> Vec<&'a str> {
        command.windows(2).filter(|pair| pair[0] == word).map(|pair| pair[1].as_str()).collect()
    }

    #[test]
    fn the_command_says_what_the_machine_is() {
        let command = machine().command();
        assert_eq!(command[0], PROGRAM);
        assert_eq!(after(&command, "-append"), ["console=ttyS0 quiet"]);
        let drives = after(&command, "-drive");
        assert_eq!(drives.len(), 2);
        assert!(drives[0].contains("readonly=on") && drives[0].ends_with("file=/d/sys,,tem.img"));
        assert!(!drives[1].contains("readonly"));
        assert_eq!(after(&command, "-netdev"), ["user,id=net0,hostfwd=tcp:127.0.0.1:9090-:8080"]);
        assert_eq!(after(&command, "-qmp"), ["unix:/r/qmp,server=on,wait=off"]);
    }

    #[test]
    fn an_emulated_machine_has_a_processor_more_that_runs_no_programs() {
        assert_eq!(after(&machine().command(), "-smp"), ["2"]);
        let emulated = Machine { accelerator: Accelerator::Tcg, append: vec!["a=b".into()], ..machine() };
        let command = emulated.command();
        assert_eq!(after(&command, "-smp"), ["3"]);
        let cmdline = after(&command, "-append")[0];
        assert!(
            cmdline.starts_with("console=ttyS0 quiet ") && cmdline.ends_with(" isolcpus=0 a=b"),
            "{cmdline}"
        );
    }

    #[test]
    fn what_is_not_asked_for_is_not_there() {
        let command = Machine { data: None, qmp: None, ..machine() }.command();
        assert_eq!(after(&command, "-drive").len(), 1);
        assert!(after(&command, "-qmp").is_empty() && !command.contains(&"-no-reboot".to_owned()));
        assert!(!after(&machine().command(), "-drive")[1].contains("throttling"));
        let throttle = Throttle { bytes: 1000, requests: 10 };
        let command = Machine { data_throttle: Some(throttle), ..machine() }.command();
        let drives = after(&command, "-drive");
        assert!(drives[1].ends_with("data.img,throttling.bps-read=1000,throttling.iops-read=10"));
        assert!(!drives[0].contains("throttling"));
        let command = Machine { no_reboot: true, ..machine() }.command();
        assert!(command.contains(&"-no-reboot".to_owned()));
    }

    #[test]
    fn a_disk_that_boots_by_itself_is_all_there_is() {
        let image = PathBuf::from("/d/mo,te.img");
        let with = |firmware, bus| {
            let boot_disk = Some(BootDisk { image: image.clone(), firmware, bus });
            Machine { boot_disk, ..machine() }.command()
        };
        let command = with(Firmware::Bios, Bus::Nvme);
        assert!(after(&command, "-kernel").is_empty() && after(&command, "-append").is_empty());
        let drives = after(&command, "-drive");
        assert!(drives.len() == 1 && drives[0].ends_with("file=/d/mo,,te.img"), "{drives:?}");
        assert_eq!(after(&command, "-device")[0], "nvme,drive=mote,serial=mote,bootindex=1");
        assert_eq!(after(&command, "-machine"), ["q35,sata=off"]);

        let command = with(Firmware::Uefi, Bus::Ahci);
        assert_eq!(after(&command, "-machine"), ["q35"]);
        let drives = after(&command, "-drive");
        assert!(drives[0].contains("unit=0") && drives[0].contains("readonly=on"), "{drives:?}");
        assert!(drives[1].contains("unit=1") && drives[1].contains("snapshot=on"), "{drives:?}");
    }

    #[test]
    fn a_printed_command_survives_a_shell() {
        let words = ["echo".to_owned(), "it's a $test".to_owned(), String::new(), "a,b=c".to_owned()];
        let line = format!("printf '%s|' {}", quoted(&words[1..]));
        let output = std::process::Command::new("/bin/sh").args(["-c", &line]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "it's a $test||a,b=c|");
    }
}
