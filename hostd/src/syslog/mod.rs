//! The machine's log to a receiver elsewhere: RFC 5424 over TCP or TLS.
//!
//! init writes its log to files in memory and knows nothing of this: a receiver that is slow or gone holds up nobody.
//! What is new is read twice a second into a queue; what does not fit is dropped, counted, and the receiver is told.

mod follow;
mod message;
mod queue;
mod target;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

pub use target::Target;

use crate::text::unix_ms;
use follow::Follower;
use message::{Line, Sender};
use queue::{Place, Queue};
use target::Connection;

/// How often the log is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Time a receiver may take to take a message.
const SEND: Duration = Duration::from_secs(30);

/// Pause before a connection is tried again: doubled each time up to the bound, and never quite the same.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A connection that held this long was a good one.
const GOOD: Duration = Duration::from_secs(30);

/// How far messages were sent, for a hostd that is started anew in this boot.
const PLACE: &str = "syslog.place";

/// How it stands, as `/system/status` tells.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Status {
    target: String,
    connected: bool,
    sent: u64,
    dropped: u64,
    waiting: usize,
    /// Why there is no connection, or what broke the last.
    error: String,
}

/// Sends the log; dropped, it does so no more.
#[derive(Debug)]
pub struct Syslog {
    status: Arc<Mutex<Status>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Syslog {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Syslog {
    /// Sends the log in `folder` to `target` from now on.
    pub fn start(target: Target, folder: &Path) -> Self {
        let status = Arc::new(Mutex::new(Status { target: target.name.clone(), ..Status::default() }));
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let place = folder.join(PLACE);
        let courier = Courier {
            follower: Follower::new(folder, read_place(&place)),
            queue: Queue::default(),
            sender: Sender::new(&hostname),
            place,
            status: Arc::clone(&status),
        };
        Self { status, task: tokio::spawn(courier.run(target)) }
    }

    /// How it stands.
    pub fn status(&self) -> Status {
        lock(&self.status).clone()
    }
}

struct Courier {
    follower: Follower,
    queue: Queue,
    sender: Sender,
    place: PathBuf,
    status: Arc<Mutex<Status>>,
}

impl Courier {
    async fn run(mut self, target: Target) {
        let mut pause = FIRST_PAUSE;
        loop {
            let begun = Instant::now();
            let Err(error) = self.session(&target).await;
            // Said when it is news only: it would be sent as well.
            let news = {
                let mut status = lock(&self.status);
                status.connected = false;
                let text = error.to_string();
                std::mem::replace(&mut status.error, text.clone()) != text
            };
            if news {
                tracing::warn!(target = %target.name, %error, "The log cannot be sent");
            }
            pause = if begun.elapsed() >= GOOD { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
            let chance = f64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 512.0;
            let end = Instant::now() + pause.mul_f64(0.5 + chance);
            while Instant::now() < end {
                self.look();
                sleep(LOOK).await;
            }
        }
    }

    /// One connection, until it breaks.
    async fn session(&mut self, target: &Target) -> io::Result<std::convert::Infallible> {
        let mut connection = target.connect().await?;
        {
            let mut status = lock(&self.status);
            status.connected = true;
            status.error.clear();
        }
        tracing::info!(target = %target.name, "Sending the log");
        loop {
            self.look();
            loop {
                // In the place of what is missing.
                self.tell_dropped(&mut connection).await?;
                let Some((place, text)) = self.queue.pop() else { break };
                if let Err(error) = self.send(&mut connection, &message::parse(&text)).await {
                    self.queue.put_back(place, text);
                    return Err(error);
                }
                self.note_place(place);
            }
            wait_for_end(&mut connection).await?;
        }
    }

    fn look(&mut self) {
        self.follower.read(&mut self.queue);
        let mut status = lock(&self.status);
        status.waiting = self.queue.len();
        status.dropped = self.queue.all_dropped();
    }

    async fn tell_dropped(&mut self, connection: &mut Box<dyn Connection>) -> io::Result<()> {
        let dropped = self.queue.dropped();
        if dropped == 0 {
            return Ok(());
        }
        let text = format!("{dropped} lines of the log were dropped");
        let line = Line { since_boot: None, program: "mote", severity: 4, text: &text };
        self.send(connection, &line).await?;
        self.queue.told(dropped);
        Ok(())
    }

    async fn send(&self, connection: &mut Box<dyn Connection>, line: &Line<'_>) -> io::Result<()> {
        let frame = self.sender.frame(line, message::said_at(line, unix_ms(), since_boot()));
        let write = async {
            connection.write_all(&frame).await?;
            connection.flush().await
        };
        timeout(SEND, write).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        lock(&self.status).sent += 1;
        Ok(())
    }

    /// Lost with the machine's memory, as the log is.
    fn note_place(&self, place: Place) {
        let _ = std::fs::write(&self.place, format!("{} {}", place.file, place.end));
    }
}

/// Waits until it is time to look again; an error when the receiver has closed. What it says is read and dropped.
async fn wait_for_end(connection: &mut Box<dyn Connection>) -> io::Result<()> {
    let mut said = [0_u8; 256];
    match timeout(LOOK, connection.read(&mut said)).await {
        Ok(Ok(0)) => Err(io::ErrorKind::ConnectionAborted.into()),
        Ok(Err(error)) => Err(error),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

fn read_place(path: &Path) -> Place {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut numbers = text.split(' ').map(|number| number.trim().parse().unwrap_or(0));
    Place { file: numbers.next().unwrap_or(0), end: numbers.next().unwrap_or(0) }
}

fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

fn lock(status: &Mutex<Status>) -> MutexGuard<'_, Status> {
    status.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
