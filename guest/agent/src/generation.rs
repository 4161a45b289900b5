//! Tells the runtime which of the sandboxes made from one snapshot it is in.
//!
//! A runtime that was asleep at `invocation/next` when the snapshot was taken is not woken by a restore: it has to
//! look, whenever an event arrives, whether it is somebody else by now. So the id is the target of a symbolic
//! link: one system call reads it, and needs no descriptor of a function that may have used up its own.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Why the id could not be left for the runtime.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// The link cannot be made.
    #[error("Cannot make the link {0}")]
    Link(PathBuf, #[source] io::Error),
    /// It cannot take the old one's place.
    #[error("Cannot replace the link {0}")]
    Replace(PathBuf, #[source] io::Error),
}

/// Makes `at` a link to `id`. There is one at every moment, the old or the new.
///
/// # Errors
/// When the file system refuses.
pub fn publish(at: &Path, id: &str) -> Result<(), GenerationError> {
    let next = at.with_extension("next");
    // Left by a run that was cut short, if it is there at all.
    let _ = fs::remove_file(&next);
    symlink(OsStr::new(id), &next).map_err(|e| GenerationError::Link(next.clone(), e))?;
    fs::rename(&next, at).map_err(|e| GenerationError::Replace(at.into(), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_id_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("generation");
        for id in ["6f1c", "6f1d", "6f1d"] {
            publish(&at, id).unwrap();
            assert_eq!(fs::read_link(&at).unwrap(), Path::new(id));
        }
        symlink("leftover", at.with_extension("next")).unwrap();
        publish(&at, "6f1e").unwrap();
        assert_eq!(fs::read_link(&at).unwrap(), Path::new("6f1e"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn says_what_is_wrong() {
        let missing = publish(Path::new("/nonexistent/generation"), "6f1c").unwrap_err();
        assert_eq!(missing.to_string(), "Cannot make the link /nonexistent/generation.next");
    }
}
