//! Sandboxes without a call, each kept by a task that watches it until it is taken, dies or is let go. One that is not
//! called for a while lends the machine what memory it does not use.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Lease, Pool};
use crate::sandbox::{Blank, Sandbox};
use crate::text::chain;

/// Free memory an idle guest keeps, MiB: its next call begins without waiting for any.
const KEPT_FREE_MB: u32 = 8;

/// Bound on a guest giving memory back. A call that comes meanwhile does not wait for that.
const GIVING_BACK: Duration = Duration::from_secs(10);

/// What is kept.
#[derive(Debug)]
pub enum Kept {
    /// A sandbox.
    Sandbox(Box<Sandbox>),
    /// A monitor that is nobody's yet, and what it has booked.
    Blank(Box<Blank>, Lease),
}

impl Kept {
    /// Ends it and waits until nothing is left of it.
    pub async fn destroy(self) {
        match self {
            Self::Sandbox(sandbox) => sandbox.destroy().await,
            Self::Blank(blank, _lease) => blank.destroy().await,
        }
    }
}

/// The way to something that is kept. With this dropped, it ends.
#[derive(Debug)]
pub struct Parked {
    claim: oneshot::Sender<Claim>,
}

type Claim = oneshot::Sender<Kept>;

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
    let (claim, mut claimed) = oneshot::channel::<Claim>();
    let reclaim_after = pool.reclaim_after;
    let owner = Arc::downgrade(pool);
    pool.runtime.spawn(async move {
        let mut lent = false;
        loop {
            tokio::select! {
                biased;
                claim = &mut claimed => return give(kept, claim.ok(), lent).await,
                noticed = watch(&mut kept, &mut lent, reclaim_after) => match noticed {
                    Noticed::End => return kept.destroy().await,
                    Noticed::Memory(private) => {
                        if let Kept::Sandbox(sandbox) = &kept && let Some(pool) = owner.upgrade() {
                            pool.measured(sandbox.lease().id(), private);
                        }
                    }
                },
            }
        }
    });
    Parked { claim }
}

/// Gives it to who claims it, with all its memory; else it ends.
async fn give(mut kept: Kept, claim: Option<Claim>, lent: bool) {
    if let Kept::Sandbox(sandbox) = &mut kept
        && lent
        && claim.is_some()
    {
        sandbox.set_idle(false);
        if let Err(error) = sandbox.deflate().await {
            tracing::warn!(error = %chain(&error), "An idle sandbox does not take its memory back");
            return kept.destroy().await;
        }
    }
    let unwanted = match claim {
        Some(give) => give.send(kept).err(),
        None => Some(kept),
    };
    if let Some(kept) = unwanted {
        kept.destroy().await;
    }
}

enum Noticed {
    /// It is of no further use.
    End,
    /// So much memory of its own it holds, bytes.
    Memory(u64),
}

/// Watches it until something is to be told of it. Safe to cancel.
async fn watch(kept: &mut Kept, lent: &mut bool, reclaim_after: Duration) -> Noticed {
    let sandbox = match kept {
        Kept::Blank(blank, _) => {
            blank.idle().await;
            return Noticed::End;
        }
        Kept::Sandbox(sandbox) => sandbox,
    };
    if !*lent {
        if tokio::time::timeout(reclaim_after, sandbox.idle()).await.is_ok() {
            return Noticed::End;
        }
        *lent = true;
        // Only now: what is called often is not slowed down for it.
        sandbox.set_idle(true);
        match sandbox.reclaim(KEPT_FREE_MB, GIVING_BACK).await {
            Ok(bytes) => tracing::debug!(bytes, "Memory given back"),
            Err(error) => tracing::debug!(error = %chain(&error), "No memory given back"),
        }
        if let Some(private) = sandbox.private_memory() {
            return Noticed::Memory(private);
        }
    }
    sandbox.idle().await;
    Noticed::End
}
