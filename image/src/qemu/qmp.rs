//! QEMU's control protocol, as far as needed: the power button.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use thiserror::Error;

/// Longest wait for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Longest line and most lines (events come in between) read for one answer.
const LINE_BYTES: u64 = 64 << 10;
const LINES: usize = 64;

/// Why QEMU did not do what it was asked.
#[derive(Debug, Error)]
pub enum QmpError {
    /// The socket failed.
    #[error("Cannot talk to QEMU at {path}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// QEMU said no.
    #[error("QEMU refused {command}: {answer}")]
    Refused {
        /// What was asked.
        command: &'static str,
        /// Its answer.
        answer: String,
    },
}

/// Presses the power button: the appliance shuts down in order.
///
/// # Errors
/// When QEMU does not answer or refuses.
pub fn power_button(socket: &Path) -> Result<(), QmpError> {
    ask(socket, "system_powerdown")
}

fn ask(socket: &Path, command: &'static str) -> Result<(), QmpError> {
    let io = |source| QmpError::Io { path: socket.to_path_buf(), source };
    let mut stream = UnixStream::connect(socket).map_err(io)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT)).map_err(io)?;
    stream.set_write_timeout(Some(ANSWER_LIMIT)).map_err(io)?;
    let mut reader = BufReader::new(stream.try_clone().map_err(io)?);
    answer(&mut reader, &["QMP"]).map_err(io)?;
    for command in ["qmp_capabilities", command] {
        writeln!(stream, "{}", json!({ "execute": command })).map_err(io)?;
        let answer = answer(&mut reader, &["return", "error"]).map_err(io)?;
        if answer.get("return").is_none() {
            return Err(QmpError::Refused { command, answer: answer.to_string() });
        }
    }
    Ok(())
}

/// The next line that has one of `keys`; events are passed over.
fn answer(reader: &mut impl BufRead, keys: &[&str]) -> io::Result<Value> {
    for _ in 0..LINES {
        let mut line = String::new();
        reader.take(LINE_BYTES).read_line(&mut line)?;
        if line.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let value: Value = serde_json::from_str(&line)?;
        if keys.iter().any(|key| value.get(key).is_some()) {
            return Ok(value);
        }
    }
    Err(io::Error::other("too many events without an answer"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// Answers like QEMU does, with an event in between; gives the commands it saw.
    fn served(answers: &'static [&'static str]) -> (Result<(), QmpError>, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            stream.write_all(b"{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n").unwrap();
            let mut seen = Vec::new();
            for answer in answers {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                seen.push(line.trim().to_owned());
                stream.write_all(b"{\"event\": \"RTC_CHANGE\"}\r\n").unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
            seen
        });
        (power_button(&path), server.join().unwrap())
    }

    #[test]
    fn the_button_is_pressed_after_the_handshake() {
        let (result, seen) = served(&["{\"return\": {}}\r\n", "{\"return\": {}}\r\n"]);
        result.unwrap();
        assert_eq!(seen, ["{\"execute\":\"qmp_capabilities\"}", "{\"execute\":\"system_powerdown\"}"]);
    }

    #[test]
    fn a_refusal_is_passed_on() {
        let (result, _) = served(&["{\"return\": {}}\r\n", "{\"error\": {\"desc\": \"no\"}}\r\n"]);
        let error = result.unwrap_err().to_string();
        assert!(error.starts_with("QEMU refused system_powerdown") && error.contains("no"), "{error}");
    }

    #[test]
    fn silence_and_rubbish_are_errors() {
        assert!(matches!(power_button(Path::new("/no/such/socket")), Err(QmpError::Io { .. })));
        assert!(matches!(served(&["rubbish\r\n"]).0, Err(QmpError::Io { .. })));
        let mut endless: &[u8] = b"{\"event\":1}\n".repeat(LINES + 1).leak();
        assert!(answer(&mut endless, &["return"]).is_err());
    }
}
