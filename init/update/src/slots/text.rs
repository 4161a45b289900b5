//! The state as variables of the block.

use std::collections::BTreeSet;

use super::{Content, Failed, Slot, State, TRIES};
use crate::grubenv::{Block, SECTOR, SetError};
use crate::text::clip;
use crate::version::Version;

const SLOT: &str = "mote_slot";
const TRIAL: &str = "mote_trial";
const TRIES_LEFT: &str = "mote_tries";
const A: &str = "mote_a";
const B: &str = "mote_b";
const OLDEST: &str = "mote_oldest";
const FAILED: &str = "mote_failed";

/// Why a block says nothing about the slots.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// A variable is not there.
    #[error("{0} is missing in the environment block")]
    Missing(&'static str),
    /// A variable's value is none it can have.
    #[error("{name} cannot be {value:?}")]
    Value {
        /// The variable.
        name: &'static str,
        /// What it says.
        value: String,
    },
    /// The slot to boot is not a good one.
    #[error("Slot {0} is the one to boot and not marked good")]
    NotGood(Slot),
    /// A trial of what cannot be booted.
    #[error("Slot {0} is on trial and cannot be")]
    Trial(Slot),
}

/// Why a state was not written to a block.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A variable does not fit.
    #[error("The state of the slots does not fit")]
    Set(#[source] SetError),
    /// Others' variables are in the way.
    #[error("The environment block uses {0} bytes, more than the sector of {SECTOR} that is written at once")]
    Sector(usize),
}

impl State {
    /// Reads the state out of a block.
    pub fn load(block: &Block) -> Result<Self, StateError> {
        let slot = value(block, SLOT, Slot::of)?;
        let trial =
            value(block, TRIAL, |text| if text.is_empty() { Some(None) } else { Slot::of(text).map(Some) })?;
        let tries = value(block, TRIES_LEFT, |text| (0..=TRIES).find(|tries| tries.to_string() == text))?;
        let state = Self {
            slot,
            trial: trial.map(|_| tries),
            a: value(block, A, content)?,
            b: value(block, B, content)?,
            oldest: value(block, OLDEST, |text| text.parse().ok())?,
            failed: value(block, FAILED, failed)?,
        };
        if !matches!(state.content(slot), Content::Good(_)) {
            return Err(StateError::NotGood(slot));
        }
        match trial {
            Some(trial) if trial == slot => Err(StateError::Trial(trial)),
            Some(trial) if !matches!(state.content(trial), Content::New(_) | Content::Good(_)) => {
                Err(StateError::Trial(trial))
            }
            _ => Ok(state),
        }
    }

    /// Writes the state into a block; others' variables stay. Of what does not fit nothing is changed.
    pub fn store(&self, block: &mut Block) -> Result<(), StoreError> {
        let (trial, tries) = self.trial().map_or(("", 0), |(slot, tries)| (slot.name(), tries));
        let mut next = block.clone();
        for (name, value) in [
            (SLOT, self.slot.name()),
            (TRIAL, trial),
            (TRIES_LEFT, tries.to_string().as_str()),
            (A, content_text(self.a).as_str()),
            (B, content_text(self.b).as_str()),
            (OLDEST, self.oldest.to_string().as_str()),
            (FAILED, failed_text(&self.failed).as_str()),
        ] {
            next.set(name, value).map_err(StoreError::Set)?;
        }
        // Behind the first sector there is padding before and after: nothing of it changes.
        if next.used() > SECTOR {
            return Err(StoreError::Sector(next.used()));
        }
        *block = next;
        Ok(())
    }
}

fn value<T>(block: &Block, name: &'static str, read: impl Fn(&str) -> Option<T>) -> Result<T, StateError> {
    let text = block.get(name).ok_or(StateError::Missing(name))?;
    read(text).ok_or_else(|| StateError::Value { name, value: clip(text) })
}

fn content(text: &str) -> Option<Content> {
    if text.is_empty() {
        return Some(Content::Empty);
    }
    let (word, version) = text.split_once(' ')?;
    let version = version.parse().ok()?;
    match word {
        "new" => Some(Content::New(version)),
        "good" => Some(Content::Good(version)),
        "failed" => Some(Content::Failed(version)),
        _ => None,
    }
}

fn content_text(content: Content) -> String {
    match content {
        Content::Empty => String::new(),
        Content::New(version) => format!("new {version}"),
        Content::Good(version) => format!("good {version}"),
        Content::Failed(version) => format!("failed {version}"),
    }
}

fn failed(text: &str) -> Option<Failed> {
    let mut up_to: Option<Version> = None;
    let mut versions = BTreeSet::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        match part.strip_prefix("..") {
            Some(version) if up_to.is_none() && versions.is_empty() => up_to = Some(version.parse().ok()?),
            Some(_) => return None,
            None => {
                versions.insert(part.parse().ok()?);
            }
        }
    }
    Failed::of(up_to, versions)
}

