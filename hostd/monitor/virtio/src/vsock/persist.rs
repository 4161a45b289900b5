//! Saved state of a socket device. Connections are not part of it: they end with the snapshot.

use serde::{Deserialize, Serialize};

/// What outlives a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VsockState {
    /// The guest's context id.
    pub cid: u64,
    /// Next host port for a connection to the guest: not used twice, or a clone would meet the guest's memory of an
    /// old connection.
    pub next_port: u32,
    /// The guest may believe in connections that no longer exist, and must be told by a transport reset.
    pub reset_needed: bool,
}
