//! Sandboxes without a call, each kept by a task that watches it until it is taken, dies or is let go.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::Pool;
use super::blanks::BlankMonitor;
use crate::sandbox::Sandbox;

/// What is kept.
#[derive(Debug)]
pub enum Kept {
    /// A sandbox.
    Sandbox(Box<Sandbox>),
    /// A monitor that is nobody's yet.
    Blank(BlankMonitor),
}

impl Kept {
    /// Waits until it is of no further use. Safe to cancel.
    async fn ended(&mut self) {
        match self {
            Self::Sandbox(sandbox) => sandbox.idle().await,
            Self::Blank(blank) => blank.idle().await,
        }
    }

    /// Ends it and waits until nothing is left of it.
    pub async fn destroy(self) {
        match self {
            Self::Sandbox(sandbox) => sandbox.destroy().await,
            Self::Blank(blank) => blank.destroy().await,
        }
    }
}

/// The way to something that is kept. With this dropped, it ends.
#[derive(Debug)]
pub struct Parked {
    claim: oneshot::Sender<oneshot::Sender<Kept>>,
}

impl Parked {
    /// Takes it from its task. `None` when it died meanwhile.
    pub async fn take(self) -> Option<Kept> {
        let (give, taken) = oneshot::channel();
        self.claim.send(give).ok()?;
        taken.await.ok()
    }
}

/// Keeps it in a task of its own.
pub fn keep(pool: &Arc<Pool>, mut kept: Kept) -> Parked {
    let (claim, mut claimed) = oneshot::channel::<oneshot::Sender<Kept>>();
    let reclaim_after = pool.reclaim_after;
    let owner = Arc::downgrade(pool);
    pool.runtime.spawn(async move {
        let mut reclaimed = matches!(kept, Kept::Blank(_));
        loop {
            tokio::select! {
                biased;
                claim = &mut claimed => {
                    let unwanted = match claim {
                        Ok(give) => give.send(kept).err(),
                        Err(_) => Some(kept),
                    };
                    if let Some(kept) = unwanted {
                        kept.destroy().await;
                    }
                    return;
                }
                () = kept.ended() => return kept.destroy().await,
                () = tokio::time::sleep(reclaim_after), if !reclaimed => {}
            }
            reclaimed = true;
            if let Kept::Sandbox(sandbox) = &mut kept
                && let Some(private) = sandbox.private_memory().await
                && let Some(pool) = owner.upgrade()
            {
                pool.measured(sandbox.lease().id(), private);
            }
        }
    });
    Parked { claim }
}
