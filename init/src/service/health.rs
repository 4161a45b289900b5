//! The question after hostd's health, over the socket that is hostd's standard input.
//!
//! A line each way: `health NUMBER`, and JSON with the number, what is wrong, and whether calls are served. Whoever does
//! not answer for long is as good as dead.

use std::io;
use std::os::unix::net::UnixStream as Pair;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::clock::since_boot;
use crate::text::printable;

/// Pause between an answer and the next question.
const EVERY: Duration = Duration::from_secs(5);

/// Time an answer may take before the question is put again.
const ANSWER: Duration = Duration::from_secs(10);

/// Without an answer for this long hostd hangs. Generous: on a crowded emulator seconds become minutes.
pub const HANGS: Duration = Duration::from_secs(120);

/// Longest answer in bytes.
const LONGEST: u64 = 64 * 1024;

/// Problems kept, and the longest, in characters.
const PROBLEMS: usize = 32;
const PROBLEM: usize = 512;

/// What was heard of hostd.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// When; time since boot.
    pub at: Duration,
    /// It serves: it answers whoever asks, if only what is wrong.
    pub good: bool,
    /// It serves calls of functions.
    pub ready: bool,
    /// Of the system it is part of.
    pub version: String,
    /// What is wrong, one sentence each.
    pub problems: Vec<String>,
}

/// An answer as it comes.
#[derive(Debug, Deserialize)]
struct Answer {
    question: u64,
    serving: bool,
    ready: bool,
    #[serde(default)]
    version: String,
    #[serde(default)]
    problems: Vec<String>,
}

/// Our end of a new socket pair, and hostd's.
pub fn pair() -> io::Result<(UnixStream, Pair)> {
    let (ours, theirs) = Pair::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs))
}

/// Asks for ever; returns when hostd has closed its end, or hangs.
pub async fn ask(socket: UnixStream, heard: &watch::Sender<Heard>) -> Ended {
    let (reader, mut writer) = socket.into_split();
    let mut reader = BufReader::new(reader);
    let mut last = Instant::now();
    for number in 0_u64.. {
        let asked = Instant::now();
        let question = format!("health {number}\n");
        let exchange = async {
            writer.write_all(question.as_bytes()).await?;
            answer(&mut reader, number).await
        };
        match timeout(ANSWER, exchange).await {
            Ok(Ok(answer)) => {
                last = Instant::now();
                heard.send_replace(answer);
            }
            Ok(Err(error)) if error.kind() != io::ErrorKind::InvalidData => return Ended::Closed,
            // Nonsense counts as silence.
            Ok(Err(_)) | Err(_) if last.elapsed() >= HANGS => return Ended::Hangs,
            Ok(Err(_)) | Err(_) => {}
        }
        sleep(EVERY.saturating_sub(asked.elapsed())).await;
    }
    Ended::Hangs
}

/// Why there are no more questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Its end of the socket is gone, as it is or soon will be.
    Closed,
    /// It does not answer.
    Hangs,
}

/// The answer to this question; those to earlier ones are late and passed over.
async fn answer(reader: &mut (impl AsyncBufReadExt + Unpin), number: u64) -> io::Result<Heard> {
    loop {
        let mut line = Vec::new();
        let length = (&mut *reader).take(LONGEST).read_until(b'\n', &mut line).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let answer: Answer = serde_json::from_slice(&line)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if answer.question == number {
            let short = |text: &String| printable(text).chars().take(PROBLEM).collect();
            return Ok(Heard {
                at: since_boot(),
                good: answer.serving,
                ready: answer.ready,
                version: short(&answer.version),
                problems: answer.problems.iter().take(PROBLEMS).map(short).collect(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[tokio::test(start_paused = true)]
    async fn answers_are_heard_and_silence_is_a_hang() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let heard = watch::Sender::default();
        let mut told = heard.subscribe();
        let service = tokio::spawn(async move {
            let (reader, mut writer) = theirs.into_split();
            let mut lines = BufReader::new(reader).lines();
            for expected in 0..3 {
                let question = lines.next_line().await.unwrap().unwrap();
                assert_eq!(question, format!("health {expected}"));
                let late = "{\"question\": 77, \"serving\": false, \"ready\": false}\n";
                let answer = format!(
                    "{{\"question\": {expected}, \"serving\": true, \"ready\": false, \"version\": \"1\", \
                     \"problems\": [\"a\\u001b[2J\"]}}\n"
                );
                writer.write_all(format!("{late}{answer}").as_bytes()).await.unwrap();
            }
            // Reads on, says nothing.
            while lines.next_line().await.unwrap().is_some() {}
        });
        let started = Instant::now();
        assert_eq!(ask(ours, &heard).await, Ended::Hangs);
        assert!(started.elapsed() >= HANGS && started.elapsed() < HANGS + Duration::from_secs(60));
        let last = told.borrow_and_update().clone();
        assert!(last.good && !last.ready);
        assert_eq!(last.problems, ["a.[2J"]);
        service.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn nonsense_is_a_hang_and_an_end_is_an_end() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (_, mut writer) = theirs.into_split();
        let talk = tokio::spawn(async move { while writer.write_all(&[b'x'; 4096]).await.is_ok() {} });
        assert_eq!(ask(ours, &watch::Sender::default()).await, Ended::Hangs);
        talk.await.unwrap();

        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert_eq!(ask(ours, &watch::Sender::default()).await, Ended::Closed);
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let mut reader = BufReader::new(&bytes[..]);
            let _ = runtime.block_on(answer(&mut reader, 1));
        }
    }
}
