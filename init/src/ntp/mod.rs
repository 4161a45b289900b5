//! The time from the network: asked of several servers, corrected for ever.
//!
//! Nothing waits for it, and it waits for nobody longer than a bound. The first time a server is believed the clock
//! may step forward; it never steps back: one that is ahead is slowed, one that is far ahead stays as it is, and the
//! hardware clock is set, so that the next boot begins with the right time.

pub mod query;
pub mod select;
pub mod servers;
pub mod steer;

use std::fmt;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;

use query::QueryError;
use select::Sample;
use servers::Servers;
use steer::{Act, POLL, RETRY};

use crate::clock::since_boot;
use crate::net;
use crate::sys::adjust::{AdjustError, Clock};
use crate::sys::entropy;
use crate::text::chain;

/// Whom we ask when nobody says whom: independent of each other, open to all, and none of them hides leap seconds.
const SERVERS: &[&str] = &["time.cloudflare.com", "nts.netnod.se", "ptbtime1.ptb.de", "time.nist.gov"];

/// Which servers to ask; none: the clock is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Names or addresses, with a port or without.
    pub servers: Vec<String>,
}

impl Default for Wish {
    fn default() -> Self {
        Self { servers: SERVERS.iter().map(|name| (*name).to_owned()).collect() }
    }
}

impl Wish {
    /// As `ntp.servers` says, which was checked: none, those built in; `off` alone, nobody.
    pub fn of(servers: Vec<String>) -> Self {
        match servers.as_slice() {
            [] => Self::default(),
            [off] if off == "off" => Self { servers: Vec::new() },
            _ => Self { servers },
        }
    }
}

/// How it stands with the time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum State {
    /// Nobody was asked yet.
    #[default]
    Unasked,
    /// Nobody is to be asked.
    Off,
    /// The clock is right, or on its way there.
    Set {
        /// Who said so.
        server: String,
        /// How far that is from a reference clock.
        stratum: u8,
        /// What the clock was off by, microseconds; positive: it was behind.
        offset_us: i64,
    },
    /// The clock is ahead by more than can be made good while the machine runs.
    Ahead {
        /// Who said so.
        server: String,
        /// By how much.
        by: Duration,
    },
    /// Servers say different times, and no time is that of more than half of them.
    Disagreement(usize),
    /// Nobody answered: why not, of each.
    Silence(String),
    /// The kernel refused a correction.
    Stuck(String),
}

impl State {
    /// What an operator has to know, if there is anything.
    pub fn problem(&self) -> Option<String> {
        match self {
            Self::Unasked | Self::Off | Self::Set { .. } => None,
            other => Some(other.to_string()),
        }
    }

    /// Whether it is news: only offsets and reasons differ otherwise.
    fn differs(&self, other: &Self) -> bool {
        std::mem::discriminant(self) != std::mem::discriminant(other)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unasked => f.write_str("no time server asked yet"),
            Self::Off => f.write_str("no time servers, as asked for"),
            Self::Set { server, stratum, offset_us } => {
                let (whole, part) = (offset_us.unsigned_abs() / 1000, offset_us.unsigned_abs() % 1000);
                let way = if *offset_us < 0 { "ahead" } else { "behind" };
                write!(f, "ntp {server}, stratum {stratum}; was {whole}.{part:03} ms {way}")
            }
            Self::Ahead { server, by } => write!(
                f,
                "The clock is {} s ahead of {server} and is not set back while the machine runs: the hardware clock \
                 was set, restart the machine",
                by.as_secs()
            ),
            Self::Disagreement(count) => {
                write!(f, "The {count} time servers that answered do not agree: the clock is left alone")
            }
            Self::Silence(reasons) => write!(f, "No time server answers: {reasons}"),
            Self::Stuck(reason) => write!(f, "The clock cannot be corrected: {reason}"),
        }
    }
}

/// Keeps the clock right for ever; returns only when there is nobody to ask. `state` says how it stands.
pub async fn run(
    wish: Wish,
    clock: impl Clock,
    mut network: watch::Receiver<net::State>,
    state: watch::Sender<State>,
) {
    let mut keeper = Keeper::new(&wish, clock);
    if wish.servers.is_empty() {
        state.send_replace(State::Off);
        return;
    }
    loop {
        // Without an address there is nobody to ask.
        if network.wait_for(|network| network.address.is_some()).await.is_err() {
            return;
        }
        network.mark_unchanged();
        let (new, pause) = keeper.round().await;
        let failed = new.as_ref().is_some_and(|new| new.problem().is_some());
        if let Some(new) = new {
            if new.differs(&state.borrow()) {
                crate::log::line(&format!("clock: {new}"));
            }
            state.send_replace(new);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // Another address, perhaps another network: they may answer now.
            changed = network.changed(), if failed => {
                if changed.is_err() {
                    return;
                }
                keeper.failures = 0;
            }
        }
        keeper.end_pace();
    }
}

