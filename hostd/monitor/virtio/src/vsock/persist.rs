//! Saved state of a socket device. Connections are not part of it: they end with the snapshot.

use serde::{Deserialize, Serialize};

use super::peers::HOST_PORTS;
use crate::{DeviceState, RestoreDeviceError};

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

/// The state, if a socket device could have written it.
pub(super) fn check(state: &DeviceState) -> Result<&VsockState, RestoreDeviceError> {
    let state = match state {
        DeviceState::Vsock(state) => state,
        other => return Err(RestoreDeviceError::Kind { expected: "a socket device", found: other.kind() }),
    };
    if !super::device::is_guest_cid(state.cid) {
        return Err(RestoreDeviceError::Field("cid"));
    }
    if !HOST_PORTS.contains(&state.next_port) {
        return Err(RestoreDeviceError::Field("next_port"));
    }
    Ok(state)
}
