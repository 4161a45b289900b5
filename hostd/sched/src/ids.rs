//! Names of things as small dense numbers, and time as the caller counts it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

macro_rules! dense {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u32);

        impl $name {
            /// As an index.
            pub(crate) fn at(self) -> usize {
                // Targets have pointers of 32 bits or more.
                self.0 as usize
            }
        }
    };
}

dense! {
    /// A machine; numbered from 0 in the order they were added.
    NodeId
}
dense! {
    /// A tenant; numbered from 0 in the order they were added.
    TenantId
}
dense! {
    /// A function; numbered from 0 in the order they were registered. The number of one that was removed, and whose
    /// last sandbox is gone, is another's some day.
    FunctionId
}
dense! {
    /// Something many functions have in common in the page cache (a base); numbered from 0 as added.
    ImageId
}

/// A call, named by the caller. The scheduler only hands it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CallId(pub u64);

/// A sandbox, named by the scheduler. One that is gone never has the name of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SandboxId {
    /// Dense: below the most sandboxes there ever were at once; fit for an index of the caller's own tables.
    pub slot: u32,
    /// Which of those that had the slot.
    pub generation: u32,
}

impl SandboxId {
    pub(crate) fn at(self) -> usize {
        self.slot as usize
    }
}

/// A moment: microseconds since a start of the caller's choice. Must not go backwards; if it does, the scheduler
/// takes it for the latest it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Time(pub u64);

impl Time {
    /// Never.
    pub const NEVER: Self = Self(u64::MAX);

    /// A moment that many seconds after the start.
    pub fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1_000_000))
    }

    /// This much later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(micros(duration)))
    }

    /// How long it is since `earlier`; zero if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// Whole microseconds, at most all there are.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
