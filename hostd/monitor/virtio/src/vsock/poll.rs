//! The device's own epoll, with one timer in it.
//!
//! The device thread watches a single descriptor, this epoll's; the many sockets behind it come and go without
//! touching the thread's event manager, and a socket that is closed leaves by itself. Sockets are edge triggered:
//! connections remember what is ready, so one that cannot go on for lack of credit or guest buffers costs nothing.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::time::Instant;

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{Nsecs, Timespec};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

/// Name of a descriptor in the epoll. Never used twice, so an event of a closed socket finds nobody.
pub(crate) type Token = u64;

/// The listening socket.
pub(crate) const LISTENER: Token = 0;
/// The timer.
pub(crate) const TIMER: Token = 1;
/// First token of everything else.
pub(crate) const FIRST_PEER: Token = 2;

/// Events taken at once; the rest is reported again.
const BATCH: usize = 64;

/// epoll and timer.
#[derive(Debug)]
pub(crate) struct Poll {
    epoll: OwnedFd,
    timer: OwnedFd,
    armed: Option<Instant>,
}

impl Poll {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
        Ok(Self { epoll, timer, armed: None })
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }

    /// Watches a socket in every direction; its present state is reported first.
    pub(crate) fn add(&self, socket: impl AsFd, token: Token) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(token), flags)?)
    }

    pub(crate) fn remove(&self, socket: impl AsFd) {
        // Only fails if it was not in.
        let _ = epoll::delete(&self.epoll, socket);
    }

    /// What is ready now.
    pub(crate) fn ready(&self) -> Vec<(Token, EventFlags)> {
        let mut events: Vec<Event> = Vec::with_capacity(BATCH);
        // Interrupted or out of kernel memory: whatever is ready stays so and is reported again.
        let _ = epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut events),
            Some(&Timespec { tv_sec: 0, tv_nsec: 0 }),
        );
        events.iter().map(|event| (event.data.u64(), event.flags)).collect()
    }

    /// Makes the timer go off at `deadline` at the latest.
    pub(crate) fn arm(&mut self, deadline: Instant) {
        if self.armed.is_some_and(|armed| armed <= deadline) {
            return;
        }
        // A timer of zero would never go off.
        self.set(deadline.saturating_duration_since(Instant::now()).as_nanos().max(1));
        self.armed = Some(deadline);
    }

    /// Takes the timer back: it does not go off, and what it has to say is forgotten.
    pub(crate) fn cancel(&mut self) {
        self.set(0);
        self.armed = None;
    }

    fn set(&self, wait: u128) {
        let value = Timespec {
            tv_sec: i64::try_from(wait / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: Nsecs::try_from(wait % 1_000_000_000).unwrap_or(0),
        };
        let spec = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        // The arguments are valid, and nothing else makes it fail.
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec);
    }

    /// The timer went off: it is quiet until armed again.
    pub(crate) fn disarm(&mut self) {
        let mut expirations = [0u8; 8];
        // Nothing to read when it was armed anew in between: it will go off once more, which is harmless.
        let _ = rustix::io::read(&self.timer, &mut expirations);
        self.armed = None;
    }
}
