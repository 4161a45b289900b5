//! Where in a TOML file a key stands.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One step from the top of a file to a value in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// Into a table.
    Key(&'static str),
    /// Into an array.
    Index(usize),
}

impl At {
    /// As people write it: `network.peers[1].node`.
    pub fn dotted(steps: &[Self]) -> String {
        let mut text = String::new();
        for step in steps {
            match step {
                Self::Key(key) if text.is_empty() => text.push_str(key),
                Self::Key(key) => text.extend([".", key]),
                Self::Index(index) => text.extend(["[", &index.to_string(), "]"]),
            }
        }
        text
    }
}

/// Line of the value to which the steps lead, from 1; none if it is not there.
pub fn line_of(text: &str, steps: &[At]) -> Option<usize> {
    let table = DeTable::parse(text).ok()?;
    let (first, rest) = steps.split_first()?;
    let At::Key(key) = first else { return None };
    let start = start_of(table.get_ref().get(*key)?, rest)?;
    Some(1 + text.get(..start)?.matches('\n').count())
}

fn start_of(value: &Spanned<DeValue<'_>>, steps: &[At]) -> Option<usize> {
    let Some((first, rest)) = steps.split_first() else { return Some(value.span().start) };
    let inner = match (first, value.get_ref()) {
        (At::Key(key), DeValue::Table(table)) => table.get(*key)?,
        (At::Index(index), DeValue::Array(array)) => array.get(*index)?,
        _ => return None,
    };
    start_of(inner, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_lines() {
        let text = "a = 1\n[b]\nc = [\n 1,\n { d = 2 },\n]\n[[e]]\nf = 1\n[[e]]\nf = 2\n";
        for (steps, line) in [
            (&[At::Key("a")][..], Some(1)),
            (&[At::Key("b"), At::Key("c"), At::Index(1), At::Key("d")], Some(5)),
            (&[At::Key("e"), At::Index(1), At::Key("f")], Some(10)),
            (&[At::Key("e"), At::Index(2)], None),
            (&[At::Key("x")], None),
            (&[At::Index(0)], None),
            (&[], None),
        ] {
            assert_eq!(line_of(text, steps), line, "{}", At::dotted(steps));
        }
        assert_eq!(line_of("a = ", &[At::Key("a")]), None);
        assert_eq!(At::dotted(&[At::Key("b"), At::Key("c"), At::Index(1), At::Key("d")]), "b.c[1].d");
    }
}
