//! The page that lists every key: `docs/CONFIGURATION.md` from "Every key" on. Meanings and defaults come from
//! `config/mote.toml`, types and bounds from [`KEYS`].

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::kind::{Field, Key, Kind};
use crate::{BUILT_IN, KEYS};

/// Line of the page where the list begins.
pub const HEADING: &str = "## Every key";

/// What a comment of `config/mote.toml` says of a key, and the default beside it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meaning {
    /// The default, as it is written.
    pub default: String,
    /// What the comment says.
    pub said: String,
}

/// Meanings by `section.name`: the comment behind a value, and the lines of comment right below it.
pub fn meanings(text: &str) -> BTreeMap<String, Meaning> {
    let (mut meanings, mut section, mut current) = (BTreeMap::<String, Meaning>::new(), "", None);
    for line in text.lines() {
        let trimmed = line.trim();
        if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            (section, current) = (name, None);
        } else if let Some(comment) = trimmed.strip_prefix('#') {
            if let Some(meaning) = current.as_ref().and_then(|path: &String| meanings.get_mut(path)) {
                meaning.said.extend([" ", comment.trim()]);
            }
        } else if let Some((name, rest)) = line.split_once(" = ").filter(|_| !line.starts_with(' ')) {
            let (default, said) = rest.split_once(" # ").unwrap_or((rest, ""));
            let path = format!("{section}.{name}");
            let meaning = Meaning { default: default.trim().to_owned(), said: said.trim().to_owned() };
            meanings.insert(path.clone(), meaning);
            current = Some(path);
        } else if trimmed.is_empty() {
            current = None;
        }
    }
    meanings
}

/// The list, in Markdown.
pub fn list() -> String {
    let meanings = meanings(BUILT_IN);
    let mut text = format!("{HEADING}\n");
    let mut current = "";
    for key in KEYS {
        let (section, name) = key.parts();
        if section != current {
            let _ = write!(text, "\n### [{section}]\n\n| key | value | default | |\n|---|---|---|---|\n");
            current = section;
        }
        let meaning = meanings.get(key.path).cloned().unwrap_or_default();
        let (kind, default) = (cell(&key.kind.to_string()), cell(&default(key, &meaning)));
        let _ = writeln!(text, "| `{name}` | {kind} | {default} | {} |", cell(&meaning.said));
        if let Kind::Tables { fields, .. } = key.kind {
            fields.iter().for_each(|field| row(&mut text, name, field));
        }
    }
    text
}

fn row(text: &mut String, name: &str, field: &Field) {
    let needed = if field.needed { "(needed)" } else { "" };
    let (kind, said) = (cell(&field.kind.to_string()), cell(field.said));
    let _ = writeln!(text, "| `{name}[].{}` | {kind} | {needed} | {said} |", field.name);
}

fn default(key: &Key, meaning: &Meaning) -> String {
    match key.kind {
        // Written over several lines there.
        Kind::Tables { .. } if meaning.default == "[" => "see `config/mote.toml`".to_owned(),
        _ => format!("`{}`", meaning.default),
    }
}

/// Text as it may stand in a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
