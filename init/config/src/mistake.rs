//! What is wrong, where, and the way out.

use std::fmt;

use crate::place::{At, Position};

/// Where a mistake stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Where {
    /// In a text, at line and column if it has a place there.
    Text(String, Option<Position>),
    /// A word of the kernel command line, as it may be shown.
    Word(String),
}

/// Something that is wrong with a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Where.
    pub place: Where,
    /// The key, `network.peers[1].node`; empty if it is about no key.
    pub key: String,
    /// What is wrong.
    pub said: String,
    /// What to do about it; may be empty.
    pub way_out: String,
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(name, Some((line, column))) => write!(f, "{name}:{line}:{column}"),
            Self::Text(name, None) => f.write_str(name),
            Self::Word(word) => f.write_str(word),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        // A word of the command line begins with its key.
        let in_word = matches!(&self.place, Where::Word(word) if word.contains(&self.key));
        if !self.key.is_empty() && !in_word {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.said)?;
        if !self.way_out.is_empty() {
            write!(f, "; {}", self.way_out)?;
        }
        Ok(())
    }
}

/// A mistake before it is known in which layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub(crate) at: Vec<At>,
    /// It is the key's name that is wrong, not its value.
    pub(crate) of_key: bool,
    pub(crate) said: String,
    pub(crate) way_out: String,
}

impl Fault {
    pub(crate) fn at(at: &[At], said: String) -> Self {
        Self { at: at.to_vec(), of_key: false, said, way_out: String::new() }
    }

    pub(crate) fn key(at: &[At], said: String) -> Self {
        Self { of_key: true, ..Self::at(at, said) }
    }

    pub(crate) fn way_out(mut self, text: String) -> Self {
        self.way_out = text;
        self
    }

    /// `section.name` of the key it is about.
    pub(crate) fn root(&self) -> String {
        At::dotted(self.at.get(..2).unwrap_or(&self.at))
    }
}
