//! The e2fsprogs programs on the system image: how they are called, and what their exit codes mean.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::service::reap::{Exit, Reaper};
use crate::service::tool::{Outcome, ToolError, run};

/// Dynamic programs, a distribution's, come with this, which starts them without a system-wide loader; static ones
/// come without.
const LOADER: &str = "/system/lib/ld-linux-x86-64.so.2";

/// Where their libraries are.
const LIBRARIES: &str = "/system/lib";

/// Where they are.
const PROGRAMS: &str = "/system/sbin";

/// A program's name and its time bound.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    name: &'static str,
    bound: Duration,
}

/// Makes a file system. Tables are initialised lazily, so the size hardly matters.
pub const MKFS: Tool = Tool { name: "mkfs.ext4", bound: Duration::from_secs(120) };

/// Replays the journal, which takes seconds, or checks a damaged file system, which takes minutes.
pub const E2FSCK: Tool = Tool { name: "e2fsck", bound: Duration::from_secs(600) };

/// Grows a file system.
pub const RESIZE: Tool = Tool { name: "resize2fs", bound: Duration::from_secs(300) };

impl Tool {
    /// Runs it with options and the device, to its end.
    pub async fn run(
        &self,
        reaper: &Reaper,
        options: &[&str],
        device: &Path,
        more: &[&str],
    ) -> Result<Outcome, ToolError> {
        let mut command = self.command(Path::new(LOADER).exists());
        command
            .args(options)
            .arg(device)
            .args(more)
            .env_clear()
            .env("PATH", PROGRAMS)
            // An appliance has no person at a prompt.
            .env("E2FSCK_CONFIG", "/dev/null");
        run(reaper, &mut command, self.bound).await
    }

    fn command(&self, dynamic: bool) -> Command {
        let program = Path::new(PROGRAMS).join(self.name);
        if !dynamic {
            return Command::new(program);
        }
        let mut command = Command::new(LOADER);
        command.args(["--library-path", LIBRARIES]).arg(program);
        command
    }
}

/// What e2fsck found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Nothing wrong, or the journal was replayed.
    Sound,
    /// Something was wrong and was repaired.
    Repaired,
    /// Something is wrong and was left alone.
    Damaged,
    /// The check itself did not work.
    Failed,
}

/// Reads e2fsck's exit code, a sum of bits.
pub fn check_result(exit: Exit) -> Check {
    let Exit::Code(code) = exit else { return Check::Failed };
    match code {
        0 => Check::Sound,
        _ if code & !0b111 != 0 || code < 0 => Check::Failed,
        _ if code & 4 != 0 => Check::Damaged,
        _ => Check::Repaired,
    }
}

/// The last lines a program said, as one short text for a report.
pub fn last_words(output: &str) -> String {
    let lines: Vec<&str> = output.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let from = lines.len().saturating_sub(3);
    lines
        .iter()
        .skip(from)
        .flat_map(|line| line.chars().take(160).chain("; ".chars()))
        .collect::<String>()
        .trim_end_matches("; ")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_code_has_a_meaning() {
        let of = |code| check_result(Exit::Code(code));
        assert_eq!(of(0), Check::Sound);
        assert_eq!([of(1), of(2), of(3)], [Check::Repaired; 3]);
        assert_eq!([of(4), of(5), of(6), of(7)], [Check::Damaged; 4]);
        assert_eq!([of(8), of(12), of(16), of(32), of(127), of(128), of(-1)], [Check::Failed; 7]);
        assert_eq!(check_result(Exit::Signal(9)), Check::Failed);
    }

    #[test]
    fn a_static_program_needs_no_loader() {
        let told = |dynamic| {
            let command = E2FSCK.command(dynamic);
            let words = [command.get_program()].into_iter().chain(command.get_args());
            words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(told(false), "/system/sbin/e2fsck");
        assert_eq!(told(true), format!("{LOADER} --library-path /system/lib /system/sbin/e2fsck"));
    }

    #[test]
    fn last_words_are_few() {
        assert_eq!(last_words("a\n\nb\nc\nd\n"), "b; c; d");
        assert_eq!(last_words(""), "");
        assert!(last_words(&"x".repeat(5000)).len() < 200);
    }
}
