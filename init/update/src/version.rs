//! Versions of the system: three numbers, in the order of which is newer.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::text::clip;

/// A version of the system, `MAJOR.MINOR.PATCH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub patch: u32,
}

/// Not a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Not a version, three numbers with dots between them: {0:?}")]
pub struct VersionError(String);

impl Version {
    /// Older than, or as old as, every other.
    pub const ZERO: Self = Self::new(0, 0, 0);

    /// Of its numbers.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { major, minor, patch }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for Version {
    type Err = VersionError;

    /// One version has one spelling: what would be written differently is refused.
    fn from_str(text: &str) -> Result<Self, VersionError> {
        let mut parts = text.split('.').map(|part| part.parse().ok());
        let version = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Some(major)), Some(Some(minor)), Some(Some(patch)), None) => Self { major, minor, patch },
            _ => return Err(VersionError(clip(text))),
        };
        if version.to_string() == text { Ok(version) } else { Err(VersionError(clip(text))) }
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.to_string()
    }
}

impl TryFrom<String> for Version {
    type Error = VersionError;

    fn try_from(text: String) -> Result<Self, VersionError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_spelling_each() {
        for text in
            ["", "1", "1.2", "1.2.3.4", "01.2.3", "+1.2.3", "1.2.-3", "1..3", " 1.2.3", "4294967296.0.0"]
        {
            assert!(text.parse::<Version>().is_err(), "{text:?}");
        }
        assert_eq!("4294967295.0.7".parse(), Ok(Version::new(u32::MAX, 0, 7)));
    }

    #[test]
    fn newer_is_greater() {
        let order = ["0.0.0", "0.0.2", "0.0.10", "0.1.0", "1.0.0", "10.0.0"];
        let versions: Vec<Version> = order.iter().map(|text| text.parse().unwrap()).collect();
        assert!(versions.is_sorted());
    }

    proptest! {
        #[test]
        fn any_version_comes_back(major: u32, minor: u32, patch: u32) {
            let version = Version::new(major, minor, patch);
            prop_assert_eq!(version.to_string().parse(), Ok(version));
            let json = serde_json::to_string(&version).unwrap();
            prop_assert_eq!(serde_json::from_str::<Version>(&json).unwrap(), version);
        }

        #[test]
        fn any_text_is_a_version_or_refused(text in "\\PC{0,20}|[0-9.]{0,20}") {
            if let Ok(version) = text.parse::<Version>() {
                prop_assert_eq!(version.to_string(), text);
            }
        }
    }
}
