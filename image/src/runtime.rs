//! Makes the root file systems of the microVMs, one per runtime: a folder below `image/runtimes` says from
//! what. The tree is made once and kept; the agent, which changes while Mote is developed, is put in last.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;

use crate::cache::{Cache, CacheError, Key};
use crate::debian::{self, DebianError, Package};
use crate::erofs::{self, Compression};
use crate::files::{self, FileError, failed};
use crate::process::{self, RunError};
use crate::progress::Progress;

/// Changes whenever this file makes something else from the same definition.
const RECIPE: &str = "3";

const PIP_LIMIT: Duration = Duration::from_secs(10 * 60);
const PYTHON_LIMIT: Duration = Duration::from_secs(10 * 60);

/// Finished images that stay in the cache: there is a new one with every change of the agent.
const KEPT_IMAGES: usize = 8;

/// The agent's place in the tree, and the file that tells it what to start.
const AGENT: &str = "mote/agent";
const RUNTIME: &str = "mote/runtime.toml";

/// Debian's Python, which makes the environment in which pip runs.
const SYSTEM_PYTHON: &str = "/usr/bin/python3";

/// Why there is no runtime image.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// The definition is wrong.
    #[error("Bad runtime definition {path}")]
    Definition {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<toml::de::Error>,
    },
    /// pip failed.
    #[error("Cannot install the Python packages")]
    Pip(#[source] RunError),
    /// The tree's own Python failed.
    #[error("The Python of the runtime does not work")]
    Python(#[source] RunError),
    /// The file system could not be made.
    #[error("Cannot make the file system")]
    Erofs(#[source] RunError),
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

/// `image.toml` of a runtime.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Definition {
    folders: Vec<String>,
    leave_out: Vec<String>,
    certificates: Option<Join>,
    #[serde(default)]
    links: BTreeMap<String, String>,
    python: Option<Python>,
}

/// Files of one folder joined into one file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Join {
    from: String,
    to: String,
}

/// What a Python runtime needs beyond files.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Python {
    program: String,
    version: String,
    packages: String,
    compile: Vec<String>,
    check: String,
}

/// A runtime: the folder that defines it, named as functions name it.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// Such as `python3.11`.
    pub name: String,
    folder: PathBuf,
}

