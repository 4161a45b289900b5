//! Layers against a naive model, and anything as a layer.

#![cfg(test)]

use std::collections::BTreeMap;

use mote_config::{Content, Field, KEYS, Kind, Layer, Shape, Source, resolve, schema};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use toml::Value;

/// Keys without a bond to others, each with some values it takes.
const FREE: &[(&str, &[&str])] = &[
    ("sandbox.vcpus", &["1", "2", "3"]),
    ("sandbox.queue_s", &["0", "5"]),
    ("sandbox.guest_cmdline", &["\"\"", "\"quiet x=1\""]),
    ("snapshot.layered", &["true", "false"]),
    ("snapshot.kind", &["\"init\"", "\"warm\""]),
    ("scheduling.lambda", &["0.5", "2.0"]),
    ("machine.hostname", &["\"a\"", "\"b\""]),
    ("machine.dns", &["[]", "[\"192.0.2.53\"]", "[\"192.0.2.53\", \"2001:db8::53\"]"]),
    ("network.tenants", &["[]", "[{ name = \"blue\", vni = 2 }]"]),
];

/// Ways to spoil a layer.
const WRONG: &[&str] = &["[sandbox]\nvcpus = 0\n", "[nowhere]\n", "x", "[store]\nreserve_gb = 1\n"];

#[derive(Debug, Clone)]
struct Made {
    set: BTreeMap<usize, usize>,
    wrong: Option<usize>,
    as_words: bool,
}

fn made() -> impl Strategy<Value = Made> {
    let set = btree_map(0..FREE.len(), 0..6_usize, 0..FREE.len());
    (set, proptest::option::weighted(0.3, 0..WRONG.len()), any::<bool>())
        .prop_map(|(set, wrong, as_words)| Made { set, wrong, as_words })
}

fn value(key: usize, choice: usize) -> (&'static str, &'static str) {
    let (path, values) = FREE[key];
    (path, values[choice % values.len()])
}

fn parsed(text: &str) -> Value {
    toml::from_str::<toml::Table>(&format!("x = {text}")).unwrap().remove("x").unwrap()
}