fn failed_text(failed: &Failed) -> String {
    let up_to = failed.up_to().map(|version| format!("..{version}"));
    up_to
        .into_iter()
        .chain(failed.versions().map(|version| version.to_string()))
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::MAX_FAILED;
    use proptest::prelude::*;

    fn version() -> impl Strategy<Value = Version> {
        (0..3_u32, 0..3_u32, 0..20_u32).prop_map(|(major, minor, patch)| Version::new(major, minor, patch))
    }

    fn any_state() -> impl Strategy<Value = State> {
        let other = (0..4_u8, version()).prop_map(|(kind, version)| match kind {
            0 => Content::Empty,
            1 => Content::New(version),
            2 => Content::Good(version),
            _ => Content::Failed(version),
        });
        let failed = prop::collection::vec(version(), 0..12);
        (any::<bool>(), prop::option::of(0..=TRIES), version(), other, version(), failed).prop_map(
            |(first, trial, good, other, oldest, failed)| {
                let slot = if first { Slot::A } else { Slot::B };
                let mut state = State::new(slot, good, oldest).with(slot.other(), other);
                state.trial = trial.filter(|_| matches!(other, Content::New(_) | Content::Good(_)));
                failed.into_iter().for_each(|version| state.failed.insert(version));
                state
            },
        )
    }

    #[test]
    fn the_largest_state_is_within_a_sector() {
        let large = |patch| Version::new(u32::MAX, u32::MAX, u32::MAX - patch);
        let mut state = State::new(Slot::B, large(0), large(0)).with(Slot::A, Content::Failed(large(1)));
        for patch in 0..=u32::try_from(MAX_FAILED).unwrap() {
            state.failed.insert(large(patch));
        }
        state.trial = Some(0);
        let mut block = Block::default();
        state.store(&mut block).unwrap();
        assert!(block.used() <= SECTOR, "{}", block.used());
        assert_eq!(state.failed.versions().count(), MAX_FAILED);
        assert!(state.failed.up_to().is_some());

        let before = block.clone();
        block.set("foreign", &"x".repeat(SECTOR - block.used())).unwrap();
        let crowded = block.clone();
        assert!(matches!(state.store(&mut block), Err(StoreError::Sector(_))));
        assert_eq!(block, crowded);
        assert_ne!(block, before);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let good = Version::new(1, 0, 0);
        let mut whole = Block::default();
        State::new(Slot::A, good, good).with(Slot::B, Content::New(good)).store(&mut whole).unwrap();
        for name in [SLOT, TRIAL, TRIES_LEFT, A, B, OLDEST, FAILED] {
            let mut block = whole.clone();
            block.unset(name);
            assert_eq!(State::load(&block), Err(StateError::Missing(name)));
        }
        let many = ["1.0.0"; 3].join(",");
        let too_many = (0..=MAX_FAILED).map(|patch| format!("1.0.{patch}")).collect::<Vec<_>>().join(",");
        for (name, text) in [
            (SLOT, "c"),
            (SLOT, ""),
            (TRIAL, "ab"),
            (TRIES_LEFT, "3"),
            (TRIES_LEFT, "02"),
            (TRIES_LEFT, ""),
            (A, "good"),
            (A, "good 1"),
            (B, "fine 1.0.0"),
            (OLDEST, ""),
            (FAILED, ","),
            (FAILED, "1.0.0,..1.0.1"),
            (FAILED, too_many.as_str()),
        ] {
            let mut block = whole.clone();
            block.set(name, text).unwrap();
            assert!(
                matches!(State::load(&block), Err(StateError::Value { name: at, .. }) if at == name),
                "{name}={text}"
            );
        }
        for (name, text, error) in [
            (A, "new 1.0.0", StateError::NotGood(Slot::A)),
            (A, "", StateError::NotGood(Slot::A)),
            (TRIAL, "a", StateError::Trial(Slot::A)),
        ] {
            let mut block = whole.clone();
            block.set(name, text).unwrap();
            assert_eq!(State::load(&block), Err(error), "{name}={text}");
        }
        whole.set(FAILED, &many).unwrap();
        assert!(State::load(&whole).is_ok());
        whole.set(TRIAL, "b").unwrap();
        whole.set(B, "failed 1.0.0").unwrap();
        assert_eq!(State::load(&whole), Err(StateError::Trial(Slot::B)));
    }

    proptest! {
        #[test]
        fn any_state_comes_back_and_leaves_others_alone(states in prop::collection::vec(any_state(), 1..4)) {
            let mut block = Block::default();
            block.set("foreign", "kept").unwrap();
            for state in states {
                state.store(&mut block).unwrap();
                let read = Block::parse(&block.to_bytes()).unwrap();
                prop_assert_eq!(State::load(&read), Ok(state));
                prop_assert_eq!(read.get("foreign"), Some("kept"));
                prop_assert!(read.to_bytes()[SECTOR..].iter().all(|byte| *byte == b'#'));
            }
        }

        #[test]
        fn any_values_are_a_state_or_refused(values in prop::collection::vec(
            prop_oneof![
                "",
                "a|b|0|1|2",
                "(new|good|failed) [0-9]\\.[0-9]\\.[0-9]",
                "(\\.\\.)?([0-9]\\.0\\.0,?){0,8}",
                "\\PC{0,12}",
            ],
            7,
        )) {
            let mut block = Block::default();
            for (name, value) in [SLOT, TRIAL, TRIES_LEFT, A, B, OLDEST, FAILED].into_iter().zip(&values) {
                block.set(name, value).unwrap();
            }
            if let Ok(state) = State::load(&block) {
                state.store(&mut block).unwrap();
                prop_assert_eq!(State::load(&block), Ok(state));
            }
        }
    }
}
