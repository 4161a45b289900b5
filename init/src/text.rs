//! Small things about texts and files that several concerns need.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// An error and everything that caused it, outermost first, on one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let _ = write!(text, ": {inner}");
        cause = inner.source();
    }
    text
}

/// Puts a text in place of a file in one step, so that a reader sees the old one or the new one.
/// Not synced: for files in memory.
pub fn replace_file(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let staged = path.with_file_name(name);
    std::fs::write(&staged, text)?;
    std::fs::rename(&staged, path)
}

/// The same for a file that only root may read.
pub fn replace_secret_file(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let staged = path.with_file_name(name);
    // One that is there already has the permissions it was made with.
    let _ = std::fs::remove_file(&staged);
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&staged)?;
    file.write_all(text.as_bytes())?;
    std::fs::rename(&staged, path)
}

/// Text for a console: control bytes (a guest could send terminal commands) become `.`, a tab a space.
pub fn printable(line: &str) -> String {
    line.chars()
        .map(|letter| match letter {
            '\t' => ' ',
            letter if letter.is_control() => '.',
            letter => letter,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_names_every_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("Outer")]
        struct Outer(#[source] io::Error);
        assert_eq!(chain(&Outer(io::Error::other("inner"))), "Outer: inner");
    }

    #[test]
    fn a_file_is_replaced_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("boot.toml");
        replace_file(&path, "one").unwrap();
        replace_file(&path, "two").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn terminal_commands_are_defused() {
        assert_eq!(printable("a\u{1b}[2Jb\tc\r"), "a.[2Jb c.");
    }
}
