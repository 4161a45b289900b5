//! Takes secrets out of what leaves the machine. Pure.
//!
//! Three ways, each for what the others miss: what stands under a name that says so; values known to be secret,
//! wherever they turn up; forms that give themselves away (private keys, passwords in addresses).

use std::collections::BTreeSet;

use serde_json::Value;

/// What is put in a secret's place.
pub const MARK: &str = "(redacted)";

/// Shorter values are no secrets worth the name, and would take half of every text with them.
const SHORTEST: usize = 6;

/// Parts of names whose values are secret. `environment` is that of functions, whose owners keep there what they like.
const NAMES: &[&str] = &[
    "secret",
    "passw",
    "passphrase",
    "token",
    "credential",
    "private",
    "authorization",
    "cookie",
    "psk",
    "apikey",
    "access_key",
    "environment",
];

/// Names after which nothing of the line stays.
const WHOLE_LINE: &[&str] = &["authorization", "cookie"];

/// Knows what is secret.
#[derive(Debug, Default)]
pub struct Redactor {
    /// Longest first, so that no part of one is left by another.
    values: BTreeSet<(std::cmp::Reverse<usize>, String)>,
}

/// Whether what stands under this name is secret.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    let key = (name.ends_with("key") || name.ends_with("keys")) && !name.contains("public");
    key || NAMES.iter().any(|part| name.contains(part))
}

impl Redactor {
    /// Learns the secrets in a document by the names they stand under.
    pub fn learn(&mut self, document: &Value) {
        self.learn_below(document, false);
    }

    fn learn_below(&mut self, value: &Value, secret: bool) {
        match value {
            Value::String(text) if secret && text.len() >= SHORTEST => {
                self.values.insert((std::cmp::Reverse(text.len()), text.clone()));
            }
            Value::Array(items) => items.iter().for_each(|item| self.learn_below(item, secret)),
            Value::Object(fields) => {
                fields.iter().for_each(|(name, value)| self.learn_below(value, secret || is_secret(name)));
            }
            _ => {}
        }
    }

    /// A document without its secrets.
    pub fn document(&self, mut document: Value) -> Value {
        self.strip(&mut document, false);
        document
    }

    fn strip(&self, value: &mut Value, secret: bool) {
        match value {
            Value::Null | Value::Bool(_) => {}
            Value::Number(_) if !secret => {}
            Value::String(text) if !secret => *text = self.text(text),
            Value::Number(_) | Value::String(_) => *value = Value::String(MARK.to_owned()),
            Value::Array(items) => items.iter_mut().for_each(|item| self.strip(item, secret)),
            Value::Object(fields) => {
                fields.iter_mut().for_each(|(name, value)| self.strip(value, secret || is_secret(name)));
            }
        }
    }

    /// A text without what is known to be secret, and without what looks it.
    pub fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (_, value) in &self.values {
            if text.contains(value.as_str()) {
                text = text.replace(value.as_str(), MARK);
            }
        }
        let mut out = String::with_capacity(text.len());
        let mut in_key = false;
        for line in text.split_inclusive('\n') {
            let begins = line.contains("-----BEGIN") && line.contains("PRIVATE KEY");
            let ends = line.contains("-----END");
            if ends && !in_key && !begins && line.contains("PRIVATE KEY") {
                // It began before this text does.
                out = format!("{MARK}\n");
                continue;
            }
            if in_key || begins {
                if !in_key {
                    out.push_str(MARK);
                    out.push('\n');
                }
                // Also when both are on one line.
                in_key = !ends;
                continue;
            }
            out.push_str(&addresses(&pairs(line)));
        }
        out
    }
}

/// Takes out the values of `name=value` and `name: value` under names that say that they are secret.
fn pairs(line: &str) -> String {
    // Nearly all lines of a log: nothing in them to look at closer.
    let lower = line.to_ascii_lowercase().replace('-', "_");
    if !NAMES.iter().chain(&["key", "bearer"]).any(|part| lower.contains(part)) {
        return line.to_owned();
    }
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    let in_name = |letter: char| letter.is_ascii_alphanumeric() || "_.-".contains(letter);
    while let Some(from) = rest.find(in_name) {
        let (before, word) = rest.split_at(from);
        let (name, after) = word.split_at(word.find(|letter| !in_name(letter)).unwrap_or(word.len()));
        out.push_str(before);
        out.push_str(name);
        rest = after;
        if name.eq_ignore_ascii_case("bearer") && after.starts_with(' ') {
            out.push(' ');
            rest = skip(&mut out, after.trim_start());
            continue;
        }
        if !is_secret(name) {
            continue;
        }
        let sign = after.trim_start_matches(['"', '\'']).trim_start_matches(' ');
        let Some(value) = sign.strip_prefix('=').or_else(|| sign.strip_prefix(':')) else { continue };
        let value = value.trim_start_matches(' ');
        out.push_str(after.get(..after.len() - value.len()).unwrap_or_default());
        let lower = name.to_ascii_lowercase();
        rest = match WHOLE_LINE.iter().any(|whole| lower.contains(whole)) {
            true => {
                out.push_str(MARK);
                value.get(value.trim_end_matches('\n').len()..).unwrap_or_default()
            }
            false => skip(&mut out, value),
        };
    }
    out.push_str(rest);
    out
}

