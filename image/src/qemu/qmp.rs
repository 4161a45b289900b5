//! QEMU's control protocol, as far as needed: the power button, and what was read from a disk.

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
    ask(socket, "system_powerdown").map(drop)
}

/// What a machine has read from one of its disks since it was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reads {
    /// Requests.
    pub requests: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Looks up the reads of the disk that the command line calls `id`.
///
/// # Errors
/// When QEMU does not answer, or has no such disk.
pub fn reads(socket: &Path, id: &str) -> Result<Reads, QmpError> {
    let command = "query-blockstats";
    let answer = ask(socket, command)?;
    let disks = answer["return"].as_array().map(Vec::as_slice).unwrap_or_default();
    disks
        .iter()
        .find(|disk| disk["device"] == id)
        .and_then(|disk| {
            let stats = &disk["stats"];
            Some(Reads { requests: stats["rd_operations"].as_u64()?, bytes: stats["rd_bytes"].as_u64()? })
        })
        .ok_or_else(|| QmpError::Refused { command, answer: answer.to_string() })
}

/// Asks one command and gives QEMU's whole answer.
fn ask(socket: &Path, command: &'static str) -> Result<Value, QmpError> {
    let io = |source| QmpError::Io { path: socket.to_path_buf(), source };
    let mut stream = UnixStream::connect(socket).map_err(io)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT)).map_err(io)?;
    stream.set_write_timeout(Some(ANSWER_LIMIT)).map_err(io)?;
    let mut reader = BufReader::new(stream.try_clone().map_err(io)?);
    answer(&mut reader, &["QMP"]).map_err(io)?;
    let mut last = Value::Null;
    for command in ["qmp_capabilities", command] {
        writeln!(stream, "{}", json!({ "execute": command })).map_err(io)?;
        last = answer(&mut reader, &["return", "error"]).map_err(io)?;
        if last.get("return").is_none() {
            return Err(QmpError::Refused { command, answer: last.to_string() });
        }
    }
    Ok(last)
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
        serve(answers, power_button)
    }

    fn serve<T>(
        answers: &'static [&'static str],
        asked: impl Fn(&Path) -> Result<T, QmpError>,
    ) -> (Result<T, QmpError>, Vec<String>) {
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
        (asked(&path), server.join().unwrap())
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
    fn reads_are_those_of_the_disk_that_was_asked_for() {
        const STATS: &str = r#"{"return": [
            {"device": "system", "stats": {"rd_operations": 9, "rd_bytes": 90}},
            {"device": "data", "stats": {"rd_operations": 3, "rd_bytes": 12288, "wr_bytes": 5}}]}"#;
        // One line, as QEMU writes it.
        let stats: &'static str = format!("{}\r\n", STATS.replace('\n', "")).leak();
        let answers: &'static [&'static str] = vec!["{\"return\": {}}\r\n", stats].leak();
        let (found, seen) = serve(answers, |path| reads(path, "data"));
        assert_eq!(found.unwrap(), Reads { requests: 3, bytes: 12288 });
        assert_eq!(seen[1], "{\"execute\":\"query-blockstats\"}");
        assert!(matches!(serve(answers, |path| reads(path, "floppy")).0, Err(QmpError::Refused { .. })));
    }

    #[test]
    fn silence_and_rubbish_are_errors() {
        assert!(matches!(power_button(Path::new("/no/such/socket")), Err(QmpError::Io { .. })));
        assert!(matches!(served(&["rubbish\r\n"]).0, Err(QmpError::Io { .. })));
        let mut endless: &[u8] = b"{\"event\":1}\n".repeat(LINES + 1).leak();
        assert!(answer(&mut endless, &["return"]).is_err());
    }
}
