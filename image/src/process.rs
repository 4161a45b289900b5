//! Running other programs: every run has a time limit, every failure shows what the program said.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use thiserror::Error;

/// Lines of a failed program's output that an error repeats.
const TAIL_LINES: usize = 30;
/// Bytes from the end of its output that are looked at for those lines.
const TAIL_BYTES: u64 = 16 << 10;

/// Why a program did not do its work.
#[derive(Debug, Error)]
pub enum RunError {
    /// It could not be started.
    #[error("Cannot run {program}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It ended with an error.
    #[error("{program} failed ({status}):\n{said}")]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its output.
        said: String,
    },
    /// It took too long and was ended.
    #[error("{program} took longer than {limit_s} s and was ended:\n{said}")]
    TooLong {
        /// The program.
        program: String,
        /// Its limit, in seconds.
        limit_s: u64,
        /// The end of its output.
        said: String,
    },
    /// Its output could not be taken.
    #[error("Cannot take the output of {program}")]
    Output {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
}

/// Runs a program to its end and gives its standard output.
///
/// # Errors
/// When it cannot be started, fails, or takes longer than `limit`.
pub fn run(command: &mut Command, limit: Duration) -> Result<String, RunError> {
    let program = name(command);
    let output = |source| RunError::Output { program: name(command), source };
    let (mut out, err) = (tempfile::tempfile().map_err(output)?, tempfile::tempfile().map_err(output)?);
    let handles = (out.try_clone().map_err(output)?, err.try_clone().map_err(output)?);
    command.stdin(Stdio::null()).stdout(handles.0).stderr(handles.1);
    finish(command, err, limit, &mut || ())?;
    let mut text = Vec::new();
    out.seek(SeekFrom::Start(0))
        .and_then(|_| out.read_to_end(&mut text))
        .map_err(|source| RunError::Output { program, source })?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Runs a program to its end with everything it says going to the file `log`; `tick` is called a few times a
/// second meanwhile.
///
/// # Errors
/// When it cannot be started, fails, or takes longer than `limit`.
pub fn run_logged(
    command: &mut Command,
    log: &Path,
    limit: Duration,
    tick: &mut dyn FnMut(),
) -> Result<(), RunError> {
    let output = |source| RunError::Output { program: name(command), source };
    let file = File::options().read(true).append(true).create(true).open(log).map_err(output)?;
    let handles = (file.try_clone().map_err(output)?, file.try_clone().map_err(output)?);
    command.stdin(Stdio::null()).stdout(handles.0).stderr(handles.1);
    finish(command, file, limit, tick)
}

fn finish(
    command: &mut Command,
    said: File,
    limit: Duration,
    tick: &mut dyn FnMut(),
) -> Result<(), RunError> {
    let program = name(command);
    let mut child = command.spawn().map_err(|source| RunError::Start { program: program.clone(), source })?;
    match wait(&mut child, limit, tick) {
        Err(source) => Err(RunError::Output { program, source }),
        Ok(Some(status)) if status.success() => Ok(()),
        Ok(Some(status)) => Err(RunError::Failed { program, status, said: tail(said) }),
        Ok(None) => {
            end(&mut child);
            Err(RunError::TooLong { program, limit_s: limit.as_secs(), said: tail(said) })
        }
    }
}

/// Waits for a child no longer than `limit`, calling `tick` a few times a second; `None` when it still runs.
///
/// # Errors
/// When the child cannot be waited for.
pub fn wait(child: &mut Child, limit: Duration, tick: &mut dyn FnMut()) -> io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() >= limit {
            return Ok(None);
        }
        tick();
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

/// Ends a child: SIGTERM, so that it can end its own children, then SIGKILL.
pub fn end(child: &mut Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // A child that is gone already is what we want.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    if let Ok(Some(_)) = wait(child, Duration::from_secs(5), &mut || ()) {
        return;
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn name(command: &Command) -> String {
    let program = Path::new(command.get_program());
    program.file_name().unwrap_or(command.get_program()).to_string_lossy().into_owned()
}

fn tail(mut file: File) -> String {
    let text = (|| {
        let size = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(size.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
    })()
    .unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_comes_back() {
        assert_eq!(run(&mut shell("echo hello; echo no >&2"), Duration::from_secs(10)).unwrap(), "hello\n");
    }

    #[test]
    fn a_failure_shows_what_was_said() {
        let error = run(&mut shell("echo reason >&2; exit 3"), Duration::from_secs(10)).unwrap_err();
        assert_eq!(error.to_string(), "sh failed (exit status: 3):\nreason");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(&mut Command::new("/no/such-program"), Duration::from_secs(1)).unwrap_err();
        assert_eq!(error.to_string(), "Cannot run such-program");
    }

    #[test]
    fn a_slow_program_is_ended() {
        let start = Instant::now();
        let error =
            run(&mut shell("echo before >&2; exec sleep 60"), Duration::from_millis(300)).unwrap_err();
        assert!(matches!(error, RunError::TooLong { ref said, .. } if said == "before"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_log_is_kept_and_only_its_end_is_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let mut ticks = 0;
        let error = run_logged(
            &mut shell("for i in $(seq 1 100); do echo line $i; done; exit 1"),
            &log,
            Duration::from_secs(10),
            &mut || ticks += 1,
        )
        .unwrap_err()
        .to_string();
        assert!(error.ends_with("line 100") && !error.contains("line 70\n"), "{error}");
        assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count(), 100);
    }
}