/// Passes over a value, quoted or up to the next space or bracket, and leaves the mark; what follows it.
fn skip<'a>(out: &mut String, value: &'a str) -> &'a str {
    let ends = |letter: char| letter.is_whitespace() || ",;)}]&".contains(letter);
    let (quote, length) = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => {
            let inner = value.get(1..).unwrap_or_default();
            (Some(quote), inner.find([quote, '\n']).unwrap_or(inner.len()) + 1)
        }
        _ => (None, value.find(ends).unwrap_or(value.len())),
    };
    if length > 0 {
        out.extend(quote);
        out.push_str(MARK);
    }
    value.get(length..).unwrap_or_default()
}

/// Takes out who stands before the `@` of an address (`tls://user:password@host`).
fn addresses(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after
            .find(|letter: char| letter.is_whitespace() || "/\"'".contains(letter))
            .unwrap_or(after.len());
        rest = match after.get(..end).and_then(|host| host.rfind('@')) {
            Some(at) => {
                out.push_str(MARK);
                after.get(at..).unwrap_or_default()
            }
            None => after,
        };
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn names_and_forms_give_secrets_away() {
        let redactor = Redactor::default();
        for (text, want) in [
            ("mote.api.token=abc quiet", "mote.api.token=(redacted) quiet"),
            ("mote.password=\"a b c\" x", "mote.password=\"(redacted)\" x"),
            ("{\"secret_key\": \"abc\", \"n\": 1}", "{\"secret_key\": \"(redacted)\", \"n\": 1}"),
            ("Authorization: Bearer abc def\nnext\n", "Authorization: (redacted)\nnext\n"),
            ("sent bearer abc.def, ok", "sent bearer (redacted), ok"),
            ("to tls://me:hunter2@logs:6514/ now", "to tls://(redacted)@logs:6514/ now"),
            ("a\n-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\nb", "a\n(redacted)\nb"),
            ("MIIB\n-----END PRIVATE KEY-----\nb", "(redacted)\nb"),
            ("public_key = \"ab\"", "public_key = \"ab\""),
            ("nothing to hide: here", "nothing to hide: here"),
            ("token=", "token="),
        ] {
            assert_eq!(redactor.text(text), want);
        }
    }

    #[test]
    fn what_was_learned_is_found_everywhere() {
        let mut redactor = Redactor::default();
        redactor
            .learn(&json!({ "tenants": [{ "keys": ["s3cr3t-one"] }], "environment": { "DB": "postgres!" } }));
        assert_eq!(redactor.text("said s3cr3t-one and postgres!"), "said (redacted) and (redacted)");
        let document = redactor.document(json!({ "a": "x s3cr3t-one", "environment": { "N": 12 }, "b": 12 }));
        assert_eq!(document, json!({ "a": "x (redacted)", "environment": { "N": MARK }, "b": 12 }));
    }

    proptest! {
        #[test]
        fn no_secret_gets_through(
            secret in "[A-Za-z0-9+/]{8,40}",
            name in "(api_|Db-|)(secret|password|token|private_key|Credential)",
            before in "[ -~]{0,20}", sign in "=|: |=\"| = '",
        ) {
            prop_assume!(!MARK.contains(&secret) && !before.contains(['-', '\'', '"']));
            let text = format!("{before} {name}{sign}{secret}\n");
            let clean = Redactor::default().text(&text);
            prop_assert!(!clean.contains(&secret), "{clean}");
            prop_assert!(clean.contains(&name));
        }

        #[test]
        fn any_text_is_safe_and_stays_without_secrets(text in "\\PC{0,200}") {
            let clean = Redactor::default().text(&text);
            prop_assert!(clean.len() <= text.len() + text.len() * MARK.len());
        }

        #[test]
        fn plain_text_stays(text in "[a-z0-9 \n.,()]{0,200}") {
            prop_assume!(!text.contains("bearer"));
            prop_assert_eq!(Redactor::default().text(&text), text);
        }
    }
}
