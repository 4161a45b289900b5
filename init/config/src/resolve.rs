//! Layers laid over each other.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::layer::{Layer, Source};
use crate::machine::{Machine, Ntp, Update};
use crate::mistake::{Fault, Mistake};
use crate::schema::{Entries, SCHEMA, Schema};
use crate::{BUILT_IN, BUILT_IN_NAME, check};

/// A value, and who set it.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// What it is.
    pub value: Value,
    /// Which layer it comes from.
    pub layer: Layer,
}

/// A layer that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Which one.
    pub layer: Layer,
    /// Its name.
    pub name: String,
    /// Why: at least one.
    pub mistakes: Vec<Mistake>,
    /// Keys that were used all the same, because the machine is reached by them.
    pub kept: Vec<&'static str>,
    /// Keys it would have set, as far as they are sound.
    pub dropped: Vec<&'static str>,
}

/// The configuration: a value for every key.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    settings: BTreeMap<&'static str, Setting>,
    /// Layers that were left out.
    pub rejected: Vec<Rejected>,
}

/// Lays the sources over the built-in configuration.
pub fn resolve(sources: &[Source]) -> Resolved {
    let built_in = Source::text(Layer::BuiltIn, BUILT_IN_NAME, BUILT_IN.as_bytes());
    resolve_with(SCHEMA, &built_in, sources, check::all)
}

/// What is wrong with a text that is to be built in: it has to have every key.
pub fn check_built_in(text: &str) -> Vec<String> {
    let built_in = Source::text(Layer::BuiltIn, BUILT_IN_NAME, text.as_bytes());
    let resolved = resolve_with(SCHEMA, &built_in, &[], check::all);
    let mistakes = resolved.rejected.iter().flat_map(|rejected| &rejected.mistakes).map(ToString::to_string);
    let absent =
        SCHEMA.0.iter().filter(|key| resolved.rejected.is_empty() && resolved.get(key.path).is_none());
    mistakes
        .chain(absent.map(|key| format!("{BUILT_IN_NAME}: {} is missing: {}", key.path, key.kind)))
        .collect()
}

/// The same with other keys, another base and other checks of what the values mean together.
pub fn resolve_with(
    schema: Schema,
    base: &Source,
    sources: &[Source],
    check: fn(&Entries) -> Vec<Fault>,
) -> Resolved {
    let mut sources: Vec<&Source> = sources.iter().collect();
    sources.sort_by_key(|source| source.layer);
    let mut pile =
        Pile { schema, check, merged: Entries::new(), from: BTreeMap::new(), rejected: Vec::new() };
    for source in std::iter::once(base).chain(sources) {
        pile.add(source);
    }
    let layer_of = |from: &BTreeMap<&'static str, &Source>, path| {
        from.get(path).map_or(Layer::BuiltIn, |source| source.layer)
    };
    let from = pile.from;
    let setting = |(path, value)| (path, Setting { value, layer: layer_of(&from, path) });
    Resolved { settings: pile.merged.into_iter().map(setting).collect(), rejected: pile.rejected }
}

/// What is there so far.
struct Pile<'s> {
    schema: Schema,
    check: fn(&Entries) -> Vec<Fault>,
    merged: Entries,
    from: BTreeMap<&'static str, &'s Source>,
    rejected: Vec<Rejected>,
}

impl<'s> Pile<'s> {
    /// Lays a layer on top, or what the machine is reached by of one that something is wrong with.
    fn add(&mut self, source: &'s Source) {
        let (entries, mut mistakes) = self.schema.read(source);
        if mistakes.is_empty() {
            match self.try_on(source, &entries) {
                Ok(()) => return,
                Err(wrong) => mistakes = wrong,
            }
        }
        let reach = |path: &str| self.schema.key(path).is_some_and(|key| key.reach);
        let kept: Entries = entries
            .iter()
            .filter(|(path, _)| reach(path))
            .map(|(path, value)| (*path, value.clone()))
            .collect();
        let kept: Vec<_> = match self.try_on(source, &kept) {
            Ok(()) => kept.into_keys().collect(),
            Err(_) => Vec::new(),
        };
        let dropped = entries.into_keys().filter(|path| !kept.contains(path)).collect();
        self.rejected.push(Rejected {
            layer: source.layer,
            name: source.name.clone(),
            mistakes,
            kept,
            dropped,
        });
    }

