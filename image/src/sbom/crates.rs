//! The crates in our binaries, as cargo resolves them for exactly these binaries.
//!
//! `cargo tree` knows which crates and features the three packages get when they are built together; `cargo metadata`,
//! which looks at the whole workspace, knows where each is and what it says of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cargo_metadata::{MetadataCommand, Package};
use serde::Deserialize;

use super::part::{Kind, Licence, Part, Text, address};
use super::{SbomError, licence};
use crate::files::{self, failed};
use crate::process;

const LIMIT: Duration = Duration::from_secs(10 * 60);

/// Target of every binary.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The packages of our binaries, and where these are.
const BINARIES: [(&str, &str); 3] =
    [("mote-init", "initramfs"), ("hostd", "system"), ("mote-agent", "microVM")];

/// What the names of files with licence texts begin with, in capitals, and endings of such that are none.
const TEXT_NAMES: [&str; 6] = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"];
const NO_TEXT: [&str; 5] = ["html", "json", "py", "rs", "toml"];

/// A licence is shorter than this.
const LONGEST_TEXT: u64 = 1 << 20;

/// Name and version.
type Id = (String, String);

/// Which crate is linked for which.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tree {
    roots: Vec<Id>,
    needs: BTreeMap<Id, BTreeSet<Id>>,
}

#[derive(Deserialize)]
struct LockFile {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// The crates of our binaries, themselves among them.
///
/// # Errors
/// When cargo fails or says something that is not understood.
pub fn linked(root: &Path) -> Result<Vec<Part>, SbomError> {
    let mut command = cargo(root);
    command.args(["tree", "--locked", "--target", TARGET, "--edges", "normal,no-proc-macro"]);
    command.args(["--prefix", "depth", "--format", "{p}", "--color", "never"]);
    for (package, _) in BINARIES {
        command.args(["-p", package]);
    }
    let tree =
        parse_tree(&process::run(&mut command, LIMIT).map_err(SbomError::Cargo)?).map_err(SbomError::Tree)?;

    let mut command = cargo(root);
    command.args(["metadata", "--locked", "--format-version", "1", "--filter-platform", TARGET]);
    let text = process::run(&mut command, LIMIT).map_err(SbomError::Cargo)?;
    let metadata = MetadataCommand::parse(text).map_err(|error| SbomError::Metadata(Box::new(error)))?;
    let known: BTreeMap<Id, &Package> = metadata
        .packages
        .iter()
        .map(|package| ((package.name.to_string(), package.version.to_string()), package))
        .collect();
    let sums = checksums(&root.join("Cargo.lock"))?;

    let mut parts = Vec::new();
    for (id, needs) in &tree.needs {
        let package = known.get(id).ok_or_else(|| SbomError::Tree(format!("{} {}", id.0, id.1)))?;
        let mut part = part(package, id, root)?;
        part.sha256 = sums.get(id).cloned();
        for need in needs {
            let own = known.get(need).is_some_and(|package| package.source.is_none());
            part.needs.push(purl(need, own)?);
        }
        for (binary, place) in BINARIES {
            if id.0 == binary {
                part.kind = Kind::Binary;
                part.places.insert(place.to_owned());
            }
            if reached(&tree, binary).contains(id) {
                part.places.insert(format!("in {binary}"));
            }
        }
        parts.push(part);
    }
    Ok(parts)
}

fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

/// Reads lines of `DEPTHNAME vVERSION …`.
fn parse_tree(text: &str) -> Result<Tree, String> {
    let mut tree = Tree::default();
    let mut above: Vec<Id> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let wrong = || line.to_owned();
        let digits = line.bytes().take_while(u8::is_ascii_digit).count();
        let (depth, rest) = line.split_at(digits);
        let depth: usize = depth.parse().map_err(|_| wrong())?;
        let mut words = rest.split(' ');
        let id = match (words.next(), words.next().and_then(|word| word.strip_prefix('v'))) {
            (Some(name), Some(version)) if !name.is_empty() && !version.is_empty() => {
                (name.to_owned(), version.to_owned())
            }
            _ => return Err(wrong()),
        };
        if depth > above.len() {
            return Err(wrong());
        }
        above.truncate(depth);
        match above.last() {
            Some(parent) => {
                tree.needs.entry(parent.clone()).or_default().insert(id.clone());
            }
            None => tree.roots.push(id.clone()),
        }
        tree.needs.entry(id.clone()).or_default();
        above.push(id);
    }
    Ok(tree)
}

/// Everything below the package of this name, but not itself.
fn reached<'a>(tree: &'a Tree, root: &str) -> BTreeSet<&'a Id> {
    let mut found = BTreeSet::new();
    let mut next: Vec<&Id> = tree.roots.iter().filter(|id| id.0 == root).collect();
    while let Some(id) = next.pop() {
        for need in tree.needs.get(id).into_iter().flatten() {
            if found.insert(need) {
                next.push(need);
            }
        }
    }
    found
}

