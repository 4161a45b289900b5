//! What the image is made of, and under which licences: a CycloneDX document, the licence texts, where the sources are.
//!
//! [`make`] leaves `dist/mote-x86_64.cdx.json` and `dist/licences/`. A crate with a licence that is not allowed, or a part
//! without its text, fails it ([`licence::faults`]).

pub mod bom;
pub mod crates;
pub mod kernels;
pub mod licence;
pub mod packages;
pub mod part;
pub mod texts;
pub mod wheels;

use std::path::PathBuf;

use serde::Deserialize;
use thiserror::Error;

use crate::assemble;
use crate::cache::{Cache, CacheError, Key};
use crate::debian::{self, DebianError};
use crate::files::{self, FileError};
use crate::kernel::patches::PatchError;
use crate::process::RunError;
use crate::project::Project;
use crate::runtime::{self, RuntimeError};
use bom::{About, BomError};
use kernels::{compiler, standard};
use licence::Fault;
use part::{AddressError, Part};

/// Changes whenever these files make something else from the same parts.
const RECIPE: &str = "1";

/// The document's name in `dist/`, the folder's, and the file in it that says what it was made from.
const DOCUMENT: &str = "mote-x86_64.cdx.json";
const FOLDER: &str = "licences";
const INPUTS: &str = ".inputs";

/// Files of the checkout that decide which crates are linked and how; those of the members come on top.
const CRATE_FILES: [&str; 4] = ["Cargo.toml", "Cargo.lock", ".cargo/config.toml", "LICENSE"];

/// Where a runtime has its Python packages, and which they are.
const PYTHON_FOLDER: &str = "var/runtime";
const REQUIREMENTS: &str = "requirements.txt";

