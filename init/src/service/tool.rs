//! Runs a program to its end, with a bound on time and output.

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::reap::{Exit, Reaper};

/// Output kept, in bytes; the rest is read and dropped.
const OUTPUT: usize = 16 * 1024;

/// Time a program gets to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

/// What a program did.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub exit: Exit,
    /// The beginning of what it said, on both outputs.
    pub output: String,
}

/// A program that could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It could not be started.
    #[error("Cannot start {program}")]
    Start {
        /// Path of the program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// It took too long and was stopped.
    #[error("{program} did not end within {} s", bound.as_secs())]
    Late {
        /// Path of the program.
        program: String,
        /// The bound.
        bound: Duration,
    },
}

/// Runs it. After `bound` it gets SIGTERM, [`GRACE`] later SIGKILL.
pub async fn run(reaper: &Reaper, command: &mut Command, bound: Duration) -> Result<Outcome, ToolError> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let failed = |source| ToolError::Start { program: program.clone(), source };
    let (mut child, mut exit) = reaper.spawn(command).map_err(failed)?;
    let pid = child.id();
    let reading = {
        let out = child.stdout.take().map(OwnedFd::from);
        let err = child.stderr.take().map(OwnedFd::from);
        tokio::spawn(async move { tokio::join!(read(out), read(err)) })
    };
    let ended = match tokio::time::timeout(bound, &mut exit).await {
        Ok(ended) => ended.ok(),
        Err(_) => {
            send(pid, nix::sys::signal::Signal::SIGTERM);
            if tokio::time::timeout(GRACE, &mut exit).await.is_err() {
                send(pid, nix::sys::signal::Signal::SIGKILL);
                let _ = tokio::time::timeout(GRACE, &mut exit).await;
            }
            None
        }
    };
    let output = match tokio::time::timeout(GRACE, reading).await {
        Ok(Ok((out, err))) => out + &err,
        _ => String::new(),
    };
    match ended {
        Some(exit) => Ok(Outcome { exit, output }),
        None => Err(ToolError::Late { program, bound }),
    }
}

/// Sends a signal to a process we started and have not reaped, so that its number is still its own.
pub fn send(pid: u32, signal: nix::sys::signal::Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
    }
}

async fn read(fd: Option<OwnedFd>) -> String {
    let Some(mut pipe) = fd.and_then(|fd| pipe::Receiver::from_owned_fd(fd).ok()) else {
        return String::new();
    };
    let mut kept = Vec::new();
    let mut buffer = [0_u8; 1024];
    while let Ok(length) = pipe.read(&mut buffer).await {
        if length == 0 {
            break;
        }
        let room = OUTPUT.saturating_sub(kept.len()).min(length);
        kept.extend_from_slice(buffer.get(..room).unwrap_or_default());
    }
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::reap::Reaper;
    use std::time::Instant;
    use tokio::signal::unix::{SignalKind, signal};

    /// All that reaps in this test program, in one test: the reaper takes every child there is.
    #[tokio::test(flavor = "current_thread")]
    async fn programs_end_by_themselves_or_by_force_and_orphans_are_reaped() {
        let reaper = Reaper::default();
        tokio::spawn(reaper.clone().run(signal(SignalKind::child()).unwrap()));
        let shell = |script: &str| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]);
            command
        };
        let second = Duration::from_secs(1);

        let outcome = run(&reaper, &mut shell("echo out; echo err >&2; exit 3"), 10 * second).await.unwrap();
        assert_eq!(outcome.exit, Exit::Code(3));
        assert_eq!(outcome.output, "out\nerr\n");

        let outcome = run(&reaper, &mut shell("kill -9 $$"), 10 * second).await.unwrap();
        assert_eq!(outcome.exit, Exit::Signal(9));

        let script = "head -c 200000 /dev/zero | tr '\\0' x";
        let outcome = run(&reaper, &mut shell(script), 20 * second).await.unwrap();
        assert_eq!((outcome.exit, outcome.output.len()), (Exit::Code(0), OUTPUT));

        let started = Instant::now();
        let late = run(&reaper, &mut shell("exec sleep 60"), second / 5).await;
        assert!(matches!(late, Err(ToolError::Late { .. })), "{late:?}");
        assert!(started.elapsed() < 5 * second);

        let missing = run(&reaper, &mut Command::new("/no/such/program"), second).await;
        assert!(matches!(missing, Err(ToolError::Start { .. })), "{missing:?}");
        assert_eq!(reaper.reap(), (0, false), "no zombie is left");
    }
}
