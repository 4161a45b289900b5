//! What both directions share.

use std::time::Duration;

use super::identity::Identity;
use super::limit::Limiter;
use super::wire::Wire;

/// What a guest is attached to.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) wire: Wire,
    pub(super) identity: Identity,
    pub(super) sending: Limiter,
    pub(super) receiving: Limiter,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// There is nothing to do until somebody says so.
    Idle,
    /// There is more to do, and the other devices have their turn first.
    More,
    /// Nothing may be done for so long.
    Wait(Duration),
    /// The wire is gone.
    Gone,
}
