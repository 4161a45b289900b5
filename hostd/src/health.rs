//! Answers init's question after our health: a line each way on the socket that is our standard input.
//!
//! Answered from the first moment on, and by the same threads that serve calls: if these hang, init hears nothing and
//! ends us.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as Pair;
use std::sync::{Arc, OnceLock};

use mote_api::{Health, Platform};
use rustix::fs::{FileType, Mode, OFlags, fstat};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::platform::Appliance;

/// Longest question in bytes.
const LONGEST: u64 = 64;

/// What is told: set once it is there.
pub type Subject = Arc<OnceLock<Arc<Appliance>>>;

/// The socket to init, if standard input is one. It is taken away from there, so that nobody we start inherits it.
pub fn socket() -> io::Result<Option<UnixStream>> {
    let input = rustix::stdio::stdin();
    if FileType::from_raw_mode(fstat(input)?.st_mode) != FileType::Socket {
        return Ok(None);
    }
    let taken: OwnedFd = rustix::io::fcntl_dupfd_cloexec(input, 3)?;
    let nothing = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(nothing)?;
    let socket = Pair::from(taken);
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket).map(Some)
}

/// Answers until init closes its end.
pub async fn answer(socket: UnixStream, version: String, subject: Subject) -> io::Result<()> {
    let (reader, mut writer) = socket.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = String::new();
        if (&mut reader).take(LONGEST).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let Some(number) = question(&line) else { continue };
        let health = match subject.get() {
            Some(appliance) => Some(appliance.health().await),
            None => None,
        };
        writer.write_all(reply(number, &version, health).as_bytes()).await?;
    }
}

fn question(line: &str) -> Option<u64> {
    line.trim_end().strip_prefix("health ")?.parse().ok()
}

/// One line; without health, that of a service that is only starting.
fn reply(number: u64, version: &str, health: Option<Health>) -> String {
    let (serving, ready) = health.as_ref().map_or((false, false), |health| (health.serving, health.ready));
    let problems: Vec<String> = match &health {
        None => vec!["hostd is starting".to_owned()],
        Some(health) => {
            let bad = health.components.iter().filter(|component| !component.ok);
            bad.map(|component| format!("{}: {}", component.name, component.reason)).collect()
        }
    };
    let reply = json!({
        "question": number, "serving": serving, "ready": ready, "version": version, "problems": problems,
    });
    format!("{reply}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use mote_api::Component;

    #[test]
    fn questions_have_a_shape() {
        assert_eq!(question("health 7\n"), Some(7));
        for bad in ["", "health\n", "health -1\n", "halth 7\n", "health 7 8\n"] {
            assert_eq!(question(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_reply_is_one_line_with_what_is_wrong() {
        let part = |name: &str, ok, reason: &str| Component { name: name.into(), ok, reason: reason.into() };
        let components = vec![part("network", true, "fine"), part("data-disk", false, "two\nlines")];
        let text = reply(7, "1", Some(Health { serving: true, ready: false, components }));
        assert_eq!(text.matches('\n').count(), 1);
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read["question"], 7);
        assert_eq!(read["serving"], true);
        assert_eq!(read["problems"], json!(["data-disk: two\nlines"]));
        assert!(reply(7, "1", None).contains("\"serving\":false"));
    }

    #[tokio::test]
    async fn questions_are_answered_before_there_is_anything_to_tell() {
        let (init, ours) = UnixStream::pair().unwrap();
        let task = tokio::spawn(answer(ours, "1".to_owned(), Subject::default()));
        let (reader, mut writer) = init.into_split();
        writer.write_all(b"nonsense\nhealth 1\n").await.unwrap();
        let mut lines = BufReader::new(reader).lines();
        let reply = lines.next_line().await.unwrap().unwrap();
        assert!(reply.contains("\"question\":1"), "{reply}");
        drop((writer, lines));
        task.await.unwrap().unwrap();
    }
}
