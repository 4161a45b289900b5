//! What a record says. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest text of a record in bytes; its end is kept, which is where a crash is.
pub const MOST_TEXT: usize = 128 * 1024;

/// Longest reason in bytes.
const MOST_REASON: usize = 512;

/// Crashes for the same reason within this time of the last are counted as one.
const SAME_MS: u64 = 3_600_000;

/// What crashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The kernel.
    Kernel,
    /// The service.
    Hostd,
    /// The machine was not healthy, and its watchdog was left to start it anew.
    Watchdog,
}

impl Kind {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Kernel, Self::Hostd, Self::Watchdog];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Hostd => "hostd",
            Self::Watchdog => "watchdog",
        })
    }
}

/// A crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crash {
    /// What crashed.
    pub kind: Kind,
    /// When first, milliseconds since 1970, by the machine's clock.
    pub unix_ms: u64,
    /// When last.
    pub last_unix_ms: u64,
    /// How often.
    pub times: u32,
    /// The kernel's name for the boot in which it was noted.
    pub boot_id: String,
    /// Of the system that noted it.
    pub version: String,
    /// One line.
    pub reason: String,
    /// What was said before: the end of a log.
    pub text: String,
}

/// A crash without its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Its name.
    pub id: Id,
    /// What crashed; none if the record cannot be read.
    pub kind: Option<Kind>,
    /// When first.
    pub unix_ms: u64,
    /// When last.
    pub last_unix_ms: u64,
    /// How often.
    pub times: u32,
    /// Of the system that noted it.
    pub version: String,
    /// One line.
    pub reason: String,
}

/// Name of a record, and of its file: time and kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Id(String);

impl Id {
    /// A name as [`Id::new`] makes them, or none: whoever asks for `../x` asks for nothing.
    pub fn parse(text: &str) -> Option<Self> {
        let (time, rest) = text.split_once('-')?;
        let (kind, number) = rest.split_once('-')?;
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let known = Kind::ALL.iter().any(|known| known.to_string() == kind);
        (time.len() == 15 && digits(time) && number.len() <= 4 && digits(number) && known)
            .then(|| Self(text.to_owned()))
    }

    /// Names sort by time. `number` tells apart what happened at the same time.
    pub(crate) fn new(crash: &Crash, number: u16) -> Self {
        // Fifteen digits are enough for thirty thousand years.
        Self(format!("{:015}-{}-{number}", crash.unix_ms.min(999_999_999_999_999), crash.kind))
    }

    /// The kind of what it names.
    pub fn kind(&self) -> Option<Kind> {
        let kind = self.0.split('-').nth(1)?;
        Kind::ALL.into_iter().find(|known| known.to_string() == kind)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Crash {
    /// A crash that happened once; texts over their limit are cut.
    pub fn new(kind: Kind, unix_ms: u64, reason: &str, text: &str) -> Self {
        let reason = reason.get(..reason.floor_char_boundary(MOST_REASON)).unwrap_or_default();
        Self {
            kind,
            unix_ms,
            last_unix_ms: unix_ms,
            times: 1,
            boot_id: String::new(),
            version: String::new(),
            reason: reason.to_owned(),
            text: end(text).to_owned(),
        }
    }

    /// Whether `next` is this one happening again.
    pub(crate) fn is_again(&self, next: &Self) -> bool {
        self.kind == next.kind
            && self.reason == next.reason
            && self.version == next.version
            && next.unix_ms.abs_diff(self.last_unix_ms) <= SAME_MS
    }

    /// Counts `next`. The first text stays: it is of how it began.
    pub(crate) fn count(&mut self, next: &Self) {
        self.times = self.times.saturating_add(next.times);
        self.last_unix_ms = self.last_unix_ms.max(next.last_unix_ms);
    }

    pub(crate) fn summary(&self, id: Id) -> Summary {
        Summary {
            id,
            kind: Some(self.kind),
            unix_ms: self.unix_ms,
            last_unix_ms: self.last_unix_ms,
            times: self.times,
            version: self.version.clone(),
            reason: self.reason.clone(),
        }
    }
}

fn end(text: &str) -> &str {
    let from = text.ceil_char_boundary(text.len().saturating_sub(MOST_TEXT));
    text.get(from..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_parsed_and_others_are_none() {
        let crash = Crash::new(Kind::Hostd, 1_793_491_200_123, "r", "t");
        let id = Id::new(&crash, 2);
        assert_eq!(id.to_string(), "001793491200123-hostd-2");
        assert_eq!(Id::parse(&id.to_string()), Some(id.clone()));
        assert_eq!(id.kind(), Some(Kind::Hostd));
        for bad in ["", "..", "../x", "001793491200123-hostd-2.new", "1-hostd-2", "001793491200123-other-2"] {
            assert_eq!(Id::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_cut_to_its_end(text in "\\PC{0,50}", times in 1usize..9000, reason in "\\PC{0,900}") {
            let text = text.repeat(times);
            let crash = Crash::new(Kind::Kernel, 0, &reason, &text);
            prop_assert!(crash.text.len() <= MOST_TEXT && text.ends_with(&crash.text));
            prop_assert!(crash.reason.len() <= MOST_REASON && reason.starts_with(&crash.reason));
            prop_assert!(text.len() > MOST_TEXT || crash.text == text);
        }

        #[test]
        fn no_name_leads_out_of_the_folder(text in "[0-9a-z./-]{0,40}") {
            if let Some(id) = Id::parse(&text) {
                prop_assert!(!id.to_string().contains(['/', '.']));
            }
        }
    }
}
