//! The kernel command line: words, quotes, and the `mote.*` options among them.

use std::collections::BTreeMap;

/// Prefix of the words that are ours.
const PREFIX: &str = "mote.";

/// The parsed command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cmdline {
    words: Vec<(String, Option<String>)>,
}

impl Cmdline {
    /// Parses the text of `/proc/cmdline`. Nothing is an error: what cannot be understood is a word like
    /// any other. Words after `--` are addressed to init by whoever booted us and are read the same way.
    pub fn parse(text: &str) -> Self {
        let words = split(text)
            .into_iter()
            .filter(|word| !word.is_empty() && word != "--")
            .map(|word| match word.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (word, None),
            })
            .collect();
        Self { words }
    }

    /// Whether the bare word is there (`quiet`).
    pub fn flag(&self, name: &str) -> bool {
        self.words.iter().any(|(key, value)| key == name && value.is_none())
    }

    /// The `mote.*` options without the prefix. The last one of a name wins, as with the kernel's own;
    /// a bare `mote.x` means `true`.
    pub fn options(&self) -> BTreeMap<String, String> {
        self.words
            .iter()
            .filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?, value)))
            .filter(|(key, _)| !key.is_empty())
            .map(|(key, value)| (key.to_owned(), value.clone().unwrap_or_else(|| "true".to_owned())))
            .collect()
    }
}

/// Splits at white space outside double quotes and drops the quotes, which may stand around a value
/// (`a="b c"`) or a whole word (`"a=b c"`). An unclosed quote ends with the text, as in the kernel.
fn split(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    for letter in text.chars() {
        match letter {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            letter if letter.is_ascii_whitespace() && !quoted => words.extend(word.take()),
            // Control bytes have no business here and would end up in logs and files.
            letter if letter.is_control() => {}
            letter => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn options_come_without_prefix_and_the_last_wins() {
        let line = Cmdline::parse("quiet mote.a=1 root=/dev/vda mote.log.level=debug mote.a=2 mote.flag\n");
        assert!(line.flag("quiet"));
        assert!(!line.flag("root"));
        let options = line.options();
        assert_eq!(options["a"], "2");
        assert_eq!(options["log.level"], "debug");
        assert_eq!(options["flag"], "true");
        assert_eq!(options.len(), 3);
    }

    #[test]
    fn quotes_stand_around_values_or_words() {
        let options = Cmdline::parse(r#"mote.a="x y" "mote.b=p q" mote.c="" mote.d="open end"#).options();
        assert_eq!(options["a"], "x y");
        assert_eq!(options["b"], "p q");
        assert_eq!(options["c"], "");
        assert_eq!(options["d"], "open end");
    }

    #[test]
    fn values_keep_their_equal_signs_and_lose_control_bytes() {
        let options = Cmdline::parse("mote.guest=a=b=c mote.x=1\u{7}2 mote.=nothing").options();
        assert_eq!(options["guest"], "a=b=c");
        assert_eq!(options["x"], "12");
        assert_eq!(options.len(), 2);
    }

    proptest! {
        #[test]
        fn any_text_parses_and_no_option_holds_a_control_byte(text in "\\PC{0,200}|[ -~\\x00-\\x1f]{0,200}") {
            for (key, value) in Cmdline::parse(&text).options() {
                prop_assert!(!key.is_empty());
                prop_assert!(!key.chars().chain(value.chars()).any(char::is_control));
            }
        }

        #[test]
        fn quoted_values_come_back(value in "[a-z =.]{0,30}") {
            let line = format!("x mote.key=\"{value}\" y");
            prop_assert_eq!(&Cmdline::parse(&line).options()["key"], &value);
        }
    }
}
