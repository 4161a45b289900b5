//! The built-in file, the keys and the page that lists them say the same.

#![cfg(test)]

use mote_config::{BUILT_IN, KEYS, check_built_in, reference, resolve};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/CONFIGURATION.md");

#[test]
fn the_built_in_file_is_sound_and_has_every_key() {
    assert_eq!(check_built_in(BUILT_IN), Vec::<String>::new());
    let resolved = resolve(&[]);
    assert_eq!(resolved.machine().unwrap(), mote_config::Machine::default());
    assert!(resolved.ntp().is_ok());
    assert_eq!(resolved.update().unwrap().trial_s, 120);
}

#[test]
fn what_is_to_be_built_in_is_checked() {
    for (from, to, said) in [
        ("vcpus = 1 ", "vcpu = 1 ", "vcpu: is no key of [sandbox]"),
        ("vcpus = 1 ", "# ", "config/mote.toml: sandbox.vcpus is missing: a whole number"),
        ("node = 0 ", "node = 5000 ", "network.node: Machine 5000 has no subnet"),
    ] {
        assert!(BUILT_IN.contains(from));
        let told = check_built_in(&BUILT_IN.replacen(from, to, 1)).join("\n");
        assert!(told.contains(said), "{to}: {told}");
    }
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
