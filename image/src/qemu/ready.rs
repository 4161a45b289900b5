//! Whether the appliance answers.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// Longest wait for one answer; an emulated machine under load takes its time.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Asks `/readyz` once. `Some(true)` is ready, `Some(false)` answered otherwise, `None` did not answer.
#[must_use]
pub fn probe(port: u16) -> Option<bool> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_LIMIT).ok()?;
    stream.set_read_timeout(Some(ANSWER_LIMIT)).ok()?;
    stream.set_write_timeout(Some(ANSWER_LIMIT)).ok()?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").ok()?;
    let mut start = [0; 12];
    stream.read_exact(&mut start).ok()?;
    status(&start).map(|status| status == 200)
}

/// Status of an answer's first bytes: `HTTP/1.1 200`.
fn status(start: &[u8; 12]) -> Option<u16> {
    let text = std::str::from_utf8(start).ok()?;
    text.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..)).and_then(|code| code.parse().ok())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn against(answer: &'static [u8]) -> Option<bool> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 16];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(answer).unwrap();
            request
        });
        let result = probe(port);
        assert_eq!(&server.join().unwrap(), b"GET /readyz HTTP");
        result
    }

    #[test]
    fn only_200_is_ready() {
        assert_eq!(against(b"HTTP/1.1 200 OK\r\n\r\n"), Some(true));
        assert_eq!(against(b"HTTP/1.1 503 Service Unavailable\r\n\r\n"), Some(false));
        assert_eq!(against(b"220 mail.example ESMTP\r\n"), None);
        assert_eq!(against(b""), None);
    }

    #[test]
    fn nobody_there_is_no_answer() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        assert_eq!(probe(port), None);
    }
}
