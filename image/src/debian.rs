//! Debian packages as a source of files: downloaded by apt, unpacked without installing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use thiserror::Error;

use crate::cache::{Cache, CacheError, Key};
use crate::files::{self, FileError, failed};
use crate::process::{self, RunError};
use crate::progress::say;

const QUERY_LIMIT: Duration = Duration::from_secs(120);
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(15 * 60);
const UNPACK_LIMIT: Duration = Duration::from_secs(120);

/// Why packages cannot be had.
#[derive(Debug, Error)]
pub enum DebianError {
    /// A line of a package list is not `name=version`.
    #[error("{path}:{line}: want NAME=VERSION, found {found:?}")]
    BadLine {
        /// The list.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is there.
        found: String,
    },
    /// apt knows no version of a package.
    #[error("Debian's archive offers no package {0}; check the network and the apt sources")]
    Unknown(String),
    /// apt said it had downloaded a package, but there is no file.
    #[error("apt-get download gave no file for {0}")]
    NoFile(String),
    /// apt or dpkg failed.
    #[error("A package tool failed")]
    Tool(#[from] RunError),
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A package at a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, with the epoch.
    pub version: String,
}

impl Package {
    /// What the file name of this package begins with.
    fn file_prefix(&self) -> String {
        format!("{}_{}_", self.name, self.version.replace(':', "%3a"))
    }

    fn file(&self, folder: &Path) -> Option<PathBuf> {
        let prefix = self.file_prefix();
        fs::read_dir(folder).ok()?.filter_map(Result::ok).map(|entry| entry.path()).find(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with(&prefix) && name.ends_with(".deb"))
        })
    }
}

/// Version of an installed package.
///
/// # Errors
/// When it is not installed.
pub fn installed_version(name: &str) -> Result<String, DebianError> {
    let mut command = Command::new("dpkg-query");
    command.args(["-W", "-f=${Version}", name]);
    Ok(process::run(&mut command, QUERY_LIMIT)?)
}

/// Reads a package list: `name=version` lines, `#` comments.
///
/// # Errors
/// When it cannot be read or a line is neither.
pub fn read_list(path: &Path) -> Result<Vec<Package>, DebianError> {
    let text = files::read_text(path)?;
    parse_list(&text).map_err(|(line, found)| DebianError::BadLine { path: path.to_path_buf(), line, found })
}

fn parse_list(text: &str) -> Result<Vec<Package>, (usize, String)> {
    let mut packages = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        match line.split_once('=').map(|(name, version)| (name.trim(), version.trim())) {
            Some((name, version)) if !name.is_empty() && !version.is_empty() => {
                packages.push(Package { name: name.to_owned(), version: version.to_owned() });
            }
            _ => return Err((index + 1, line.to_owned())),
        }
    }
    Ok(packages)
}

/// Gives the files of the packages, downloading what the cache does not have. Debian's archive drops a
/// version when a fix replaces it: then the newest one is taken, and said; what comes back is what was taken.
///
/// # Errors
/// When apt offers no version of a package or cannot download it.
pub fn fetch(cache: &Cache, wanted: &[Package]) -> Result<Vec<(Package, PathBuf)>, DebianError> {
    let folder = cache.folder("debs")?;
    if let Some(have) = have(&folder, wanted) {
        return Ok(have);
    }
    let _lock = cache.lock("debs")?;
    let work = cache.folder("tmp")?.join("debs");
    files::remove(&work)?;
    files::create_dir(&work)?;

    let apt = Apt::ready(cache, wanted)?;
    let chosen = choose(wanted, &apt.offered)?;
    let missing: Vec<String> = chosen
        .iter()
        .filter(|package| package.file(&folder).is_none())
        .map(|package| format!("{}={}", package.name, package.version))
        .collect();
    if !missing.is_empty() {
        say(&format!("downloading {} Debian packages", missing.len()));
        // The user `_apt` could not write here; what is downloaded is checked against the signed lists.
        let mut command = apt.command("apt-get");
        command.args(["-o", "APT::Sandbox::User=root", "-qq", "download"]).args(&missing).current_dir(&work);
        process::run(&mut command, DOWNLOAD_LIMIT)?;
        for package in &chosen {
            if let Some(path) = package.file(&work) {
                let name = path.file_name().unwrap_or_default();
                files::rename(&path, &folder.join(name))?;
            }
        }
    }
    files::remove(&work)?;
    have(&folder, &chosen).ok_or_else(|| {
        let lost = chosen.iter().find(|package| package.file(&folder).is_none());
        DebianError::NoFile(lost.map(|package| package.name.clone()).unwrap_or_default())
    })
}

fn have(folder: &Path, packages: &[Package]) -> Option<Vec<(Package, PathBuf)>> {
    packages.iter().map(|package| Some((package.clone(), package.file(folder)?))).collect()
}

fn choose(wanted: &[Package], offered: &Offered) -> Result<Vec<Package>, DebianError> {
    let mut chosen = Vec::new();
    for package in wanted {
        let versions = offered.get(&package.name).map_or(&[][..], Vec::as_slice);
        if versions.contains(&package.version) {
            chosen.push(package.clone());
            continue;
        }
        let newest = versions.first().ok_or_else(|| DebianError::Unknown(package.name.clone()))?;
        say(&format!("note: {} {} is not offered any more, taking {newest}", package.name, package.version));
        chosen.push(Package { name: package.name.clone(), version: newest.clone() });
    }
    Ok(chosen)
}

/// Versions by package name, newest first.
type Offered = BTreeMap<String, Vec<String>>;

