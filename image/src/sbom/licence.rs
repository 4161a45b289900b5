//! Which licences may be linked into the binaries, and what is wrong with a list of parts.

use spdx::identifiers::LICENSES;
use spdx::{Expression, LicenseReq, ParseMode};
use thiserror::Error;

use super::part::{Kind, Licence, Part, Text};

/// Licences of what is linked or packed with our code: none of them asks for more than its text to be passed on.
const ALLOWED: [&str; 13] = [
    "0BSD",
    "AFL-2.1",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    // Data, not code: the certificate authorities that the web trusts.
    "CDLA-Permissive-2.0",
    "curl",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Exceptions that give more freedom to what is allowed already.
const EXCEPTIONS: [&str; 1] = ["LLVM-exception"];

/// Kinds whose licence is one of Debian's or the kernel's: they are beside our code, or allow to be linked by it, and
/// their sources are told instead.
const NOT_BY_LIST: [Kind; 3] = [Kind::Debian, Kind::Linked, Kind::Kernel];

/// What is wrong with a part.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    /// It names no licence.
    #[error("{0} names no licence")]
    None(String),
    /// It names a licence nobody knows.
    #[error("{part} names a licence that is none: {licence:?}")]
    Unknown {
        /// Name and version.
        part: String,
        /// What it says.
        licence: String,
    },
    /// It has a licence that is not on the list.
    #[error("{part} is under {licence}, which image/src/sbom/licence.rs does not allow")]
    NotAllowed {
        /// Name and version.
        part: String,
        /// What it says.
        licence: String,
    },
    /// It has no text.
    #[error("{0} has no licence text or copyright file")]
    NoText(String),
}

/// Everything that is wrong with these parts.
#[must_use]
pub fn faults(parts: &[Part]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for part in parts {
        let name = format!("{} {}", part.name, part.version);
        if part.texts.iter().all(|text| text.text.trim().is_empty()) {
            faults.push(Fault::NoText(name.clone()));
        }
        if NOT_BY_LIST.contains(&part.kind) {
            continue;
        }
        let licence = match &part.licence {
            Licence::Expression(expression) => expression.clone(),
            Licence::Names(_) => String::new(),
        };
        if licence.is_empty() {
            faults.push(Fault::None(name));
            continue;
        }
        match Expression::parse(&licence) {
            Err(_) => faults.push(Fault::Unknown { part: name, licence }),
            Ok(expression) if !expression.evaluate(allowed) => {
                faults.push(Fault::NotAllowed { part: name, licence });
            }
            Ok(_) => {}
        }
    }
    faults
}

fn allowed(wanted: &LicenseReq) -> bool {
    let exception = match &wanted.addition {
        None => true,
        Some(addition) => addition.id().is_some_and(|id| EXCEPTIONS.contains(&id.name)),
    };
    exception && wanted.license.id().is_some_and(|id| ALLOWED.contains(&id.name))
}

/// A licence as SPDX writes it: `MIT/Apache-2.0` and full names are put right; what is no licence stays what it is.
#[must_use]
pub fn normal(said: &str) -> String {
    let said = said.trim();
    if let Some(known) = LICENSES.iter().find(|known| known.full_name.eq_ignore_ascii_case(said)) {
        return known.name.to_owned();
    }
    match Expression::canonicalize(said) {
        Ok(Some(better)) => better,
        Ok(None) | Err(_) => said.to_owned(),
    }
}

/// Whether this is an SPDX expression.
#[must_use]
pub fn is_expression(said: &str) -> bool {
    Expression::parse(said).is_ok()
}

/// The standard texts of the allowed licences in an expression, for parts that come without.
#[must_use]
pub fn standard_texts(expression: &str) -> Vec<Text> {
    let Ok(expression) = Expression::parse_mode(expression, ParseMode::LAX) else { return Vec::new() };
    let mut texts = Vec::new();
    for wanted in expression.requirements().map(|wanted| &wanted.req).filter(|wanted| allowed(wanted)) {
        if let Some(id) = wanted.license.id() {
            texts.push(Text::new(format!("{} (standard text)", id.name), id.text()));
        }
        if let Some(id) = wanted.addition.as_ref().and_then(|addition| addition.id()) {
            texts.push(Text::new(format!("{} (standard text)", id.name), id.text()));
        }
    }
    texts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(kind: Kind, licence: &str, text: &str) -> Part {
        let mut part = Part::new(kind, "x", "1", "pkg:generic/x@1".into());
        part.licence = Licence::Expression(licence.into());
        part.texts = vec![Text::new("LICENSE", text)];
        part
    }

    #[test]
    fn a_planted_list_of_bad_crates_is_found_out_one_by_one() {
        let bad = [
            ("GPL-3.0-only", "NotAllowed"),
            ("MIT AND GPL-2.0-only", "NotAllowed"),
            ("Apache-2.0 WITH Classpath-exception-2.0", "NotAllowed"),
            ("LicenseRef-ours", "NotAllowed"),
            ("AGPL-3.0-only OR SSPL-1.0", "NotAllowed"),
            ("", "None"),
            ("see the file", "Unknown"),
        ];
        for (licence, fault) in bad {
            let found = faults(&[part(Kind::Crate, licence, "text")]);
            assert_eq!(found.len(), 1, "{licence}: {found:?}");
            assert!(format!("{:?}", found[0]).starts_with(fault), "{licence}: {found:?}");
        }
        for kind in [Kind::Crate, Kind::Debian, Kind::Kernel, Kind::Wheel] {
            assert_eq!(faults(&[part(kind, "MIT", " \n")]), [Fault::NoText("x 1".into())]);
        }
    }

    #[test]
    fn one_allowed_choice_is_enough_and_all_of_what_is_joined_are_needed() {
        for good in ["MIT OR GPL-3.0-only", "Apache-2.0 WITH LLVM-exception OR MIT", "(MIT OR ISC) AND Zlib"]
        {
            assert_eq!(faults(&[part(Kind::Crate, good, "text")]), [], "{good}");
        }
        assert_eq!(faults(&[part(Kind::Kernel, "GPL-2.0-only", "text")]), []);
    }

    #[test]
    fn the_list_has_licences_that_exist_and_old_spellings_are_put_right() {
        for name in ALLOWED {
            assert!(spdx::license_id(name).is_some_and(|id| !id.text().is_empty()), "{name}");
        }
        assert!(EXCEPTIONS.iter().all(|name| spdx::exception_id(name).is_some()));
        assert_eq!(normal("MIT/Apache-2.0"), "MIT OR Apache-2.0");
        assert_eq!(normal("Apache License 2.0"), "Apache-2.0");
        let titles: Vec<_> =
            standard_texts("MIT OR GPL-3.0-only").into_iter().map(|text| text.title).collect();
        assert_eq!(titles, ["MIT (standard text)"]);
    }

    proptest! {
        #[test]
        fn whatever_a_crate_says_is_judged(said in ".*") {
            let said = normal(&said);
            let _ = standard_texts(&said);
            let _ = faults(&[part(Kind::Crate, &said, "text")]);
        }
    }
}
