//! File operations whose errors name the path.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use thiserror::Error;

/// A file operation that failed.
#[derive(Debug, Error)]
#[error("Cannot {action} {path}")]
pub struct FileError {
    /// What was tried, as a verb.
    pub action: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

/// Gives a closure that turns an I/O error into a [`FileError`] about `path`.
pub fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> FileError + 'a {
    move |source| FileError { action, path: path.to_path_buf(), source }
}

/// Creates a folder and those above it.
///
/// # Errors
/// When a folder cannot be created.
pub fn create_dir(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(failed("create folder", path))
}

/// Removes a folder with its content, or a file; absent is fine.
///
/// # Errors
/// When something of it cannot be removed.
pub fn remove(path: &Path) -> Result<(), FileError> {
    let result = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(data) if data.is_dir() => fs::remove_dir_all(path),
        _ => fs::remove_file(path),
    };
    result.map_err(failed("remove", path))
}

/// Renames, replacing the target.
///
/// # Errors
/// When the rename fails.
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(failed("rename into place", to))
}

/// Has `make` write a file beside `path`, which takes its place once it is complete: who has the older one open keeps it,
/// and of what fails nothing stays.
///
/// # Errors
/// Those of `make`, or when the rename fails.
pub fn replace<T, E: From<FileError>>(path: &Path, make: impl FnOnce(&Path) -> Result<T, E>) -> Result<T, E> {
    let new = path.with_extension(format!("{}.new", std::process::id()));
    let made = make(&new);
    if made.is_err() {
        remove(&new)?;
    }
    let made = made?;
    rename(&new, path)?;
    Ok(made)
}

/// Reads a text file.
///
/// # Errors
/// When it cannot be read or is not UTF-8.
pub fn read_text(path: &Path) -> Result<String, FileError> {
    fs::read_to_string(path).map_err(failed("read", path))
}

/// Writes a file, with the folders above it.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<(), FileError> {
    if let Some(parent) = path.parent() {
        create_dir(parent)?;
    }
    fs::write(path, content).map_err(failed("write", path))
}

/// Copies a file, with the folders above the target, and gives the copy exactly the permissions `mode`.
///
/// # Errors
/// When it cannot be read or written.
pub fn copy(from: &Path, to: &Path, mode: u32) -> Result<(), FileError> {
    if let Some(parent) = to.parent() {
        create_dir(parent)?;
    }
    remove(to)?;
    fs::copy(from, to).map_err(failed("copy", from))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).map_err(failed("set permissions of", to))
}

/// Makes a symbolic link, with the folders above it.
///
/// # Errors
/// When it cannot be made.
pub fn link(target: &str, path: &Path) -> Result<(), FileError> {
    if let Some(parent) = path.parent() {
        create_dir(parent)?;
    }
    remove(path)?;
    symlink(target, path).map_err(failed("link", path))
}

/// SHA-256 of a file's content, in hexadecimal.
///
/// # Errors
/// When the file cannot be read.
pub fn sha256(path: &Path) -> Result<String, FileError> {
    let mut file = File::open(path).map_err(failed("open", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer).map_err(failed("read", path))?;
        if n == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..n]);
    }
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_path() {
        let error = read_text(Path::new("/no/such/file")).unwrap_err();
        assert_eq!(error.to_string(), "Cannot read /no/such/file");
    }

    #[test]
    fn remove_takes_files_folders_links_and_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        remove(&path).unwrap();
        write(&path.join("deep/file"), "1").unwrap();
        remove(&path).unwrap();
        link("/", &path).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists() && Path::new("/").exists());
    }

    #[test]
    fn sha256_of_a_known_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("abc");
        write(&path, "abc").unwrap();
        assert_eq!(
            sha256(&path).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn a_copy_has_the_asked_permissions_even_over_a_read_only_file() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        write(&a, "new").unwrap();
        write(&b, "old").unwrap();
        fs::set_permissions(&b, fs::Permissions::from_mode(0o400)).unwrap();
        copy(&a, &b, 0o755).unwrap();
        assert_eq!(fs::metadata(&b).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(read_text(&b).unwrap(), "new");
    }
}
