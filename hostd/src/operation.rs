//! What those who run the machine have of it: records of crashes, the log elsewhere, bundles, updates, resets.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mote_api::{ApiError, Bundle, rfc3339};
use tokio::sync::{Semaphore, mpsc};

use crate::bundle::{self, Part, Places, Told};
use crate::crashes::Crashes;
use crate::reset::Desk;
use crate::syslog::{Status, Syslog};
use crate::text::unix_ms;
use crate::update::Updates;

/// When to come again for a bundle while one is being written.
const BUSY: Duration = Duration::from_secs(10);

/// All of it.
#[derive(Debug)]
pub struct Operation {
    /// Records of crashes.
    pub crashes: Crashes,
    /// Where resets are asked for.
    pub desk: Desk,
    /// Updates of the system.
    pub updates: Updates,
    syslog: Option<Syslog>,
    places: Places,
    /// One bundle at a time.
    bundles: Arc<Semaphore>,
}

impl Operation {
    /// With these.
    pub fn new(crashes: Crashes, syslog: Option<Syslog>, places: Places, updates: Updates) -> Self {
        Self { crashes, desk: Desk::default(), updates, syslog, places, bundles: Arc::new(Semaphore::new(1)) }
    }

    /// How it stands with the log that is sent elsewhere, if it is.
    pub fn syslog(&self) -> Option<Status> {
        self.syslog.as_ref().map(Syslog::status)
    }

    /// What init found at boot.
    pub fn boot_file(&self) -> &Path {
        &self.places.boot
    }

    /// Begins a bundle with what hostd says of itself.
    pub async fn bundle(&self, mut told: Told) -> Result<Bundle, ApiError> {
        let busy = |_| ApiError::Unavailable {
            message: "Another support bundle is being written".to_owned(),
            retry_after: BUSY,
        };
        let permit = Arc::clone(&self.bundles).try_acquire_owned().map_err(busy)?;
        // A disk that cannot be read is one more reason for a bundle.
        for summary in self.crashes.list().await.unwrap_or_default() {
            if let Ok(crash) = self.crashes.get(&summary.id.to_string()).await {
                let head = format!(
                    "{} at {}, {} times, last at {}, version {}: {}",
                    crash.kind,
                    rfc3339(crash.unix_ms),
                    crash.times,
                    rfc3339(crash.last_unix_ms),
                    crash.version,
                    crash.reason
                );
                told.parts.push(Part::new(
                    format!("crashes/{}.txt", summary.id),
                    format!("{head}\n\n{}", crash.text),
                ));
            }
        }
        let mut written = bundle::start(self.places.clone(), told);
        let (pieces, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            // Until all of it is taken, or nobody takes it.
            let _permit = permit;
            while let Some(piece) = written.recv().await {
                if pieces.send(piece).await.is_err() {
                    break;
                }
            }
        });
        let name = format!("mote-support-{}.tar", rfc3339(unix_ms()).replace(':', "-"));
        Ok(Bundle { name, pieces: receiver })
    }
}