/// The runtimes below `folder`, by name.
///
/// # Errors
/// When the folder cannot be read.
pub fn all(folder: &Path) -> Result<Vec<Runtime>, FileError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed("read folder", folder))? {
        let entry = entry.map_err(failed("read folder", folder))?;
        if entry.path().join("image.toml").is_file() {
            let name = entry.file_name().to_string_lossy().into_owned();
            found.push(Runtime { name, folder: entry.path() });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

impl Runtime {
    /// Gives the image with `agent` in it, from the cache when nothing of it changed.
    ///
    /// # Errors
    /// When a package cannot be had, the tree does not work or the file system cannot be made.
    pub fn image(&self, cache: &Cache, agent: &Path) -> Result<PathBuf, RuntimeError> {
        let (tree, tree_key) = self.tree(cache)?;
        let key = Key::new().with("tree", tree_key.hex()).with("agent", files::sha256(agent)?);
        let file = format!("{}.erofs", self.name);
        let entry = cache.get_or_make(&format!("{}-image", self.name), &key, |out| {
            // The tree is the cache's, the agent only a guest in it; the lock of this kind is held here.
            files::copy(agent, &tree.join(AGENT), 0o755)?;
            let uuid = uuid(&key);
            erofs::make(&tree, &out.join(&file), &uuid, Compression::Lz4).map_err(RuntimeError::Erofs)
        })?;
        cache.prune(&format!("{}-image", self.name), KEPT_IMAGES)?;
        Ok(entry.join(file))
    }

    /// Gives the tree without the agent, from the cache when nothing of it changed, and its key.
    ///
    /// # Errors
    /// When a package cannot be had or the tree does not work.
    pub fn tree(&self, cache: &Cache) -> Result<(PathBuf, Key), RuntimeError> {
        let packages = debian::fetch(cache, &debian::read_list(&self.file("packages.list"))?)?;
        let tree_key = self.key(&packages)?;
        let tree = cache.get_or_make(&format!("{}-tree", self.name), &tree_key, |tree| {
            let progress = Progress::start(&format!("Making the {} runtime", self.name));
            self.make_tree(cache, &packages, tree)?;
            progress.done();
            Ok::<(), RuntimeError>(())
        })?;
        Ok((tree, tree_key))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn definition(&self) -> Result<Definition, RuntimeError> {
        let path = self.file("image.toml");
        toml::from_str(&files::read_text(&path)?)
            .map_err(|source| RuntimeError::Definition { path, source: Box::new(source) })
    }

    fn key(&self, packages: &[(Package, PathBuf)]) -> Result<Key, RuntimeError> {
        let mut key = debian::key(Key::new().with("recipe", RECIPE), packages);
        for name in ["image.toml", "requirements.txt", "runtime.toml"] {
            if self.file(name).is_file() {
                key = key.with(name, files::read_text(&self.file(name))?);
            }
        }
        for (name, path) in files_below(&self.file("files"))? {
            key = key.with(&name, fs::read(&path).map_err(failed("read", &path))?);
        }
        Ok(key)
    }

    fn make_tree(
        &self,
        cache: &Cache,
        packages: &[(Package, PathBuf)],
        tree: &Path,
    ) -> Result<(), RuntimeError> {
        let definition = self.definition()?;
        debian::unpack(packages, tree, &definition.leave_out)?;
        for folder in &definition.folders {
            files::create_dir(&tree.join(folder))?;
        }
        for folder in ["tmp", "var/tmp"] {
            set_mode(&tree.join(folder), 0o1777)?;
        }
        if let Some(join) = &definition.certificates {
            join_files(&tree.join(&join.from), &tree.join(&join.to))?;
        }
        for (path, target) in &definition.links {
            files::link(target, &tree.join(path))?;
        }
        for (name, path) in files_below(&self.file("files"))? {
            files::copy(&path, &tree.join(name), 0o644)?;
        }
        files::copy(&self.file("runtime.toml"), &tree.join(RUNTIME), 0o644)?;
        if let Some(python) = &definition.python {
            pip(cache, python, &self.file("requirements.txt"), &tree.join(&python.packages))?;
            python.compile(tree)?;
            python.check(tree)?;
        }
        Ok(())
    }
}

/// Installs wheels, checked against their hashes, without running anything of them.
fn pip(cache: &Cache, python: &Python, requirements: &Path, target: &Path) -> Result<(), RuntimeError> {
    let environment = cache.get_or_make("pip", &Key::new().with("recipe", "1"), |out| {
        let mut command = Command::new(SYSTEM_PYTHON);
        process::run(command.args(["-m", "venv"]).arg(out), PIP_LIMIT).map(|_| ())
    })?;
    let mut command = Command::new(environment.join("bin/python"));
    command.args(["-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--require-hashes"]);
    command.args(["--only-binary=:all:", "--implementation=cp", "--no-warn-script-location"]);
    command.args(["--disable-pip-version-check", &format!("--python-version={}", python.version)]);
    for platform in ["manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64"] {
        command.arg(format!("--platform={platform}"));
    }
    command.arg("--target").arg(target).arg("-r").arg(requirements);
    process::run(&mut command, PIP_LIMIT).map_err(RuntimeError::Pip)?;
    files::remove(&target.join("bin"))?;
    Ok(())
}

impl Python {
    /// The tree's Python, run by the tree's loader: nothing of the building machine takes part.
    fn command(&self, tree: &Path) -> Command {
        let mut command = Command::new(tree.join("lib64/ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(tree.join("usr/lib/x86_64-linux-gnu"));
        command.arg(tree.join(&self.program)).args(["-S", "-s"]).env_clear();
        command.env("PYTHONHOME", tree.join("usr")).env("PYTHONHASHSEED", "0");
        command
    }

    /// Compiles everything, for use without looking at the sources' times.
    fn compile(&self, tree: &Path) -> Result<(), RuntimeError> {
        let mut command = self.command(tree);
        command.args([
            "-m",
            "compileall",
            "-q",
            "-f",
            "-j1",
            "--invalidation-mode=unchecked-hash",
            "-p/",
            "-s",
        ]);
        command.arg(tree).args(self.compile.iter().map(|folder| tree.join(folder)));
        process::run(&mut command, PYTHON_LIMIT).map(|_| ()).map_err(RuntimeError::Python)
    }

    fn check(&self, tree: &Path) -> Result<(), RuntimeError> {
        let mut command = self.command(tree);
        command.env("PYTHONPATH", tree.join(&self.packages)).env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("PYTHONTZPATH", tree.join("usr/share/zoneinfo")).args(["-c", &self.check]);
        process::run(&mut command, PYTHON_LIMIT).map(|_| ()).map_err(RuntimeError::Python)
    }
}

/// The UUID of a file system made from what `key` says.
fn uuid(key: &Key) -> String {
    let hex = key.hex();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32]].join("-")
}

/// Regular files below a folder with their relative names, sorted; none when there is no such folder.
fn files_below(folder: &Path) -> Result<Vec<(String, PathBuf)>, FileError> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        if !next.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&next).map_err(failed("read folder", &next))? {
            let path = entry.map_err(failed("read folder", &next))?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().into_owned();
                found.push((name, path));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn join_files(from: &Path, to: &Path) -> Result<(), FileError> {
    let mut joined = Vec::new();
    for (_, path) in files_below(from)? {
        joined.extend(fs::read(&path).map_err(failed("read", &path))?);
    }
    files::write(to, joined)?;
    files::remove(from)
}

fn set_mode(path: &Path, mode: u32) -> Result<(), FileError> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed("set permissions of", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("runtimes")
    }

    #[test]
    fn the_committed_definitions_read() {
        let runtimes = all(&committed()).unwrap();
        assert!(runtimes.iter().any(|runtime| runtime.name == "python3.11"));
        for runtime in runtimes {
            assert!(runtime.definition().unwrap().folders.iter().any(|folder| folder == "mote"));
            assert!(!debian::read_list(&runtime.file("packages.list")).unwrap().is_empty());
        }
    }

    #[test]
    fn a_wrong_definition_names_its_file() {
        let dir = tempfile::tempdir().unwrap();
        files::write(&dir.path().join("x/image.toml"), "folders = []\nleave_out = []\nextra = 1\n").unwrap();
        let runtime = all(dir.path()).unwrap().remove(0);
        let error = runtime.definition().unwrap_err();
        assert!(error.to_string().ends_with("x/image.toml"), "{error}");
    }

    #[test]
    fn every_part_of_a_definition_changes_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("r");
        let runtime = Runtime { name: "r".into(), folder: folder.clone() };
        let mut keys = vec![runtime.key(&[]).unwrap().hex()];
        for name in ["image.toml", "requirements.txt", "runtime.toml", "files/etc/hosts"] {
            files::write(&folder.join(name), "x").unwrap();
            keys.push(runtime.key(&[]).unwrap().hex());
        }
        let package = Package { name: "p".into(), version: "1".into() };
        keys.push(runtime.key(&[(package, PathBuf::new())]).unwrap().hex());
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }

    #[test]
    fn a_uuid_has_the_usual_form() {
        let uuid = uuid(&Key::new());
        let lengths: Vec<usize> = uuid.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
    }
}