fn source(layer: Layer, made: &Made) -> Source {
    let set = made.set.iter().map(|(key, choice)| value(*key, *choice));
    if layer == Layer::CommandLine && made.as_words {
        let plain = |text: &str| {
            text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text).to_owned()
        };
        let mut words: BTreeMap<String, String> =
            set.map(|(path, text)| (path.to_owned(), plain(text))).collect();
        if made.wrong.is_some() {
            words.insert("store.reserve_gb".to_owned(), "1".to_owned());
        }
        return Source::options(words);
    }
    let mut text: String = set.map(|(path, text)| format!("{path} = {text}\n")).collect();
    text += made.wrong.map_or("", |wrong| WRONG[wrong]);
    Source::text(layer, "some.toml", text.as_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_last_sound_layer_that_sets_a_key_has_it(
        layers in btree_map(1..Layer::ALL.len(), made(), 0..5),
        turned: bool,
    ) {
        let mut sources: Vec<Source> =
            layers.iter().map(|(layer, made)| source(Layer::ALL[*layer], made)).collect();
        // In which order they are given does not matter.
        if turned {
            sources.reverse();
        }
        let resolved = resolve(&sources);

        let mut model: BTreeMap<&str, (Value, Layer)> = BTreeMap::new();
        for (layer, made) in &layers {
            // Of a text with a line that is none, nothing is known.
            let readable = made.wrong.is_none_or(|wrong| {
                (Layer::ALL[*layer] == Layer::CommandLine && made.as_words) || WRONG[wrong] != "x"
            });
            let twice = made.wrong == Some(0) && made.set.keys().any(|key| FREE[*key].0.starts_with("sandbox."));
            let twice = twice && !(Layer::ALL[*layer] == Layer::CommandLine && made.as_words);
            for (key, choice) in &made.set {
                let (path, text) = value(*key, *choice);
                let reach = path == "machine.dns" && readable && !twice;
                if made.wrong.is_none() || reach {
                    model.insert(path, (parsed(text), Layer::ALL[*layer]));
                }
            }
        }
        let wrong: Vec<Layer> =
            layers.iter().filter(|(_, made)| made.wrong.is_some()).map(|(layer, _)| Layer::ALL[*layer]).collect();
        prop_assert_eq!(resolved.rejected.iter().map(|rejected| rejected.layer).collect::<Vec<_>>(), wrong);
        prop_assert!(resolved.rejected.iter().all(|rejected| !rejected.mistakes.is_empty()));
        for key in KEYS {
            let setting = resolved.get(key.path).unwrap();
            match model.get(key.path) {
                Some((value, layer)) => {
                    prop_assert_eq!((&setting.value, setting.layer), (value, *layer), "{}", key.path);
                }
                None => prop_assert_eq!(setting.layer, Layer::BuiltIn, "{}", key.path),
            }
        }
    }

    #[test]
    fn any_bytes_are_a_layer_or_a_mistake(bytes in vec(any::<u8>(), 0..300)) {
        let source = Source::text(Layer::UserData, "user-data", &bytes);
        let resolved = resolve(&[source]);
        prop_assert_eq!(resolved.settings().count(), KEYS.len());
        for problem in resolved.problems() {
            prop_assert!(problem.contains("user-data"), "{}", problem);
        }
    }

    #[test]
    fn almost_toml_is_a_layer_or_a_mistake(text in almost()) {
        let source = Source::text(Layer::Api, "api.toml", text.as_bytes());
        let first = resolve(std::slice::from_ref(&source));
        prop_assert_eq!(first.settings().count(), KEYS.len());
        for mistake in first.rejected.iter().flat_map(|rejected| &rejected.mistakes) {
            let said = mistake.to_string();
            prop_assert!(said.starts_with("api.toml") && !said.chars().any(char::is_control), "{:?}", said);
        }
        // Whatever was taken can be written down and read again.
        let again = Source::text(Layer::UserData, "again.toml", first.show(schema::SCHEMA).as_bytes());
        let again = resolve(&[again]);
        prop_assert_eq!(again.problems(), Vec::<String>::new());
        for (path, setting) in first.settings() {
            prop_assert_eq!(&again.get(path).unwrap().value, &setting.value, "{}", path);
        }
    }

    #[test]
    fn any_words_are_settings_or_mistakes(
        words in btree_map(word(), "\\PC{0,40}|[0-9a-z.,:/\\[\\]{}='\" -]{0,40}", 0..8),
    ) {
        let source = Source::options(words.clone());
        let Content::Options(_) = &source.content else { unreachable!() };
        let resolved = resolve(&[source]);
        prop_assert_eq!(resolved.settings().count(), KEYS.len());
        prop_assert!(resolved.machine().is_ok());
        prop_assert!(resolved.rejected.len() <= 1);
    }
}

fn word() -> impl Strategy<Value = String> {
    let known = proptest::sample::select(KEYS).prop_map(|key| key.path.to_owned());
    let short = proptest::sample::select(
        &["hostname", "address", "gateway", "interface", "dns", "slot", "metadata", "data_repair"][..],
    );
    prop_oneof![4 => known, 2 => short.prop_map(str::to_owned), 1 => "[a-z._]{1,20}", 1 => "\\PC{1,20}"]
}

/// Lines that are nearly right.
fn almost() -> impl Strategy<Value = String> {
    let value = prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        (0..300_i64).prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| format!("{number:?}")),
        Just("true".to_owned()),
        Just("[]".to_owned()),
        Just("{}".to_owned()),
        "\"[ -~]{0,20}\"",
        "'[a-z0-9.:/]{0,24}'",
        proptest::sample::select(
            &[
                "\"192.0.2.7\"",
                "[\"192.0.2.7\"]",
                "\"10.1.0.0/16\"",
                "[{ name = \"a\", vni = 1 }]",
                "[{ node = 1, address = \"192.0.2.1\" }]",
                "[{ addresses = [\"192.0.2.7/24\"] }]",
                "\"warm\"",
                "\"none\""
            ][..]
        )
        .prop_map(str::to_owned),
        "\\PC{0,20}",
    ];
    let key = proptest::sample::select(KEYS).prop_map(|key| key.path.to_owned());
    let line = prop_oneof![
        8 => (key, value.clone()).prop_map(|(key, value)| format!("{key} = {value}")),
        1 => ("[a-z_.]{1,12}", value).prop_map(|(key, value)| format!("{key} = {value}")),
        1 => "\\[{1,2}[a-z.]{1,8}\\]{1,2}",
        1 => "\\PC{0,30}",
    ];
    vec(line, 1..5).prop_map(|lines| lines.join("\n"))
}

