//! Saved state of the entropy device: there is none, and there must be none.

use serde::{Deserialize, Serialize};

/// Nothing but the kind. Randomness is never part of a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RngState {}
