//! The Debian packages in the image: by the lists they come from, and those of the building machine that the linker
//! puts into static binaries.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::SbomError;
use super::part::{Kind, Licence, Part, Source, Text, address};
use crate::cache::{Cache, Key};
use crate::debian::{self, Package};
use crate::files::{self, FileError, failed};
use crate::process::{self, RunError};
use crate::project::Project;

/// Changes whenever something else is taken out of a package.
const RECIPE: &str = "1";

const LIMIT: Duration = Duration::from_secs(120);

/// Longest chain of packages that share one folder of documents.
const LONGEST_CHAIN: usize = 4;

/// A package list, and where its files go.
struct List {
    /// Below the checkout; one `*` stands for every folder.
    path: &'static str,
    /// Where in the image.
    place: &'static str,
    /// The packages of which files get into the image; empty when it is all of them.
    only: &'static [&'static str],
}

const LISTS: [List; 3] = [
    List { path: "image/tools/packages.list", place: "system", only: &[] },
    List { path: "image/runtimes/*/packages.list", place: "microVM", only: &[] },
    List { path: "image/boot/packages.list", place: "boot", only: &["grub-pc-bin", "grub-efi-amd64-bin"] },
];

/// The packages of a list with their files, and where in the image these go.
pub type Listed = (&'static str, Vec<(Package, PathBuf)>);

/// Archives that the linker takes code from for a static binary, as the compiler is asked for them.
const LINKED: [&str; 2] = ["libc.a", "libgcc_eh.a"];

/// Where Debian has the texts its copyright files only name.
const COMMON: &str = "/usr/share/common-licenses";

/// What was taken out of a package.
const COPYRIGHT: &str = "copyright";
const SAME_AS: &str = "same-as";
const CONTROL: &str = "control";

/// The package files of all lists, downloaded where they are not: for every list its place and packages.
///
/// # Errors
/// When a list cannot be read or a package cannot be had.
pub fn listed(project: &Project, cache: &Cache) -> Result<Vec<Listed>, SbomError> {
    let mut all = Vec::new();
    for list in &LISTS {
        for path in expand(project.root(), list.path)? {
            let mut wanted = debian::read_list(&path)?;
            wanted.retain(|package| list.only.is_empty() || list.only.contains(&package.name.as_str()));
            all.push((list.place, debian::fetch(cache, &wanted)?));
        }
    }
    Ok(all)
}

/// Paths that a pattern with at most one `*` means, sorted.
fn expand(root: &Path, pattern: &str) -> Result<Vec<PathBuf>, FileError> {
    let Some((above, below)) = pattern.split_once("/*/") else { return Ok(vec![root.join(pattern)]) };
    let folder = root.join(above);
    let mut paths = Vec::new();
    for entry in fs::read_dir(&folder).map_err(failed("read folder", &folder))? {
        let path = entry.map_err(failed("read folder", &folder))?.path().join(below);
        if path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// The parts that those packages are, each once.
///
/// # Errors
/// When a package cannot be read or has no copyright file.
pub fn parts(cache: &Cache, listed: &[Listed]) -> Result<Vec<Part>, SbomError> {
    let mut parts: BTreeMap<String, Part> = BTreeMap::new();
    for (place, packages) in listed {
        for (package, deb) in packages {
            let folder = taken(cache, package, deb)?;
            let control = files::read_text(&folder.join(CONTROL))?;
            let copyright = copyright(cache, package, deb)?;
            let part = part(Kind::Debian, &control, &copyright)?;
            parts.entry(part.id.clone()).or_insert(part).places.insert((*place).to_owned());
        }
    }
    Ok(parts.into_values().collect())
}

/// The packages of this machine with the archives that the linker puts into our binaries.
///
/// # Errors
/// When the compiler or dpkg does not know them.
pub fn linked() -> Result<Vec<Part>, SbomError> {
    let mut names = BTreeSet::new();
    for archive in LINKED {
        let mut command = Command::new("cc");
        command.arg(format!("-print-file-name={archive}"));
        let said = process::run(&mut command, LIMIT)?;
        let path = fs::canonicalize(said.trim()).map_err(failed("find", Path::new(archive)))?;
        let said = process::run(Command::new("dpkg").arg("-S").arg(&path), LIMIT)?;
        names.insert(said.split(':').next().unwrap_or_default().to_owned());
    }
    let mut parts = Vec::new();
    for name in names {
        let mut part = installed(Kind::Linked, &name)?;
        part.places.insert("in every binary".to_owned());
        parts.push(part);
    }
    Ok(parts)
}

/// A package that is installed on this machine.
///
/// # Errors
/// When it is not, or has no copyright file.
pub fn installed(kind: Kind, name: &str) -> Result<Part, SbomError> {
    let mut command = Command::new("dpkg-query");
    let format = "Package: ${Package}\nVersion: ${Version}\nArchitecture: ${Architecture}\n\
                  Source: ${source:Package} (${source:Version})\n";
    command.args(["-W", &format!("-f={format}"), name]);
    let control = process::run(&mut command, LIMIT)?;
    // The folder may be a link to that of a package from the same source.
    let path = Path::new("/usr/share/doc").join(name).join(COPYRIGHT);
    if !path.is_file() {
        return Err(SbomError::Copyright(name.to_owned()));
    }
    part(kind, &control, &files::read_text(&path)?)
}

/// The few things of a package this needs, in a folder of the cache.
fn taken(cache: &Cache, package: &Package, deb: &Path) -> Result<PathBuf, SbomError> {
    let key = Key::new().with("recipe", RECIPE).with(&package.name, &package.version);
    Ok(cache.get_or_make("copyright", &key, |out| {
        let tree = out.join("tree");
        files::create_dir(&tree)?;
        process::run(Command::new("dpkg-deb").arg("--extract").arg(deb).arg(&tree), LIMIT)?;
        let mut command = Command::new("dpkg-deb");
        command.arg("--field").arg(deb).args(["Package", "Version", "Architecture", "Source"]);
        files::write(&out.join(CONTROL), process::run(&mut command, LIMIT)?)?;
        let folder = tree.join("usr/share/doc").join(&package.name);
        if let Ok(target) = fs::read_link(&folder) {
            files::write(&out.join(SAME_AS), target.to_string_lossy().as_bytes())?;
        } else if folder.join(COPYRIGHT).is_file() {
            files::copy(&folder.join(COPYRIGHT), &out.join(COPYRIGHT), 0o644)?;
        }
        files::remove(&tree)?;
        Ok::<(), TakeError>(())
    })?)
}

/// Why a package cannot be looked into.
#[derive(Debug, thiserror::Error)]
enum TakeError {
    /// dpkg failed.
    #[error("Cannot unpack a package")]
    Run(#[from] RunError),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The copyright file of a package, which may be that of another package from the same source.
fn copyright(cache: &Cache, package: &Package, deb: &Path) -> Result<String, SbomError> {
    let (mut package, mut deb) = (package.clone(), deb.to_path_buf());
    for _ in 0..LONGEST_CHAIN {
        let folder = taken(cache, &package, &deb)?;
        if folder.join(COPYRIGHT).is_file() {
            return Ok(files::read_text(&folder.join(COPYRIGHT))?);
        }
        let same = folder.join(SAME_AS);
        if !same.is_file() {
            break;
        }
        // Debian allows this for packages of one source and version only.
        package.name = files::read_text(&same)?;
        let mut fetched = debian::fetch(cache, std::slice::from_ref(&package))?;
        match fetched.pop() {
            Some((_, path)) => deb = path,
            None => break,
        }
    }
    Err(SbomError::Copyright(package.name))
}

fn part(kind: Kind, control: &str, copyright: &str) -> Result<Part, SbomError> {
    let field = |name: &str| {
        let mut fields = control.lines().filter_map(|line| line.split_once(": "));
        fields.find(|field| field.0 == name).map(|field| field.1.trim()).unwrap_or_default()
    };
    let (name, version) = (field("Package"), field("Version"));
    let source = source(field("Source"), name, version);
    let purl = address("deb", Some("debian"), name, version, &[("arch", field("Architecture"))])?;
    let mut part = Part::new(kind, name, version, purl);
    part.licence = Licence::Names(names(copyright));
    part.texts = vec![Text::new(format!("copyright of {}", source.name), copyright)];
    for name in mentioned(copyright) {
        let path = Path::new(COMMON).join(&name);
        if path.is_file() {
            part.texts.push(Text::new(name, &files::read_text(&path)?));
        }
    }
    part.source = Some(source);
    Ok(part)
}

/// `Source: NAME (VERSION)`; what it does not say is as in the package.
fn source(field: &str, name: &str, version: &str) -> Source {
    let (source, rest) = field.split_once(' ').unwrap_or((field, ""));
    let own = rest.trim().trim_start_matches('(').trim_end_matches(')');
    Source {
        name: if source.is_empty() { name } else { source }.to_owned(),
        version: if own.is_empty() { version } else { own }.to_owned(),
    }
}

/// The licences a copyright file names, when it has fields for them; else that it is to be read, and what it points to.
fn names(copyright: &str) -> Vec<String> {
    let fields = copyright.trim_start().starts_with("Format:");
    let named: BTreeSet<String> = copyright
        .lines()
        .filter(|_| fields)
        .filter_map(|line| line.strip_prefix("License:"))
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect();
    if !named.is_empty() {
        return named.into_iter().collect();
    }
    let pointed: Vec<String> = mentioned(copyright).into_iter().collect();
    let points = if pointed.is_empty() { String::new() } else { format!(", with {}", pointed.join(", ")) };
    vec![format!("see its copyright file{points}")]
}

/// Names of the common texts that a copyright file points to.
fn mentioned(copyright: &str) -> BTreeSet<String> {
    let part_of_name = |c: char| !(c.is_ascii_alphanumeric() || "-.+".contains(c));
    copyright
        .split("/usr/share/common-licenses/")
        .skip(1)
        .map(|rest| rest.split(part_of_name).next().unwrap_or_default().trim_end_matches('.').to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sbom::licence;

    #[test]
    fn every_list_is_there_and_has_the_packages_that_are_picked_from_it() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for list in &LISTS {
            let paths = expand(&root, list.path).unwrap();
            assert!(!paths.is_empty(), "{}", list.path);
            for path in paths {
                let packages = debian::read_list(&path).unwrap();
                assert!(!packages.is_empty());
                for name in list.only {
                    assert!(packages.iter().any(|package| package.name == *name), "{name}");
                }
            }
        }
    }

    /// A package of one folder, made by dpkg.
    fn deb(dir: &Path, name: &str, fill: impl Fn(&Path)) -> (Package, PathBuf) {
        let tree = dir.join(name);
        let control =
            format!("Package: {name}\nVersion: 1:2-3\nArchitecture: all\nMaintainer: x\nDescription: x\n");
        files::write(&tree.join("DEBIAN/control"), control).unwrap();
        fill(&tree.join("usr/share/doc"));
        let path = dir.join(format!("debs/{name}_1%3a2-3_all.deb"));
        files::create_dir(path.parent().unwrap()).unwrap();
        process::run(Command::new("dpkg-deb").arg("--build").arg(&tree).arg(&path), LIMIT).unwrap();
        (Package { name: name.into(), version: "1:2-3".into() }, path)
    }

    #[test]
    fn a_copyright_file_may_be_anothers_and_a_package_without_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        let text = "Format: x\n\nFiles: *\nLicense: GPL-2+\n See /usr/share/common-licenses/GPL-2.\n";
        let base = deb(dir.path(), "base", |doc| files::write(&doc.join("base/copyright"), text).unwrap());
        let other = deb(dir.path(), "other", |doc| files::link("base", &doc.join("other")).unwrap());
        let bare = deb(dir.path(), "bare", |doc| files::write(&doc.join("bare/changelog"), "x").unwrap());

        let found = parts(&cache, &[("here", vec![other.clone()]), ("there", vec![base, other])]).unwrap();
        assert_eq!(licence::faults(&found), []);
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].places.iter().collect::<Vec<_>>(), ["here", "there"]);
        assert_eq!(found[1].licence, Licence::Names(vec!["GPL-2+".into()]));
        assert_eq!(found[1].source, Some(Source { name: "other".into(), version: "1:2-3".into() }));
        assert!(found[1].texts.iter().any(|text| text.text.starts_with("Format")));

        let refused = parts(&cache, &[("here", vec![bare])]);
        assert!(matches!(refused, Err(SbomError::Copyright(name)) if name == "bare"));
    }

    #[test]
    fn the_source_may_have_another_name_and_version() {
        let source = |field, version| {
            let source = source(field, "libx1", version);
            (source.name, source.version)
        };
        assert_eq!(source("", "1"), ("libx1".into(), "1".into()));
        assert_eq!(source("x", "1+b2"), ("x".into(), "1+b2".into()));
        assert_eq!(source("x (1)", "1+b2"), ("x".into(), "1".into()));
    }

    #[test]
    fn what_the_linker_takes_has_a_copyright_file() {
        let parts = linked().unwrap();
        assert_eq!(licence::faults(&parts), []);
        let sources: Vec<_> =
            parts.iter().filter_map(|part| part.source.as_ref()).map(|source| &source.name).collect();
        assert!(sources.iter().any(|name| *name == "glibc"), "{sources:?}");
    }

    proptest! {
        #[test]
        fn any_copyright_file_names_something(text in ".*", name in "[A-Z][A-Za-z0-9.-]{0,8}[A-Z0-9]") {
            prop_assert!(!names(&text).is_empty());
            let pointing = format!("see `/usr/share/common-licenses/{name}'.");
            prop_assert_eq!(names(&pointing), vec![format!("see its copyright file, with {name}")]);
        }
    }
}
