//! Words of the kernel command line as settings.

use std::collections::BTreeMap;

use toml::Value;

use crate::keys::{FOREIGN, INTERFACE_WORDS, SHORT};
use crate::kind::{Key, Kind};
use crate::mistake::{Fault, Mistake, Where};
use crate::place::At;
use crate::schema::{Entries, Schema, nearest};

const PREFIX: &str = "mote.";

/// Key of the entry that [`INTERFACE_WORDS`] make.
const INTERFACES: &str = "machine.interfaces";

/// What the words (without `mote.`) set, and what is wrong with them.
pub(crate) fn read(schema: Schema, words: &BTreeMap<String, String>) -> (Entries, Vec<Mistake>) {
    let (mut entries, mut mistakes) = (Entries::new(), Vec::new());
    let mut by = BTreeMap::new();
    for (word, text) in words {
        if FOREIGN.contains(&word.as_str()) || INTERFACE_WORDS.contains(&word.as_str()) {
            continue;
        }
        let short = SHORT.iter().find(|(short, _)| short == word).map(|(_, path)| *path);
        let Some(key) = schema.key(short.unwrap_or(word)) else {
            mistakes.push(unknown(schema, word));
            continue;
        };
        if key.secret {
            mistakes.push(refused(word, key));
            continue;
        }
        let mut faults = Vec::new();
        let value = value(key, text, &mut faults);
        mistakes.extend(faults.into_iter().map(|fault| of_word(word, text, key.path, fault)));
        if let Some(other) = by.insert(key.path, word) {
            let said = format!("{PREFIX}{other} sets {} too", key.path);
            let fault = Fault::at(&At::path(key.path), said).way_out("leave out one of them".to_owned());
            mistakes.push(of_word(word, text, key.path, fault));
        }
        entries.extend(value.map(|value| (key.path, value)));
    }
    if let Some(word) = INTERFACE_WORDS.iter().find(|word| words.contains_key(**word)) {
        let (made, wrong) = interface(schema, words);
        if entries.contains_key(INTERFACES) {
            let text = words.get(*word).map_or("", String::as_str);
            let fault = Fault::at(&At::path(INTERFACES), format!("{PREFIX}{INTERFACES} is there too"));
            mistakes.push(of_word(word, text, INTERFACES, fault.way_out("leave out one of them".to_owned())));
        }
        mistakes.extend(wrong);
        entries.extend(made.map(|value| (INTERFACES, value)));
    }
    (entries, mistakes)
}

/// The value a text is for a key, in its checked form.
fn value(key: &Key, text: &str, faults: &mut Vec<Fault>) -> Option<Value> {
    let at = At::path(key.path);
    let value = match key.kind {
        Kind::Bool => match text {
            "true" | "yes" => Value::Boolean(true),
            "false" | "no" => Value::Boolean(false),
            _ => {
                faults.push(Fault::at(&at, "is neither true nor false".to_owned()));
                return None;
            }
        },
        Kind::Int { .. } | Kind::Number { .. } => {
            let whole = text.parse().map(Value::Integer);
            match whole.or_else(|_| text.parse().map(Value::Float)) {
                Ok(number) => number,
                Err(_) => {
                    faults.push(Fault::at(&at, format!("is not a number: {} is wanted", key.kind)));
                    return None;
                }
            }
        }
        Kind::Text(_) | Kind::Choice(_) => Value::String(text.to_owned()),
        Kind::Texts { .. } if !text.starts_with('[') => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            Value::Array(parts.map(|part| Value::String(part.to_owned())).collect())
        }
        Kind::Texts { .. } | Kind::Tables { .. } => {
            let list = toml::from_str::<toml::Table>(&format!("list = {text}"));
            match list
                .ok()
                .filter(|table| table.len() == 1)
                .and_then(|mut table| table.remove("list").filter(Value::is_array))
            {
                Some(list) => list,
                None => {
                    let fault = Fault::at(&at, "is not a list as in TOML".to_owned());
                    faults.push(fault.way_out(
                        "write it like [{node=1,address='192.0.2.7'}], with single quotes".to_owned(),
                    ));
                    return None;
                }
            }
        }
    };
    key.kind.check(value, &at, key.secret, faults)
}

