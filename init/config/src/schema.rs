//! A layer's text or words, checked key by key.

use std::collections::BTreeMap;

use toml::Value;
use toml::de::DeTable;

use crate::kind::Key;
use crate::layer::{Content, Layer, Source};
use crate::mistake::{Fault, Mistake, Where};
use crate::place::{At, find, position};
use crate::{MAX_TEXT, keys, options};

/// What a layer sets: values by `section.name`.
pub type Entries = BTreeMap<&'static str, Value>;

/// Most mistakes told of one layer; who has more has another problem.
const MAX_MISTAKES: usize = 20;

/// The keys there are.
#[derive(Debug, Clone, Copy)]
pub struct Schema(pub &'static [Key]);

/// The keys of `mote.toml`.
pub const SCHEMA: Schema = Schema(keys::KEYS);

impl Schema {
    /// The key of a `section.name`.
    pub fn key(&self, path: &str) -> Option<&'static Key> {
        self.0.iter().find(|key| key.path == path)
    }

    /// Sections in their order.
    pub fn sections(&self) -> Vec<&'static str> {
        let mut sections: Vec<_> = self.0.iter().map(|key| key.parts().0).collect();
        sections.dedup();
        sections
    }

    /// What a layer sets, as far as it is sound, and all that is wrong with it by itself.
    pub fn read(&self, source: &Source) -> (Entries, Vec<Mistake>) {
        let (mut entries, mut mistakes) = match &source.content {
            Content::Text(text) => self.read_text(&source.name, text),
            Content::Options(words) => options::read(*self, words),
        };
        if source.layer == Layer::Api {
            for path in keys::NOT_BY_API.iter().filter(|path| entries.remove(**path).is_some()) {
                let fault = Fault::key(&At::path(path), "cannot be set by the API".to_owned());
                mistakes.push(source.placed(fault.way_out("set it in another layer".to_owned())));
            }
        }
        if mistakes.len() > MAX_MISTAKES {
            let more = mistakes.len() - MAX_MISTAKES;
            mistakes.truncate(MAX_MISTAKES);
            let place = Where::Text(source.name.clone(), None);
            let said = format!("{more} more mistakes");
            mistakes.push(Mistake { place, key: String::new(), said, way_out: String::new() });
        }
        (entries, mistakes)
    }

    fn read_text(&self, name: &str, text: &str) -> (Entries, Vec<Mistake>) {
        let whole = |span: Option<usize>, said: String, way_out: &str| Mistake {
            place: Where::Text(name.to_owned(), span.map(|byte| position(text, byte))),
            key: String::new(),
            said,
            way_out: way_out.to_owned(),
        };
        if text.len() > MAX_TEXT {
            let said = format!("{} bytes, at most {MAX_TEXT}", text.len());
            return (Entries::new(), vec![whole(None, said, "leave out what is not needed")]);
        }
        if let Some(byte) = text.find('\u{fffd}') {
            return (
                Entries::new(),
                vec![whole(Some(byte), "Not UTF-8".to_owned(), "save the file as UTF-8")],
            );
        }
        let (_, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            let told = errors.iter().map(|error| {
                whole(
                    error.span().map(|span| span.start),
                    error.message().to_owned(),
                    "see https://toml.io for the form",
                )
            });
            return (Entries::new(), told.collect());
        }
        let table: toml::Table = match toml::from_str(text) {
            Ok(table) => table,
            Err(error) => {
                let mistake = whole(error.span().map(|span| span.start), error.message().to_owned(), "");
                return (Entries::new(), vec![mistake]);
            }
        };
        let mut faults = Vec::new();
        let entries = self.take(table, &mut faults);
        let mut mistakes: Vec<Mistake> = faults.into_iter().map(|fault| placed(name, text, fault)).collect();
        // Tables are sorted by name; people read from above.
        mistakes.sort_by_key(|mistake| match mistake.place {
            Where::Text(_, position) => position,
            Where::Word(_) => None,
        });
        (entries, mistakes)
    }

    fn take(&self, table: toml::Table, faults: &mut Vec<Fault>) -> Entries {
        let mut entries = Entries::new();
        for (section, value) in table {
            let at = [At::Key(section.clone())];
            if !self.sections().contains(&section.as_str()) {
                faults.push(self.unknown_section(&section));
                continue;
            }
            let Value::Table(values) = value else {
                let said = format!("A section is wanted: a line [{section}], and its keys below");
                faults.push(Fault::at(&at, said));
                continue;
            };
            for (name, value) in values {
                let at = At::join(&at, At::Key(name.clone()));
                match self.key(&format!("{section}.{name}")) {
                    None => faults.push(self.unknown(&section, &name)),
                    Some(key) => {
                        if let Some(value) = key.kind.check(value, &at, key.secret, faults) {
                            entries.insert(key.path, value);
                        }
                    }
                }
            }
        }
        entries
    }

    fn unknown_section(&self, section: &str) -> Fault {
        let fault = Fault::key(&[At::Key(section.to_owned())], "is no section".to_owned());
        // A key that lost its section.
        let homes: Vec<_> =
            self.0.iter().filter(|key| key.parts().1 == section).map(|key| key.parts().0).collect();
        let near = nearest(section, self.sections().into_iter());
        fault.way_out(match (near, homes.as_slice()) {
            (_, [home]) => format!("did you mean {section} in [{home}]?"),
            (Some(near), _) => format!("did you mean [{near}]?"),
            (None, _) => format!("there are {}", self.sections().join(", ")),
        })
    }

    /// A key that is not there.
    pub(crate) fn unknown(&self, section: &str, name: &str) -> Fault {
        let at = At::path(section).into_iter().chain([At::Key(name.to_owned())]).collect::<Vec<_>>();
        let fault = Fault::key(&at, format!("is no key of [{section}]"));
        let names =
            || self.0.iter().map(Key::parts).filter(|(other, _)| *other == section).map(|(_, name)| name);
        let homes: Vec<_> = self.0.iter().map(Key::parts).filter(|(_, other)| *other == name).collect();
        fault.way_out(match (nearest(name, names()), homes.first()) {
            (_, Some((home, _))) => format!("did you mean [{home}] {name}?"),
            (Some(near), None) => format!("did you mean {near}?"),
            (None, None) => format!("[{section}] has {}", names().collect::<Vec<_>>().join(", ")),
        })
    }
}

/// A fault with its place in a text.
pub(crate) fn placed(name: &str, text: &str, fault: Fault) -> Mistake {
    // What is missing stands nowhere: then what it is missing from.
    let found = (1..=fault.at.len())
        .rev()
        .find_map(|length| find(text, fault.at.get(..length)?, fault.of_key && length == fault.at.len()));
    Mistake {
        place: Where::Text(name.to_owned(), found),
        key: At::dotted(&fault.at),
        said: fault.said,
        way_out: fault.way_out,
    }
}

/// The name that is likely meant.
pub(crate) fn nearest<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Longer ones are none of ours, and the comparison takes time by the product of lengths.
    if text.len() > 64 {
        return None;
    }
    let distance = |name: &'a str| (strsim::damerau_levenshtein(text, name), name);
    let (distance, name) = names.map(distance).min_by_key(|(distance, _)| *distance)?;
    (distance <= 1 + name.len() / 4).then_some(name)
}
