//! Changes to a kernel's source, `config/kernel/NAME.patches/*.patch`, applied in the order of their names.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use thiserror::Error;

use crate::files::{self, FileError};
use crate::process::{self, RunError};

const LIMIT: Duration = Duration::from_secs(60);

/// Why the changes are not in the source.
#[derive(Debug, Error)]
pub enum PatchError {
    /// The folder is there and cannot be read.
    #[error("Cannot list {folder}")]
    List {
        /// The folder with the patches.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A patch cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A patch does not fit this version of the source.
    #[error(
        "{patch} does not apply to this kernel source: adapt it, or remove it if the kernel has the change"
    )]
    Apply {
        /// The patch.
        patch: PathBuf,
        /// What `patch` said.
        source: RunError,
    },
}

/// The patches in `folder`, in the order in which they apply, each with its text. No folder is no patches.
///
/// # Errors
/// When the folder or a patch cannot be read.
pub fn of(folder: &Path) -> Result<Vec<(PathBuf, String)>, PatchError> {
    let listing = match fs::read_dir(folder) {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(PatchError::List { folder: folder.to_path_buf(), source }),
    };
    let mut paths = listing
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| PatchError::List { folder: folder.to_path_buf(), source })?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "patch"));
    paths.sort();
    paths.into_iter().map(|path| Ok((path.clone(), files::read_text(&path)?))).collect()
}

/// Applies the patches to the source tree. Lines may have moved, their surroundings must be as the patch knows them.
///
/// # Errors
/// [`PatchError::Apply`] names the first that does not fit.
pub fn apply(patches: &[(PathBuf, String)], source: &Path) -> Result<(), PatchError> {
    for (patch, _) in patches {
        let mut command = Command::new("patch");
        command
            .args(["--strip=1", "--forward", "--fuzz=0", "--batch", "--directory"])
            .arg(source)
            .arg("--input")
            .arg(patch);
        process::run(&mut command, LIMIT)
            .map_err(|source| PatchError::Apply { patch: patch.clone(), source })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATCH: &str = "Why.\n\n--- a/file\n+++ b/file\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n";

    #[test]
    fn patches_apply_in_the_order_of_their_names_and_only_where_they_fit() {
        let folder = tempfile::tempdir().unwrap();
        let (patches, source) = (folder.path().join("patches"), folder.path().join("source"));
        assert!(of(&patches).unwrap().is_empty());
        files::create_dir(&patches).unwrap();
        files::create_dir(&source).unwrap();
        files::write(&patches.join("0002-b.patch"), PATCH.replace("two", "2").replace("+2", "+two again"))
            .unwrap();
        files::write(&patches.join("0001-a.patch"), PATCH).unwrap();
        files::write(&patches.join("notes.txt"), "not a patch").unwrap();
        files::write(&source.join("file"), "zero\none\ntwo\nthree\n").unwrap();

        let found = of(&patches).unwrap();
        assert_eq!(found.len(), 2);
        apply(&found, &source).unwrap();
        assert_eq!(files::read_text(&source.join("file")).unwrap(), "zero\none\ntwo again\nthree\n");

        files::write(&source.join("file"), "one\n2\nthree\n").unwrap();
        let error = apply(&found, &source).unwrap_err().to_string();
        assert!(error.contains("0001-a.patch"), "{error}");
    }
}
