//! The folder `licences/`: every text once, which part has which, and where the sources are.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use super::part::{Kind, Part, Text};
use crate::files;

/// A chapter of the list: which parts, and its title.
const CHAPTERS: [(Kind, &str); 8] = [
    (Kind::Binary, "Our binaries"),
    (Kind::Own, "Our crates"),
    (Kind::Crate, "Crates in our binaries"),
    (Kind::Standard, "The standard library in our binaries"),
    (Kind::Linked, "C libraries in our binaries"),
    (Kind::Kernel, "Kernels"),
    (Kind::Debian, "Debian packages"),
    (Kind::Wheel, "Python packages"),
];

/// Files below `licences/` by their names.
#[must_use]
pub fn folder(parts: &[Part], title: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut list = format!(
        "# Licences of {title}\n\nEvery part of the image, its licence and the texts that go with it. What is the same \
         text is one file. Where the sources are: [SOURCES.md](SOURCES.md).\n"
    );
    for (kind, chapter) in CHAPTERS {
        let chosen: Vec<&Part> = parts.iter().filter(|part| part.kind == kind).collect();
        if chosen.is_empty() {
            continue;
        }
        push(
            &mut list,
            &format!(
                "\n## {chapter}\n\n| Part | Version | Licence | Where | Texts |\n|---|---|---|---|---|\n"
            ),
        );
        for part in chosen {
            let links: Vec<String> = part
                .texts
                .iter()
                .map(|text| {
                    let name = name(text);
                    let link = format!("[{}]({name})", cell(&text.title));
                    found.insert(name, text.text.clone());
                    link
                })
                .collect();
            let places: Vec<&str> = part.places.iter().map(String::as_str).collect();
            let cells = [
                cell(&part.name),
                cell(&part.version),
                cell(&part.licence.shown()),
                places.join(", "),
                links.join(", "),
            ];
            push(&mut list, &format!("| {} |\n", cells.join(" | ")));
        }
    }
    found.insert("README.md".to_owned(), list);
    found.insert("SOURCES.md".to_owned(), sources(parts, title));
    for part in parts {
        for text in part.patches.iter().chain(&part.config) {
            found.insert(format!("kernel/{}", text.title), text.text.clone());
        }
    }
    found
}

/// SHA-256 over all of these files.
#[must_use]
pub fn digest(files: &BTreeMap<String, String>) -> String {
    let mut hash = Sha256::new();
    for (name, text) in files {
        hash.update(Sha256::digest(name));
        hash.update(Sha256::digest(text));
    }
    files::hex(&hash.finalize())
}

fn name(text: &Text) -> String {
    let hash = files::hex(&Sha256::digest(&text.text));
    let ending = if text.title.ends_with(".html") { "html" } else { "txt" };
    format!("texts/{}.{ending}", &hash[..16])
}

/// What would end a cell or a link of a table is not in one.
fn cell(text: &str) -> String {
    text.replace(['|', '[', ']', '\n'], " ")
}

fn push(list: &mut String, text: &str) {
    // Writing to a string cannot fail.
    let _ = list.write_str(text);
}

fn sources(parts: &[Part], title: &str) -> String {
    let mut text = format!(
        "# Where the sources of {title} are\n\n\
         The kernels, the GNU C library, the file system tools and other parts are under the GPL or LGPL, or partly so. \
         The source of every one of them is a source package of Debian, in exactly the version below; Debian keeps all \
         versions it ever had at snapshot.debian.org. `apt-get source NAME=VERSION` fetches those it still offers.\n\n\
         Parts under other licences are listed too: all are changed by nobody between Debian and this image, except the \
         kernels.\n\n## Kernels\n\n"
    );
    for part in parts.iter().filter(|part| part.kind == Kind::Kernel) {
        let (source, version) = source(part);
        push(
            &mut text,
            &format!(
                "- `{}`: Debian's package `{}` {}, from the source package `{source}` ({}). Configuration: {}. Patches: {}.\n",
                part.name,
                crate::kernel::SOURCE_PACKAGE,
                part.version,
                snapshot(source, version),
                part.config.as_ref().map_or_else(|| "Debian's".to_owned(), link),
                if part.patches.is_empty() {
                    "none".to_owned()
                } else {
                    part.patches.iter().map(link).collect::<Vec<_>>().join(", ")
                },
            ),
        );
    }
    push(
        &mut text,
        "\n`make image` in Mote's source tree builds them from these; image/src/kernel says how.\n\n\
         ## Linked into our binaries\n\n\
         mote-init, hostd and mote-agent are static. Whoever wants them with another C library builds them anew from \
         Mote's source tree, which is under Apache-2.0: `cargo build --release` links what the machine has.\n\n",
    );
    table(&mut text, parts, Kind::Linked);
    push(&mut text, "\n## Debian packages whose files are in the image\n\n");
    table(&mut text, parts, Kind::Debian);
    text
}

