//! A monitor that is started before anybody knows what for.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::cgroup::Groups;
use super::monitor::{Monitor, MonitorError, Waiting};
use super::run_dir::RunDir;

/// Bound on a blank being made: the machine may be busy.
const PREPARATION: Duration = Duration::from_secs(10);

/// A monitor that waits to be told what to be, with the folder and the name of the sandbox it is going to be. It has its
/// process, virtual machine, vCPUs and control group. Killed when dropped.
#[derive(Debug)]
pub struct Blank {
    pub(super) id: Arc<str>,
    pub(super) waiting: Waiting,
    // Behind the process that uses it.
    pub(super) dir: RunDir,
    vcpus: u8,
}

impl Blank {
    /// Makes one for a microVM with `vcpus` vCPUs; its folder is made below `run`.
    ///
    /// # Errors
    /// When the process does not come up, or not in time.
    pub async fn prepare(run: &Path, vcpus: u8) -> Result<Self, MonitorError> {
        Self::prepare_in(Groups::of_machine(), run, vcpus).await
    }

    /// The same with the groups that are said.
    pub(super) async fn prepare_in(groups: &Groups, run: &Path, vcpus: u8) -> Result<Self, MonitorError> {
        let id = new_id();
        let dir = RunDir::create(run, &id).map_err(MonitorError::Spawn)?;
        let waiting = Monitor::blank(vcpus, dir.complaints(), groups.make(&id));
        let seconds = PREPARATION.as_secs();
        let waiting = tokio::time::timeout(PREPARATION, waiting)
            .await
            .unwrap_or(Err(MonitorError::Timeout { operation: "get ready", seconds }))?;
        Ok(Self { id, waiting, dir, vcpus })
    }

    /// Name of the sandbox it is going to be.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.waiting.pid()
    }

    /// Waits until it is of no further use, which is when it died; the log has the reason then. Safe to cancel.
    pub async fn idle(&mut self) {
        let error = self.waiting.died().await;
        tracing::warn!(id = %self.id, %error, "A blank ended");
    }

    /// Whether it can become a microVM with `vcpus` vCPUs, as far as can be seen without waiting.
    pub(super) fn fits(&mut self, vcpus: u8) -> bool {
        self.vcpus == vcpus && self.waiting.is_alive()
    }

    /// Ends it and waits until nothing is left of it.
    pub async fn destroy(self) {
        self.waiting.kill().await;
    }
}

/// Name of a new sandbox.
pub(super) fn new_id() -> Arc<str> {
    let uuid = uuid::Uuid::new_v4().simple().to_string();
    Arc::from(uuid.get(..12).unwrap_or(&uuid))
}
