//! The built-in file, the keys and the page that lists them say the same.

#![cfg(test)]

use mote_config::{BUILT_IN, KEYS, reference, resolve};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/CONFIGURATION.md");

#[test]
fn the_built_in_file_is_sound_and_has_every_key() {
    let resolved = resolve(&[]);
    assert_eq!(resolved.problems(), Vec::<String>::new());
    for key in KEYS {
        assert!(resolved.get(key.path).is_some(), "{} has no default", key.path);
    }
    assert_eq!(resolved.machine().unwrap(), mote_config::Machine::default());
    assert!(resolved.ntp().is_ok());
    assert!(resolved.update().is_ok());
}

#[test]
fn every_key_has_a_meaning() {
    let meanings = reference::meanings(BUILT_IN);
    for key in KEYS {
        let meaning = meanings.get(key.path).unwrap_or_else(|| panic!("{}", key.path));
        let easy = key.path.starts_with("paths.");
        assert!(easy || meaning.said.len() > 5, "{} is not explained", key.path);
    }
    assert_eq!(meanings.len(), KEYS.len());
}

#[test]
fn the_page_lists_every_key() {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let listed = page.find(reference::HEADING).map_or("", |start| &page[start..]);
    assert!(
        listed == reference::list(),
        "docs/CONFIGURATION.md is not as the keys are: `hostd config keys` prints what belongs there from '{}' on",
        reference::HEADING
    );
}