fn table(text: &mut String, parts: &[Part], kind: Kind) {
    push(text, "| Package | Version | Source package | Licences | Source |\n|---|---|---|---|---|\n");
    for part in parts.iter().filter(|part| part.kind == kind) {
        let (source, version) = source(part);
        let cells = [
            cell(&part.name),
            cell(&part.version),
            format!("{} {}", cell(source), cell(version)),
            cell(&part.licence.shown()),
            snapshot(source, version),
        ];
        push(text, &format!("| {} |\n", cells.join(" | ")));
    }
}

fn source(part: &Part) -> (&str, &str) {
    match &part.source {
        Some(source) => (&source.name, &source.version),
        None => (&part.name, &part.version),
    }
}

/// Where Debian keeps a source package for ever.
#[must_use]
pub fn snapshot(source: &str, version: &str) -> String {
    format!("https://snapshot.debian.org/package/{source}/{version}/")
}

fn link(text: &Text) -> String {
    format!("[{0}](kernel/{0})", text.title)
}

#[cfg(test)]
mod tests {
    use super::super::part::{Licence, Source};
    use super::*;

    fn part(kind: Kind, name: &str, text: &str) -> Part {
        let mut part = Part::new(kind, name, "1.0", format!("pkg:generic/{name}@1.0"));
        part.licence = Licence::Names(vec!["GPL-2+".into(), "x|y".into()]);
        part.texts.push(Text::new("COPYING", text));
        part
    }

    #[test]
    fn a_text_is_there_once_and_every_kind_of_part_is_listed() {
        let parts: Vec<Part> = CHAPTERS
            .iter()
            .map(|(kind, name)| part(*kind, name, if *kind == Kind::Crate { "b" } else { "a" }))
            .collect();
        let folder = folder(&parts, "Mote 1");
        assert_eq!(folder.keys().filter(|name| name.starts_with("texts/")).count(), 2);
        let list = &folder["README.md"];
        for (_, name) in CHAPTERS {
            assert!(list.contains(&format!("| {name} | 1.0 | GPL-2+, x y |")), "{name}: {list}");
        }
        for link in list.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            assert!(folder.contains_key(link), "{link}");
        }
    }

    #[test]
    fn every_debian_part_has_its_source_and_a_kernel_what_was_done_to_it() {
        let mut package = part(Kind::Debian, "libx1", "a");
        package.source = Some(Source { name: "x".into(), version: "1.0-1".into() });
        let mut kernel = part(Kind::Kernel, "linux-host", "a");
        kernel.config = Some(Text::new("host.defconfig", "CONFIG_A=y"));
        kernel.patches.push(Text::new("host.patches/0001-x.patch", "--- a"));
        let folder = folder(&[package, kernel], "Mote 1");
        let sources = &folder["SOURCES.md"];
        assert!(sources.contains("https://snapshot.debian.org/package/x/1.0-1/"), "{sources}");
        for file in ["kernel/host.defconfig", "kernel/host.patches/0001-x.patch"] {
            assert!(sources.contains(&format!("({file})")) && folder.contains_key(file), "{file}");
        }
    }

    #[test]
    fn the_digest_knows_names_from_texts() {
        let of = |name: &str, text: &str| digest(&BTreeMap::from([(name.to_owned(), text.to_owned())]));
        assert!(of("a", "bc") != of("ab", "c") && of("a", "b") == of("a", "b"));
    }
}
