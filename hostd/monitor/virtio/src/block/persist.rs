//! Saved state of a block device: enough to refuse another drive.

use serde::{Deserialize, Serialize};

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