fn checksums(path: &Path) -> Result<BTreeMap<Id, String>, SbomError> {
    let lock: LockFile =
        toml::from_str(&files::read_text(path)?).map_err(|error| SbomError::Lock(Box::new(error)))?;
    let sums =
        lock.package.into_iter().filter_map(|locked| Some(((locked.name, locked.version), locked.checksum?)));
    Ok(sums.collect())
}

/// Crates of this workspace are on no registry.
fn purl(id: &Id, own: bool) -> Result<String, SbomError> {
    Ok(address(if own { "generic" } else { "cargo" }, None, &id.0, &id.1, &[])?)
}

fn part(package: &Package, id: &Id, root: &Path) -> Result<Part, SbomError> {
    let own = package.source.is_none();
    let kind = if own { Kind::Own } else { Kind::Crate };
    let mut part = Part::new(kind, &id.0, &id.1, purl(id, own)?);
    let licence = licence::normal(package.license.as_deref().unwrap_or_default());
    let folder = package.manifest_path.parent().map(|folder| folder.as_std_path().to_path_buf());
    part.texts = match folder {
        _ if own => vec![Text::new("LICENSE", &files::read_text(&root.join("LICENSE"))?)],
        Some(folder) => texts(&folder, package.license_file().map(|path| path.into_std_path_buf()))?,
        None => Vec::new(),
    };
    // A notice alone is not the licence. Who wrote it is part of many a licence.
    if part.texts.iter().all(|text| text.title.to_uppercase().starts_with("NOTICE")) {
        part.texts.extend(licence::standard_texts(&licence));
        if !package.authors.is_empty() {
            part.texts.push(Text::new("authors", &package.authors.join("\n")));
        }
    }
    part.licence = Licence::Expression(licence);
    Ok(part)
}

/// The licence texts in a crate's folder, and the one its manifest names.
pub(super) fn texts(folder: &Path, named: Option<PathBuf>) -> Result<Vec<Text>, SbomError> {
    let mut paths: BTreeSet<PathBuf> = named.into_iter().filter(|path| path.is_file()).collect();
    for folder in [folder.to_path_buf(), folder.join("LICENSES"), folder.join("licenses")] {
        if !folder.is_dir() {
            continue;
        }
        let all = folder.file_name().is_some_and(|name| name.eq_ignore_ascii_case("licenses"));
        for entry in fs::read_dir(&folder).map_err(failed("read folder", &folder))? {
            let path = entry.map_err(failed("read folder", &folder))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().to_uppercase();
            let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
            let is_text = all || TEXT_NAMES.iter().any(|start| name.starts_with(start));
            if is_text && !NO_TEXT.contains(&ending.as_str()) && path.is_file() {
                paths.insert(path);
            }
        }
    }
    let mut texts = Vec::new();
    for path in paths {
        let size = fs::metadata(&path).map_err(failed("look at", &path))?.len();
        if size <= LONGEST_TEXT {
            let text = fs::read(&path).map_err(failed("read", &path))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            texts.push(Text::new(name, &String::from_utf8_lossy(&text)));
        }
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(name: &str) -> Id {
        (name.into(), "1.0.0".into())
    }

    #[test]
    fn a_tree_says_who_needs_whom_even_where_it_is_cut() {
        let tree =
            parse_tree("0a v1.0.0 (/a)\n1b v1.0.0\n2c v1.0.0\n1d v1.0.0\n\n0e v1.0.0 (/e)\n1b v1.0.0 (*)\n")
                .unwrap();
        assert_eq!(tree.roots, [id("a"), id("e")]);
        assert_eq!(reached(&tree, "e"), BTreeSet::from([&id("b"), &id("c")]));
        assert_eq!(reached(&tree, "a").len(), 3);
        for bad in ["1a v1\n", "0a v1\n2b v1\n", "a v1\n", "0a\n", "0a 1\n", "0 v1\n"] {
            assert!(parse_tree(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_crate_in_our_binaries_has_an_allowed_licence_and_its_text() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let parts = linked(&root).unwrap();
        assert_eq!(licence::faults(&parts), []);
        let find = |name: &str| parts.iter().find(|part| part.name == name);
        for (binary, _) in BINARIES {
            assert_eq!(find(binary).unwrap().kind, Kind::Binary);
        }
        assert!(find("tokio").unwrap().sha256.as_ref().is_some_and(|sum| sum.len() == 64));
        for not_linked in ["proptest", "syn", "serde_derive", "cyclonedx-bom", "clap_derive", "image"] {
            assert!(find(not_linked).is_none(), "{not_linked}");
        }
        let ids: BTreeSet<_> = parts.iter().map(|part| &part.id).collect();
        assert_eq!(ids.len(), parts.len());
        assert!(parts.iter().flat_map(|part| &part.needs).all(|need| ids.contains(need)));
    }

    proptest! {
        #[test]
        fn any_text_is_a_tree_or_an_error(text in "([0-9]?[a-c]? ?v?[0-9]?\n?){0,20}") {
            let _ = parse_tree(&text);
        }
    }
}
