//! Where the monitor is.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Outcome;

const NAME: &str = "mote-monitor";

/// The monitor to measure: the given one, or the one beside this program. Under cargo that one is built first: `cargo
/// run` builds this program only, and nobody wants the figures of last week's monitor.
pub fn monitor(given: Option<&Path>) -> Outcome<PathBuf> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    let here = std::env::current_exe()?;
    let path = here.with_file_name(NAME);
    if let (Some(cargo), Some(folder)) = (std::env::var_os("CARGO"), std::env::var_os("CARGO_MANIFEST_DIR")) {
        let debug = here.parent().is_some_and(|folder| folder.ends_with("debug"));
        let profile = if debug { "dev" } else { "release" };
        let built = Command::new(cargo)
            .args(["build", "--quiet", "--package", NAME, "--bin", NAME, "--profile", profile])
            .current_dir(folder)
            .status()?;
        if !built.success() {
            return Err(format!("Cannot build {NAME}: {built}").into());
        }
    }
    if path.exists() { Ok(path) } else { Err(format!("There is no {}", path.display()).into()) }
}
