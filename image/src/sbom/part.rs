//! What a part of the image is, whatever it comes from.

use std::collections::BTreeSet;

use purl::GenericPurlBuilder;
use thiserror::Error;

/// A name or version that has no package address.
#[derive(Debug, Error)]
#[error("{name} {version} makes no package address: {why}")]
pub struct AddressError {
    name: String,
    version: String,
    why: String,
}

/// What sort of part it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One of our binaries.
    Binary,
    /// A crate of this workspace.
    Own,
    /// A crate of others.
    Crate,
    /// Rust's standard library.
    Standard,
    /// A Debian package whose files are in the image.
    Debian,
    /// A Debian package of the building machine, linked into our binaries.
    Linked,
    /// A Python package.
    Wheel,
    /// One of the kernels.
    Kernel,
}

/// Under what it may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Licence {
    /// An SPDX expression; empty when none is given.
    Expression(String),
    /// The names its copyright file has, which are no SPDX names.
    Names(Vec<String>),
}

impl Licence {
    /// For people.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Expression(expression) => expression.clone(),
            Self::Names(names) => names.join(", "),
        }
    }
}

/// A text that goes with a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// File name, or what it is.
    pub title: String,
    /// All of it.
    pub text: String,
}

impl Text {
    /// A text with the line ends of this system, so that equal ones are equal.
    #[must_use]
    pub fn new(title: impl Into<String>, text: &str) -> Self {
        let mut lines = text.replace('\r', "");
        lines.truncate(lines.trim_end().len());
        lines.push('\n');
        Self { title: title.into(), text: lines }
    }
}

/// A source package of Debian.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// Its version, which may differ from that of the package made from it.
    pub version: String,
}

/// A part of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What sort of part.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What other parts call it.
    pub id: String,
    /// Its package address.
    pub purl: String,
    /// Its licence.
    pub licence: Licence,
    /// SHA-256 of the archive it comes in.
    pub sha256: Option<String>,
    /// Where in the image it is.
    pub places: BTreeSet<String>,
    /// Parts it is linked with, by their `id`.
    pub needs: Vec<String>,
    /// Texts of its licence.
    pub texts: Vec<Text>,
    /// Where its source is.
    pub source: Option<Source>,
    /// How it was changed here: patches in their order.
    pub patches: Vec<Text>,
    /// How it was configured here.
    pub config: Option<Text>,
}

impl Part {
    /// A part of which only what every part has is known.
    #[must_use]
    pub fn new(kind: Kind, name: &str, version: &str, purl: String) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            version: version.to_owned(),
            id: purl.clone(),
            purl,
            licence: Licence::Expression(String::new()),
            sha256: None,
            places: BTreeSet::new(),
            needs: Vec::new(),
            texts: Vec::new(),
            source: None,
            patches: Vec::new(),
            config: None,
        }
    }
}

/// The address of a package.
///
/// # Errors
/// When the name cannot be part of one.
pub fn address(
    family: &str,
    namespace: Option<&str>,
    name: &str,
    version: &str,
    qualifiers: &[(&str, &str)],
) -> Result<String, AddressError> {
    let failed = |why: String| AddressError { name: name.to_owned(), version: version.to_owned(), why };
    let mut builder = GenericPurlBuilder::new(family.to_owned(), name).with_version(version);
    if let Some(namespace) = namespace {
        builder = builder.with_namespace(namespace);
    }
    for (key, value) in qualifiers {
        builder = builder.with_qualifier(*key, *value).map_err(|error| failed(error.to_string()))?;
    }
    let purl = builder.build().map_err(|error| failed(error.to_string()))?;
    // Some readers take a plus sign for a space; it has no other meaning in an address.
    Ok(purl.to_string().replace('+', "%2B"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_are_as_their_specification_has_them() {
        assert_eq!(address("cargo", None, "serde", "1.0.229", &[]).unwrap(), "pkg:cargo/serde@1.0.229");
        let address = address("deb", Some("debian"), "libstdc++6", "1:2~x+y", &[("arch", "amd64")]).unwrap();
        assert!(address.starts_with("pkg:deb/debian/libstdc%2B%2B6@1:2~x%2By?arch=amd64"), "{address}");
    }

    proptest! {
        #[test]
        fn any_name_is_an_address_or_an_error(name in ".*", version in ".*") {
            let _ = address("deb", Some("debian"), &name, &version, &[("arch", &version)]);
        }

        #[test]
        fn a_text_is_the_same_however_its_lines_end(lines in "[a-z \n]{0,40}") {
            let text = Text::new("a", &lines);
            prop_assert_eq!(&text, &Text::new("a", &lines.replace('\n', "\r\n")));
            prop_assert_eq!(&text, &Text::new("a", &text.text));
        }
    }
}
