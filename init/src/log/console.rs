//! Consoles: written by a thread each, so that a dead or slow one delays nobody.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};

use crate::screen::text::draw;

/// Lines waiting for one console; more are dropped and counted.
const QUEUE: usize = 1024;

/// Lines of programs wait in this part of the queue only: a talkative program must not keep init from
/// saying why the machine stops.
const PROGRAMS: usize = 768;

/// A console that takes nothing for this long loses the line.
const STALLED: Duration = Duration::from_secs(2);

enum Job {
    Line(String),
    /// What draws the status, for a screen.
    Board(String),
    Flush(Sender<()>),
}

/// The writing end of one console.
pub struct Console {
    jobs: SyncSender<Job>,
    count: Arc<Count>,
    screen: Option<Screen>,
}

/// A terminal whose cursor can be put anywhere.
#[derive(Debug)]
struct Screen {
    columns: usize,
    lines: usize,
    drawn: AtomicBool,
}

/// Lines a terminal needs for the status to be shown, and something below it.
const LEAST_LINES: usize = 16;

/// Sizes that are sound; a terminal that knows no size is taken to be of the usual one.
const COLUMNS: std::ops::RangeInclusive<usize> = 20..=500;
const LINES: std::ops::RangeInclusive<usize> = 1..=300;

impl Screen {
    /// The terminal of this name, if it is the kernel's own and large enough: nobody knows what is at the other end
    /// of a serial line.
    fn of(name: &str) -> Option<Self> {
        let number = name.strip_prefix("tty")?;
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let flags = OFlags::RDONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let device = rustix::fs::open(format!("/dev/{name}"), flags, Mode::empty()).ok()?;
        let size = rustix::termios::tcgetwinsize(&device).ok()?;
        let (columns, lines) = (usize::from(size.ws_col), usize::from(size.ws_row));
        let sound = COLUMNS.contains(&columns) && LINES.contains(&lines);
        let (columns, lines) = if sound { (columns, lines) } else { (80, 25) };
        (lines >= LEAST_LINES).then(|| Self { columns, lines, drawn: AtomicBool::new(false) })
    }
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
        Ok(Self { jobs, count, screen: Screen::of(name) })
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

    /// Whether it shows the status at its top.
    pub fn is_screen(&self) -> bool {
        self.screen.is_some()
    }

    /// Shows the status, if it is a screen.
    pub fn board(&self, rows: impl Fn(usize) -> Vec<String>) {
        let Some(screen) = &self.screen else { return };
        let first = !screen.drawn.load(Ordering::Relaxed);
        let text = draw(&rows(screen.columns), screen.lines, first);
        if self.jobs.try_send(Job::Board(text)).is_ok() {
            screen.drawn.store(true, Ordering::Relaxed);
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
            // The next one shows all of it again.
            Job::Board(text) => {
                let _ = write_bounded(device, text.as_bytes());
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
    fn only_terminals_of_the_kernel_are_screens() {
        for name in ["ttyS0", "hvc0", "tty", "ttyAMA0", "console", "null"] {
            assert!(Screen::of(name).is_none(), "{name}");
        }
    }

    #[test]
    fn a_screen_is_set_up_once_and_drawn_again() {
        let (jobs, queue) = sync_channel(QUEUE);
        let screen = Screen { columns: 80, lines: 25, drawn: AtomicBool::new(false) };
        let console = Console { jobs, count: Arc::default(), screen: Some(screen) };
        for number in 0..2 {
            console.board(|columns| vec!["x".repeat(columns)]);
            let Ok(Job::Board(text)) = queue.try_recv() else { panic!("nothing drawn") };
            assert_eq!(text.contains("\u{1b}[2J"), number == 0);
            assert!(text.contains(&"x".repeat(80)));
        }
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
        let console = Console { jobs, count: Arc::default(), screen: None };
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
