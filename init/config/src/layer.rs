//! Where settings come from.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::mistake::{Fault, Mistake, Where};
use crate::place::At;
use crate::schema::placed;

/// The layers; later ones win.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// `config/mote.toml` of the image.
    BuiltIn,
    /// `mote.toml` on the configuration partition.
    Partition,
    /// `mote.*` words of the kernel command line.
    CommandLine,
    /// User data of the cloud's instance metadata.
    UserData,
    /// What was set by the API.
    Api,
}

impl Layer {
    /// All, the first to be overridden first.
    pub const ALL: [Self; 5] = [Self::BuiltIn, Self::Partition, Self::CommandLine, Self::UserData, Self::Api];
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BuiltIn => "built in",
            Self::Partition => "configuration partition",
            Self::CommandLine => "kernel command line",
            Self::UserData => "user data",
            Self::Api => "API",
        })
    }
}

/// What a layer says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Content {
    /// A text in the form of `mote.toml`.
    Text(String),
    /// Options of the kernel command line without the prefix `mote.`.
    Options(BTreeMap<String, String>),
}

/// A layer as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Which one.
    pub layer: Layer,
    /// Its name in messages: a file, `user-data`.
    pub name: String,
    /// What it says.
    pub content: Content,
}

impl Source {
    /// A text. Bytes that are no UTF-8 stay visible as U+FFFD, which nothing takes: the layer is refused with a line.
    pub fn text(layer: Layer, name: &str, bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes).into_owned();
        Self { layer, name: name.to_owned(), content: Content::Text(text) }
    }

    /// A fault with its place in this layer.
    pub(crate) fn placed(&self, fault: Fault) -> Mistake {
        match &self.content {
            Content::Text(text) => placed(&self.name, text, fault),
            Content::Options(_) => Mistake {
                place: Where::Word(format!("mote.{}", fault.root())),
                key: At::dotted(&fault.at),
                said: fault.said,
                way_out: fault.way_out,
            },
        }
    }

    /// Options of the kernel command line.
    pub fn options(options: BTreeMap<String, String>) -> Self {
        let layer = Layer::CommandLine;
        Self { layer, name: layer.to_string(), content: Content::Options(options) }
    }
}

/// All layers but the built-in one, as init hands them to hostd.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sources {
    /// In any order.
    pub layers: Vec<Source>,
}

impl Sources {
    /// Adds a layer or puts it in place of what it was before. Says whether anything changed.
    pub fn put(&mut self, source: Source) -> bool {
        match self.layers.iter_mut().find(|old| old.layer == source.layer) {
            Some(old) if *old == source => return false,
            Some(old) => *old = source,
            None => self.layers.push(source),
        }
        self.layers.sort_by_key(|source| source.layer);
        true
    }
}
