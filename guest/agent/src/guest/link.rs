//! Sessions over vsock: the agent dials at a cold boot, the host dials ever after.

use std::time::Duration;

use mote_protocol::{AGENT_PORT, HOST_PORT};
use tokio::sync::mpsc;
use tokio_vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener, VsockStream};

use crate::session::BoxStream;

/// Time to reach the host, per try; with the pauses, a host that does not listen is given up after half a minute.
const DIAL_TIME: Duration = Duration::from_secs(5);
const DIAL_PAUSES: &[u64] = &[0, 10, 50, 100, 200, 500, 1000];

/// Why there is no vsock.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The agent's port cannot be listened on.
    #[error("Cannot listen on vsock port {AGENT_PORT}")]
    Listen(#[source] std::io::Error),
    /// The host does not answer.
    #[error("Cannot reach the host's vsock port {HOST_PORT}")]
    Dial(#[source] std::io::Error),
}

/// Listens, so that the port is taken before any code of the function runs.
///
/// # Errors
/// When the machine has no vsock.
pub fn listen() -> Result<VsockListener, LinkError> {
    VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, AGENT_PORT)).map_err(LinkError::Listen)
}

/// Opens the first session to the host.
///
/// # Errors
/// When it does not answer in time.
pub async fn dial() -> Result<VsockStream, LinkError> {
    let mut last = std::io::Error::from(std::io::ErrorKind::TimedOut);
    for pause in DIAL_PAUSES {
        tokio::time::sleep(Duration::from_millis(*pause)).await;
        let connecting = VsockStream::connect(VsockAddr::new(VMADDR_CID_HOST, HOST_PORT));
        match tokio::time::timeout(DIAL_TIME, connecting).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = std::io::ErrorKind::TimedOut.into(),
        }
    }
    Err(LinkError::Dial(last))
}

/// Passes on every session the host opens, until nobody takes them.
pub async fn accept(listener: VsockListener, sessions: mpsc::Sender<BoxStream>) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        // The function can reach this port too, over the loopback transport.
        if peer.cid() == VMADDR_CID_HOST && sessions.send(Box::new(stream)).await.is_err() {
            return;
        }
    }
}
