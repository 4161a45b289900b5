//! The command behind `make`: assembles the image, runs it in QEMU.

use std::error::Error;
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::{Args, Parser, Subcommand, ValueEnum};
use mote_image::cache::Cache;
use mote_image::prebuilt::Prebuilt;
use mote_image::progress::{elapsed, say};
use mote_image::project::{Manifest, Project};
use mote_image::qemu::accel::Accelerator;
use mote_image::qemu::medium::{BootDisk, Bus, Firmware};
use mote_image::qemu::throttle::Throttle;
use mote_image::qemu::{self, Machine, Serial};
use mote_image::{assemble, disk, disk_image, erofs, files, kernel, update};
use mote_layout::Layout;
use mote_update::keys::SecretKey;
use mote_update::version::Version;
use serde_json::json;

/// Assembles Mote's bootable image and runs it in QEMU.
#[derive(Parser)]
#[command(name = "image", version, about)]
struct Cli {
    /// The checkout; found from the working folder by default.
    #[arg(long, global = true)]
    root: Option<PathBuf>,
    /// Where what is made goes, and is looked for. [default: dist/ of the checkout]
    #[arg(long, global = true, value_name = "FOLDER")]
    dist: Option<PathBuf>,
    #[command(subcommand)]
    command: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make the image in dist/.
    Build(BuildArgs),
    /// Make the root file systems of the microVMs only, as NAME.erofs.
    Runtimes {
        /// Folder with mote-agent, which goes into them.
        #[arg(long)]
        binaries: PathBuf,
        /// Folder for them.
        #[arg(long)]
        out: PathBuf,
    },
    /// Say what a configuration, a kernel's or buildroot's, does not have of what was asked for; fail if there is any.
    CheckConfig {
        /// What was asked for: a defconfig; said twice, the later one counts.
        wanted: PathBuf,
        /// What came of it: a .config.
        result: PathBuf,
    },
    /// Write into dist/ what the image is made of, and the licences of all of it.
    Sbom,
    /// Build the kernels only, and print where they are.
    Kernels,
    /// Make of the image one disk that boots by itself, with a BIOS or UEFI.
    ///
    /// Takes kernel, initramfs and system from dist/ (`make image` makes them) and puts them with GRUB into one sparse
    /// disk image: GPT with the partitions of config/layout.toml, the system in the first slot, the second slot and the
    /// data partition blank. The same parts give the same bytes. No root, loop devices or mounts are needed; GRUB comes
    /// from the Debian packages of image/boot/packages.list, which are downloaded once and not installed.
    ///
    /// Write it to a disk of at least 2 GiB, which loses all that is on it:
    ///
    ///     dd if=dist/mote-x86_64.img of=/dev/DISK bs=4M conv=fsync
    ///
    /// or try it: qemu-system-x86_64 -m 2048 -nographic -drive format=raw,file=dist/mote-x86_64.img
    ///
    /// docs/DISK.md says what is on it.
    #[command(verbatim_doc_comment)]
    Disk(DiskArgs),
    /// Make of the image a signed file with which running machines are updated.
    ///
    /// Takes kernel, initramfs and system from dist/, as `disk` does, and signs what would be in the first slot. Machines
    /// take it that have the key's public half among `update.keys` of their configuration:
    ///
    ///     curl -T dist/mote-x86_64.update http://BOX:8080/system/update
    ///
    /// The same parts, version and key give the same bytes. docs/UPDATES.md says what happens then.
    #[command(verbatim_doc_comment)]
    Update(UpdateArgs),
    /// Make a key that updates are signed with; its public half goes into `update.keys` of machines.
    UpdateKey {
        /// The secret half, a new file that only you can read. The public half is printed, and kept beside it as FILE.pub.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Boot the image and stay; Ctrl-C powers it off.
    Run(RunArgs),
    /// Print how `run` would start QEMU, for programs that start it themselves.
    QemuArgs(QemuArgs),
    /// Make a blank data disk.
    Data {
        /// The file.
        #[arg(long)]
        out: PathBuf,
        /// Its size, such as 512M or 2G; the file is sparse.
        #[arg(long, default_value = "8G", value_parser = disk::parse_size)]
        size: u64,
    },
}

/// Parts that are there already and are not made.
#[derive(Args)]
struct BuildArgs {
    /// Take mote-init, hostd and mote-agent from this folder instead of building them.
    #[arg(long, value_name = "FOLDER")]
    binaries: Option<PathBuf>,
    /// Take the kernels from this folder: bzImage of the appliance, vmlinux of the microVMs.
    #[arg(long, value_name = "FOLDER")]
    kernels: Option<PathBuf>,
    /// Take the root file systems of the microVMs from this folder: NAME.erofs.
    #[arg(long, value_name = "FOLDER")]
    runtimes: Option<PathBuf>,
    /// Take the file system tools from this folder: sbin/, and lib/ if they are not static.
    #[arg(long, value_name = "FOLDER")]
    tools: Option<PathBuf>,
}

#[derive(Args)]
struct MachineArgs {
    /// Data disk; made when it is not there. [default: dist/data.img]
    #[arg(long)]
    data: Option<PathBuf>,
    /// Size in MiB of a data disk that has to be made; the file is sparse.
    #[arg(long, default_value_t = 8192, value_parser = clap::value_parser!(u64).range(64..=64 << 20))]
    data_mib: u64,
    /// Start without a data disk.
    #[arg(long, conflicts_with = "data")]
    no_data: bool,
    /// Begin with a blank data disk: what is on it now is lost.
    #[arg(long)]
    fresh: bool,
    /// Boot this disk instead, which `disk` made and on which everything is; it is written to.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data", "no_data", "fresh", "data_throttle", "append"])]
    disk: Option<PathBuf>,
    /// What looks for a boot loader on that disk.
    #[arg(long, value_enum, default_value = "bios", requires = "disk")]
    firmware: FirmwareArg,
    /// How that disk is attached.
    #[arg(long, value_enum, default_value = "virtio", requires = "disk")]
    bus: BusArg,
    /// Let the data disk be read no faster than this many bytes and requests a second, such as 64M:11400.
    #[arg(long, value_name = "BPS:IOPS")]
    data_throttle: Option<Throttle>,
    /// Port of 127.0.0.1 that leads to the appliance.
    #[arg(long, default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Memory in MiB.
    #[arg(long, visible_alias = "memory-mib", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(128..))]
    mem: u32,
    /// Processors.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    smp: u32,
    /// Added to the kernel command line, such as mote.sandbox.idle_timeout_s=5; may be repeated.
    #[arg(long)]
    append: Vec<String>,
    /// How QEMU runs the processors; by default KVM where it can be nested, else emulation.
    #[arg(long, value_enum)]
    accel: Option<AccelArg>,
    /// End when the appliance reboots.
    #[arg(long)]
    no_reboot: bool,
}

#[derive(Args)]
struct DiskArgs {
    /// The file. [default: dist/mote-x86_64.img]
    #[arg(long)]
    out: Option<PathBuf>,
    /// Becomes mote.toml on the configuration partition.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Make GRUB from this folder (bin/grub-mkimage, bin/grub-script-check, lib/grub/i386-pc, lib/grub/x86_64-efi)
    /// instead of Debian's packages.
    #[arg(long, value_name = "FOLDER", conflicts_with = "no_loader")]
    grub: Option<PathBuf>,
    /// Leave GRUB out: for machines that start kernel and initramfs by other means. Needs no packages.
    #[arg(long)]
    no_loader: bool,
    /// Added to the kernel command line; may be repeated.
    #[arg(long)]
    append: Vec<String>,
    /// For a machine that QEMU emulates with so many processors: its kernel is told what `run` tells it.
    #[arg(long, value_name = "PROCESSORS")]
    emulated: Option<u32>,
}

#[derive(Args)]
struct UpdateArgs {
    /// The secret key, as `update-key` made it.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The file. [default: dist/mote-x86_64.update]
    #[arg(long)]
    out: Option<PathBuf>,
    /// The version that machines know it by. [default: the image's]
    #[arg(long)]
    version: Option<Version>,
    /// Machines with an older version than this one do not take it.
    #[arg(long, value_name = "VERSION", default_value = "0.0.0")]
    replaces: Version,
    /// Added to the kernel command line; may be repeated.
    #[arg(long)]
    append: Vec<String>,
    /// For a machine that QEMU emulates with so many processors: its kernel is told what `run` tells it.
    #[arg(long, value_name = "PROCESSORS")]
    emulated: Option<u32>,
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    machine: MachineArgs,
    /// Where the console goes: stdio (and dist/console.log), or a file.
    #[arg(long, default_value = "stdio")]
    serial: PathBuf,
    /// Socket for QEMU's control protocol.
    #[arg(long)]
    qmp: Option<PathBuf>,
    /// Print the command instead of running it.
    #[arg(long)]
    print_command: bool,
}

#[derive(Args)]
struct QemuArgs {
    #[command(flatten)]
    machine: MachineArgs,
    /// File for the console.
    #[arg(long)]
    serial: PathBuf,
    /// Socket for QEMU's control protocol.
    #[arg(long)]
    qmp: PathBuf,
    /// As a JSON list of arguments, the program first.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum FirmwareArg {
    Bios,
    Uefi,
}

#[derive(Clone, Copy, ValueEnum)]
enum BusArg {
    Virtio,
    Nvme,
    Ahci,
}

#[derive(Clone, Copy, ValueEnum)]
enum AccelArg {
    Kvm,
    Tcg,
}

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;

fn main() -> ExitCode {
    match act(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// The error with its causes, one per line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n  because: {error}");
        cause = error.source();
    }
    text
}

fn act(cli: Cli) -> Outcome {
    let from = match cli.root {
        Some(root) => root,
        None => std::env::current_dir()?,
    };
    let mut project = Project::find(&std::path::absolute(from)?)?;
    if let Some(dist) = cli.dist {
        project = project.with_dist(std::path::absolute(dist)?);
    }
    match cli.command {
        Action::Build(args) => {
            let BuildArgs { binaries, kernels, runtimes, tools } = args;
            build(&project, &Prebuilt { binaries, kernels, runtimes, tools })
        }
        Action::Runtimes { binaries, out } => runtimes(&project, &binaries, &out),
        Action::CheckConfig { wanted, result } => check_config(&wanted, &result),
        Action::Sbom => list_parts(&project),
        Action::Kernels => {
            let kernels = kernel::ensure(&Cache::open()?, &project, &[kernel::GUEST, kernel::HOST])?;
            for kernel in [kernel::GUEST, kernel::HOST] {
                println!("{}", kernels[&kernel].display());
            }
            Ok(())
        }
        Action::Disk(args) => make_disk(&project, &args),
        Action::Update(args) => make_update(&project, &args),
        Action::UpdateKey { out } => make_key(&out),
        Action::Run(args) => run(&project, &args),
        Action::QemuArgs(args) => print_arguments(&project, &args),
        Action::Data { out, size } => Ok(disk::blank_data(&out, size, &seed())?),
    }
}

fn check_config(wanted: &Path, result: &Path) -> Outcome {
    let lost = kernel::defconfig::dropped(&files::read_text(wanted)?, &files::read_text(result)?);
    for symbol in &lost {
        println!("{symbol}");
    }
    if lost.is_empty() {
        return Ok(());
    }
    Err(format!("{} is not honoured by {}", wanted.display(), result.display()).into())
}

fn runtimes(project: &Project, binaries: &Path, out: &Path) -> Outcome {
    for (name, image) in assemble::runtimes(project, &Cache::open()?, &binaries.join("mote-agent"))? {
        let path = out.join(format!("{name}.{}", erofs::EXTENSION));
        files::copy(&image, &path, 0o644)?;
        println!("{}", path.display());
    }
    Ok(())
}

fn build(project: &Project, prebuilt: &Prebuilt) -> Outcome {
    let start = Instant::now();
    let (manifest, new) = assemble::image(project, &Cache::open()?, prebuilt)?;
    let what = if new { "made" } else { "is up to date" };
    say(&format!("image {} ({}) {what} in {}", manifest.version, manifest.build, elapsed(start.elapsed())));
    for file in [project.kernel(), project.initramfs(), project.system_disk()] {
        let size = std::fs::metadata(&file)?.len();
        say(&format!("{:>5} MiB  {}", size.div_ceil(1 << 20), file.display()));
    }
    Ok(())
}

fn make_disk(project: &Project, args: &DiskArgs) -> Outcome {
    let start = Instant::now();
    let manifest = project.image()?;
    let layout = Layout::built_in()?;
    let loader = if args.no_loader {
        None
    } else {
        let list = project.file("image/boot/packages.list");
        let menu = files::read_text(&project.file("image/boot/grub.cfg"))?;
        let script = disk_image::loader::configuration(&layout, &menu)?;
        Some(match &args.grub {
            Some(folder) => disk_image::loader::from_folder(folder, &layout, script)?,
            None => disk_image::loader::ensure(&Cache::open()?, &list, &layout, script)?,
        })
    };
    let append = appended(&args.append, args.emulated);
    let parts = disk_image::parts::Parts {
        layout: &layout,
        project,
        manifest: &manifest,
        config: args.config.as_deref(),
        append: &append,
    };
    let pieces = disk_image::parts::pieces(&parts, loader.as_ref())?;
    let out = args.out.clone().unwrap_or_else(|| project.dist().join("mote-x86_64.img"));
    disk_image::write(&out, &layout, loader.as_ref().map(|loader| &loader.boot_code), &pieces)?;
    let used = std::fs::metadata(&out)?.blocks() * 512;
    say(&format!(
        "disk of {} ({}) made in {}: {} MiB, {} of them used",
        manifest.version,
        manifest.build,
        elapsed(start.elapsed()),
        layout.image_size() >> 20,
        used.div_ceil(1 << 20)
    ));
    println!("{}", out.display());
    Ok(())
}

/// The words behind the kernel command line of a slot.
fn appended(append: &[String], emulated: Option<u32>) -> Vec<String> {
    let emulated = emulated.map(|processors| Accelerator::Tcg.kernel_options(processors));
    append.iter().cloned().chain(emulated.into_iter().flatten()).collect()
}

fn make_update(project: &Project, args: &UpdateArgs) -> Outcome {
    let start = Instant::now();
    let key = SecretKey::load(&args.key)?;
    let manifest = project.image()?;
    let layout = Layout::built_in()?;
    let version = match args.version {
        Some(version) => version,
        None => manifest.version.parse()?,
    };
    let append = appended(&args.append, args.emulated);
    let parts = disk_image::parts::Parts {
        layout: &layout,
        project,
        manifest: &manifest,
        config: None,
        append: &append,
    };
    let built = assemble::commit_time(project).and_then(|time| u64::try_from(time).ok()).unwrap_or_default();
    let wish = update::Wish { version, replaces: args.replaces, built };
    let out = args.out.clone().unwrap_or_else(|| project.dist().join("mote-x86_64.update"));
    let made = update::make(&out, &parts, &wish, &key)?;
    say(&format!(
        "update to {version} ({}) made in {}: {} MiB, signed by {}",
        manifest.build,
        elapsed(start.elapsed()),
        made.size.div_ceil(1 << 20),
        key.public().id()
    ));
    println!("{}", out.display());
    Ok(())
}

fn make_key(out: &Path) -> Outcome {
    let key = SecretKey::generate()?;
    key.save(out)?;
    let mut beside = out.as_os_str().to_owned();
    beside.push(".pub");
    files::write(Path::new(&beside), format!("{}\n", key.public()))?;
    println!("{}", key.public());
    Ok(())
}

fn run(project: &Project, args: &RunArgs) -> Outcome {
    let image = project.image()?;
    let folder = tempfile::Builder::new().prefix("mote-").tempdir()?;
    // Short, because the path of a socket may have 107 bytes at most.
    let socket = args.qmp.clone().unwrap_or_else(|| folder.path().join("qmp"));
    let serial = if args.serial == Path::new("stdio") {
        Serial::Stdio(project.dist().join("console.log"))
    } else {
        Serial::File(args.serial.clone())
    };
    let (machine, why) = machine(project, &image, &args.machine, serial, &socket)?;
    if args.print_command {
        println!("{}", qemu::quoted(&machine.command()));
        return Ok(());
    }
    qemu::run::check_port(machine.port)?;
    prepare_data(&args.machine, machine.data.as_deref())?;
    say(&format!(
        "Mote {} ({}), {} MiB, {} processors, {why}",
        image.version, image.build, args.machine.mem, args.machine.smp
    ));
    Ok(qemu::run::run(&machine, &socket)?)
}

fn print_arguments(project: &Project, args: &QemuArgs) -> Outcome {
    let image = project.image()?;
    let serial = Serial::File(std::path::absolute(&args.serial)?);
    let socket = std::path::absolute(&args.qmp)?;
    let (machine, _) = machine(project, &image, &args.machine, serial, &socket)?;
    prepare_data(&args.machine, machine.data.as_deref())?;
    let command = machine.command();
    if args.json {
        println!("{}", json!(command));
    } else {
        println!("{}", qemu::quoted(&command));
    }
    Ok(())
}

fn machine(
    project: &Project,
    image: &Manifest,
    args: &MachineArgs,
    serial: Serial,
    socket: &Path,
) -> Result<(Machine, String), Box<dyn Error + Send + Sync>> {
    let (accelerator, why) = match args.accel {
        Some(AccelArg::Kvm) => (Accelerator::Kvm, "by KVM, as asked".to_owned()),
        Some(AccelArg::Tcg) => (Accelerator::Tcg, "emulated, as asked".to_owned()),
        None => Accelerator::choose(),
    };
    let boot_disk = match &args.disk {
        None => None,
        Some(path) => Some(BootDisk {
            image: std::path::absolute(path)?,
            firmware: match args.firmware {
                FirmwareArg::Bios => Firmware::Bios,
                FirmwareArg::Uefi => Firmware::Uefi,
            },
            bus: match args.bus {
                BusArg::Virtio => Bus::Virtio,
                BusArg::Nvme => Bus::Nvme,
                BusArg::Ahci => Bus::Ahci,
            },
        }),
    };
    let data = match (&args.data, args.no_data || boot_disk.is_some()) {
        (_, true) => None,
        (Some(path), _) => Some(std::path::absolute(path)?),
        (None, _) => Some(project.data_disk()),
    };
    let machine = Machine {
        accelerator,
        memory_mib: args.mem,
        cpus: args.smp,
        kernel: project.kernel(),
        initramfs: project.initramfs(),
        cmdline: image.cmdline.clone(),
        append: args.append.clone(),
        system: project.system_disk(),
        data,
        boot_disk,
        data_throttle: args.data_throttle,
        port: args.port,
        serial,
        qmp: Some(socket.to_path_buf()),
        no_reboot: args.no_reboot,
    };
    Ok((machine, why))
}

/// Makes the data disk when there is none, or when a blank one is asked for.
fn prepare_data(args: &MachineArgs, data: Option<&Path>) -> Outcome {
    let Some(path) = data else { return Ok(()) };
    if args.fresh || !path.exists() {
        if let Some(parent) = path.parent() {
            files::create_dir(parent)?;
        }
        // A machine that still runs from the older disk keeps it to itself.
        files::replace(path, |blank| disk::blank_data(blank, args.data_mib << 20, &seed()))?;
    }
    Ok(())
}

fn list_parts(project: &Project) -> Outcome {
    let start = Instant::now();
    let made = mote_image::sbom::make(project, &Cache::open()?)?;
    let what = if made.new { "made" } else { "is up to date" };
    say(&format!("list of parts {what} in {}", elapsed(start.elapsed())));
    for path in [made.document, made.licences] {
        say(&format!("           {}", path.display()));
    }
    Ok(())
}

/// Something no other disk was made with.
fn seed() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{}-{}", now.as_nanos(), std::process::id())
}
