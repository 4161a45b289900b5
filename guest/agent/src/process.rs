//! The runtime process: started once; every child that ends is reaped.

use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, wait, waitpid};

use crate::environment::Environment;
use crate::output::Ends;

/// Who the function runs as, inside the microVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credentials {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// Why the runtime did not start.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The start command is empty.
    #[error("The start command is empty")]
    Empty,
    /// The system refused.
    #[error("Cannot start {0}")]
    Spawn(PathBuf, #[source] io::Error),
    /// The process id makes no sense.
    #[error("The runtime got no process id")]
    Pid,
}

/// How often and after which pauses an ended process is looked for: a kill takes effect at once, but for what the
/// kernel is doing for the process.
const ENDING: (u32, Duration) = (1000, Duration::from_millis(2));

/// Starts the runtime in a process group of its own; without a handler if its function is not known yet.
///
/// # Errors
/// When there is no such program or it cannot be run.
pub fn spawn(
    exec: &[String],
    handler: Option<&str>,
    environment: &Environment,
    folder: &Path,
    credentials: Option<Credentials>,
    output: Ends,
) -> Result<Pid, SpawnError> {
    let (program, arguments) = exec.split_first().ok_or(SpawnError::Empty)?;
    let mut command = Command::new(program);
    command.args(arguments).args(handler).env_clear().envs(environment).current_dir(folder).process_group(0);
    command.stdin(Stdio::null()).stdout(output.stdout).stderr(output.stderr);
    if let Some(Credentials { uid, gid }) = credentials {
        command.uid(uid).gid(gid);
    }
    let child = command.spawn().map_err(|e| SpawnError::Spawn(program.into(), e))?;
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(SpawnError::Pid)
}

/// Kills a runtime and whatever it started; [`reap`] tells of its end.
pub fn kill(runtime: Pid) {
    // It is gone already if this fails.
    let _ = kill_process_group(runtime, Signal::KILL);
}

/// Ends a runtime that is not wanted, and whatever it started. One that does not end in time is left to [`reap`].
pub async fn end(runtime: Pid) {
    kill(runtime);
    let (tries, pause) = ENDING;
    for _ in 0..tries {
        match waitpid(Some(runtime), WaitOptions::NOHANG) {
            Ok(None) | Err(Errno::INTR) => tokio::time::sleep(pause).await,
            Ok(Some(_)) | Err(_) => return,
        }
    }
}

/// Which children are ours to reap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reap {
    /// Every child, adopted orphans included: for PID 1.
    All,
    /// The runtime alone.
    Runtime,
}

/// Reaps whatever has ended; tells how the runtime ended if it was among it.
pub fn reap(what: Reap, runtime: Pid) -> Option<ExitStatus> {
    let mut ended = None;
    loop {
        let reaped = match what {
            Reap::All => wait(WaitOptions::NOHANG),
            Reap::Runtime if ended.is_some() => return ended,
            Reap::Runtime => waitpid(Some(runtime), WaitOptions::NOHANG),
        };
        match reaped {
            Ok(Some((pid, status))) if pid == runtime => ended = Some(ExitStatus::from_raw(status.as_raw())),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Output;
    use mote_protocol::LogStream;

    async fn run(exec: &[&str], handler: &str) -> (String, ExitStatus) {
        let exec: Vec<String> = exec.iter().map(|s| (*s).to_owned()).collect();
        let environment = Environment::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]);
        let (mut output, ends) = Output::new(None).unwrap();
        let pid = spawn(&exec, Some(handler), &environment, Path::new("/tmp"), None, ends).unwrap();
        let mut text = Vec::new();
        for _ in 0..1000 {
            let ended = reap(Reap::Runtime, pid);
            let mut left = output.pending();
            while let Some((stream, bytes)) = output.written(&mut left) {
                assert_eq!(stream, LogStream::Stdout);
                text.extend_from_slice(bytes);
            }
            if let Some(status) = ended {
                return (String::from_utf8(text).unwrap(), status);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("did not end");
    }

    #[tokio::test]
    async fn starts_with_handler_folder_and_environment_only() {
        let (text, status) = run(&["/bin/sh", "-c", "echo $0; pwd; env | sort; exit 7"], "app.handler").await;
        assert_eq!(status.code(), Some(7));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["app.handler", "/tmp"]);
        assert!(
            lines[2..].iter().all(|l| ["PATH=", "PWD=", "_="].iter().any(|p| l.starts_with(p))),
            "{text}"
        );
    }

    #[tokio::test]
    async fn another_user_can_open_its_standard_output() {
        if !rustix::process::getuid().is_root() {
            return;
        }
        let exec = ["/bin/sh", "-c", "id -u; id -G; echo opened > /dev/stdout"].map(str::to_owned);
        let environment = Environment::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]);
        let who = Some(Credentials { uid: 993, gid: 990 });
        let (mut output, ends) = Output::new(who).unwrap();
        spawn(&exec, None, &environment, Path::new("/"), who, ends).unwrap();
        let mut text = Vec::new();
        while !text.ends_with(b"opened\n") {
            let next = tokio::time::timeout(Duration::from_secs(10), output.next()).await.unwrap();
            assert_eq!(next.0, LogStream::Stdout, "{}", String::from_utf8_lossy(next.1));
            text.extend_from_slice(next.1);
        }
        assert_eq!(text, b"993\n990\nopened\n");
    }

    #[tokio::test]
    async fn tells_a_signal() {
        let (_, status) = run(&["/bin/sh", "-c", "kill -9 $$"], "h").await;
        assert_eq!(status.signal(), Some(9));
    }

    #[tokio::test]
    async fn what_is_not_wanted_ends_with_all_it_started() {
        let exec = ["/bin/sh", "-c", "sleep 600 & echo up; sleep 600"].map(str::to_owned);
        let (mut output, ends) = Output::new(None).unwrap();
        let pid = spawn(&exec, None, &Environment::new(), Path::new("/"), None, ends).unwrap();
        assert_eq!(output.next().await.1, b"up\n");
        end(pid).await;
        assert!(!Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists());
        // The last writer of the pipe is gone.
        let more = tokio::time::timeout(Duration::from_millis(50), output.next()).await;
        assert!(more.is_err());
        end(pid).await;
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let (_, ends) = Output::new(None).unwrap();
        let exec = ["/nonexistent/python".to_owned()];
        let error = spawn(&exec, None, &Environment::new(), Path::new("/"), None, ends).unwrap_err();
        assert_eq!(error.to_string(), "Cannot start /nonexistent/python");
    }
}
