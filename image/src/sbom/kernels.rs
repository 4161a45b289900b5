//! The kernels, and Rust's standard library: parts that no package list has.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::part::{Kind, Licence, Part, Text, address};
use super::{SbomError, licence, packages};
use crate::files;
use crate::kernel::{self, patches};
use crate::process;
use crate::project::Project;

const LIMIT: Duration = Duration::from_secs(60);

/// What the kernel's own COPYING says.
const KERNEL_LICENCE: &str = "GPL-2.0-only WITH Linux-syscall-note";

/// What the standard library's manifest says.
const STANDARD_LICENCE: &str = "MIT OR Apache-2.0";

/// Where the toolchain has the licences of what the standard library is made of.
const STANDARD_TEXT: &str = "share/doc/rust/COPYRIGHT-library.html";

/// Both kernels with their configurations and patches.
///
/// # Errors
/// When the source package is not installed or a file cannot be read.
pub fn kernels(project: &Project) -> Result<Vec<Part>, SbomError> {
    let source = packages::installed(Kind::Kernel, kernel::SOURCE_PACKAGE)?;
    let mut parts = Vec::new();
    for (name, place) in [(kernel::GUEST.name, "microVM"), (kernel::HOST.name, "boot")] {
        let mut part = source.clone();
        part.id = format!("kernel-{name}");
        part.name = format!("linux-{name}");
        part.licence = Licence::Expression(KERNEL_LICENCE.to_owned());
        part.places.insert(place.to_owned());
        let config = project.file(&format!("config/kernel/{name}.defconfig"));
        part.config = Some(Text::new(format!("{name}.defconfig"), &files::read_text(&config)?));
        for (path, text) in patches::of(&project.file(&format!("config/kernel/{name}.patches")))? {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // As it is: a patch has its own line ends.
            part.patches.push(Text { title: format!("{name}.patches/{file}"), text });
        }
        parts.push(part);
    }
    Ok(parts)
}

/// The compiler that is used here, in full.
///
/// # Errors
/// When it cannot be run.
pub fn compiler(project: &Project) -> Result<String, SbomError> {
    rustc(project, &["-vV"])
}

/// Rust's standard library, which is in every binary.
///
/// # Errors
/// When the compiler cannot be run or its licence text not be read.
pub fn standard(project: &Project) -> Result<Part, SbomError> {
    let said = compiler(project)?;
    let version = said.lines().find_map(|line| line.strip_prefix("release: ")).unwrap_or("unknown");
    let mut part =
        Part::new(Kind::Standard, "rust-std", version, address("generic", None, "rust-std", version, &[])?);
    part.places.insert("in every binary".to_owned());
    part.texts = licence::standard_texts(STANDARD_LICENCE);
    part.licence = Licence::Expression(STANDARD_LICENCE.to_owned());
    let text = Path::new(rustc(project, &["--print", "sysroot"])?.trim()).join(STANDARD_TEXT);
    if text.is_file() {
        part.texts.push(Text::new("COPYRIGHT-library.html", &files::read_text(&text)?));
    }
    Ok(part)
}

fn rustc(project: &Project, arguments: &[&str]) -> Result<String, SbomError> {
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.args(arguments).current_dir(project.root());
    process::run(&mut command, LIMIT).map_err(SbomError::Cargo)
}
