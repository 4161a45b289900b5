//! Parts that someone else made, such as buildroot: each is taken instead of being made here.

use std::io;
use std::path::{Path, PathBuf};

use crate::erofs;
use crate::files::{FileError, failed};

/// Folders with ready parts; `None` is made here.
#[derive(Debug, Clone, Default)]
pub struct Prebuilt {
    /// With `mote-init`, `hostd` and `mote-agent`.
    pub binaries: Option<PathBuf>,
    /// With `bzImage`, the appliance's kernel, and `vmlinux`, that of the microVMs.
    pub kernels: Option<PathBuf>,
    /// With `NAME.erofs` for every runtime.
    pub runtimes: Option<PathBuf>,
    /// With the file system tools in `sbin/`; what they need to be started in `lib/`, unless they are static.
    pub tools: Option<PathBuf>,
}

/// The runtimes of a folder: names and files, by name.
///
/// # Errors
/// When the folder cannot be read, or has none.
pub fn runtimes(folder: &Path) -> Result<Vec<(String, PathBuf)>, FileError> {
    let mut found = Vec::new();
    for entry in folder.read_dir().map_err(failed("read folder", folder))? {
        let path = entry.map_err(failed("read folder", folder))?.path();
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned());
        if let Some(name) = name
            && path.extension().is_some_and(|extension| extension == erofs::EXTENSION)
        {
            found.push((name, path));
        }
    }
    if found.is_empty() {
        let none = io::Error::new(io::ErrorKind::NotFound, format!("there is no *.{}", erofs::EXTENSION));
        return Err(failed("find a runtime in", folder)(none));
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_are_found_by_name() {
        let dir = tempfile::tempdir().unwrap();
        assert!(runtimes(dir.path()).unwrap_err().to_string().contains("find a runtime"));
        for file in ["python3.11.erofs", "b.erofs", "README", "x.img"] {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        let names: Vec<String> = runtimes(dir.path()).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["b", "python3.11"]);
        assert!(runtimes(&dir.path().join("absent")).unwrap_err().to_string().contains("absent"));
    }
}
