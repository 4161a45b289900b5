//! The file system tools of the appliance: Debian's programs with their libraries and loader, run as
//! `/system/lib/ld-linux-x86-64.so.2 --library-path /system/lib /system/sbin/PROGRAM`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use thiserror::Error;

use crate::cache::{Cache, CacheError, Key};
use crate::debian::{self, DebianError};
use crate::files::{self, FileError};
use crate::process::{self, RunError};

const RECIPE: &str = "1";
const LIMIT: Duration = Duration::from_secs(30);

/// Name of the dynamic loader below `lib/`.
pub const LOADER: &str = "ld-linux-x86-64.so.2";

/// Programs: where the packages have them, and their names below `sbin/`.
const PROGRAMS: [(&str, &str); 3] =
    [("sbin/mke2fs", "mkfs.ext4"), ("sbin/e2fsck", "e2fsck"), ("sbin/resize2fs", "resize2fs")];

/// Why the tools cannot be made.
#[derive(Debug, Error)]
pub enum ToolsError {
    /// A folder that should have all of them misses one.
    #[error("There is no program {0}")]
    Missing(PathBuf),
    /// A program needs a library that no listed package has.
    #[error("{program} needs {library}, which no package of image/tools/packages.list has")]
    Library {
        /// The program.
        program: &'static str,
        /// The library.
        library: String,
    },
    /// A program does not run.
    #[error("A file system tool does not run")]
    Run(#[from] RunError),
    /// The Debian packages cannot be had.
    #[error(transparent)]
    Debian(#[from] DebianError),
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Gives a folder with `sbin/` and `lib/`.
///
/// # Errors
/// When a package cannot be had or a program would miss a library.
pub fn ensure(cache: &Cache, list: &Path) -> Result<PathBuf, ToolsError> {
    let packages = debian::fetch(cache, &debian::read_list(list)?)?;
    let key = debian::key(Key::new().with("recipe", RECIPE), &packages);
    Ok(cache.get_or_make("tools", &key, |out| {
        let tree = out.join("unpacked");
        debian::unpack(&packages, &tree, &["./usr/share".to_owned()])?;
        collect(&tree, out)?;
        files::remove(&tree)?;
        Ok::<(), ToolsError>(())
    })?)
}

/// Gives `folder` back if it has all programs in `sbin/`.
///
/// # Errors
/// Names the first that is missing.
pub fn from_folder(folder: &Path) -> Result<PathBuf, ToolsError> {
    for (_, name) in PROGRAMS {
        let path = folder.join("sbin").join(name);
        if !path.is_file() {
            return Err(ToolsError::Missing(path));
        }
    }
    Ok(folder.to_path_buf())
}

fn collect(tree: &Path, out: &Path) -> Result<(), ToolsError> {
    let loader = tree.join("lib64").join(LOADER);
    let libraries = tree.join("usr/lib/x86_64-linux-gnu");
    files::copy(&loader, &out.join("lib").join(LOADER), 0o755)?;
    for (path, name) in PROGRAMS {
        let mut command = Command::new(&loader);
        command.arg("--library-path").arg(&libraries).arg("--list").arg(tree.join(path)).env_clear();
        for (library, found) in needed(&process::run(&mut command, LIMIT)?) {
            // A library of the building machine would be missing, or another one, in the appliance.
            let found = found.filter(|found| Path::new(found).starts_with(tree));
            let found =
                found.ok_or_else(|| ToolsError::Library { program: name, library: library.clone() })?;
            files::copy(Path::new(&found), &out.join("lib").join(&library), 0o644)?;
        }
        files::copy(&tree.join(path), &out.join("sbin").join(name), 0o755)?;
    }
    Ok(())
}

/// Libraries of the loader's `--list`: name, and path when it was found.
fn needed(list: &str) -> Vec<(String, Option<String>)> {
    list.lines()
        .filter_map(|line| line.trim().split_once(" => "))
        .map(|(name, found)| {
            let path = found.split(" (0x").next().unwrap_or_default().trim();
            (name.to_owned(), path.starts_with('/').then(|| path.to_owned()))
        })
        .filter(|(name, _)| !name.contains('/'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_all_or_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (_, name) in PROGRAMS {
            let error = from_folder(dir.path()).unwrap_err().to_string();
            assert!(error.ends_with(&format!("sbin/{name}")), "{error}");
            files::write(&dir.path().join("sbin").join(name), "").unwrap();
        }
        assert_eq!(from_folder(dir.path()).unwrap(), dir.path());
    }

    #[test]
    fn the_loaders_list_is_understood() {
        let list = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibext2fs.so.2 => /t/lib/libext2fs.so.2 (0x00007f)\n\
                    \tlibgone.so.1 => not found\n\t/lib64/ld-linux-x86-64.so.2 => /t/lib64/ld (0x0)\n";
        assert_eq!(
            needed(list),
            [
                ("libext2fs.so.2".to_owned(), Some("/t/lib/libext2fs.so.2".to_owned())),
                ("libgone.so.1".to_owned(), None),
            ]
        );
    }
}
