//! Read-only file systems. The same tree gives the same bytes: owner, times and UUID are fixed.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::process::{self, RunError};

const LIMIT: Duration = Duration::from_secs(10 * 60);

/// Time of every file, in seconds since 1970 (2026-01-01): what is in an image has no history.
pub const TIMESTAMP: u32 = 1_767_225_600;

/// What the names of images end with.
pub const EXTENSION: &str = "erofs";

/// How the content is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As it is: pages come straight from the disk or the page cache below.
    None,
    /// lz4hc: about half the size, quick to read.
    Lz4,
}

/// Makes an image of `tree`.
///
/// # Errors
/// When `mkfs.erofs` is missing or fails.
pub fn make(tree: &Path, image: &Path, uuid: &str, compression: Compression) -> Result<(), RunError> {
    let mut command = Command::new("mkfs.erofs");
    command.args(["--quiet", "--all-root", "-x-1"]).arg(format!("-T{TIMESTAMP}")).arg(format!("-U{uuid}"));
    match compression {
        Compression::None => {}
        Compression::Lz4 => {
            command.args(["-zlz4hc,9", "-C65536"]);
        }
    }
    command.arg(image).arg(tree);
    process::run(&mut command, LIMIT).map(|_| ())
}
