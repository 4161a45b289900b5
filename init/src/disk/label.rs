//! Finds partitions by their GPT label, waiting for disks that are slow to appear.

use std::path::Path;
use std::time::Duration;

use mote_environment::partition::{SYS, find};
use tokio::time::{Instant, timeout_at};

use crate::sys::uevent::Announcements;

pub use mote_environment::partition::Partition;

/// Label of the partition with the system image.
pub const SYSTEM: &str = "mote-system";

/// Label of the partition with the data.
pub const DATA: &str = "mote-data";

/// Looks until there is one, at most `bound`. Listening starts before looking: nothing is missed.
pub async fn wait_for(label: &str, bound: Duration) -> Option<Partition> {
    let end = Instant::now() + bound;
    let sys = Path::new(SYS);
    let mut announcements = Announcements::listen().ok();
    loop {
        if let Some(partition) = find(sys, label) {
            return Some(partition);
        }
        let heard = match &mut announcements {
            Some(announcements) => {
                timeout_at(end, announcements.next()).await.is_ok_and(|heard| heard.is_ok())
            }
            None => false,
        };
        if !heard {
            tokio::time::sleep_until(end.min(Instant::now() + Duration::from_millis(200))).await;
        }
        if Instant::now() >= end {
            return find(sys, label);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waiting_for_what_never_comes_ends() {
        assert_eq!(wait_for("no-such-label", Duration::from_secs(3)).await, None);
    }
}