/// Why there is no list of parts.
#[derive(Debug, Error)]
pub enum SbomError {
    /// cargo or rustc failed.
    #[error("Cannot ask cargo what is linked")]
    Cargo(#[source] RunError),
    /// cargo's tree has a line that is not understood, or a crate that its metadata lacks.
    #[error("Not understood in cargo's tree: {0:?}")]
    Tree(String),
    /// cargo's metadata is not understood.
    #[error("Cannot read cargo's metadata")]
    Metadata(#[source] Box<cargo_metadata::Error>),
    /// `Cargo.lock` or `Cargo.toml` is not understood.
    #[error("Cannot read Cargo.lock or Cargo.toml")]
    Lock(#[source] Box<toml::de::Error>),
    /// A requirement without an exact version.
    #[error("A requirement is not pinned: {0:?}")]
    Requirement(String),
    /// A Python package is not in the runtime.
    #[error("The runtime lacks the Python package {0}")]
    Wheel(String),
    /// A new version of a wheel may have other things inside.
    #[error("What is linked into {0} is unknown: look, and change the table in image/src/sbom/wheels.rs")]
    Inside(String),
    /// A package has no copyright file.
    #[error("The Debian package {0} has no copyright file")]
    Copyright(String),
    /// Some parts have licences that are not allowed, or none.
    #[error("{} parts cannot be passed on:\n{}", .0.len(), lines(.0))]
    Faults(Vec<Fault>),
    /// A name makes no package address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The document cannot be made.
    #[error(transparent)]
    Bom(#[from] BomError),
    /// `SOURCE_DATE_EPOCH` is no number.
    #[error("SOURCE_DATE_EPOCH is no number of seconds: {0:?}")]
    Epoch(String),
    /// A runtime cannot be made.
    #[error("No runtime")]
    Runtime(#[from] RuntimeError),
    /// A patch cannot be read.
    #[error(transparent)]
    Patch(#[from] PatchError),
    /// A package tool failed.
    #[error("A package tool failed")]
    Tool(#[from] RunError),
    /// A package cannot be had.
    #[error(transparent)]
    Debian(#[from] DebianError),
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}

fn lines(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("  {fault}")).collect::<Vec<_>>().join("\n")
}

/// What [`make`] made or found.
#[derive(Debug)]
pub struct Made {
    /// The document.
    pub document: PathBuf,
    /// The folder with the texts.
    pub licences: PathBuf,
    /// Whether they are new.
    pub new: bool,
}

/// Makes the list of parts and the folder with their licences, or leaves them when nothing changed.
///
/// # Errors
/// When a part cannot be looked at, or may not be passed on.
pub fn make(project: &Project, cache: &Cache) -> Result<Made, SbomError> {
    let (document, licences) = (project.dist().join(DOCUMENT), project.dist().join(FOLDER));
    let (build, time) = (assemble::build_id(project), time(project)?);
    let listed = packages::listed(project, cache)?;
    let linked = packages::linked()?;
    let inputs = inputs(project, &listed, &linked, &build, time)?;

    let _lock = cache.lock("sbom")?;
    let stamp = licences.join(INPUTS);
    if document.is_file() && stamp.is_file() && files::read_text(&stamp)? == inputs {
        return Ok(Made { document, licences, new: false });
    }
    let mut parts = crates::linked(project.root())?;
    parts.push(standard(project)?);
    parts.extend(linked);
    parts.extend(kernels::kernels(project)?);
    parts.extend(packages::parts(cache, &listed)?);
    for runtime in runtime::all(&project.file("image/runtimes"))? {
        let requirements = project.file("image/runtimes").join(&runtime.name).join(REQUIREMENTS);
        if requirements.is_file() {
            let (tree, _) = runtime.tree(cache)?;
            parts.extend(wheels::installed(&requirements, &tree.join(PYTHON_FOLDER), &runtime.name)?);
        }
    }
    sort(&mut parts);
    let faults = licence::faults(&parts);
    if !faults.is_empty() {
        return Err(SbomError::Faults(faults));
    }

    let version = env!("CARGO_PKG_VERSION").to_owned();
    let folder = texts::folder(&parts, &format!("Mote {version}"));
    let about = About { version, build, time, texts: texts::digest(&folder) };
    let text = bom::document(&parts, &about)?;

    // The document last: without it, or without the stamp, all of this is made again.
    let work = project.dist().join(format!("{FOLDER}.new"));
    files::remove(&work)?;
    for (name, text) in &folder {
        files::write(&work.join(name), text)?;
    }
    files::write(&work.join(INPUTS), &inputs)?;
    files::remove(&document)?;
    files::remove(&licences)?;
    files::rename(&work, &licences)?;
    let work = document.with_extension("new");
    files::write(&work, text)?;
    files::rename(&work, &document)?;
    Ok(Made { document, licences, new: true })
}

/// The order of the list; what two runtimes have in common is in it once.
fn sort(parts: &mut Vec<Part>) {
    parts.sort_by(|a, b| (a.kind, &a.name, &a.version, &a.id).cmp(&(b.kind, &b.name, &b.version, &b.id)));
    parts.dedup_by(|next, first| {
        let same = next.id == first.id;
        if same {
            first.places.append(&mut next.places);
        }
        same
    });
}

/// When the sources were made: `SOURCE_DATE_EPOCH`, else the date of the commit; a tarball has none.
fn time(project: &Project) -> Result<Option<i64>, SbomError> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => Ok(Some(text.trim().parse().map_err(|_| SbomError::Epoch(text))?)),
        Err(_) => Ok(assemble::commit_time(project)),
    }
}

#[derive(Deserialize)]
struct Manifest {
    workspace: Workspace,
}

#[derive(Deserialize)]
struct Workspace {
    members: Vec<String>,
}

/// Digest of everything the list is made from.
fn inputs(
    project: &Project,
    listed: &[packages::Listed],
    linked: &[Part],
    build: &str,
    time: Option<i64>,
) -> Result<String, SbomError> {
    let mut key = Key::new().with("recipe", RECIPE).with("build", build).with("time", format!("{time:?}"));
    key = key.with("compiler", compiler(project)?);
    let manifest: Manifest = toml::from_str(&files::read_text(&project.file("Cargo.toml"))?)
        .map_err(|error| SbomError::Lock(Box::new(error)))?;
    let members = manifest.workspace.members.into_iter().map(|member| format!("{member}/Cargo.toml"));
    for name in CRATE_FILES.iter().map(|name| (*name).to_owned()).chain(members) {
        key = key.with(&name, files::read_text(&project.file(&name))?);
    }
    for (place, packages) in listed {
        key = debian::key(key.with("list", place), packages);
    }
    for part in linked.iter().cloned().chain(kernels::kernels(project)?) {
        key = key.with(&part.id, &part.version);
        for text in part.patches.iter().chain(&part.config) {
            key = key.with(&text.title, &text.text);
        }
    }
    for runtime in runtime::all(&project.file("image/runtimes"))? {
        let path = project.file("image/runtimes").join(&runtime.name).join(REQUIREMENTS);
        if path.is_file() {
            key = key.with(&runtime.name, files::read_text(&path)?);
        }
    }
    Ok(key.hex())
}

#[cfg(test)]
mod tests {
    use super::part::Kind;
    use super::*;

    #[test]
    fn the_list_is_in_order_and_has_every_part_once() {
        let part = |name: &str, place: &str| {
            let mut part = Part::new(Kind::Wheel, name, "1", format!("pkg:pypi/{name}@1"));
            part.places.insert(place.to_owned());
            part
        };
        let mut parts = vec![part("b", "x"), part("a", "x"), part("b", "y")];
        sort(&mut parts);
        assert_eq!(parts.iter().map(|part| part.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(parts[1].places.iter().collect::<Vec<_>>(), ["x", "y"]);
    }

    #[test]
    fn what_is_linked_here_makes_the_same_valid_document_twice() {
        let project = Project::find(std::path::Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
        let make = || {
            let mut parts = crates::linked(project.root()).unwrap();
            parts.push(standard(&project).unwrap());
            parts.extend(packages::linked().unwrap());
            sort(&mut parts);
            assert_eq!(licence::faults(&parts), []);
            let folder = texts::folder(&parts, "Mote");
            let about = About {
                version: "1".into(),
                build: "abc".into(),
                time: Some(0),
                texts: texts::digest(&folder),
            };
            (bom::document(&parts, &about).unwrap(), folder)
        };
        assert!(make() == make());
    }

    #[test]
    fn faults_are_told_one_by_one() {
        let error = SbomError::Faults(vec![Fault::None("a 1".into()), Fault::NoText("b 2".into())]);
        assert_eq!(
            error.to_string(),
            "2 parts cannot be passed on:\n  a 1 names no licence\n  b 2 has no licence text or copyright file"
        );
    }
}
