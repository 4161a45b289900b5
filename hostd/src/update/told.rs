//! What is said of updates.

use mote_update::slots::{Content, Phase, Slot, State};
use mote_update::version::Version;
use serde_json::{Value, json};

use super::{UpdateError, version_of};
use crate::text::chain;

/// How far an update is, or how the last one ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Its version, from when it is known.
    pub version: Option<Version>,
    /// Bytes of its payload.
    pub size: u64,
    /// Those that are written.
    pub written: u64,
    running: bool,
    failed: Option<String>,
}

impl Progress {
    /// Of an update that begins.
    pub fn begin() -> Self {
        Self { running: true, ..Self::default() }
    }

    /// It is over.
    pub fn end(&mut self, error: Option<&UpdateError>) {
        self.running = false;
        self.failed = error.map(|error| chain(error));
    }

    fn told(&self) -> Value {
        let state = match (self.running, &self.failed) {
            (true, _) => "writing",
            (false, Some(_)) => "failed",
            (false, None) => "done",
        };
        if *self == Self::default() {
            return Value::Null;
        }
        json!({
            "state": state,
            "version": self.version,
            "written_bytes": self.written,
            "total_bytes": self.size,
            "reason": self.failed,
        })
    }
}

/// Of a machine without slots.
pub fn without_slots(why: &str, version: Version) -> Value {
    json!({ "possible": false, "reason": why, "running": { "slot": null, "system": version } })
}

/// Of one with slots. `version` is what the running system says of itself.
pub fn told(
    state: &State,
    running: Slot,
    version: Version,
    no_keys: Option<&String>,
    progress: &Progress,
) -> Value {
    let slot = |slot: Slot| {
        let content = state.content(slot);
        json!({
            "state": word(content),
            "version": content.version(),
            "running": slot == running,
            "good": slot == state.slot(),
        })
    };
    let failed: Vec<Version> = state.failed().versions().collect();
    json!({
        "possible": no_keys.is_none(),
        "reason": no_keys.map(|why| format!("No key for updates can be used: {why}")),
        "phase": phase(state.phase(running)),
        "running": { "slot": running.name(), "version": version_of(state, running, version), "system": version },
        "slots": { "a": slot(Slot::A), "b": slot(Slot::B) },
        "trial": state.trial().map(|(slot, left)| json!({ "slot": slot.name(), "boots_left": left })),
        "oldest": state.oldest(),
        "failed": failed,
        "failed_up_to": state.failed().up_to(),
        "update": progress.told(),
    })
}

fn word(content: Content) -> &'static str {
    match content {
        Content::Empty => "empty",
        Content::New(_) => "new",
        Content::Good(_) => "good",
        Content::Failed(_) => "failed",
    }
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Settled => "settled",
        Phase::Pending => "pending",
        Phase::Trying => "trying",
        Phase::FellBack => "fell-back",
        Phase::Stray => "stray",
    }
}
