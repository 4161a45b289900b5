//! The Python packages of the runtimes: wheels by the hash that their requirements name.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::part::{Kind, Licence, Part, address};
use super::{SbomError, crates, licence};
use crate::files::{self, failed};

/// How packages that name no SPDX licence say which it is.
const CLASSIFIERS: [(&str, &str); 3] = [
    ("License :: OSI Approved :: Apache Software License", "Apache-2.0"),
    ("License :: OSI Approved :: BSD License", "BSD-3-Clause"),
    ("License :: OSI Approved :: MIT License", "MIT"),
];

/// What is linked into a wheel of others, of which the wheel says nothing.
struct Inside {
    wheel: &'static str,
    wheel_version: &'static str,
    name: &'static str,
    version: &'static str,
    licence: &'static str,
}

const INSIDE: [Inside; 2] = [
    Inside {
        wheel: "awslambdaric",
        wheel_version: "4.2.2",
        name: "aws-lambda-cpp",
        version: "0.2.6",
        licence: "Apache-2.0",
    },
    Inside {
        wheel: "awslambdaric",
        wheel_version: "4.2.2",
        name: "curl",
        version: "7.83.1",
        licence: "curl",
    },
];

/// A pinned line of `requirements.txt`.
#[derive(Debug, PartialEq, Eq)]
struct Pinned {
    name: String,
    version: String,
    sha256: Option<String>,
}

/// The Python packages of a runtime, read from the folder they are installed in.
///
/// # Errors
/// When a file cannot be read, a requirement is not pinned, or its package is not there.
pub fn installed(requirements: &Path, folder: &Path, place: &str) -> Result<Vec<Part>, SbomError> {
    let infos = infos(folder)?;
    let mut parts = Vec::new();
    for pinned in parse(&files::read_text(requirements)?).map_err(SbomError::Requirement)? {
        let missing = || SbomError::Wheel(format!("{} {}", pinned.name, pinned.version));
        let info = infos.get(&plain(&pinned.name)).ok_or_else(missing)?;
        let metadata = files::read_text(&info.join("METADATA"))?;
        let mut part = new(&pinned.name, &pinned.version, place)?;
        part.sha256 = pinned.sha256;
        part.texts = crates::texts(info, None)?;
        let said = said(&metadata);
        // Some have a file for it with nothing in it.
        part.texts.retain(|text| !text.text.trim().is_empty());
        if part.texts.is_empty() {
            part.texts = licence::standard_texts(&said);
        }
        part.licence = Licence::Expression(said);
        for inside in INSIDE.iter().filter(|inside| inside.wheel == part.name) {
            if inside.wheel_version != part.version {
                return Err(SbomError::Inside(format!("{} {}", part.name, part.version)));
            }
            let purl = address("generic", None, inside.name, inside.version, &[])?;
            let mut within = Part::new(Kind::Wheel, inside.name, inside.version, purl);
            within.places.insert(format!("in {}", part.name));
            within.texts = licence::standard_texts(inside.licence);
            within.licence = Licence::Expression(inside.licence.to_owned());
            part.needs.push(within.id.clone());
            parts.push(within);
        }
        parts.push(part);
    }
    Ok(parts)
}

fn new(name: &str, version: &str, place: &str) -> Result<Part, SbomError> {
    let mut part = Part::new(Kind::Wheel, name, version, address("pypi", None, name, version, &[])?);
    part.places.insert(place.to_owned());
    Ok(part)
}

/// Names that differ in these signs only are the same to Python.
fn plain(name: &str) -> String {
    name.to_lowercase().replace(['-', '.'], "_")
}

/// The `.dist-info` folders by plain name.
fn infos(folder: &Path) -> Result<BTreeMap<String, PathBuf>, SbomError> {
    let mut infos = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(failed("read folder", folder))? {
        let path = entry.map_err(failed("read folder", folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some((name, _)) = name.strip_suffix(".dist-info").and_then(|name| name.split_once('-')) {
            infos.insert(plain(name), path);
        }
    }
    Ok(infos)
}

fn parse(text: &str) -> Result<Vec<Pinned>, String> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines
        .filter(|line| !line.is_empty())
        .map(|line| {
            let mut words = line.split_whitespace();
            let pin = words.next().and_then(|word| word.split_once("=="));
            let (name, version) = pin.ok_or_else(|| line.to_owned())?;
            let sha256 = words.find_map(|word| word.strip_prefix("--hash=sha256:")).map(str::to_owned);
            Ok(Pinned { name: name.to_owned(), version: version.to_owned(), sha256 })
        })
        .collect()
}

/// The licence that the head of a METADATA file names; empty when none.
fn said(metadata: &str) -> String {
    let head = metadata.lines().take_while(|line| !line.is_empty());
    let fields: Vec<(&str, &str)> = head.filter_map(|line| line.split_once(": ")).collect();
    let named = ["License-Expression", "License"].iter().find_map(|name| {
        let value = fields.iter().find(|field| field.0 == *name)?.1;
        Some(licence::normal(value)).filter(|value| licence::is_expression(value))
    });
    let classified = || {
        let classifiers = fields.iter().filter(|field| field.0 == "Classifier").map(|field| field.1);
        classifiers
            .filter_map(|said| CLASSIFIERS.iter().find(|known| known.0 == said))
            .next()
            .map(|known| known.1)
    };
    named.or_else(|| classified().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_are_pinned() {
        let pinned = parse("# head\na-b==1.2 --hash=sha256:00ff # why\n\nc==3\n").unwrap();
        assert_eq!(
            pinned[0],
            Pinned { name: "a-b".into(), version: "1.2".into(), sha256: Some("00ff".into()) }
        );
        assert_eq!(pinned[1].sha256, None);
        assert_eq!(parse("a>=1\n"), Err("a>=1".to_owned()));
    }

    #[test]
    fn a_licence_is_found_wherever_a_wheel_says_it() {
        assert_eq!(said("License-Expression: MIT\nLicense: x\n"), "MIT");
        assert_eq!(said("License: Apache License 2.0\n"), "Apache-2.0");
        assert_eq!(said("License: ours\nClassifier: License :: OSI Approved :: MIT License\n"), "MIT");
        assert_eq!(said("Name: x\n\nLicense: MIT\n"), "", "the description is not asked");
    }

    #[test]
    fn packages_are_found_in_their_folder_and_missed_when_absent() {
        let dir = tempfile::tempdir().unwrap();
        let (list, folder) = (dir.path().join("requirements.txt"), dir.path().join("packages"));
        files::write(&list, "a-b==1\n").unwrap();
        files::create_dir(&folder).unwrap();
        assert!(matches!(installed(&list, &folder, "p"), Err(SbomError::Wheel(name)) if name == "a-b 1"));
        files::write(&folder.join("A_b-1.dist-info/METADATA"), "License: MIT\n").unwrap();
        let parts = installed(&list, &folder, "p").unwrap();
        assert_eq!(licence::faults(&parts), []);
        assert_eq!(parts[0].purl, "pkg:pypi/a-b@1");
        // What is inside a wheel is known of one version only.
        files::write(&list, "awslambdaric==0\n").unwrap();
        files::write(&folder.join("awslambdaric-0.dist-info/METADATA"), "License: MIT\n").unwrap();
        assert!(matches!(installed(&list, &folder, "p"), Err(SbomError::Inside(_))));
    }
}