/// apt with lists that know the wanted packages: the machine's own, else a private copy, which needs no root.
struct Apt {
    options: Vec<String>,
    offered: Offered,
}

impl Apt {
    fn ready(cache: &Cache, wanted: &[Package]) -> Result<Self, DebianError> {
        let mut apt = Self { options: Vec::new(), offered: BTreeMap::new() };
        apt.look(wanted)?;
        if wanted.iter().all(|package| apt.offered.contains_key(&package.name)) {
            return Ok(apt);
        }
        say("fetching Debian's package lists");
        let (lists, archives) =
            (cache.folder("apt/lists/partial")?, cache.folder("apt/cache/archives/partial")?);
        for (option, path) in
            [("Dir::State::lists", lists.parent()), ("Dir::Cache", archives.ancestors().nth(2))]
        {
            if let Some(path) = path {
                apt.options.extend(["-o".to_owned(), format!("{option}={}", path.display())]);
            }
        }
        let mut update = apt.command("apt-get");
        update.args(["-o", "APT::Sandbox::User=root", "-qq", "update"]);
        process::run(&mut update, DOWNLOAD_LIMIT)?;
        apt.look(wanted)?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options).env("LC_ALL", "C");
        command
    }

    fn look(&mut self, wanted: &[Package]) -> Result<(), DebianError> {
        let mut command = self.command("apt-cache");
        command.arg("madison").args(wanted.iter().map(|package| &package.name));
        self.offered = parse_madison(&process::run(&mut command, QUERY_LIMIT)?);
        Ok(())
    }
}

fn parse_madison(text: &str) -> Offered {
    let mut offered = Offered::new();
    for line in text.lines() {
        let mut fields = line.split('|').map(str::trim);
        if let (Some(name), Some(version), Some(source)) = (fields.next(), fields.next(), fields.next())
            && source.ends_with(" Packages")
        {
            offered.entry(name.to_owned()).or_default().push(version.to_owned());
        }
    }
    offered
}

/// Unpacks packages into a tree with a merged /usr, leaving out paths that match a pattern of `leave_out`
/// (tar's shell patterns, such as `./usr/share/doc/*`).
///
/// # Errors
/// When a package cannot be read or the tree cannot be written.
pub fn unpack(packages: &[(Package, PathBuf)], tree: &Path, leave_out: &[String]) -> Result<(), DebianError> {
    for folder in ["bin", "lib", "lib64", "sbin"] {
        files::create_dir(&tree.join("usr").join(folder))?;
        files::link(&format!("usr/{folder}"), &tree.join(folder))?;
    }
    let archive = tempfile::NamedTempFile::new_in(tree).map_err(failed("create a file in", tree))?;
    for (_, deb) in packages {
        // `dpkg-deb -x` would replace the links above by folders.
        let mut command = Command::new("sh");
        command.args(["-c", "exec dpkg-deb --fsys-tarfile \"$0\" > \"$1\""]).arg(deb).arg(archive.path());
        process::run(&mut command, UNPACK_LIMIT)?;
        let mut command = Command::new("tar");
        command.arg("-xf").arg(archive.path()).arg("-C").arg(tree);
        command.args(["--keep-directory-symlink", "--no-same-owner", "--wildcards"]);
        command.args(leave_out.iter().map(|pattern| format!("--exclude={pattern}")));
        process::run(&mut command, UNPACK_LIMIT)?;
    }
    Ok(())
}

/// Adds the packages to a key.
#[must_use]
pub fn key(key: Key, packages: &[(Package, PathBuf)]) -> Key {
    packages.iter().fold(key, |key, (package, _)| key.with(&package.name, &package.version))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str) -> Package {
        Package { name: name.into(), version: version.into() }
    }

    #[test]
    fn lists_have_comments_and_errors_have_lines() {
        let list = parse_list("# head\nlibc6=2.36-9 # the C library\n\nzlib1g=1:1.2\n").unwrap();
        assert_eq!(list, [package("libc6", "2.36-9"), package("zlib1g", "1:1.2")]);
        assert_eq!(parse_list("a=1\nb\n"), Err((2, "b".to_owned())));
        assert_eq!(parse_list("=1\n"), Err((1, "=1".to_owned())));
    }

    #[test]
    fn the_pinned_version_is_taken_while_it_is_offered_else_the_newest() {
        let offered = parse_madison(
            " zlib1g | 1:1.3 | http://x bookworm/main amd64 Packages\n zlib1g | 1:1.2 | http://x b/main amd64 Packages\n\
             zlib1g | 1:1.1 | http://x b/main Sources\n",
        );
        assert_eq!(choose(&[package("zlib1g", "1:1.2")], &offered).unwrap(), [package("zlib1g", "1:1.2")]);
        assert_eq!(choose(&[package("zlib1g", "1:1.1")], &offered).unwrap(), [package("zlib1g", "1:1.3")]);
        assert!(
            matches!(choose(&[package("no", "1")], &offered), Err(DebianError::Unknown(name)) if name == "no")
        );
    }

    #[test]
    fn files_are_found_by_name_and_version() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("zlib1g_1%3a1.2_amd64.deb");
        std::fs::write(&path, "").unwrap();
        std::fs::write(dir.path().join("zlib1g_1%3a1.2.3_amd64.deb"), "").unwrap();
        assert_eq!(package("zlib1g", "1:1.2").file(dir.path()), Some(path));
        assert_eq!(package("zlib1g", "1:1").file(dir.path()), None);
    }
}
