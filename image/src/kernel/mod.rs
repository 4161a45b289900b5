//! Builds the kernels from Debian's source package, once per configuration.

pub mod defconfig;
pub mod patches;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use thiserror::Error;

use crate::cache::{Cache, CacheError, Key};
use crate::debian::{self, DebianError};
use crate::elf::{self, ElfError};
use crate::files::{self, FileError};
use crate::process::{self, RunError};
use crate::progress::Progress;
use crate::project::Project;

use patches::PatchError;

/// Debian's package with the kernel source, and what it installs.
pub const SOURCE_PACKAGE: &str = "linux-source-6.12";
const SOURCE_ARCHIVE: &str = "/usr/src/linux-source-6.12.tar.xz";
const SOURCE_FOLDER: &str = "linux-source-6.12";

/// Changes whenever this file builds differently, so that cached kernels of the older recipe are not used.
const RECIPE: &str = "1";

/// Longest times of the steps; a kernel takes minutes on two cores, ten times that is broken.
const UNPACK_LIMIT: Duration = Duration::from_secs(15 * 60);
const CONFIGURE_LIMIT: Duration = Duration::from_secs(10 * 60);
const BUILD_LIMIT: Duration = Duration::from_secs(90 * 60);

/// Fixed so that the same source gives the same kernel.
const ENVIRONMENT: [(&str, &str); 5] = [
    ("KBUILD_BUILD_USER", "mote"),
    ("KBUILD_BUILD_HOST", "mote"),
    ("KBUILD_BUILD_TIMESTAMP", "2026-01-01"),
    ("KBUILD_BUILD_VERSION", "1"),
    ("LC_ALL", "C"),
];

/// What `make` hands to its children: ours must not join the jobs of the one that may have started us.
const NOT_INHERITED: [&str; 5] = ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "GNUMAKEFLAGS"];