/// The one interface `mote.address`, `mote.gateway` and `mote.interface` describe.
fn interface(schema: Schema, words: &BTreeMap<String, String>) -> (Option<Value>, Vec<Mistake>) {
    let get = |word: &str| words.get(word).map(|text| Value::String(text.clone()));
    let Some(address) = get("address") else {
        // `mote.interface` alone was always without effect.
        let mistake = words.get("gateway").map(|text| {
            let fault = Fault::at(&At::path(INTERFACES), "has no meaning without mote.address".to_owned());
            of_word("gateway", text, INTERFACES, fault.way_out("add mote.address=192.0.2.7/24".to_owned()))
        });
        return (None, mistake.into_iter().collect());
    };
    let mut table = toml::Table::from_iter([("addresses".to_owned(), Value::Array(vec![address]))]);
    table.extend(get("gateway").map(|gateway| ("gateways".to_owned(), Value::Array(vec![gateway]))));
    table.extend(get("interface").map(|name| ("name".to_owned(), name)));
    let Some(key) = schema.key(INTERFACES) else { return (None, Vec::new()) };
    let mut faults = Vec::new();
    let value =
        key.kind.check(Value::Array(vec![Value::Table(table)]), &At::path(key.path), false, &mut faults);
    let told = faults.into_iter().map(|fault| {
        let field = fault.at.iter().rev().find_map(|step| match step {
            At::Key(name) => Some(name.as_str()),
            At::Index(_) => None,
        });
        let word = match field {
            Some("gateways") => "gateway",
            Some("name") => "interface",
            _ => "address",
        };
        of_word(word, words.get(word).map_or("", String::as_str), INTERFACES, fault)
    });
    (value, told.collect())
}

fn unknown(schema: Schema, word: &str) -> Mistake {
    let fault = match word.split_once('.') {
        Some((section, name)) if schema.sections().contains(&section) => schema.unknown(section, name),
        Some((section, _)) => {
            let near = nearest(section, schema.sections().into_iter());
            let way_out = near.map_or_else(
                || format!("there are {}", schema.sections().join(", ")),
                |near| format!("did you mean mote.{near}.…?"),
            );
            Fault::key(&At::path(word), format!("[{section}] is no section")).way_out(way_out)
        }
        None => {
            let short = SHORT.iter().map(|(short, _)| *short).chain(INTERFACE_WORDS.iter().copied());
            let way_out = match nearest(word, short) {
                Some(near) => format!("did you mean mote.{near}?"),
                None => "a key is written mote.SECTION.NAME".to_owned(),
            };
            Fault::key(&At::path(word), "is no option".to_owned()).way_out(way_out)
        }
    };
    let word: String = word.chars().take(SHOWN).collect();
    // Without its value: it may be a secret whose name is mistyped.
    Mistake {
        place: Where::Word(format!("{PREFIX}{word}")),
        key: word,
        said: format!("names no configuration key: {}", fault.said),
        way_out: fault.way_out,
    }
}

/// A secret must not stand where every program reads it.
fn refused(word: &str, key: &Key) -> Mistake {
    Mistake {
        place: Where::Word(format!("{PREFIX}{word}=(hidden)")),
        key: key.path.to_owned(),
        said: "is secret, and the kernel command line is not: it is in /proc/cmdline, in logs and in the boot loader's files"
            .to_owned(),
        way_out: "set it in mote.toml on the configuration partition or in user data, and change the secret".to_owned(),
    }
}

/// Longest word repeated in a message.
const SHOWN: usize = 100;

fn of_word(word: &str, text: &str, path: &str, fault: Fault) -> Mistake {
    let whole = format!("{PREFIX}{word}={text}");
    let short: String = whole.chars().filter(|letter| !letter.is_control()).take(SHOWN).collect();
    let more = if short.len() < whole.len() { "…" } else { "" };
    let dotted = At::dotted(&fault.at);
    // Within a list, the entry matters; else the word says it all.
    let key = if dotted == path { word.to_owned() } else { dotted };
    Mistake { place: Where::Word(format!("{short}{more}")), key, said: fault.said, way_out: fault.way_out }
}
