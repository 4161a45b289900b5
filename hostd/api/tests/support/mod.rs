//! A platform that keeps functions in memory and echoes, and a server over it on loopback.
#![allow(dead_code, reason = "each test binary uses a part of it")]

mod memory;

use std::net::SocketAddr;
use std::sync::Arc;

use mote_api::{ApiLimits, ServeError, ServeLimits, router_with, serve};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub use memory::Memory;

/// A running server.
pub struct Server {
    pub address: SocketAddr,
    pub platform: Arc<Memory>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Server {
    pub async fn start() -> Self {
        Self::with(ApiLimits::default(), ServeLimits::default()).await
    }

    pub async fn with(api: ApiLimits, limits: ServeLimits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let platform = Arc::new(Memory::default());
        let router = router_with(Arc::clone(&platform), api);
        let (stop, stopped) = oneshot::channel();
        let shutdown = async {
            let _ = stopped.await;
        };
        let task = tokio::spawn(serve(listener, router, shutdown, limits));
        Self { address, platform, stop: Some(stop), task }
    }

    /// Asks for the end; [`Server::ended`] waits for it.
    pub fn stop(&mut self) {
        drop(self.stop.take());
    }

    pub async fn ended(self) -> Result<(), ServeError> {
        self.task.await.unwrap()
    }
}