struct Keeper<C> {
    servers: Servers,
    clock: C,
    /// Nothing was corrected in this boot.
    first: bool,
    /// Rounds in a row without anyone to believe.
    failures: u32,
    /// Rounds in a row that found the clock close.
    close: u32,
    /// The clock runs at another pace.
    paced: bool,
}

impl<C: Clock> Keeper<C> {
    fn new(wish: &Wish, clock: C) -> Self {
        let servers = Servers::new(&wish.servers);
        Self { servers, clock, first: true, failures: 0, close: 0, paced: false }
    }

    /// Asks all that may be asked, and corrects. How it stands, if that is known better now, and the pause.
    async fn round(&mut self) -> (Option<State>, Duration) {
        let due = self.servers.due(since_boot());
        if due.is_empty() {
            let next = self.servers.next().unwrap_or_default().saturating_sub(since_boot());
            return (None, next.max(RETRY.first));
        }
        let answers = join_all(due.iter().map(|server| query::ask(server, &self.clock))).await;
        let mut samples = Vec::new();
        let mut reasons = Vec::new();
        for (server, answer) in due.iter().zip(answers) {
            match answer {
                Ok(sample) => samples.push(sample),
                Err(error) => {
                    if let QueryError::Kiss { kiss, .. } = &error {
                        self.servers.kissed(server, *kiss, since_boot());
                    }
                    reasons.push(format!("{server}: {}", chain(&error)));
                }
            }
        }
        match select::best(&samples) {
            Some(sample) => {
                self.failures = 0;
                self.correct(sample)
            }
            None => {
                self.close = 0;
                let pause = steer::pause(RETRY, self.failures, entropy::byte());
                self.failures = self.failures.saturating_add(1);
                let state = match samples.len() {
                    0 => State::Silence(reasons.join("; ")),
                    count => State::Disagreement(count),
                };
                (Some(state), pause)
            }
        }
    }

    fn correct(&mut self, sample: &Sample) -> (Option<State>, Duration) {
        self.close = if steer::is_close(sample.offset_us) { self.close.saturating_add(1) } else { 0 };
        let mut pause = steer::pause(POLL, self.close.saturating_sub(1), entropy::byte());
        let act = steer::decide(sample.offset_us, self.first);
        let done = match act {
            Act::Step(by) => self.clock.step_forward(by),
            Act::Pull(offset) => self.clock.pull(offset, pause),
            Act::Pace(ppm, takes) => {
                pause = pause.min(takes.max(Duration::from_secs(1)));
                self.paced = true;
                self.clock.pace(ppm)
            }
            Act::Ahead(by) => self.clock.set_hardware(self.clock.now().saturating_sub(by)),
        };
        let state = match (done, act) {
            (Err(error), _) => State::Stuck(chain(&error)),
            (Ok(()), Act::Ahead(by)) => State::Ahead { server: sample.server.clone(), by },
            (Ok(()), _) => {
                self.first = false;
                State::Set {
                    server: sample.server.clone(),
                    stratum: sample.stratum,
                    offset_us: sample.offset_us,
                }
            }
        };
        if let Act::Step(by) = act {
            crate::log::line(&format!("clock: set forward by {:.3} s", by.as_secs_f64()));
            // What is left is a matter of milliseconds: see at once.
            pause = pause.min(RETRY.first);
        }
        (Some(state), pause)
    }

    /// Back to the normal pace: what is left is measured anew.
    fn end_pace(&mut self) {
        if std::mem::take(&mut self.paced)
            && let Err(error) = self.clock.pace(0)
        {
            self.paced = true;
            crate::log::line(&format!("clock: {}", chain(&error as &AdjustError)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_are_those_built_in_and_off_is_nobody() {
        assert_eq!(Wish::of(Vec::new()), Wish::default());
        assert!(Wish::of(vec!["off".to_owned()]).servers.is_empty());
        assert_eq!(Wish::of(vec!["a.example".to_owned()]).servers, ["a.example"]);
    }

    #[test]
    fn states_say_what_is_wrong() {
        let set = State::Set { server: "a".to_owned(), stratum: 2, offset_us: -1_234_567 };
        assert_eq!(set.to_string(), "ntp a, stratum 2; was 1234.567 ms ahead");
        assert_eq!(set.problem(), None);
        let ahead = State::Ahead { server: "a".to_owned(), by: Duration::from_secs(9000) };
        assert!(ahead.problem().unwrap().contains("9000 s ahead of a"));
        assert!(set.differs(&ahead) && !set.differs(&set.clone()));
    }
}
