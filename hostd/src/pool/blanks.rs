//! Monitors kept ready: nobody's yet.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::parked::{self, Kept};
use super::{Lease, Pool};
use crate::sandbox::Blank;
use crate::text::chain;

impl Pool {
    /// Makes a blank, as ordered.
    pub async fn bring_up_blank(self: &Arc<Self>, lease: Lease, run: &Path, vcpus: u8) {
        let began = Instant::now();
        match Blank::prepare(run, vcpus).await {
            Ok(blank) => {
                let id = lease.id();
                lease.name(blank.id(), blank.pid());
                tracing::debug!(id = blank.id(), ms = began.elapsed().as_millis(), "Blank made");
                let parked = parked::keep(self, Kept::Blank(Box::new(blank), lease));
                self.change(|ledger| ledger.blank(id, parked));
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "No blank could be made");
                lease.report().failed_blank();
            }
        }
    }
}
