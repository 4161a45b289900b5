//! Where in a TOML text something stands.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One step from the top of a text to a value in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// Into a table.
    Key(String),
    /// Into an array.
    Index(usize),
}

impl At {
    /// As people write it: `network.peers[1].node`.
    pub fn dotted(steps: &[Self]) -> String {
        let mut text = String::new();
        for step in steps {
            match step {
                Self::Key(key) if text.is_empty() => text.push_str(&plain(key)),
                Self::Key(key) => text.extend([".", &plain(key)]),
                Self::Index(index) => text.extend(["[", &index.to_string(), "]"]),
            }
        }
        text
    }

    /// The steps to a key of a section.
    pub(crate) fn path(path: &str) -> Vec<Self> {
        path.split('.').map(|key| Self::Key(key.to_owned())).collect()
    }

    pub(crate) fn join(steps: &[Self], last: Self) -> Vec<Self> {
        steps.iter().cloned().chain([last]).collect()
    }
}

/// A key as it may be printed: a key of a foreign file can hold anything.
fn plain(key: &str) -> String {
    let short: String = key.chars().take(60).collect();
    short.escape_debug().to_string()
}

/// Line and column, from 1; a column is a character.
pub type Position = (usize, usize);

/// Position of a byte of a text.
pub fn position(text: &str, byte: usize) -> Position {
    let mut end = byte.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let before = text.get(..end).unwrap_or_default();
    let line = 1 + before.matches('\n').count();
    let column = 1 + before.rsplit('\n').next().unwrap_or_default().chars().count();
    (line, column)
}

/// Position of the value to which the steps lead, or of its key; none if it is not there. Texts are small and mistakes
/// few, so the text is parsed again.
pub fn find(text: &str, steps: &[At], key: bool) -> Option<Position> {
    let (table, _) = DeTable::parse_recoverable(text);
    Some(position(text, in_table(table.get_ref(), steps, key)?))
}

fn in_table(table: &DeTable<'_>, steps: &[At], key: bool) -> Option<usize> {
    let (At::Key(name), rest) = steps.split_first()? else { return None };
    let (found, value) = table.iter().find(|(key, _)| key.get_ref().as_ref() == name.as_str())?;
    match rest {
        [] if key => Some(found.span().start),
        [] => Some(value.span().start),
        _ => in_value(value, rest, key),
    }
}

fn in_value(value: &Spanned<DeValue<'_>>, steps: &[At], key: bool) -> Option<usize> {
    match (value.get_ref(), steps.split_first()?) {
        (DeValue::Table(table), _) => in_table(table, steps, key),
        (DeValue::Array(array), (At::Index(index), [])) => Some(array.get(*index)?.span().start),
        (DeValue::Array(array), (At::Index(index), rest)) => in_value(array.get(*index)?, rest, key),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(text: &str) -> Vec<At> {
        let step = |text: &str| text.parse().map_or_else(|_| At::Key(text.to_owned()), At::Index);
        text.split('/').filter(|text| !text.is_empty()).map(step).collect()
    }

    #[test]
    fn values_and_keys_have_positions() {
        let text = "a = 1\n[b]\nc = [\n 1,\n { ä = 1, d = 2 },\n]\n[[e]]\nf = 1\n[[e]]\nf = 2\n";
        for (path, value, key) in [
            ("a", Some((1, 5)), Some((1, 1))),
            ("b/c/1/d", Some((5, 15)), Some((5, 11))),
            ("e/1/f", Some((10, 5)), Some((10, 1))),
            ("e/2", None, None),
            ("x", None, None),
            ("0", None, None),
            ("", None, None),
        ] {
            assert_eq!(find(text, &steps(path), false), value, "{path}");
            assert_eq!(find(text, &steps(path), true), key, "{path}");
        }
        assert_eq!(At::dotted(&steps("b/c/1/d")), "b.c[1].d");
    }

    #[test]
    fn any_byte_has_a_position() {
        assert_eq!(position("ä\nb", 1), (1, 1));
        assert_eq!(position("ä\nb", 3), (2, 1));
        assert_eq!(position("ä\nb", 99), (2, 2));
        assert_eq!(position("", 0), (1, 1));
    }
}