const PASSWORD: Shape =
    Shape { said: "a password of letters", fits: |text| text.bytes().all(|byte| byte.is_ascii_alphabetic()) };

const SECRET: &[mote_config::Key] = &[
    mote_config::Key { secret: true, ..mote_config::Key::new("door.password", Kind::Text(PASSWORD)) },
    mote_config::Key {
        secret: true,
        ..mote_config::Key::new("door.guests", Kind::Tables { fields: GUESTS, most: 2 })
    },
    mote_config::Key::new("door.colour", Kind::Choice(&["red", "green"])),
];

const GUESTS: &[Field] =
    &[Field { name: "password", kind: Kind::Text(PASSWORD), needed: true, said: "the guest's own" }];

fn with_secrets(source: Source) -> mote_config::Resolved {
    let base =
        Source::text(Layer::BuiltIn, "built-in", b"[door]\npassword = \"\"\nguests = []\ncolour = \"red\"\n");
    mote_config::resolve_with(schema::Schema(SECRET), &base, &[source], |_| Vec::new())
}

#[test]
fn a_secret_is_refused_from_the_command_line_and_shown_nowhere() {
    let words = |word: &str, text: &str| Source::options([(word.to_owned(), text.to_owned())].into());
    for (source, taken) in [
        (words("door.password", "hunter"), false),
        // A name that is mistyped is no reason to show what it was meant for.
        (words("door.passwort", "hunter"), false),
        (words("dor.password", "hunter"), false),
        (words("password", "hunter"), false),
        (Source::text(Layer::Partition, "f", b"[door]\npassword = \"hunter\"\n"), true),
        (Source::text(Layer::Partition, "f", b"[door]\nguests = [{ password = \"hunter\" }]\n"), true),
        (Source::text(Layer::Partition, "f", b"[door]\npassword = \"hunter2\"\n"), false),
        (Source::text(Layer::Partition, "f", b"[door]\npassword = [\"hunter\"]\n"), false),
        (Source::text(Layer::Partition, "f", b"[door]\nguests = [{ password = \"hunter2\" }]\n"), false),
        (Source::text(Layer::Partition, "f", b"[door]\nguests = [\"hunter\"]\n"), false),
        (Source::text(Layer::Partition, "f", b"[door]\npassword = \"hunter\n"), false),
        (Source::text(Layer::Partition, "f", b"[door]\npassword = hunter\n"), false),
        (Source::text(Layer::Partition, "f", b"[door]\npassword = \"hunter\" hunter\n"), false),
    ] {
        let resolved = with_secrets(source.clone());
        assert_eq!(resolved.rejected.is_empty(), taken, "{source:?}: {:?}", resolved.problems());
        let shown = resolved.show(schema::Schema(SECRET)) + &resolved.problems().join("\n");
        assert!(!shown.contains("hunter"), "{source:?}: {shown}");
    }
    let told = with_secrets(words("door.password", "hunter")).problems().join("");
    assert!(told.contains("/proc/cmdline") && told.contains("configuration partition"), "{told}");
}

#[test]
fn sources_survive_the_way_to_hostd() {
    let mut sources = mote_config::Sources::default();
    assert!(sources.put(Source::options([("a.b".to_owned(), "\"c\" 'd'\\".to_owned())].into())));
    assert!(sources.put(Source::text(Layer::UserData, "user-data", b"x = '''\n\"\"\"'''\r\n\xff\0\x1b")));
    assert!(sources.put(Source::text(Layer::Partition, "mote.toml", "[a]\nb = \"ä\"\n".as_bytes())));
    let text = toml::to_string(&sources).unwrap();
    assert_eq!(toml::from_str::<mote_config::Sources>(&text).unwrap(), sources);
    assert_eq!(sources.layers[0].layer, Layer::Partition);
    assert!(!sources.put(sources.layers[1].clone()));
    assert!(sources.put(Source::options(BTreeMap::new())));
    assert_eq!(sources.layers.len(), 3);
}
