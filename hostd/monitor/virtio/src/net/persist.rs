//! Saved state of a network device: what the guest knows of it, and nothing of where it leads.

use serde::{Deserialize, Serialize};

use crate::{DeviceState, RestoreDeviceError};

/// What the guest's driver read from the configuration space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetState {
    /// Hardware address.
    pub mac: [u8; 6],
    /// Largest packet; the guest's network may be set to less.
    pub mtu: u16,
    /// The link is up.
    pub up: bool,
}

/// The state, if it is of a network device with this hardware address.
pub(super) fn check(state: &DeviceState, found: [u8; 6]) -> Result<&NetState, RestoreDeviceError> {
    match state {
        DeviceState::Net(state) if state.mac == found => Ok(state),
        DeviceState::Net(state) => Err(RestoreDeviceError::Mac { saved: state.mac, found }),
        other => Err(RestoreDeviceError::Kind { expected: "a network device", found: other.kind() }),
    }
}
