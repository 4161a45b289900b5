//! Supervises hostd: starts it in its cgroup, passes on what it says, starts it again when it ends.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mote_crash::Kind;
use nix::sys::signal::Signal;
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::{oneshot, watch};

use super::health::{self, Ended, Heard};
use super::lines::Lines;
use super::reap::{Exit, Reaper};
use super::tail::Tail;
use super::tool;
use crate::backoff::Backoff;
use crate::crash::Recorder;
use crate::log;
use crate::sys::cgroup;

/// The service.
pub const PROGRAM: &str = "/system/bin/hostd";

/// Pause before it is started again.
const RESTART: Backoff = Backoff { first: Duration::from_millis(250), most: Duration::from_secs(30) };

/// Running this long counts as healthy: earlier failures are forgotten.
const HEALTHY: Duration = Duration::from_secs(60);

/// Time for the processes a dead hostd left behind to disappear.
const CLEAN: Duration = Duration::from_secs(5);

/// Time for what it said last to be read, once it has ended.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Time a hostd that hangs gets to end by each signal.
const FORCE: Duration = Duration::from_secs(5);

/// Limits that are too small for hundreds of sandboxes, each with a process and several files; cgroups
/// bound what a sandbox may take.
const LIMITS: &[(Resource, Option<u64>)] = &[(Resource::Nofile, Some(1 << 20)), (Resource::Nproc, None)];

/// The last process the kernel kills for memory, when there is nothing else to be killed; sandboxes, which inherit it, raise
/// their own. Not -1000, which is never: a hostd that eats all the memory there is must give way to another one.
const OOM_SCORE: &str = "-999";

/// What hostd is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Not started yet.
    Down,
    /// It ended, or could not be started: it will be started again.
    Again,
    /// Running under this process number.
    Running(u32),
    /// Stopped for good.
    Stopped,
}

/// It did not end when asked.
#[derive(Debug, thiserror::Error)]
#[error("Did not end within {} s of being asked", bound.as_secs())]
pub struct LateError {
    bound: Duration,
}

/// The supervisor, shared by the boot (which starts it) and the shutdown (which stops it).
#[derive(Debug)]
pub struct Hostd {
    status: watch::Sender<Status>,
    stopping: watch::Sender<bool>,
    health: watch::Sender<Heard>,
    /// The end of what it said.
    said: Arc<Tail>,
}

impl Default for Hostd {
    fn default() -> Self {
        Self {
            status: watch::Sender::new(Status::Down),
            stopping: watch::Sender::new(false),
            health: watch::Sender::default(),
            said: Arc::default(),
        }
    }
}

impl Hostd {
    /// Follows its status.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Follows what it says of its health.
    pub fn health(&self) -> watch::Receiver<Heard> {
        self.health.subscribe()
    }

    /// The end of what it said.
    pub fn last_words(&self) -> String {
        self.said.last()
    }

    /// Runs it until [`Hostd::stop`]. `log_level` becomes `RUST_LOG`; every end but a good one is noted.
    pub async fn supervise(&self, reaper: Reaper, log_level: String, crashes: &Recorder) {
        let mut stopping = self.stopping.subscribe();
        let mut failures = 0_u32;
        while !*stopping.borrow_and_update() {
            let started = Instant::now();
            let (ended, well) = self.run_once(&reaper, &log_level).await;
            if *stopping.borrow_and_update() {
                break;
            }
            self.status.send_replace(Status::Again);
            clean_up().await;
            if !well {
                crashes.note(Kind::Hostd, &ended, &self.last_words()).await;
            }
            failures = if started.elapsed() >= HEALTHY { 0 } else { failures.saturating_add(1) };
            let pause = RESTART.delay(failures.saturating_sub(1));
            log::line(&format!(
                "hostd ended after {:.1} s: {ended}; start {} in {:.2} s",
                started.elapsed().as_secs_f32(),
                failures.saturating_add(1),
                pause.as_secs_f32()
            ));
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stopping.changed() => {}
            }
        }
        self.status.send_replace(Status::Stopped);
    }

    /// Asks it to end and waits, at most `bound`. Says how it went; late is an error.
    pub async fn stop(&self, bound: Duration) -> Result<&'static str, LateError> {
        self.stopping.send_replace(true);
        let mut status = self.status.subscribe();
        let Status::Running(pid) = *status.borrow_and_update() else { return Ok("was not running") };
        tool::send(pid, Signal::SIGTERM);
        let ended = status.wait_for(|status| !matches!(status, Status::Running(_)));
        match tokio::time::timeout(bound, ended).await {
            Ok(_) => Ok("ended"),
            Err(_) => Err(LateError { bound }),
        }
    }

    /// Asks after its health; ends when it hangs, and never while it is being stopped, which has bounds of its own.
    async fn hang(&self, socket: UnixStream) {
        let ended = health::ask(socket, &self.health).await;
        if ended == Ended::Closed || *self.stopping.borrow() {
            std::future::pending::<()>().await;
        }
    }

    /// One life; how it ended, and whether that was by itself and in order.
    async fn run_once(&self, reaper: &Reaper, log_level: &str) -> (String, bool) {
        let started = health::pair().and_then(|(ours, theirs)| {
            let (child, exit) = reaper.spawn(command(log_level)?.stdin(OwnedFd::from(theirs)))?;
            Ok((ours, child, exit))
        });
        let (socket, mut child, mut exit) = match started {
            Ok(started) => started,
            Err(error) => return (format!("Cannot start {PROGRAM}: {error}"), false),
        };
        self.status.send_replace(Status::Running(child.id()));
        let outputs = [child.stdout.take().map(OwnedFd::from), child.stderr.take().map(OwnedFd::from)];
        let said = Arc::clone(&self.said);
        let outputs: Vec<_> =
            outputs.into_iter().flatten().map(|output| forward(output, Arc::clone(&said))).collect();
        let forwarding = tokio::spawn(join_all(outputs));
        let hung = tokio::select! {
            exit = &mut exit => Some(exit),
            () = self.hang(socket) => None,
        };
        let (ended, well) = match hung {
            Some(exit) => (how(&exit), exit == Ok(Exit::Code(0))),
            None => {
                log::line(&format!("hostd has not answered for {} s: ending it", health::HANGS.as_secs()));
                (end_by_force(child.id(), &mut exit).await, false)
            }
        };
        // Its last words; whoever else holds the pipes has a moment only.
        let _ = tokio::time::timeout(LAST_WORDS, forwarding).await;
        (ended, well)
    }
}

