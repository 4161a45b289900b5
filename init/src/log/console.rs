//! Consoles: written by a thread each, so that a dead or slow one delays nobody.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};

/// Lines waiting for one console; more are dropped and counted.
const QUEUE: usize = 1024;

/// Lines of programs wait in this part of the queue only: a talkative program must not keep init from
/// saying why the machine stops.
const PROGRAMS: usize = 768;

/// A console that takes nothing for this long loses the line.
const STALLED: Duration = Duration::from_secs(2);

enum Job {
    Line(String),
    Flush(Sender<()>),
}

/// The writing end of one console.
pub struct Console {
    jobs: SyncSender<Job>,
    count: Arc<Count>,
}

#[derive(Default)]
struct Count {
    waiting: AtomicUsize,
    dropped: AtomicU64,
}

/// Names of the devices the kernel writes its messages to, best first: `ttyS0`, `hvc0`, `tty0`.
pub fn active() -> Vec<String> {
    let text = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    parse_active(&text)
}

fn parse_active(text: &str) -> Vec<String> {
    let sound = |name: &&str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
    text.split_ascii_whitespace().filter(sound).map(str::to_owned).collect()
}

impl Console {
    /// Starts the thread; the device itself is opened there, because opening can block too.
    pub fn open(name: &str) -> io::Result<Self> {
        let path = format!("/dev/{name}");
        let (jobs, queue) = sync_channel(QUEUE);
        let count = Arc::new(Count::default());
        let shared = Arc::clone(&count);
        let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(64 * 1024);
        thread.spawn(move || {
            let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            if let Ok(device) = rustix::fs::open(path, flags, Mode::empty()) {
                write_all(&device, &queue, &shared);
            }
        })?;
        Ok(Self { jobs, count })
    }

    /// Queues a line, ours or a program's, or drops it.
    pub fn write(&self, text: &str, ours: bool) {
        let room = ours || self.count.waiting.load(Ordering::Relaxed) < PROGRAMS;
        // Counted before it is queued, so that the thread never counts below zero.
        self.count.waiting.fetch_add(1, Ordering::Relaxed);
        if !room || self.jobs.try_send(Job::Line(format!("{text}\n"))).is_err() {
            self.count.waiting.fetch_sub(1, Ordering::Relaxed);
            self.count.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Asks to be told when all lines queued so far were written; none if the console is dead or stuck.
    pub fn flush(&self) -> Option<Receiver<()>> {
        let (done, wait) = channel();
        self.jobs.try_send(Job::Flush(done)).ok().map(|()| wait)
    }
}

fn write_all(device: &OwnedFd, queue: &Receiver<Job>, count: &Count) {
    while let Ok(job) = queue.recv() {
        match job {
            Job::Line(text) => {
                count.waiting.fetch_sub(1, Ordering::Relaxed);
                let lost = count.dropped.swap(0, Ordering::Relaxed);
                if lost > 0 && !write_bounded(device, format!("mote: {lost} lines dropped\n").as_bytes()) {
                    count.dropped.fetch_add(lost, Ordering::Relaxed);
                }
                if !write_bounded(device, text.as_bytes()) {
                    count.dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
            Job::Flush(done) => {
                let _ = done.send(());
            }
        }
    }
}

/// Writes what the device takes within [`STALLED`]; whether it took all.
fn write_bounded(device: &OwnedFd, mut bytes: &[u8]) -> bool {
    let end = Instant::now() + STALLED;
    while !bytes.is_empty() {
        match rustix::io::write(device, bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                let left = end.saturating_duration_since(Instant::now());
                let Ok(timeout) = Timespec::try_from(left) else { return false };
                let mut fds = [PollFd::new(device, PollFlags::OUT)];
                if left.is_zero() || poll(&mut fds, Some(&timeout)).is_ok_and(|ready| ready == 0) {
                    return false;
                }
            }
            // A UART that is not there answers EIO.
            Err(_) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};

    #[test]
    fn names_are_checked() {
        assert_eq!(parse_active("tty0 ttyS0\n"), ["tty0", "ttyS0"]);
        assert_eq!(parse_active("../sda ttyS1"), ["ttyS1"]);
        assert!(parse_active("").is_empty());
    }

    #[test]
    fn a_reader_that_never_reads_costs_a_bounded_time_and_the_line() {
        let (_reader, writer) = pipe_with(PipeFlags::NONBLOCK).unwrap();
        let started = Instant::now();
        assert!(!write_bounded(&writer, &vec![b'x'; 1 << 20]));
        assert!(started.elapsed() < STALLED + Duration::from_secs(1));
    }

    #[test]
    fn a_full_queue_drops_instead_of_waiting_and_keeps_room_for_init() {
        let (jobs, _queue) = sync_channel(QUEUE);
        let console = Console { jobs, count: Arc::default() };
        let lost = || console.count.dropped.load(Ordering::Relaxed);
        for _ in 0..QUEUE {
            console.write("program", false);
        }
        assert_eq!(lost(), u64::try_from(QUEUE - PROGRAMS).unwrap());
        for _ in PROGRAMS..QUEUE {
            console.write("init", true);
        }
        assert_eq!(lost(), u64::try_from(QUEUE - PROGRAMS).unwrap());
        console.write("init", true);
        assert_eq!(lost(), u64::try_from(QUEUE - PROGRAMS + 1).unwrap());
        assert!(console.flush().is_none());
    }
}
