//! Saved state of a balloon.

use serde::{Deserialize, Serialize};

use crate::{DeviceState, RestoreDeviceError};

/// What the guest may know. A question under way is not part of it: whoever put it is not there any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonState {
    /// Pages the host wanted.
    pub target: u32,
    /// Pages the guest had given.
    pub held: u32,
}

/// The state, if it is of a balloon.
pub(super) fn check(state: &DeviceState) -> Result<BalloonState, RestoreDeviceError> {
    match state {
        DeviceState::Balloon(state) => Ok(*state),
        other => Err(RestoreDeviceError::Kind { expected: "a balloon", found: other.kind() }),
    }
}