fn how(exit: &Result<Exit, oneshot::error::RecvError>) -> String {
    exit.as_ref().map_or_else(|_| "lost sight of it".to_owned(), ToString::to_string)
}

/// Ends a hostd that hangs: by a signal of which the kernel tells how far it was, then by one that cannot be refused.
async fn end_by_force(pid: u32, exit: &mut oneshot::Receiver<Exit>) -> String {
    for signal in [Signal::SIGABRT, Signal::SIGKILL] {
        tool::send(pid, signal);
        if let Ok(exit) = tokio::time::timeout(FORCE, &mut *exit).await {
            return format!("it hung; {}", how(&exit));
        }
    }
    "it hung and cannot be killed".to_owned()
}

/// Sandboxes are worth nothing without the hostd that started them, and hold its memory.
async fn clean_up() {
    let killed = tokio::task::spawn_blocking(|| {
        [cgroup::HOSTD, cgroup::SANDBOXES]
            .map(|name| cgroup::kill(&Path::new(cgroup::ROOT).join(name), CLEAN))
    });
    if !matches!(killed.await, Ok([true, true])) {
        log::line("hostd left processes behind that cannot be killed");
    }
}

fn command(log_level: &str) -> std::io::Result<Command> {
    let group = Path::new(cgroup::ROOT).join(cgroup::HOSTD).join("cgroup.procs");
    // Without the group (a kernel without cgroups) it runs all the same.
    let group = File::options().write(true).open(group).ok();
    let mut command = Command::new(PROGRAM);
    command
        .env_clear()
        .env("PATH", "/system/bin:/system/sbin")
        .env("HOME", "/run")
        .env("RUST_LOG", log_level)
        .current_dir("/")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let prepare = move || {
        if let Some(group) = &group {
            // "0" is whoever writes it.
            write_raw(group.as_raw_fd(), b"0");
        }
        // A session of its own: no terminal, and a signal to our group does not reach it.
        let _ = rustix::process::setsid();
        for (resource, most) in LIMITS {
            let _ = setrlimit(*resource, Rlimit { current: *most, maximum: *most });
        }
        if let Ok(score) = rustix::fs::open(
            c"/proc/self/oom_score_adj",
            rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        ) {
            let _ = rustix::io::write(&score, OOM_SCORE.as_bytes());
        }
        // PID 1 ignores SIGPIPE (as any Rust program would); what it starts decides for itself.
        // SAFETY: setting a disposition to the default is async-signal-safe and touches no memory.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec in a process with threads. It only makes system
    // calls on values made before the fork; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(prepare) };
    Ok(command)
}

fn write_raw(fd: i32, bytes: &[u8]) {
    // SAFETY: the buffer is valid for its length and the descriptor was opened by the parent and is
    // owned by the closure that calls this.
    unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
}

/// Passes lines on until the stream ends. Always reads, so hostd never blocks on its own log.
async fn forward(output: OwnedFd, said: Arc<Tail>) {
    let Ok(mut pipe) = pipe::Receiver::from_owned_fd(output) else { return };
    let mut lines = Lines::default();
    let mut buffer = [0_u8; 8192];
    while let Ok(length) = pipe.read(&mut buffer).await {
        if length == 0 {
            break;
        }
        for line in lines.push(buffer.get(..length).unwrap_or_default()) {
            said.add(&line);
            log::forward("hostd", &line);
        }
    }
    if let Some(line) = lines.take() {
        said.add(&line);
        log::forward("hostd", &line);
    }
}
