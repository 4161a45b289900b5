//! A line of the machine's log as a message of RFC 5424, counted as RFC 6587 says. Pure.

use std::time::Duration;

/// Facility 3: system daemons.
const FACILITY: u8 = 3;

/// Longest text sent, in bytes; every receiver has to take 2048 in all.
const MOST_TEXT: usize = 1800;

/// Levels as hostd writes them, and their severity.
const LEVELS: &[(&str, u8)] = &[("ERROR", 3), ("WARN", 4), ("INFO", 6), ("DEBUG", 7), ("TRACE", 7)];

/// A line understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line<'a> {
    /// When it was said; since boot.
    pub since_boot: Option<Duration>,
    /// Who said it.
    pub program: &'a str,
    /// From 3, error, to 7, debug.
    pub severity: u8,
    /// What was said.
    pub text: &'a str,
}

/// What init's log says of a line: `[   12.345] hostd: text`; hostd's own begin with a time and a level.
pub fn parse(line: &str) -> Line<'_> {
    let unknown = Line { since_boot: None, program: "mote", severity: 6, text: line };
    let Some((stamp, rest)) = line.strip_prefix('[').and_then(|line| line.split_once("] ")) else {
        return unknown;
    };
    let Some((program, text)) = rest.split_once(": ") else { return unknown };
    let graphic = |program: &str| program.bytes().all(|byte| byte.is_ascii_graphic());
    if program.is_empty() || program.len() > 48 || !graphic(program) {
        return unknown;
    }
    let (severity, text) = level(text);
    Line { since_boot: seconds(stamp), program, severity, text }
}

fn seconds(stamp: &str) -> Option<Duration> {
    let (whole, part) = stamp.trim().split_once('.')?;
    Some(Duration::from_secs(whole.parse().ok()?) + Duration::from_millis(part.parse().ok()?))
}

fn level(text: &str) -> (u8, &str) {
    // A step of init's.
    if text.starts_with("FAILED ") {
        return (3, text);
    }
    let Some((time, rest)) = text.split_once(' ') else { return (6, text) };
    let told = rest.trim_start().split_once(' ');
    match told.and_then(|(word, rest)| Some((LEVELS.iter().find(|(name, _)| *name == word)?.1, rest))) {
        Some((severity, rest)) if time.ends_with('Z') => (severity, rest),
        _ => (6, text),
    }
}

/// Who sends, for all messages.
#[derive(Debug, Clone)]
pub struct Sender {
    hostname: String,
}

impl Sender {
    /// A machine of this name.
    pub fn new(hostname: &str) -> Self {
        let mut hostname: String = hostname.trim().chars().filter(char::is_ascii_graphic).take(255).collect();
        if hostname.is_empty() {
            hostname.push('-');
        }
        Self { hostname }
    }

    /// The message and its length before it. `unix_ms`: when it was said.
    pub fn frame(&self, line: &Line<'_>, unix_ms: u64) -> Vec<u8> {
        let priority = FACILITY * 8 + line.severity.min(7);
        let text = line.text.get(..line.text.floor_char_boundary(MOST_TEXT)).unwrap_or_default();
        let time = mote_api::rfc3339(unix_ms);
        let message = format!("<{priority}>1 {time} {} {} - - - {text}", self.hostname, line.program);
        format!("{} {message}", message.len()).into_bytes()
    }
}

/// When a line was said, by the clock of now.
pub fn said_at(line: &Line<'_>, now_unix_ms: u64, since_boot: Duration) -> u64 {
    let ago = since_boot.saturating_sub(line.since_boot.unwrap_or(since_boot));
    now_unix_ms.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use syslog_rfc5424::parse_message;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn lines_are_understood() {
        let line = parse("[   12.345] hostd: 2026-11-26T14:00:00.000001Z  WARN No room: for it");
        assert_eq!(
            line,
            Line {
                since_boot: Some(SECOND * 12 + SECOND / 1000 * 345),
                program: "hostd",
                severity: 4,
                text: "No room: for it"
            }
        );
        let line = parse("[    0.001] mote: data: on /data, clean (3 ms)");
        assert_eq!((line.severity, line.text), (6, "data: on /data, clean (3 ms)"));
        assert_eq!(parse("[    0.001] mote: FAILED data: no such disk").severity, 3);
        assert_eq!(parse("anything").text, "anything");
    }

    #[test]
    fn a_line_said_ten_seconds_ago_has_that_time() {
        let line = parse("[   90.000] mote: x");
        assert_eq!(said_at(&line, 1_793_491_200_000, SECOND * 100), 1_793_491_190_000);
        assert_eq!(said_at(&parse("x"), 1_793_491_200_000, SECOND * 100), 1_793_491_200_000);
        let frame = Sender::new("edge-7\n").frame(&line, 1_793_491_190_500);
        assert_eq!(
            String::from_utf8(frame).unwrap(),
            "50 <30>1 2026-10-31T23:59:50.500Z edge-7 mote - - - x"
        );
    }

    proptest! {
        #[test]
        fn others_can_read_every_frame(line in "\\PC{0,80}|\\[ +[0-9]{1,4}\\.[0-9]{3}\\] [a-z]{1,8}: \\PC{0,60}", host in "\\PC{0,20}", times in 1usize..60) {
            let line = line.repeat(times);
            let line = parse(&line);
            let frame = Sender::new(&host).frame(&line, 1_793_491_190_500);
            prop_assert!(frame.len() <= 2400);
            let text = String::from_utf8(frame).unwrap();
            let (length, message) = text.split_once(' ').unwrap();
            prop_assert_eq!(length.parse::<usize>().unwrap(), message.len());
            let read = parse_message(message).unwrap();
            prop_assert_eq!(read.appname.as_deref(), Some(line.program));
            prop_assert_eq!(read.timestamp, Some(1_793_491_190));
            prop_assert!(line.text.starts_with(&read.msg));
        }
    }
}
