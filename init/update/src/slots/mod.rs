//! Two system slots, one of them known to be good, and the trial of the other.
//!
//! ```text
//!            begin            finish           GRUB boots it           mark_good
//!  Settled ────────> Settled ────────> Pending ─────────────> Trying ───────────> Settled, slots swapped
//!     ^    other slot          trial,     │ call_off            │ give_up
//!     │    is empty            2 tries    v                     v
//!     │                                Settled               Stray, reboots ────> Settled
//!     │  settle                                                 │ hangs, resets, does not load
//!     └──────────── FellBack <──────────────────────────────────┘ no tries left
//! ```
//!
//! The state is in GRUB's environment block, all of it within the first 512 bytes, so that a change is one
//! write of one sector: after a power cut the block is the old or the new one. For that the block is made with
//! [`grubenv`](crate::grubenv): GRUB's own tool puts a long comment in front. Variables:
//!
//! | variable      | example        | what                                                        | written by   |
//! |---------------|----------------|-------------------------------------------------------------|--------------|
//! | `mote_slot`   | `a`            | the good slot: what is booted if nothing is on trial        | system       |
//! | `mote_trial`  | `b` or nothing | the other slot, if it is on trial                           | system       |
//! | `mote_tries`  | `2`            | boots left to the trial                                     | system, GRUB |
//! | `mote_a`      | `good 1.4.0`   | slot a: nothing, or `new`, `good` or `failed` and a version | system       |
//! | `mote_b`      | `new 1.5.0`    | the same of slot b                                          | system       |
//! | `mote_oldest` | `1.2.0`        | older ones are not installed                                | system       |
//! | `mote_failed` | `..1.0.9,1.4.1`| versions that failed; after `..`, all up to that one        | system       |
//!
//! Invariants: what `mote_slot` names passed a health check and is never written to; a trial that is not marked
//! good within [`TRIES`] boots is over; a version that failed is tried again only by force. Whatever the power
//! does, the machine runs a good slot at its third boot at the latest.
//!
//! GRUB's part is [`GRUB_CFG`], mirrored by [`boot`].

mod boot;
mod change;
mod failed;
#[cfg(test)]
mod model;
mod phase;
mod text;

use std::fmt;

pub use boot::{GRUB_CFG, boot};
pub use change::{
    ChangeError, Force, Install, abandon, adopt, begin, call_off, finish, give_up, mark_good, roll_back,
    settle,
};
pub use failed::{Failed, MAX_FAILED};
pub use phase::{ALLOWED, Change, Phase};
pub use text::{StateError, StoreError};

use crate::version::Version;

/// Boots a trial has: the second is for a power cut during the first. `grub.cfg` counts down from it.
pub const TRIES: u8 = 2;

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Slot {
    /// The one a machine comes with.
    A,
    /// The one its first update goes to.
    B,
}

/// What is in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Content {
    /// Nothing, or half of something.
    Empty,
    /// A whole version that has not run yet.
    New(Version),
    /// One that passed its health check.
    Good(Version),
    /// One that did not, or that an operator went back from.
    Failed(Version),
}

/// The state of both slots.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    slot: Slot,
    /// Boots left to the other slot, if it is on trial.
    trial: Option<u8>,
    a: Content,
    b: Content,
    oldest: Version,
    failed: Failed,
}

impl Slot {
    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// As the block and the kernel's command line name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// By its name.
    pub fn of(name: &str) -> Option<Self> {
        [Self::A, Self::B].into_iter().find(|slot| slot.name() == name)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Content {
    /// Its version, if there is one.
    pub fn version(self) -> Option<Version> {
        match self {
            Self::Empty => None,
            Self::New(version) | Self::Good(version) | Self::Failed(version) => Some(version),
        }
    }
}

impl State {
    /// Of a machine that runs `version` from `slot` and has nothing else: a new one, or one whose block was
    /// damaged. What failed before is forgotten.
    pub fn new(slot: Slot, version: Version, oldest: Version) -> Self {
        let state = Self {
            slot,
            trial: None,
            a: Content::Empty,
            b: Content::Empty,
            oldest,
            failed: Failed::default(),
        };
        state.with(slot, Content::Good(version))
    }

    /// The good slot.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// The slot on trial and the boots it has left.
    pub fn trial(&self) -> Option<(Slot, u8)> {
        self.trial.map(|tries| (self.slot.other(), tries))
    }

    /// What is in a slot.
    pub fn content(&self, slot: Slot) -> Content {
        match slot {
            Slot::A => self.a,
            Slot::B => self.b,
        }
    }

    /// Older versions are not installed.
    pub fn oldest(&self) -> Version {
        self.oldest
    }

    /// Versions that failed.
    pub fn failed(&self) -> &Failed {
        &self.failed
    }

    /// With something else in a slot.
    fn with(mut self, slot: Slot, content: Content) -> Self {
        match slot {
            Slot::A => self.a = content,
            Slot::B => self.b = content,
        }
        self
    }
}