    /// Lays entries on top if all together makes sense then.
    fn try_on(&mut self, source: &'s Source, entries: &Entries) -> Result<(), Vec<Mistake>> {
        let mut merged = self.merged.clone();
        merged.extend(entries.iter().map(|(path, value)| (*path, value.clone())));
        let mut from = self.from.clone();
        from.extend(entries.keys().map(|path| (*path, source)));
        let faults = (self.check)(&merged);
        if faults.is_empty() {
            (self.merged, self.from) = (merged, from);
            return Ok(());
        }
        Err(faults.into_iter().map(|fault| located(&from, source, fault)).collect())
    }
}

/// A fault with the place of the value it is about, which may be in a layer below `top`.
fn located(from: &BTreeMap<&'static str, &Source>, top: &Source, fault: Fault) -> Mistake {
    let root = fault.root();
    from.get(root.as_str()).copied().unwrap_or(top).placed(fault)
}

impl Resolved {
    /// The value of a key, and who set it.
    pub fn get(&self, path: &str) -> Option<&Setting> {
        self.settings.get(path)
    }

    /// All keys with their values.
    pub fn settings(&self) -> impl Iterator<Item = (&'static str, &Setting)> {
        self.settings.iter().map(|(path, setting)| (*path, setting))
    }

    /// All of it as `mote.toml` has it.
    pub fn table(&self) -> Table {
        let mut whole = Table::new();
        for (path, setting) in &self.settings {
            let (section, name) = path.split_once('.').unwrap_or(("", path));
            let section = whole.entry(section).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(table) = section {
                table.insert(name.to_owned(), setting.value.clone());
            }
        }
        whole
    }

    /// A section in a form of one's own.
    ///
    /// # Errors
    /// When the type does not agree with the keys of the section: a mistake of the program, no one else's.
    pub fn section<T: DeserializeOwned>(&self, name: &str) -> Result<T, toml::de::Error> {
        self.table().remove(name).unwrap_or_else(|| Value::Table(Table::new())).try_into()
    }

    /// `[machine]`
    ///
    /// # Errors
    /// As [`Resolved::section`].
    pub fn machine(&self) -> Result<Machine, toml::de::Error> {
        self.section("machine")
    }

    /// `[ntp]`
    ///
    /// # Errors
    /// As [`Resolved::section`].
    pub fn ntp(&self) -> Result<Ntp, toml::de::Error> {
        self.section("ntp")
    }

    /// `[update]`
    ///
    /// # Errors
    /// As [`Resolved::section`].
    pub fn update(&self) -> Result<Update, toml::de::Error> {
        self.section("update")
    }

    /// What to tell the operator of layers that were left out, one sentence each.
    pub fn problems(&self) -> Vec<String> {
        self.rejected.iter().map(Rejected::told).collect()
    }

    /// Why `[network]` is not as somebody wanted it: what is wrong with it in a layer that was left out, and the layers
    /// that had something to say of it and were left out for something else.
    pub fn network_problems(&self) -> Vec<String> {
        let of_network = |path: &str| path.starts_with("network.");
        let told = |rejected: &Rejected| {
            let wrong = rejected.mistakes.iter().filter(|mistake| of_network(&mistake.key));
            let wrong: Vec<String> = wrong.map(ToString::to_string).collect();
            let lost: Vec<&str> = rejected.dropped.iter().copied().filter(|path| of_network(path)).collect();
            match (wrong.is_empty(), lost.is_empty()) {
                (true, false) => {
                    vec![format!("The layer '{}' is left out, with {}", rejected.layer, lost.join(", "))]
                }
                _ => wrong,
            }
        };
        self.rejected.iter().flat_map(told).collect()
    }
}

impl Rejected {
    /// In one sentence.
    pub fn told(&self) -> String {
        let mistakes: Vec<String> = self.mistakes.iter().map(ToString::to_string).collect();
        let kept = match self.kept.as_slice() {
            [] => String::new(),
            kept => format!(", but for {}", kept.join(" and ")),
        };
        let what = match self.layer {
            Layer::CommandLine => "Kernel options ignored".to_owned(),
            layer => format!("Configuration of the layer '{layer}' ignored"),
        };
        format!("{what}{kept}: {}", mistakes.join("; "))
    }
}
