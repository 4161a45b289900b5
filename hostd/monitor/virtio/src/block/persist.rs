//! Saved state of a block device: enough to refuse another drive.

use serde::{Deserialize, Serialize};

use crate::{DeviceState, RestoreDeviceError};

/// What a drive must look like to stand in for the one the guest knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockState {
    /// Capacity in sectors of 512 bytes.
    pub sectors: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// What GET_ID answers; kept over a restore so that the guest's view does not change.
    pub id: String,
}

/// The state, if it is of a drive like this one.
pub(super) fn check(
    state: &DeviceState,
    found: u64,
    found_ro: bool,
) -> Result<&BlockState, RestoreDeviceError> {
    match state {
        DeviceState::Block(state) if state.sectors == found && state.read_only == found_ro => Ok(state),
        DeviceState::Block(state) => Err(RestoreDeviceError::Drive {
            saved: state.sectors,
            saved_ro: state.read_only,
            found,
            found_ro,
        }),
        other => Err(RestoreDeviceError::Kind { expected: "a block device", found: other.kind() }),
    }
}
