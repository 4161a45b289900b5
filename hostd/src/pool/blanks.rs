//! Monitors kept ready: nobody's yet.

use std::sync::Arc;

use super::{Lease, Pool};
use crate::service::Service;

/// A monitor that waits to be told what to be.
#[derive(Debug)]
pub struct BlankMonitor {
    /// What it has booked.
    pub lease: Lease,
}

impl BlankMonitor {
    /// Waits until it is of no further use.
    pub async fn idle(&mut self) {
        std::future::pending().await
    }

    /// Ends it.
    pub async fn destroy(self) {}
}

impl Pool {
    /// Makes a blank.
    pub async fn bring_up_blank(self: &Arc<Self>, _: &Arc<Service>, lease: Lease) {
        drop(lease);
    }
}
