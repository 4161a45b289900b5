//! Wiping the data disk: asked for twice, ordered on the disk itself ([`mote_reset`]), carried out by init at the restart that
//! follows.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mote_api::{ApiError, ResetReply};
use mote_reset::{Order, ResetError, Stage, What};
use uuid::Uuid;

use crate::service::blocking;
use crate::text::chain;

/// How long whoever asked has to think about it.
const VALID: Duration = Duration::from_secs(60);

/// What was asked for, and by which word it is confirmed.
#[derive(Debug)]
struct Asked {
    what: What,
    token: String,
    until: Instant,
}

/// Why a confirmation is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum ConfirmError {
    #[error("Nothing was asked for that this confirms: ask again, without 'confirm'")]
    Unknown,
    #[error("The confirmation came later than {} s after the question: ask again, without 'confirm'", VALID.as_secs())]
    Late,
    #[error("It confirms '{0}', not what is asked for here: ask again, without 'confirm'")]
    Other(What),
}

/// Why an order was not given.
#[derive(Debug, thiserror::Error)]
enum OrderError {
    #[error("Cannot open {}", .0.display())]
    Open(PathBuf, #[source] io::Error),
    #[error(transparent)]
    Reset(#[from] ResetError),
}

/// Where resets are asked for. The last question counts.
#[derive(Debug, Default)]
pub struct Desk {
    asked: Mutex<Option<Asked>>,
}

impl Desk {
    /// Answers the question, or, if it is confirmed, has `device` wiped after `restart`.
    pub async fn reset(
        &self,
        device: &str,
        what: What,
        confirm: Option<&str>,
        restart: impl FnOnce() -> Result<(), ApiError> + Send + 'static,
    ) -> Result<ResetReply, ApiError> {
        if device.is_empty() {
            return Err(ApiError::ResourceConflict(
                "There is no data disk that takes the order to be wiped (/healthz says why); the boot menu can \
                 wipe one that is there"
                    .to_owned(),
            ));
        }
        let Some(token) = confirm else {
            return Ok(ResetReply::Confirm { token: self.ask(what, Instant::now()), valid: VALID });
        };
        self.confirm(what, token, Instant::now())
            .map_err(|error| ApiError::PreconditionFailed(error.to_string()))?;
        let failed = |error: OrderError| ApiError::Service(chain(&error));
        let (path, order) = (PathBuf::from(device), Order { what, stage: Stage::Asked });
        // In one piece, whoever hangs up meanwhile: an order without the restart would be carried out whenever somebody
        // restarts the machine.
        blocking(move || {
            let given = on(&path, |device, size| mote_reset::write(device, size, &order)).map_err(failed);
            let begun = given.and_then(|()| {
                tracing::warn!(%what, device = %path.display(), "The data disk is wiped at the restart that begins now");
                restart()
            });
            if begun.is_err() {
                on(&path, mote_reset::clear).map_err(failed)?;
            }
            begun
        })
        .await?;
        Ok(ResetReply::Begun)
    }

    fn ask(&self, what: What, now: Instant) -> String {
        let token = Uuid::new_v4().to_string();
        *self.lock() = Some(Asked { what, token: token.clone(), until: now + VALID });
        token
    }

    /// Good for one time.
    fn confirm(&self, what: What, token: &str, now: Instant) -> Result<(), ConfirmError> {
        let mut asked = self.lock();
        let known = asked.as_ref().filter(|asked| asked.token == token).ok_or(ConfirmError::Unknown)?;
        if now > known.until {
            return Err(ConfirmError::Late);
        }
        if known.what != what {
            return Err(ConfirmError::Other(known.what));
        }
        *asked = None;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Something with a device and its size.
fn on(path: &Path, with: impl FnOnce(&File, u64) -> Result<(), ResetError>) -> Result<(), OrderError> {
    let failed = |error| OrderError::Open(path.to_owned(), error);
    let mut device = File::options().read(true).write(true).open(path).map_err(failed)?;
    let size = device.seek(SeekFrom::End(0)).map_err(failed)?;
    Ok(with(&device, size)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(4 << 20).unwrap();
        file
    }

    fn ordered(disk: &tempfile::NamedTempFile) -> Option<Order> {
        mote_reset::read(disk.as_file(), 4 << 20).unwrap()
    }

    #[test]
    fn a_confirmation_counts_once_and_for_a_minute() {
        let (desk, now) = (Desk::default(), Instant::now());
        assert_eq!(desk.confirm(What::Data, "", now), Err(ConfirmError::Unknown));
        let token = desk.ask(What::Data, now);
        assert_eq!(desk.confirm(What::Data, "another", now), Err(ConfirmError::Unknown));
        assert_eq!(desk.confirm(What::Factory, &token, now), Err(ConfirmError::Other(What::Data)));
        assert_eq!(desk.confirm(What::Data, &token, now + VALID + VALID), Err(ConfirmError::Late));
        assert_eq!(desk.confirm(What::Data, &token, now + VALID), Ok(()));
        assert_eq!(desk.confirm(What::Data, &token, now), Err(ConfirmError::Unknown));
        let old = desk.ask(What::Data, now);
        desk.ask(What::Factory, now);
        assert_eq!(desk.confirm(What::Data, &old, now), Err(ConfirmError::Unknown));
    }

    fn never() -> Result<(), ApiError> {
        panic!("restarts")
    }

    #[tokio::test]
    async fn only_the_second_request_wipes() {
        let (desk, disk) = (Desk::default(), disk());
        let device = disk.path().display().to_string();
        let ResetReply::Confirm { token, .. } =
            desk.reset(&device, What::Factory, None, never).await.unwrap()
        else {
            panic!("it is not asked again")
        };
        assert_eq!(ordered(&disk), None);
        let wrong = desk.reset(&device, What::Factory, Some("x"), never).await;
        assert!(matches!(wrong, Err(ApiError::PreconditionFailed(_))), "{wrong:?}");
        assert_eq!(ordered(&disk), None);
        let begun = desk.reset(&device, What::Factory, Some(&token), || Ok(())).await.unwrap();
        assert!(matches!(begun, ResetReply::Begun));
        assert_eq!(ordered(&disk), Some(Order { what: What::Factory, stage: Stage::Asked }));
    }

    #[tokio::test]
    async fn an_order_that_no_restart_follows_is_taken_back() {
        let (desk, disk) = (Desk::default(), disk());
        let device = disk.path().display().to_string();
        let token = desk.ask(What::Data, Instant::now());
        let refused = || Err(ApiError::Service("no".to_owned()));
        assert!(desk.reset(&device, What::Data, Some(&token), refused).await.is_err());
        assert_eq!(ordered(&disk), None);
    }

    #[tokio::test]
    async fn whoever_hangs_up_has_ordered_it_all_the_same() {
        let (desk, disk) = (Desk::default(), disk());
        let device = disk.path().display().to_string();
        let token = desk.ask(What::Data, Instant::now());
        let (restarts, told) = std::sync::mpsc::channel();
        let restart = move || restarts.send(()).map_err(|error| ApiError::Service(error.to_string()));
        let asking = desk.reset(&device, What::Data, Some(&token), restart);
        // Begun, and dropped before it can have ended.
        let _ = tokio::time::timeout(Duration::ZERO, asking).await;
        told.recv_timeout(Duration::from_secs(30)).unwrap();
        assert_eq!(ordered(&disk), Some(Order { what: What::Data, stage: Stage::Asked }));
    }

    #[tokio::test]
    async fn without_a_disk_nothing_is_asked() {
        let desk = Desk::default();
        let answer = desk.reset("", What::Data, None, || Ok(())).await;
        assert!(matches!(answer, Err(ApiError::ResourceConflict(_))), "{answer:?}");
        let token = desk.ask(What::Data, Instant::now());
        let answer = desk.reset("/nowhere/at/all", What::Data, Some(&token), || Ok(())).await;
        assert!(matches!(answer, Err(ApiError::Service(_))), "{answer:?}");
    }
}
