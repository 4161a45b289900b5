//! Puts everything together: kernels, our binaries, runtimes and tools become `dist/`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mote_update::version::Version;
use thiserror::Error;

use crate::cache::{Cache, CacheError, Key};
use crate::disk::{self, DiskError};
use crate::erofs::{self, Compression};
use crate::files::{self, FileError};
use crate::initramfs;
use crate::kernel::{self, KernelError};
use crate::prebuilt::{self, Prebuilt};
use crate::process::{self, RunError};
use crate::progress::say;
use crate::project::{Manifest, Project};
use crate::runtime::{self, RuntimeError};
use crate::tools::{self, ToolsError};

/// Changes whenever this file assembles something else from the same parts.
const RECIPE: &str = "1";

const GIT_LIMIT: Duration = Duration::from_secs(30);

/// Target of every binary, as `.cargo/config.toml` sets it.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Our binaries: package and binary name.
const BINARIES: [(&str, &str); 3] =
    [("mote-init", "mote-init"), ("hostd", "hostd"), ("mote-agent", "mote-agent")];

/// Why there is no image.
#[derive(Debug, Error)]
pub enum AssembleError {
    /// The built-in configuration is wrong.
    #[error("{0}")]
    Configuration(String),
    /// A kernel is missing.
    #[error("No kernel")]
    Kernel(#[from] KernelError),
    /// A runtime is missing.
    #[error("No runtime image")]
    Runtime(#[from] RuntimeError),
    /// The tools are missing.
    #[error("No file system tools")]
    Tools(#[from] ToolsError),
    /// A disk image cannot be made.
    #[error("No disk image")]
    Disk(#[from] DiskError),
    /// cargo could not be run.
    #[error("Cannot run cargo")]
    Cargo(#[source] io::Error),
    /// cargo failed; it said why on the terminal.
    #[error("Building the binaries failed: see above")]
    Build,
    /// The system file system cannot be made.
    #[error("Cannot make the system file system")]
    Erofs(#[source] RunError),
    /// The manifest cannot be written.
    #[error("Cannot write the manifest")]
    Manifest(#[from] serde_json::Error),
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A file of the system image: where it comes from, where it goes below `/system`, its permissions.
type Part = (PathBuf, String, u32);

/// Makes the image, or leaves it when nothing changed. Gives its manifest and whether it is new. What is in `prebuilt`
/// is taken from there instead of being made.
///
/// # Errors
/// When any part cannot be made.
pub fn image(
    project: &Project,
    cache: &Cache,
    prebuilt: &Prebuilt,
) -> Result<(Manifest, bool), AssembleError> {
    let mistakes = mote_config::check_built_in(&files::read_text(&project.file("config/mote.toml"))?);
    if !mistakes.is_empty() {
        return Err(AssembleError::Configuration(mistakes.join("\n")));
    }
    // First, because it is what a developer breaks.
    let folder = match &prebuilt.binaries {
        Some(folder) => folder.clone(),
        None => binaries(project)?,
    };
    let [init, hostd, agent] = &BINARIES.map(|(_, binary)| folder.join(binary));
    let wanted = [kernel::GUEST, kernel::HOST];
    let kernels = match &prebuilt.kernels {
        Some(folder) => kernel::from_folder(folder, &wanted)?,
        None => kernel::ensure(cache, project, &wanted)?,
    };

    let mut parts: Vec<Part> = vec![
        (hostd.clone(), "bin/hostd".into(), 0o755),
        (kernels[&kernel::GUEST].clone(), "guest/vmlinux".into(), 0o644),
        (project.file("config/mote.toml"), "config/mote.toml".into(), 0o644),
    ];
    let runtimes = match &prebuilt.runtimes {
        Some(folder) => prebuilt::runtimes(folder)?,
        None => runtimes(project, cache, agent)?,
    };
    for (name, image) in runtimes {
        parts.push((image, format!("runtimes/{name}.{}", erofs::EXTENSION), 0o644));
    }
    let tools = match &prebuilt.tools {
        Some(folder) => tools::from_folder(folder)?,
        None => tools::ensure(cache, &project.file("image/tools/packages.list"))?,
    };
    for folder in ["sbin", "lib"] {
        let from = tools.join(folder);
        if from.is_dir() {
            parts.extend(folder_parts(&from, folder)?);
        }
    }
    finish(project, cache, &kernels[&kernel::HOST], init, &parts)
}

/// Makes the root file systems of all runtimes, with `agent` in them; names and files, by name.
///
/// # Errors
/// When one cannot be made.
pub fn runtimes(
    project: &Project,
    cache: &Cache,
    agent: &Path,
) -> Result<Vec<(String, PathBuf)>, RuntimeError> {
    let mut made = Vec::new();
    for runtime in runtime::all(&project.file("image/runtimes"))? {
        made.push((runtime.name.clone(), runtime.image(cache, agent)?));
    }
    Ok(made)
}

fn finish(
    project: &Project,
    cache: &Cache,
    kernel: &Path,
    init: &Path,
    parts: &[Part],
) -> Result<(Manifest, bool), AssembleError> {
    let build = build_id(project);
    let cmdline = files::read_text(&project.file("config/cmdline"))?.trim().to_owned();
    let oldest = oldest(&files::read_text(&project.file("config/oldest"))?)?;
    let mut key = Key::new().with("recipe", RECIPE).with("build", &build).with("cmdline", &cmdline);
    key = key.with("oldest", oldest.to_string());
    for (path, name, _) in parts {
        key = key.with(name, files::sha256(path)?);
    }
    key = key.with("kernel", files::sha256(kernel)?).with("init", files::sha256(init)?);
    let manifest =
        Manifest { version: env!("CARGO_PKG_VERSION").to_owned(), build, cmdline, inputs: key.hex() };

    // Two runs in one checkout must not write into each other's image.
    let _lock = cache.lock(&format!(
        "dist-{}",
        Key::new().with("root", project.root().as_os_str().as_encoded_bytes()).short()
    ))?;
    if project.image().ok().as_ref() == Some(&manifest) {
        return Ok((manifest, false));
    }
    let work = project.dist().join("work");
    files::remove(&project.manifest_path())?;
    files::remove(&work)?;
    let system = work.join("system");
    for (path, name, mode) in parts {
        files::copy(path, &system.join(name), *mode)?;
    }
    files::write(
        &system.join("version"),
        format!(
            "version = \"{}\"\nbuild = \"{}\"\n# Once this one is good, older ones than this are not installed any more.\n\
             oldest = \"{oldest}\"\n# Of everything in this image: what a snapshot is tied to.\ninputs = \"{}\"\n",
            manifest.version, manifest.build, manifest.inputs
        ),
    )?;

    // Not compressed: the big files are so already, or are mapped into memory over and over.
    let (fs, disk) = (work.join("system.erofs"), work.join("system.img"));
    let hex = key.hex();
    let uuid = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32]].join("-");
    erofs::make(&system, &fs, &uuid, Compression::None).map_err(AssembleError::Erofs)?;
    disk::with_content(&disk, disk::SYSTEM, &fs, &hex)?;
    let archive = work.join("initramfs.cpio");
    initramfs::make(init, &archive)?;
    files::copy(kernel, &work.join("bzImage"), 0o644)?;

    // By rename: a machine that runs from the older image keeps its files.
    files::rename(&disk, &project.system_disk())?;
    files::rename(&archive, &project.initramfs())?;
    files::rename(&work.join("bzImage"), &project.kernel())?;
    files::remove(&work)?;
    files::write(&project.manifest_path(), serde_json::to_string_pretty(&manifest)?)?;
    Ok((manifest, true))
}

/// The oldest version that may be installed once this one is good: the line of `config/oldest` that is no comment.
fn oldest(text: &str) -> Result<Version, AssembleError> {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    let oldest = line.unwrap_or_default().parse::<Version>();
    oldest.map_err(|error| AssembleError::Configuration(format!("config/oldest: {error}")))
}

/// Builds our binaries; cargo shows its own progress.
fn binaries(project: &Project) -> Result<PathBuf, AssembleError> {
    say("Building mote-init, hostd and mote-agent …");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| project.file("target"), PathBuf::from);
    let folder = project.root().join(target).join(TARGET).join("release");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--target", TARGET]).current_dir(project.root());
    for (package, _) in BINARIES {
        command.args(["-p", package]);
    }
    if BINARIES.iter().all(|(_, binary)| folder.join(binary).is_file()) {
        command.arg("--quiet");
    }
    if !command.status().map_err(AssembleError::Cargo)?.success() {
        return Err(AssembleError::Build);
    }
    Ok(folder)
}

/// What git calls this state of the sources; a tarball has no history.
pub(crate) fn build_id(project: &Project) -> String {
    let mut command = Command::new("git");
    command.arg("-C").arg(project.root()).args(["describe", "--always", "--dirty", "--abbrev=12"]);
    process::run(&mut command, GIT_LIMIT).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// Date of the commit, in seconds since 1970.
pub fn commit_time(project: &Project) -> Option<i64> {
    let mut command = Command::new("git");
    command.arg("-C").arg(project.root()).args(["log", "-1", "--format=%ct"]);
    process::run(&mut command, GIT_LIMIT).ok()?.trim().parse().ok()
}

fn folder_parts(folder: &Path, below: &str) -> Result<Vec<Part>, FileError> {
    use std::os::unix::fs::PermissionsExt;
    let failed = |source| FileError { action: "read folder", path: folder.to_path_buf(), source };
    let mut parts = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let mode = entry.metadata().map_err(failed)?.permissions().mode() & 0o777;
        parts.push((entry.path(), format!("{below}/{}", entry.file_name().to_string_lossy()), mode));
    }
    parts.sort();
    Ok(parts)
}
