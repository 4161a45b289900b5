//! What the status screen says. Pure.

use std::net::{IpAddr, SocketAddr};

use crate::text::printable;

/// Rows of the board; the last one is a rule.
pub const ROWS: usize = 8;

/// Problems shown; it says how many more there are.
const PROBLEMS: usize = 4;

/// How it stands with the service.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Phase {
    /// It was not heard of yet.
    #[default]
    Starting,
    /// Calls are served.
    Ready,
    /// It answers, and serves no calls.
    NotReady,
    /// It runs, and does not answer.
    Silent,
    /// It ended, and is started again.
    Down,
}

impl Phase {
    fn words(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::NotReady => "up, but serves no functions",
            Self::Silent => "hostd does not answer",
            Self::Down => "hostd ended and is started again",
        }
    }

    /// Number of its colour in a terminal.
    fn colour(self) -> u8 {
        match self {
            Self::Starting => 36,
            Self::Ready => 32,
            Self::NotReady => 33,
            Self::Silent | Self::Down => 31,
        }
    }
}

/// All that is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Name of the machine.
    pub hostname: String,
    /// Of the system, once it is known.
    pub version: String,
    /// The slot that is booted, if there are slots.
    pub slot: Option<String>,
    /// Where it can be reached.
    pub address: Option<IpAddr>,
    /// Port of the API.
    pub port: u16,
    /// How it stands.
    pub phase: Phase,
    /// What is wrong, one sentence each.
    pub problems: Vec<String>,
}

impl Status {
    fn place(&self) -> String {
        match self.address {
            Some(address) => format!("http://{}/", SocketAddr::new(address, self.port)),
            None => "no address".to_owned(),
        }
    }

    fn system(&self) -> String {
        let version = if self.version.is_empty() { "..." } else { &self.version };
        let slot = self.slot.as_ref().map(|slot| format!(", slot {slot}")).unwrap_or_default();
        format!("version {version}{slot}")
    }
}

/// Rows for the top of a terminal of so many columns, with colours; [`ROWS`] of them.
pub fn board(status: &Status, columns: usize) -> Vec<String> {
    let colour = |number: u8, text: &str| format!("\u{1b}[{number}m{}\u{1b}[0m", fit(text, columns));
    let mut rows = vec![
        colour(1, &format!(" Mote  {}  {}", status.hostname, status.system())),
        fit(&format!(" {}", status.place()), columns),
        colour(status.phase.colour(), &format!(" {}", status.phase.words())),
    ];
    let shown = match status.problems.len() {
        count if count > PROBLEMS => PROBLEMS - 1,
        count => count,
    };
    rows.extend(status.problems.iter().take(shown).map(|problem| colour(31, &format!(" ! {problem}"))));
    if status.problems.len() > shown {
        let more = format!(" ! and {} more: see /healthz", status.problems.len() - shown);
        rows.push(colour(31, &more));
    }
    rows.resize(ROWS - 1, String::new());
    rows.push("-".repeat(columns));
    rows
}

/// The same for a console that is a log: a line, and one for each problem.
pub fn lines(status: &Status) -> Vec<String> {
    if status.phase == Phase::Starting && status.problems.is_empty() {
        return Vec::new();
    }
    let first = format!("status: {}; {}; {}", status.phase.words(), status.place(), status.system());
    let shown = status.problems.iter().map(|problem| format!("status: problem: {problem}"));
    std::iter::once(first).chain(shown).collect()
}

/// What draws the rows at the top of a terminal of so many lines; what is said otherwise scrolls below them, the
/// kernel's words as well. `first`: nothing was drawn before.
pub fn draw(rows: &[String], lines: usize, first: bool) -> String {
    let mut text = String::new();
    if first {
        // Cleared, scrolled below the rows only, written to at the end.
        text.push_str(&format!("\u{1b}[2J\u{1b}[{};{lines}r\u{1b}[{lines};1H", rows.len() + 1));
    }
    text.push_str("\u{1b}7");
    for (at, row) in rows.iter().enumerate() {
        text.push_str(&format!("\u{1b}[{};1H{row}\u{1b}[K", at + 1));
    }
    text.push_str("\u{1b}8");
    text
}

/// What fits into one row, without terminal commands.
fn fit(text: &str, columns: usize) -> String {
    printable(text).chars().take(columns).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn status() -> Status {
        Status {
            hostname: "edge-7".to_owned(),
            version: "0.1.0".to_owned(),
            slot: Some("a".to_owned()),
            address: Some(IpAddr::from([192, 0, 2, 7])),
            port: 8080,
            phase: Phase::NotReady,
            problems: vec!["data-disk: no partition is labelled mote-data".to_owned()],
        }
    }

    /// Without colours.
    fn plain(row: &str) -> String {
        let mut rest = row;
        let mut out = String::new();
        while let Some((before, after)) = rest.split_once("\u{1b}[") {
            out.push_str(before);
            rest = after.split_once('m').map_or("", |(_, after)| after);
        }
        out + rest
    }

    #[test]
    fn a_board_says_who_where_how_and_what_is_wrong() {
        let rows: Vec<String> = board(&status(), 60).iter().map(|row| plain(row)).collect();
        assert_eq!(rows[0], " Mote  edge-7  version 0.1.0, slot a");
        assert_eq!(rows[1], " http://192.0.2.7:8080/");
        assert_eq!(rows[2], " up, but serves no functions");
        assert_eq!(rows[3], " ! data-disk: no partition is labelled mote-data");
        assert_eq!(rows[ROWS - 1], "-".repeat(60));
        let many = Status { problems: (0..9).map(|n| n.to_string()).collect(), ..status() };
        assert_eq!(plain(&board(&many, 60)[6]), " ! and 6 more: see /healthz");
        assert_eq!(
            lines(&status()),
            [
                "status: up, but serves no functions; http://192.0.2.7:8080/; version 0.1.0, slot a",
                "status: problem: data-disk: no partition is labelled mote-data",
            ]
        );
        assert!(lines(&Status::default()).is_empty());
    }

    #[test]
    fn drawing_keeps_the_rest_below() {
        let rows = board(&status(), 10);
        assert!(draw(&rows, 25, true).starts_with("\u{1b}[2J\u{1b}[9;25r\u{1b}[25;1H\u{1b}7\u{1b}[1;1H"));
        let again = draw(&rows, 25, false);
        assert!(again.starts_with("\u{1b}7") && again.ends_with("\u{1b}8") && !again.contains("[2J"));
    }

    proptest! {
        #[test]
        fn whatever_it_is_told_it_fits(
            hostname in "\\PC{0,90}", problems in prop::collection::vec("[ -~\\x00-\\x1f\\x7f]{0,300}", 0..12),
            columns in 20usize..200,
        ) {
            let rows = board(&Status { hostname, problems, ..status() }, columns);
            prop_assert_eq!(rows.len(), ROWS);
            for row in rows {
                let row = plain(&row);
                prop_assert!(row.chars().count() <= columns);
                prop_assert!(!row.chars().any(char::is_control), "{row:?}");
            }
        }
    }
}
