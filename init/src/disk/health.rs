//! Whether hostd is healthy: what it answers to `GET /readyz`.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest wait for an answer.
const BOUND: Duration = Duration::from_secs(10);

const REQUEST: &[u8] = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// How the answer of a healthy one begins.
const READY: &[u8] = b"HTTP/1.1 200 ";

/// Asks once.
pub async fn is_ready(port: u16) -> bool {
    timeout(BOUND, ask(port)).await.is_ok_and(|answer| answer.is_ok_and(|ready| ready))
}

async fn ask(port: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(REQUEST).await?;
    let mut begin = [0; READY.len()];
    stream.read_exact(&mut begin).await?;
    Ok(begin == READY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn answering(text: &'static [u8]) -> bool {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; REQUEST.len()];
            stream.read_exact(&mut asked).await.unwrap();
            assert_eq!(asked, REQUEST);
            stream.write_all(text).await.unwrap();
        });
        let ready = is_ready(port).await;
        serving.await.unwrap();
        ready
    }

    #[tokio::test]
    async fn only_a_200_is_healthy() {
        assert!(answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await);
        assert!(!answering(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").await);
        assert!(!answering(b"HTTP").await);
        assert!(!answering(b"").await);
    }

    #[tokio::test]
    async fn nobody_there_is_not_healthy() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        assert!(!is_ready(port).await);
    }
}