/// Why there is no kernel.
#[derive(Debug, Error)]
pub enum KernelError {
    /// The source package is not installed.
    #[error("The kernel source {0} is missing: run `make setup`, or apt-get install {SOURCE_PACKAGE}")]
    NoSource(&'static str),
    /// It should be there already, and is not.
    #[error("There is no kernel {0}")]
    Missing(PathBuf),
    /// The configuration would build something else than asked for.
    #[error("{defconfig} is not honoured by this kernel source:\n{symbols}")]
    Dropped {
        /// The configuration file.
        defconfig: PathBuf,
        /// One dropped symbol per line.
        symbols: String,
    },
    /// The built kernel is not bootable by our monitor.
    #[error("The built {0} kernel cannot be used")]
    Elf(&'static str, #[source] ElfError),
    /// A tool failed; what it said in full is in the log.
    #[error("Building the {kernel} kernel failed; the log is {log}")]
    Build {
        /// Which kernel.
        kernel: &'static str,
        /// Everything the build said.
        log: PathBuf,
        /// How it failed.
        source: RunError,
    },
    /// The source could not be unpacked.
    #[error("Cannot unpack {SOURCE_ARCHIVE}")]
    Unpack(#[source] RunError),
    /// The source could not be changed as wanted.
    #[error(transparent)]
    Patch(#[from] PatchError),
    /// The version of the source package is unknown.
    #[error("The version of {SOURCE_PACKAGE} is unknown")]
    Version(#[from] DebianError),
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// One of the kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// Short name: its configuration is `config/kernel/NAME.defconfig`.
    pub name: &'static str,
    /// Make target, and where its result is below the build folder.
    target: &'static str,
    result: &'static str,
    /// File name in the cache entry.
    file: &'static str,
    /// About how many lines the build prints, for the progress line.
    steps: usize,
}

impl Kernel {
    fn kind(&self) -> String {
        format!("{}-kernel", self.name)
    }
}

/// The kernel of the microVMs: an uncompressed ELF file, entered through its PVH note.
pub const GUEST: Kernel =
    Kernel { name: "guest", target: "vmlinux", result: "vmlinux", file: "vmlinux", steps: 1800 };

/// The kernel of the appliance.
pub const HOST: Kernel =
    Kernel { name: "host", target: "bzImage", result: "arch/x86/boot/bzImage", file: "bzImage", steps: 2550 };

/// Gives the paths of the kernels, building what the cache does not have.
///
/// # Errors
/// When the source is missing, the configuration is not honoured or the build fails.
pub fn ensure(
    cache: &Cache,
    project: &Project,
    kernels: &[Kernel],
) -> Result<HashMap<Kernel, PathBuf>, KernelError> {
    if !Path::new(SOURCE_ARCHIVE).is_file() {
        return Err(KernelError::NoSource(SOURCE_ARCHIVE));
    }
    let version = debian::installed_version(SOURCE_PACKAGE)?;
    let mut paths = HashMap::new();
    let mut missing = Vec::new();
    for kernel in kernels {
        let entry = cache.entry(&kernel.kind(), &key(project, kernel, &version)?);
        if !entry.is_dir() {
            missing.push(kernel);
        }
        paths.insert(*kernel, entry.join(kernel.file));
    }
    if missing.is_empty() {
        return Ok(paths);
    }
    // One lock around all: the unpacked source, 1.5 GB, goes away afterwards.
    let _lock = cache.lock("kernels")?;
    let work = cache.folder("tmp")?.join("kernels");
    for kernel in missing {
        let key = key(project, kernel, &version)?;
        cache.get_or_make(&kernel.kind(), &key, |out| {
            files::remove(&work)?;
            unpack(&work)?;
            patches::apply(&patches_of(project, kernel)?, &work.join(SOURCE_FOLDER))?;
            build(project, kernel, &work, out)
        })?;
    }
    files::remove(&work)?;
    Ok(paths)
}

/// Gives the paths of kernels that are in `folder` already.
///
/// # Errors
/// When one is not there, or the guest's is none that our monitor can boot.
pub fn from_folder(folder: &Path, kernels: &[Kernel]) -> Result<HashMap<Kernel, PathBuf>, KernelError> {
    let mut paths = HashMap::new();
    for kernel in kernels {
        let path = folder.join(kernel.file);
        if !path.is_file() {
            return Err(KernelError::Missing(path));
        }
        if *kernel == GUEST {
            elf::pvh_entry(&path).map_err(|source| KernelError::Elf(kernel.name, source))?;
        }
        paths.insert(*kernel, path);
    }
    Ok(paths)
}

fn key(project: &Project, kernel: &Kernel, version: &str) -> Result<Key, KernelError> {
    let defconfig = files::read_text(&project.file(&defconfig_path(kernel)))?;
    let key = Key::new().with("recipe", RECIPE).with("source", version).with("defconfig", defconfig);
    Ok(patches_of(project, kernel)?.into_iter().fold(key, |key, (_, text)| key.with("patch", text)))
}

fn patches_of(project: &Project, kernel: &Kernel) -> Result<Vec<(PathBuf, String)>, PatchError> {
    patches::of(&project.file(&format!("config/kernel/{}.patches", kernel.name)))
}

fn defconfig_path(kernel: &Kernel) -> String {
    format!("config/kernel/{}.defconfig", kernel.name)
}

fn unpack(work: &Path) -> Result<(), KernelError> {
    files::create_dir(work)?;
    let progress = Progress::start(&format!("Unpacking {SOURCE_ARCHIVE}"));
    let mut command = Command::new("tar");
    command.args(["-xJf", SOURCE_ARCHIVE, "--no-same-owner", "-C"]).arg(work);
    process::run(&mut command, UNPACK_LIMIT).map_err(KernelError::Unpack)?;
    progress.done();
    Ok(())
}

fn build(project: &Project, kernel: &Kernel, work: &Path, out: &Path) -> Result<(), KernelError> {
    let objects = work.join(format!("{}-objects", kernel.name));
    files::create_dir(&objects)?;
    let log = work.join(format!("{}.log", kernel.name));
    let failed = |source| KernelError::Build { kernel: kernel.name, log: log.clone(), source };
    let make = |target: &str, jobs: usize| {
        let mut command = Command::new("make");
        command.arg("-C").arg(work.join(SOURCE_FOLDER)).arg(format!("O={}", objects.display()));
        command.args(["ARCH=x86_64", &format!("-j{jobs}"), target]).envs(ENVIRONMENT);
        for name in NOT_INHERITED {
            command.env_remove(name);
        }
        command
    };

    let defconfig = project.file(&defconfig_path(kernel));
    files::copy(&defconfig, &objects.join(".config"), 0o644)?;
    process::run_logged(&mut make("olddefconfig", 1), &log, CONFIGURE_LIMIT, &mut || ()).map_err(failed)?;
    let config = files::read_text(&objects.join(".config"))?;
    let dropped = defconfig::dropped(&files::read_text(&defconfig)?, &config);
    if !dropped.is_empty() {
        let symbols = dropped.iter().map(|symbol| format!("  {symbol}")).collect::<Vec<_>>().join("\n");
        return Err(KernelError::Dropped { defconfig, symbols });
    }

    let jobs = std::thread::available_parallelism().map_or(2, |n| n.get());
    let mut progress = Progress::start(&format!("Building the {} kernel", kernel.name));
    let mut count = || progress.at(lines(&log), kernel.steps);
    process::run_logged(&mut make(kernel.target, jobs), &log, BUILD_LIMIT, &mut count).map_err(failed)?;

    let result = out.join(kernel.file);
    files::copy(&objects.join(kernel.result), &result, 0o644)?;
    if kernel.file == GUEST.file {
        process::run(Command::new("strip").arg("-s").arg(&result), CONFIGURE_LIMIT).map_err(failed)?;
        // Without this note the monitor has no way in: better found here than at the first boot.
        elf::pvh_entry(&result).map_err(|source| KernelError::Elf(kernel.name, source))?;
    }
    files::write(&out.join("config"), config)?;
    files::remove(&objects)?;
    progress.done();
    Ok(())
}

fn lines(log: &Path) -> usize {
    fs::read(log).map_or(0, |text| text.split(|byte| *byte == b'\n').count())
}
